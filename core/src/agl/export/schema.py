"""The standard transition: the table that an algorithm of a third party reads. `docs/transition-schema.md` is its contract.

A change that a reader could notice needs a new `SCHEMA_VERSION`; a new column that may be null does not.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from agl.errors import ConfigError

SCHEMA_VERSION = 1
VERSION_KEY, RUN_KEY = "agl.schema_version", "agl.run"
"""Keys of the file's metadata: the schema's version as text, and what is known of the run as JSON."""


class Field(NamedTuple):
    """One column."""

    name: str
    type: str
    """A name of `TYPES`, a list of one, or `list<reward>`."""
    null: bool
    meaning: str
    """With shape and unit."""


FIELDS = (
    Field("run_id", "string", False, "Id of the run."),
    Field("rollout_id", "string", False, "Id of the rollout. All rows of a rollout stand together."),
    Field("attempt_id", "string", False, "Id of the attempt."),
    Field("attempt", "int32", False, "Number of the attempt, from 1. Only the latest attempt of a rollout is in the table."),
    Field("group_id", "string", False, "Id of the group: siblings on one task in one step share it, and stand together."),
    Field("sample", "int32", False, "Index of the rollout within its group, from 0."),
    Field("task_id", "string", False, "Id of the task."),
    Field("task", "json", False, "The task: an object, as the user's dataset has it."),
    Field("mode", "string", False, "What the rollout was for: `train`, `val` or `test`."),
    Field("step", "int32", False, "Step of the run that asked for the rollout, from 0."),
    Field("resources_version", "int32", False, "Version of the resources that the agent ran with."),
    Field("status", "string", False, "How the attempt ended: `succeeded`, `failed`, `timeout`, `cancelled` or `lost`."),
    Field("failure", "string", True, "Class of the attempt's failure; null when it succeeded."),
    Field("output", "json", True, "What the agent returned."),
    Field("reward_weights", "json", True, "Weights, by name, of the rewards that the final one is made of; null when `reward` is it."),
    Field("rollout_reward", "float64", True, "Final reward of the rollout; null when it is missing, which is not 0."),
    Field("call", "int32", False, "Index of the LLM call within the attempt, in the order of their starts, from 0."),
    Field("span_id", "string", False, "Span id of the call, 16 hexadecimal digits."),
    Field("choice", "int32", False, "Index among the `n` answers of the call, from 0."),
    Field("role", "string", True, "Path of the agent or node names above the call, such as `supervisor/writer`."),
    Field("parent", "string", True, "Span id of the call that this prompt extends exactly, token by token."),
    Field("mismatch", "string", True, "Why the prompt does not go on from the call before it; null when it does, and without token ids."),
    Field("prompt_ids", "list<int32>", True, "(P,) The prompt as the engine tokenised it; null when the endpoint does not tell."),
    Field("response_ids", "list<int32>", True, "(T,) The sampled tokens; null when the endpoint does not tell."),
    Field("logprobs", "list<float64>", True, "(T,) Natural log of the probability of each token under the distribution sampled from."),
    Field("version", "string", True, "Version of the weights that sampled."),
    Field("temperature", "float64", False, "The logprobs are those of the distribution at this temperature."),
    Field("finish_reason", "string", True, "Why the answer ended: `stop`, `length`, `tool_calls`, …"),
    Field("reward", "float64", True, "The call's own share of the rewards, by the credit rule of the exporting process."),
    Field("step_advantage", "float64", False, "What comparing the call with others like it adds to its advantage; 0 without such a rule."),
    Field("rewards", "list<reward>", False, "Rewards of the rollout, of the call's role and of the call itself, one struct each."),
    Field("dialect", "string", False, "What the agent spoke: `chat`, `completions`, `responses` or `messages`."),
    Field("messages", "json", True, "The prompt as a list of chat messages, as sent; null when the call was no chat."),
    Field("tools", "json", True, "The list of tools offered in the request; null when there were none."),
    Field("answer", "json", True, "The answer as a chat message; null when the call failed."),
    Field("parameters", "json", False, "All other fields of the request, such as `model`, `temperature` or `max_tokens`."),
    Field("overridden", "json", False, "Request fields and prompts that the resources set, with the agent's own values."),
    Field("untrained", "string", True, "Why the answer must not enter a policy loss; null when it may."),
    Field("error", "string", True, "What went wrong with the call; null when nothing did."),
    Field("http_status", "int32", False, "HTTP status of the answer."),
    Field("call_id", "string", True, "Id that a client keeps over its own retries of one call."),
    Field("retry_of", "string", True, "Call id of the earlier try, when the client retried."),
    Field("started_at", "float64", False, "Start of the call, Unix time in seconds."),
    Field("ended_at", "float64", False, "End of the call, Unix time in seconds."),
)
"""The columns of the table, in order."""

REWARD_FIELDS = (
    Field("index", "int32", False, "Place among all rewards of the attempt, in the order they came, from 0."),
    Field("name", "string", False, "Name; `reward` is the final one of the rollout."),
    Field("value", "float64", False, "A finite number."),
    Field("source", "string", False, "Who judged."),
    Field("span_id", "string", True, "The call that it judges; null for the whole rollout."),
    Field("role", "string", True, "The role that it judges; null for all."),
    Field("created_at", "float64", False, "Unix time in seconds."),
    Field("details", "json", False, "What else the judge told: an object."),
)
"""The fields of a struct in `rewards`, in order."""

TYPES = {"string": "string", "json": "string", "int32": "int32", "float64": "float64"}
"""Names of types as they are documented, and Arrow's function for each; `json` is text that holds one JSON value."""


def arrow(module: str = "pyarrow") -> Any:
    """A module of pyarrow, imported when it is needed.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f'Parquet and Arrow files need `{module}`, which cannot be imported ({error}): pip install "agl-core[export]"'
        ) from error


def arrow_type(name: str) -> Any:
    """The Arrow type of a documented one, such as `list<int32>`."""
    if name.startswith("list<"):
        return arrow().list_(arrow_type(name.removeprefix("list<").removesuffix(">")))
    return arrow().struct(_fields(REWARD_FIELDS)) if name == "reward" else getattr(arrow(), TYPES[name])()


def arrow_schema(metadata: Mapping[str, str] | None = None) -> Any:
    """The Arrow schema of the table, with the schema's version in its metadata.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    return arrow().schema(_fields(FIELDS), metadata={VERSION_KEY: str(SCHEMA_VERSION), **(metadata or {})})


def _fields(fields: tuple[Field, ...]) -> list[Any]:
    return [arrow().field(field.name, arrow_type(field.type), nullable=field.null) for field in fields]
