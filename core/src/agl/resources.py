"""Resources: what an algorithm improves and an agent uses.

A version is a named, immutable set; publishing makes a new version with all names kept, and never changes an old one.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import msgspec

from agl.errors import ConfigError, NotFoundError

NATIVE_DIALECTS = ("responses", "messages")
"""APIs that an endpoint may speak beside chat completions."""


class LLM(msgspec.Struct, frozen=True, kw_only=True, tag="llm"):
    """A language model behind an OpenAI-compatible URL."""

    endpoint: str
    """Base URL, with its `/v1`."""
    endpoints: tuple[str, ...] = ()
    """Base URLs of further servers of the same model: each rollout's calls stay with one of them all, as long as it works."""
    deadline: float | None = None
    """Seconds that a call may take in all; None for no limit but that no endpoint may be silent for longer than ten minutes."""
    model: str
    """Model name to send in requests."""
    dialects: tuple[str, ...] = ()
    """Of `responses` and `messages` those that the endpoint speaks itself: such calls go on as they are, and the others as chat completions."""
    api_key: str | None = None
    """Key for the endpoint; an agent sees its attempt's key here, never the upstream's."""
    sampling_parameters: dict[str, Any] = {}
    """Request fields that the resource sets in `train` mode (and in the others, where `eval_parameters` has no value)."""
    eval_parameters: dict[str, Any] = {}
    """Request fields that replace the above in `val` and `test` mode, such as `{"temperature": 0}`."""
    version: str | None = None
    """Version of the weights, as recorded with each sampled token; None for a model that nobody trains."""
    seeded: bool = False
    """Whether the gateway derives a `seed` for each call, so that a run can be repeated."""

    def __post_init__(self) -> None:
        if self.dialects:
            _check_dialects(self)

    @property
    def base_url(self) -> str:
        """The URL to give to an OpenAI client."""
        return self.endpoint

    def get_base_url(self, rollout_id: str | None = None, attempt_id: str | None = None) -> str:
        """The URL to give to an OpenAI client for one attempt.

        Inside a rollout the resource already is the attempt's own, so the ids only are checked against it.

        Raises:
            ConfigError: one id without the other, or ids of another attempt.
        """
        if (rollout_id is None) != (attempt_id is None):
            raise ConfigError("`get_base_url` takes both `rollout_id` and `attempt_id`, or neither")
        if rollout_id is not None and "/r/" in self.endpoint and f"/r/{rollout_id}/{attempt_id}/" not in self.endpoint:
            raise ConfigError(f"this LLM belongs to another attempt than `{rollout_id}`/`{attempt_id}`")
        return self.endpoint

    def parameters(self, mode: str) -> dict[str, Any]:
        """Request fields that this resource sets in a mode (`train`, `val` or `test`)."""
        return dict(self.sampling_parameters) if mode == "train" else {**self.sampling_parameters, **self.eval_parameters}


class PromptTemplate(msgspec.Struct, frozen=True, kw_only=True, tag="prompt", omit_defaults=True):
    """A text with `{placeholders}` that an agent fills in."""

    template: str
    engine: str = "f-string"
    """How placeholders are written; `str.format`'s way is the only one."""

    def __post_init__(self) -> None:
        if self.engine != "f-string":
            raise ConfigError(
                f'`engine` of a prompt template can be "f-string", given was {self.engine!r}; a text that another engine renders goes into '
                "the agent's code, which may take its pieces from the resources"
            )

    def placeholders(self) -> set[str]:
        """Names that `format` needs."""
        return {name for _, name, _, _ in string.Formatter().parse(self.template) if name}

    def format(self, **values: Any) -> str:
        """The template with its placeholders filled.

        Raises:
            ConfigError: a placeholder has no value.
        """
        missing = sorted(self.placeholders() - values.keys())
        if missing:
            raise ConfigError(f"prompt template needs {missing}, given were {sorted(values)}")
        return self.template.format(**values)


def _check_dialects(llm: LLM) -> None:
    unknown = [name for name in llm.dialects if name not in NATIVE_DIALECTS]
    if unknown:
        raise ConfigError(
            f"`dialects` of a language model are those of {list(NATIVE_DIALECTS)} that its endpoint speaks itself; given was {unknown[0]!r}"
        )
    if llm.version is not None or llm.seeded:
        raise ConfigError(
            f"`dialects={list(llm.dialects)}` is for a model that nobody trains: these APIs tell no token ids and take no seed; leave it out "
            "where there is a `version` or `seeded`, and the calls are made as chat completions"
        )


Resource = LLM | PromptTemplate


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable version of a named set of resources; behaves as a mapping."""

    version: int
    """Counts up from 1 within a run; 0 is what the user gave."""
    values: dict[str, Resource]
    resources_id: str = ""

    def __getitem__(self, name: str) -> Resource:
        try:
            return self.values[name]
        except KeyError:
            raise NotFoundError(f"no resource named `{name}`; this version has {sorted(self.values)}") from None

    def get(self, name: str, default: Any = None) -> Any:
        """The resource of that name, or `default`."""
        return self.values.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def __iter__(self) -> Any:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def keys(self) -> Any:
        """Names, so that `dict(resources)` works."""
        return self.values.keys()

    def items(self) -> Any:
        """Names with their resources."""
        return self.values.items()

    def llms(self) -> dict[str, LLM]:
        """The language models among them."""
        return {name: value for name, value in self.values.items() if isinstance(value, LLM)}

    def prompts(self) -> dict[str, PromptTemplate]:
        """The prompt templates among them."""
        return {name: value for name, value in self.values.items() if isinstance(value, PromptTemplate)}

    def replace(self, values: Mapping[str, Resource]) -> Resources:
        """The same version with some values exchanged (for an attempt's own view of it)."""
        return Resources(version=self.version, values={**self.values, **values}, resources_id=self.resources_id)
