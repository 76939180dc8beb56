"""Built-in reward: a language model judges each rollout by a rubric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agl.builtin.judge_model import Unjudged, make_model
from agl.builtin.judge_texts import block, data_rule, fields_of, parse_json, shown
from agl.chat import Messages
from agl.errors import ConfigError
from agl.judges import Judge
from agl.results import RolloutResult
from agl.rewards import NoReward, Reward, make_reward

RUBRIC = "How well does the output solve the task? Full score: right and complete. Lowest score: wrong, empty or off the task."
FIELDS = ("task", "output")


class LLMJudge(Judge):
    """Scores the output of each rollout.

    The reward is the score on `scale`, moved into [0, 1]; `details` has the score itself, the rationale, tokens and cost.
    A judge that is down, or whose answer cannot be read even after one request to mend it, leaves the reward missing.

    Args:
        endpoint: base URL of any OpenAI-compatible endpoint, with its `/v1`.
        model: name of the judging model.
        rubric: what to judge, and by which marks.
        scale: lowest and highest score.
        fields: what the judge sees: `task`, `output`, `transcript` (answers and tool calls in order), or a part by dotted
            path, such as `task.question`.
        name: name of the reward.
        weight: where `reward_weights` does not name it.
        field_characters: a longer field is cut.
        options: of `JudgeModel`: api_key, parameters, timeout, retries, backoff, concurrency, cache, price.

    Raises:
        ConfigError: an option that cannot work.
    """

    name = "llm_judge"

    def __init__(
        self,
        endpoint: str,
        model: str,
        *,
        rubric: str = RUBRIC,
        scale: tuple[float, float] = (0, 10),
        fields: Sequence[str] = FIELDS,
        name: str | None = None,
        weight: float | None = None,
        field_characters: int = 20_000,
        **options: Any,
    ) -> None:
        if not scale[0] < scale[1]:
            raise ConfigError(f"a judge's `scale` is its lowest and its highest score, given was {scale!r}")
        self.model = make_model(type(self).__name__, endpoint, model, options)
        self.rubric, self.scale, self.fields, self.limit = rubric, scale, tuple(fields), field_characters
        self.name, self.weight = name or type(self).name, weight

    def config(self) -> dict[str, Any]:
        """What the scores depend on."""
        return {**self.model.config(), "rubric": self.rubric, "scale": list(self.scale), "fields": list(self.fields)}

    def summary(self) -> str | None:
        """Requests, tokens and cost so far."""
        return self.model.usage.summary()

    async def agl_reward(self, result: RolloutResult) -> Reward | NoReward:
        """Score one rollout."""
        seen = fields_of(shown(result), self.fields)
        try:
            score, used = await self.model.ask(lambda delimiter: self._messages(seen, delimiter), self._parse)
        except Unjudged as error:
            return NoReward(reason=str(error))
        low, high = self.scale
        details = {"score": score.score, "rationale": score.rationale, "model": self.model.model, **used.details()}
        return make_reward((score.score - low) / (high - low), source=self.name, name=self.name, details=details)

    def _messages(self, seen: Mapping[str, Any], delimiter: str) -> Messages:
        low, high = self.scale
        form = f'{{"rationale": "one or two sentences", "score": a number from {low:g} to {high:g}}}'
        system = (
            f"You judge what an agent did. The rubric:\n\n{self.rubric}\n\n{data_rule(delimiter)}\n"
            f"Answer with one JSON object and nothing else: {form}"
        )
        blocks = "\n".join(block(name, value, delimiter, self.limit) for name, value in seen.items())
        return [{"role": "system", "content": system}, {"role": "user", "content": blocks}]

    def _parse(self, text: str) -> _Score:
        score = parse_json(text, _Score)
        if not self.scale[0] <= score.score <= self.scale[1]:
            raise ValueError(f"the score must be from {self.scale[0]:g} to {self.scale[1]:g}, it is {score.score:g}")
        return score


class _Score(msgspec.Struct, forbid_unknown_fields=True):
    score: float
    rationale: str = ""
