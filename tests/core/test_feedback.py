"""Rewards that come after a rollout's end: used while the step waits for them, kept in any case."""

import asyncio
import threading

import pytest
from click.testing import CliRunner

import agl
from agl import feedback
from agl.commands.explain import reward as command
from agl.errors import NotFoundError, RewardError
from agl.rewards import make_reward
from agl.rollouts import AttemptStatus, Failure
from agl.spans import SpanKind
from agl.store.opening import opened

RUN = "run"


class Once(agl.Algorithm):
    name = "once"

    async def start(self, run):
        return {"prompt": agl.PromptTemplate(template="?")}

    async def fit(self, run):
        for _ in run.steps(1):
            self.groups = await run.rollout(list(run.train))
            await run.publish(metrics={})


@pytest.fixture
def ended(store, make_rollout, make_span):
    """A rollout of which the agent gave no reward; two calls, one of them of a role."""

    async def make():
        await store.enqueue([make_rollout()])
        (rollout,) = await store.claim(RUN, "w")
        spans = [make_span(rollout, kind=SpanKind.LLM, span_id=f"{n}b" * 8, role="writer" if n else None) for n in range(2)]
        await store.finish(rollout.attempt.attempt_id, AttemptStatus.FAILED, failure=Failure.REWARD, error="none", spans=spans)
        return rollout.rollout_id

    return asyncio.run(make())


def result_of(store, rollout_id):
    (result,) = asyncio.run(store.results([rollout_id]))
    return result


def test_a_late_reward_mends_a_rollout_that_lacked_it(store, ended):
    assert (result_of(store, ended).failure, result_of(store, ended).reward) == (Failure.REWARD, None)
    given = agl.add_reward(store, ended, 0.7, details={"by": "Ada"})
    assert (given.name, given.source, given.details) == ("reward", "feedback", {"by": "Ada"})
    assert (result_of(store, ended).failure, result_of(store, ended).reward) == (None, 0.7)
    agl.add_reward(store, ended, 0.9)
    assert result_of(store, ended).reward == 0.9


def test_a_late_reward_may_judge_a_role_or_a_call_and_leaves_the_rollout_without_one(store, ended):
    role = agl.add_reward(store, ended, 1, role="writer")
    call = agl.add_reward(store, ended, 0.5, name="style", call="0b0b")
    assert (role.role, call.span_id, result_of(store, ended).reward) == ("writer", "0b" * 8, None)
    assert result_of(store, ended).rewards == (role, call)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"value": float("nan")}, "must be a finite number, given was nan"),
        ({"role": "critic"}, r"has no role `critic`; it has \['writer'\]"),
        ({"call": "ff"}, r"has no call `ff…`; its calls are \['0b0b0b0b0b0b0b0b', '1b1b1b1b1b1b1b1b'\]"),
        ({"call": ""}, "has several calls"),
        ({"call": "0b", "role": "writer"}, "not both"),
        ({"source": "combined"}, "is AGL's own"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_not_kept(store, ended, given, says):
    with pytest.raises(RewardError, match=says):
        agl.add_reward(store, ended, **{"value": 1.0, **given})
    assert result_of(store, ended).rewards == ()


def test_a_rollout_that_is_not_there_or_has_not_begun_takes_no_reward(store, make_rollout):
    with pytest.raises(NotFoundError, match="no rollout `ro-none`"):
        agl.add_reward(store, "ro-none", 1.0)
    rollout = make_rollout()
    asyncio.run(store.enqueue([rollout]))
    with pytest.raises(NotFoundError, match="has no attempt yet"):
        agl.add_reward(store, rollout.rollout_id, 1.0)


async def test_it_may_be_given_where_an_event_loop_runs(store, make_rollout):
    await store.enqueue([make_rollout()])
    (rollout,) = await store.claim(RUN, "w")
    assert agl.add_reward(store, rollout.rollout_id, 1.0).value == 1.0


def test_the_command_gives_it_and_says_what_it_judges(store_path, store, ended):
    done = CliRunner().invoke(command, [ended, "0.25", "--call", "1b", "--name", "style", "--store", str(store_path)])
    assert done.output == f"{ended}: style = 0.25 (feedback), for call {'1b' * 8}\n"
    assert result_of(store, ended).rewards[0].value == 0.25
    done = CliRunner().invoke(command, [ended, "-0.5", "--store", str(store_path)])
    assert done.output == f"{ended}: reward = -0.5 (feedback), for the whole rollout\n"
    missing = CliRunner().invoke(command, [ended, "1", "--store", "nowhere.sqlite"])
    assert isinstance(missing.exception, NotFoundError)


@pytest.fixture
def quick(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(feedback, "LOOK_SECONDS", 0.05)


@pytest.mark.usefixtures("quick")
def test_a_run_waits_for_rewards_and_learns_from_those_that_come_in_time():
    @agl.rollout
    def agent(task, rollout):
        threading.Timer(0.3, lambda: agl.add_reward("s.sqlite", rollout.rollout_id, 0.5 + task["id"])).start()

    once = Once()
    agl.Trainer(algorithm=once, quiet=True, store="s.sqlite", reward_timeout=60.0).fit(agent, [{"id": n} for n in range(2)])
    results = [group.results[0] for group in once.groups]
    assert [(result.reward, result.failure, result.succeeded) for result in results] == [(0.5, None, True), (1.5, None, True)]


class Learns(Once):
    """As an algorithm that keeps what it made of each call."""

    async def fit(self, run):
        for _ in run.steps(1):
            await run.rollout(list(run.train))
            run.learned([], [], [])
            agl.add_reward(run.store, (await run.store.find(run.id))[0], 0.5)
            await run.publish(metrics={})


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("algorithm", "late"), [(Learns, True), (Once, False)])
def test_a_reward_is_late_when_its_step_was_learned_from_or_its_run_has_ended(algorithm, late, capsys):
    tasks, agent = [{"id": n} for n in range(2)], agl.rollout(lambda task: 1.0)
    run = agl.Trainer(algorithm=algorithm(), store="s.sqlite").fit(agent, tasks).run_id
    with opened("s.sqlite") as store:
        first, second = asyncio.run(store.find(run))
        assert asyncio.run(store.late_rewards()) == ({run: 1} if late else {})
        assert agl.add_reward(store, second, 0.0, details={"by": "Ada"}).details == {"by": "Ada", "late": True}
        assert asyncio.run(store.late_rewards()) == {run: 1 + late}
    assert "after their step" not in capsys.readouterr().out.replace("\n", " ")
    again = agl.Trainer(algorithm=Once(), store="s.sqlite").fit(agent, tasks).run_id
    said = " ".join(capsys.readouterr().out.split())
    export = f"`agl export {run} --late --to trl-kto --label-at 0.5` makes a dataset of them"
    assert f"{1 + late} rollouts of run {run} have rewards that came after their step; this run does not learn from them: {export}" in said
    with opened("s.sqlite") as store:
        agl.add_reward(store, asyncio.run(store.find(again))[0], 1.0)
        assert list(asyncio.run(store.late_rewards()).items()) == [(run, 1 + late), (again, 1)]
        done = CliRunner().invoke(command, [first, "0.9", "--store", "s.sqlite"])
        assert "its step is over: the reward is kept" in done.output
    agl.Trainer(algorithm=Once(), store="s.sqlite").fit(agent, tasks)
    assert f"1 rollouts of run {again} (and 2 of runs before it) have rewards" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("quick")
def test_a_run_whose_rewards_do_not_come_says_how_to_give_them():
    with pytest.raises(
        RewardError, match=r"1 of 1 rollouts have no usable reward; .* no reward came within 0\.2 s .*`agl reward ro-\w+ VALUE`"
    ):
        agl.Trainer(algorithm=Once(), quiet=True, reward_timeout=0.2).fit(agl.rollout(lambda task: None), [{"id": 0}])


@pytest.mark.usefixtures("quick")
def test_where_rewards_are_combined_only_those_that_nobody_else_gives_are_waited_for():
    @agl.rollout
    def agent(task, rollout):
        threading.Timer(0.2, lambda: agl.add_reward("s.sqlite", rollout.rollout_id, 1.0, name="human")).start()
        return 0.5

    once = Once()
    weights = {"reward": 1.0, "human": 2.0}
    agl.Trainer(algorithm=once, quiet=True, store="s.sqlite", reward_timeout=60.0, reward_weights=weights).fit(agent, [{"id": 0}])
    assert once.groups[0].results[0].reward == 2.5


def test_a_reward_of_a_failed_rollout_that_is_excluded_changes_nothing(make_result):
    import msgspec

    result = make_result(rewards=(make_reward(1.0, source="feedback"),))
    lost = msgspec.structs.replace(result.rollout.attempt, status=AttemptStatus.LOST, failure=Failure.INFRASTRUCTURE)
    result = msgspec.structs.replace(result, rollout=msgspec.structs.replace(result.rollout, attempt=lost))
    assert (result.failure, result.reward) == (Failure.INFRASTRUCTURE, None)
