"""Groups from their rollouts to the step that takes them: what VERL chooses, what it leaves, and which weights sampled a call."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agl.errors import DataError
from agl.results import Group
from agl.spans import Span, SpanKind
from agl_verl.batch import Limits
from agl_verl.collection import Collection, Served, staleness
from agl_verl.messages import Ask, Choose
from agl_verl.weights import weigher

LIMITS = Limits(prompt=100, response=100, temperature=1.0)


class FakeRun:
    """Answers requests for rollouts with groups made before."""

    def __init__(self, groups: list[Group]) -> None:
        self.groups, self.step, self.resources, self.asked = groups, 0, None, []
        self.train = type("Tasks", (), {"tasks": list(range(100))})()

    async def rollout(self, tasks: Any, **given: Any) -> list[Group]:
        self.asked.append(given)
        return [self.groups[task] for task in tasks]


def centred(values: Any, tokens: Any) -> list[list[float]]:
    known = [value for group in values for value in group if value is not None]
    mean = sum(known) / len(known)  # over the whole batch, as REINFORCE++ has it
    return [[0.0 if value is None else value - mean for value in group] for group in values]


def collection(groups: list[Group], *, limits: Limits = LIMITS, patience: int = 2) -> tuple[Collection, FakeRun]:
    run = FakeRun(groups)
    return Collection(run, limits=limits, estimate=centred, weigh=weigher("token-mean"), patience=patience), run  # type: ignore[arg-type]


def ask(*places: int, streamed: bool = True) -> Ask:
    return Ask(tasks=places, n=2, validate=False, groups=tuple(f"uid{place}" for place in places), streamed=streamed)


@pytest.fixture
def group(make_call, make_result, make_group):
    def make(name: str, *rewards: float | None) -> Group:
        return make_group(*(make_result(f"{name}{i}", reward, make_call(f"{name}{i}", [1, 2], [3])) for i, reward in enumerate(rewards)))

    return make


async def test_what_needs_the_whole_step_is_computed_over_the_groups_that_it_takes(group) -> None:
    collected, _ = collection([group("a", 1.0, 0.0), group("b", 1.0, 1.0), group("c", 0.0, 0.0)])
    for place in range(3):
        rows = await collected.collect(ask(place))
        assert {(row.group, row.weight, row.advantages) for row in rows} == {(0, 0.0, (0.0,))}
    groups, batch, gone = collected.choose(Choose(groups=("uid2", "uid0"), kept=frozenset({"uid1"})))
    assert [given.results[0].rollout.rollout_id for given in groups] == ["c0", "a0"]
    assert [(row.group, row.advantages[0], row.weight) for row in batch.samples] == [
        (0, -0.25, 0.25),
        (0, -0.25, 0.25),
        (1, 0.75, 0.25),
        (1, -0.25, 0.25),
    ]
    assert gone == 0
    assert collected.choose(Choose(groups=("uid1",)))[1].samples[0].advantages == (0.0,)


async def test_groups_that_verl_leaves_out_are_counted_and_forgotten(group) -> None:
    collected, _ = collection([group("a", 1.0, 0.0), group("b", 1.0, 1.0)])
    await collected.collect(ask(0))
    await collected.collect(ask(1))
    assert collected.choose(Choose(groups=("uid0",)))[2] == 1
    with pytest.raises(KeyError):
        collected.choose(Choose(groups=("uid1",)))


async def test_a_group_whose_rows_are_all_too_long_keeps_its_place_in_the_weights(group, make_call, make_result, make_group) -> None:
    long = make_group(*(make_result(f"l{i}", 1.0, make_call(f"l{i}", [1] * 200, [3, 4])) for i in range(2)))
    collected, _ = collection([group("a", 1.0, 0.0), long])
    assert len(await collected.collect(ask(0))) == 2
    assert await collected.collect(ask(1)) == ()
    _, batch, gone = collected.choose(Choose(groups=("uid0",)))
    assert batch.dropped == {"prompt_too_long": 2}
    assert {row.weight for row in batch.samples} == {1 / 6}
    assert gone == 0


async def test_when_no_row_fits_the_run_ends_with_the_longest_and_the_limit(make_call, make_result, make_group) -> None:
    long = make_group(*(make_result(f"l{i}", 1.0, make_call(f"l{i}", [1] * 200, [3, 4])) for i in range(2)))
    said = r"no row of 1 groups .*: 2 rows prompt_too_long \(`data.max_prompt_length` is 100, the longest prompt has 200 tokens\); .*`Trainer.dev`"
    collected, _ = collection([long] * 4)
    with pytest.raises(DataError, match=said):
        await collected.collect(ask(0, streamed=False))
    collected, _ = collection([long] * 4)
    await collected.collect(ask(0))
    await collected.collect(ask(1))
    with pytest.raises(DataError, match="no row of 3 groups"):
        await collected.collect(ask(2))


async def test_rewards_without_a_call_that_can_be_trained_end_the_run(make_call, make_result, make_group) -> None:
    frozen = make_group(make_result("a", 1.0, make_call("a", [1], [2], untrained="the role `checker` is frozen")))
    collected, _ = collection([frozen])
    with pytest.raises(DataError, match="no call of 1 rollouts can be trained: 1 calls: the role `checker` is frozen"):
        await collected.collect(ask(0, streamed=False))


async def test_requests_of_one_step_have_names_and_seeds_of_their_own(group) -> None:
    collected, run = collection([group("a", 1.0, 0.0), group("b", 1.0, 0.0)])
    await collected.collect(ask(0, streamed=False))
    await collected.collect(ask(1))
    run.step = 1
    await collected.collect(ask(1))
    assert [given["key"] for given in run.asked] == [None, "0.2", None]
    assert [given["strict"] for given in run.asked] == [True, False, False]


def span(name: str, ended_at: float) -> Span:
    kind = SpanKind.LLM
    return Span(span_id=name, trace_id="t", rollout_id="a", attempt_id="a", name="chat", kind=kind, started_at=0.0, ended_at=ended_at)


def test_a_call_has_the_version_that_was_served_when_it_ended(make_call, make_result, monkeypatch) -> None:
    served = Served()
    for moment, resources, version in ((10.0, 1, "0"), (20.0, 2, "1"), (30.0, 3, "2")):
        monkeypatch.setattr("agl_verl.collection.time.time", lambda moment=moment: moment)
        served.publish(resources, version)
    calls = [make_call("a", [n], [n], version=version, span_id=f"s{n}") for n, version in enumerate(["0", "0", "0", "2"])]
    result = make_result("a", 1.0, *calls)
    rollout = msgspec.structs.replace(result.rollout, resources_version=1)
    spans = tuple(span(f"s{n}", ended) for n, ended in enumerate([15.0, 21.0, 35.0, 12.0]))
    found = served.told(msgspec.structs.replace(result, rollout=rollout, spans=spans))
    # The last was told by its server, which is believed.
    assert [call.version for call in found.transitions] == ["0", "1", "2", "2"]


async def test_staleness_is_counted_from_the_oldest_call_of_a_row(group) -> None:
    collected, _ = collection([group("a", 1.0, 0.0)])
    rows = await collected.collect(ask(0))
    assert staleness(rows, 5) == {"staleness_mean": 2.0, "staleness_max": 2.0}
    assert staleness([], 5) == {}
