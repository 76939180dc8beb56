"""Built-in reward: a language model ranks the siblings of a group in one call."""

from __future__ import annotations

import json
import random
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agl.builtin.judge_model import Unjudged, Usage, make_model
from agl.builtin.judge_texts import block, data_rule, fields_of, parse_json, shown
from agl.chat import Messages
from agl.judges import Judge
from agl.results import Group
from agl.rewards import NoReward, Reward, make_reward

RUBRIC = "Which output solves the task better? Right before wrong, complete before partial, then clear before unclear."


class RelativeJudge(Judge):
    """Ranks the rollouts of a group that succeeded.

    The best gets 1, the worst 0, those between evenly spaced values; equals share the mean of their places. Outputs that
    are the same text are shown once and are equal. Candidates are shown in an order drawn from `seed` and their content.
    A rollout alone (in an evaluation, say) cannot be ranked: there the reward has no weight.

    Args:
        endpoint: base URL of any OpenAI-compatible endpoint, with its `/v1`.
        model: name of the judging model.
        rubric: what makes one better than another.
        both_orders: ask a second time in the opposite order, and take the mean: what a place is worth cancels out.
        seed: of the order.
        fields: what the judge sees of each candidate: `output`, `transcript`, or a part by dotted path.
        task_fields: what it sees of their task: `task`, or a part such as `task.question`.
        name: name of the reward.
        weight: where `reward_weights` does not name it.
        field_characters: a longer field is cut.
        options: of `JudgeModel`: api_key, parameters, timeout, retries, backoff, concurrency, cache, price.

    Raises:
        ConfigError: an option that cannot work.
    """

    name = "relative_judge"

    def __init__(
        self,
        endpoint: str,
        model: str,
        *,
        rubric: str = RUBRIC,
        both_orders: bool = False,
        seed: int = 0,
        fields: Sequence[str] = ("output",),
        task_fields: Sequence[str] = ("task",),
        name: str | None = None,
        weight: float | None = None,
        field_characters: int = 20_000,
        **options: Any,
    ) -> None:
        self.model = make_model(type(self).__name__, endpoint, model, options)
        self.rubric, self.both_orders, self.seed = rubric, both_orders, seed
        self.fields, self.task_fields, self.limit = tuple(fields), tuple(task_fields), field_characters
        self.name, self.weight = name or type(self).name, weight

    def config(self) -> dict[str, Any]:
        """What the ranks depend on."""
        fields = {"fields": list(self.fields), "task_fields": list(self.task_fields)}
        return {**self.model.config(), **fields, "rubric": self.rubric, "both_orders": self.both_orders, "seed": self.seed}

    def summary(self) -> str | None:
        """Requests, tokens and cost so far."""
        return self.model.usage.summary()

    async def agl_group_reward(self, group: Group) -> dict[str, Reward | NoReward]:
        """Rank a group."""
        results = [result for result in group.results if result.succeeded]
        seen = [fields_of(shown(result), self.fields) for result in results]
        texts = [json.dumps(fields, sort_keys=True, default=str) for fields in seen]
        candidates = dict(zip(texts, seen, strict=True))
        task = fields_of(shown(results[0]), self.task_fields)
        order = sorted(candidates)
        random.Random(json.dumps([self.seed, task, order], sort_keys=True, default=str)).shuffle(order)
        orders = [order, order[::-1]] if self.both_orders else [order]
        try:
            rankings = [await self._rank(task, candidates, shown_as) for shown_as in orders if len(order) > 1]
        except Unjudged as error:
            return {result.rollout.rollout_id: NoReward(reason=str(error)) for result in results}
        values = [_values(ranking.tiers, texts) for ranking in rankings] or [dict.fromkeys(texts, 0.5)]
        common = self._details(rankings, len(results))

        def reward(text: str) -> Reward:
            places = [shown_as.index(text) + 1 for shown_as in orders] if rankings else []
            value = statistics.fmean(by_text[text] for by_text in values)
            return make_reward(value, source=self.name, name=self.name, details={**common, "shown_at": places})

        return {result.rollout.rollout_id: reward(text) for result, text in zip(results, texts, strict=True)}

    async def _rank(self, task: Mapping[str, Any], candidates: Mapping[str, Any], order: Sequence[str]) -> _Ranking:
        """One call: the candidates from best to worst, equals together."""

        def messages(delimiter: str) -> Messages:
            blocks = [block(name, value, delimiter, self.limit) for name, value in task.items()]
            for number, text in enumerate(order, 1):
                blocks += [block(f"candidate {number}: {name}", value, delimiter, self.limit) for name, value in candidates[text].items()]
            return [{"role": "system", "content": self._instruction(len(order), delimiter)}, {"role": "user", "content": "\n".join(blocks)}]

        answer, used = await self.model.ask(messages, lambda text: _parse(text, len(order)))
        tiers = [[order[number - 1] for number in (tier if isinstance(tier, list) else [tier])] for tier in answer.ranking]
        return _Ranking(tiers=tiers, rationale=answer.rationale, used=used)

    def _instruction(self, number: int, delimiter: str) -> str:
        form = '{"rationale": "one or two sentences", "ranking": [[best], [next, its equal], [worst]]}'
        return (
            f"You rank what {number} agents made of one task. The rubric:\n\n{self.rubric}\n\n{data_rule(delimiter)}\n"
            f"The order in which they are shown means nothing. Answer with one JSON object and nothing else: {form}, "
            f"with each number from 1 to {number} once; candidates that are equally good share a list."
        )

    def _details(self, rankings: Sequence[_Ranking], number: int) -> dict[str, Any]:
        used = Usage()
        for ranking in rankings:
            used.add(ranking.used)
        rationale = "\n".join(ranking.rationale for ranking in rankings)
        return {"of": number, "rationale": rationale, "model": self.model.model, "whole_group": used.details()}


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    ranking: list[list[int] | int]
    rationale: str = ""


class _Ranking(msgspec.Struct, kw_only=True):
    """One ranking of a group."""

    tiers: list[list[str]]
    """Texts, best first, equals together."""
    rationale: str
    used: Usage


def _parse(text: str, number: int) -> _Answer:
    answer = parse_json(text, _Answer)
    named = sorted(one for tier in answer.ranking for one in (tier if isinstance(tier, list) else [tier]))
    if named != list(range(1, number + 1)):
        raise ValueError(f"`ranking` must name each number from 1 to {number} once, it names {named}")
    return answer


def _values(tiers: Sequence[Sequence[str]], texts: Sequence[str]) -> dict[str, float]:
    """A value in [0, 1] by text: 1 for the best place, 0 for the worst; equals get the mean of their places."""
    count, better, values = Counter(texts), 0, dict[str, float]()
    for tier in tiers:
        size = sum(count[text] for text in tier)
        values |= dict.fromkeys(tier, 1.0 - (better + (size - 1) / 2) / (len(texts) - 1))
        better += size
    return values
