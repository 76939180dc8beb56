"""Rewards given to a Trainer are local to it, combine by weights, and a missing one leaves a rollout without a final reward."""

import asyncio
import re
import sqlite3

import openai
import pytest

import agl
from agl.errors import ConfigError, PluginError, RewardError
from agl.rewards import make_reward
from agl.rollouts import Failure
from agl.store.sqlite import SQLiteStore
from agl.testing.scripted import ScriptedServer

PROMPT = {"prompt": agl.PromptTemplate(template="x")}
TASKS = [{"id": n, "n": n} for n in range(2)]


class Keeper(agl.Algorithm):
    """One step; keeps the groups that it saw."""

    name = "keeper"

    def __init__(self, n=2):
        self.n, self.groups = n, []

    async def start(self, run):
        return PROMPT

    async def fit(self, run):
        for _ in run.steps(1):
            self.groups = await run.rollout(list(run.train), n=self.n)
            await run.publish(metrics={"reward": 0.0})


@agl.rollout
def agent(task, rollout):
    return task["n"] + 0.25 * rollout.sample


@agl.rollout
def silent(task, rollout):
    return None


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fit(agent, *, n=2, tasks=TASKS, **options):
    """The groups that the algorithm saw, and the same rollouts as the store has them."""
    keeper = Keeper(n)
    trained = agl.Trainer(algorithm=keeper, quiet=True, **options).fit(agent, tasks)
    store = SQLiteStore(trained.store)
    ids = [result.rollout.rollout_id for group in keeper.groups for result in group.results]
    stored = asyncio.run(store.results(ids))
    store.close()
    return keeper.groups, stored


def finals(groups):
    return [group.rewards for group in groups]


def told(result):
    return [(reward.name, reward.value, reward.source) for reward in result.rewards]


def style(result):
    return 0.5


async def truth(result):
    await asyncio.sleep(0)
    return agl.Reward(value=result.task.data["n"] * 2)


# Combination.


def test_weighted_rewards_are_summed_and_every_value_says_where_it_comes_from():
    groups, stored = fit(agent, rewards=[style, truth], reward_weights={"reward": 1.0, "style": 0.5, "truth": 2})
    assert finals(groups) == [[0.25, 0.5], [5.25, 5.5]]
    assert told(stored[3]) == [("reward", 1.25, "returned"), ("style", 0.5, "style"), ("truth", 2.0, "truth"), ("reward", 5.5, "combined")]
    assert stored[3].rewards[-1].details == {
        "weights": {"reward": 1.0, "style": 0.5, "truth": 2.0},
        "values": {"reward": 1.25, "style": 0.5, "truth": 2.0},
    }
    assert [result.reward for result in stored] == [0.25, 0.5, 5.25, 5.5]
    assert all(reward.created_at > 1e9 for result in stored for reward in result.rewards)


def test_without_weights_each_weighs_one_and_the_agent_may_return_none():
    groups, stored = fit(silent, rewards=[style, truth])
    assert finals(groups) == [[0.5, 0.5], [2.5, 2.5]]
    assert [name for name, _, _ in told(stored[0])] == ["style", "truth", "reward"]
    assert finals(fit(agent, rewards=[style])[0]) == [[0.5, 0.75], [1.5, 1.75]]


def test_a_reward_that_weighs_nothing_is_recorded_only():
    groups, stored = fit(agent, rewards=[style], reward_weights={"style": 0})
    assert finals(groups) == [[0.0, 0.25], [1.0, 1.25]]
    assert ("style", 0.5, "style") in told(stored[0])


def test_weights_alone_scale_what_the_agent_gives():
    @agl.rollout
    def emitting(task):
        agl.emit_reward(3.0, "bonus")
        return 1.0

    groups, _ = fit(emitting, reward_weights={"reward": 2.0, "bonus": 0.5})
    assert finals(groups) == [[3.5, 3.5]] * 2


def test_a_function_named_reward_takes_the_place_of_the_agents_own():
    def reward(result):
        return 0.75

    groups, stored = fit(silent, rewards=[reward])
    assert finals(groups) == [[0.75, 0.75]] * 2
    assert told(stored[0]) == [("reward", 0.75, "reward"), ("reward", 0.75, "combined")]


def test_two_sources_of_one_name_leave_no_final_reward():
    def reward(result):
        return 0.75

    with pytest.raises(
        RewardError, match=r"4 of 4 .* the reward `reward` comes from \['returned', 'reward'\]; give each a name of its own"
    ):
        fit(agent, rewards=[reward])


def test_a_role_that_is_judged_by_itself_gets_a_final_reward_of_its_own():
    def style(result):
        return [make_reward(1.0, source="s"), make_reward(3.0, source="s", role="writer")]

    _, stored = fit(agent, rewards=[style], reward_weights={"style": 2.0})
    combined = [(reward.role, reward.value) for reward in stored[0].rewards if reward.source == "combined"]
    assert combined == [(None, 2.0), ("writer", 6.0)]
    assert stored[0].reward == 2.0


# Missing is never 0.


def test_a_missing_reward_leaves_no_final_one_and_the_others_go_on(capsys):
    def half(result):
        return 1.0 if result.rollout.sample else agl.NoReward(reason="the judge is down")

    keeper = Keeper()
    agl.Trainer(algorithm=keeper, rewards=[half]).fit(agent, TASKS)
    assert finals(keeper.groups) == [[None, 1.25], [None, 2.25]]
    first = keeper.groups[0].results[0]
    assert (first.failure, first.rows(), told(first)) == (None, [], [("reward", 0.0, "returned")])
    assert "failed rollouts: 2 reward; for example: the reward `half` is missing: the judge is down" in capsys.readouterr().out


def test_why_a_reward_is_missing_is_in_the_store():
    def half(result):
        return 1.0 if result.rollout.sample else agl.NoReward(reason="the judge is down")

    _, stored = fit(agent, rewards=[half])
    spans = [(span.kind, span.name, span.error) for span in stored[0].spans if span.kind == "reward"]
    assert spans == [
        ("reward", "no reward half", "the judge is down"),
        ("reward", "no reward reward", "the reward `half` is missing: the judge is down"),
    ]
    root = next(span for span in stored[0].spans if span.kind == "agent")
    assert {span.parent_id for span in stored[0].spans if span.kind == "reward"} == {root.span_id}


def test_when_most_rollouts_lack_a_reward_the_run_stops_with_the_reason():
    def nothing(result):
        return None

    with pytest.raises(
        RewardError, match="4 of 4 rollouts have no usable reward; the first says: the reward `nothing` is missing: `nothing` gave none"
    ):
        fit(agent, rewards=[nothing])


def test_a_weight_for_a_name_that_no_rollout_has_stops_the_run_with_the_names_there_are():
    with pytest.raises(RewardError, match=r"no rollout has a reward `stile`; did you mean `style`\? There are \['reward', 'style'\]"):
        fit(agent, rewards=[style], reward_weights={"stile": 1.0})


def test_an_agent_that_returns_none_once_lacks_that_reward_there():
    @agl.rollout
    def moody(task, rollout):
        return None if rollout.sample == 0 and task["n"] == 0 else 1.0

    groups, _ = fit(moody, rewards=[style])
    assert finals(groups) == [[None, 1.5], [1.5, 1.5]]


def test_rewards_that_name_themselves_otherwise_need_weights(capsys):
    def several(result):
        return [agl.Reward(value=1.0, name="one"), agl.Reward(value=2.0, name="two")]

    with pytest.raises(RewardError, match=r"`several` gave none; it gave \['one', 'two'\], which need weights of their own"):
        fit(silent, rewards=[several])
    groups, _ = fit(silent, rewards=[several], reward_weights={"several": 0, "one": 1.0, "two": 10})
    assert finals(groups) == [[21.0, 21.0]] * 2
    agl.Trainer(algorithm=Keeper(), rewards=[several], reward_weights={"several": 0, "one": 1.0}).fit(silent, TASKS)
    assert capsys.readouterr().out.count("the rewards ['two'] are recorded only: `reward_weights` gives them no weight") == 1


def test_an_agent_that_fails_gets_the_reward_of_failing_and_is_not_judged():
    seen = []

    def watch(result):
        seen.append(result.rollout.sample)
        return 1.0

    @agl.rollout
    def flaky(task, rollout):
        if rollout.sample:
            raise ValueError("oops")
        return 1.0

    groups, stored = fit(flaky, rewards=[watch], failure_reward=-1.0)
    assert finals(groups) == [[2.0, -1.0]] * 2
    assert (told(stored[1]), stored[1].failure, set(seen)) == ([("reward", -1.0, "failure")], Failure.AGENT, {0})
    assert finals(fit(flaky, rewards=[watch], failure_reward=None)[0]) == [[2.0, None]] * 2


# Judges that compare.


class Ranks(agl.Judge):
    name = "ranks"

    async def agl_group_reward(self, group):
        ordered = sorted(group.results, key=lambda result: result.rollout.sample)
        return {result.rollout.rollout_id: float(place) for place, result in enumerate(ordered)}


def test_a_group_is_judged_once_and_late_rewards_are_in_the_store():
    groups, stored = fit(agent, rewards=[Ranks()], reward_weights={"ranks": 10.0})
    assert finals(groups) == [[0.0, 10.25], [1.0, 11.25]]
    assert told(stored[1]) == [("reward", 0.25, "returned"), ("ranks", 1.0, "ranks"), ("reward", 10.25, "combined")]
    assert stored[1].reward == 10.25


def test_a_group_of_one_cannot_be_compared_and_is_judged_by_the_rest():
    groups, stored = fit(agent, n=1, rewards=[Ranks()])
    assert finals(groups) == [[0.0], [1.0]]
    assert told(stored[1]) == [("reward", 1.0, "returned"), ("reward", 1.0, "combined")]
    evaluation = agl.Trainer(rewards=[Ranks()], initial_resources=PROMPT, quiet=True).evaluate(agent, TASKS)
    assert evaluation.mean == 0.5


def test_a_group_in_which_one_alone_succeeded_leaves_it_without_the_reward():
    @agl.rollout
    def flaky(task, rollout):
        if rollout.sample == task["n"]:
            raise ValueError("oops")
        return 1.0

    groups, stored = fit(flaky, rewards=[Ranks()], tasks=[{"n": 0}, {"n": 7}])
    assert finals(groups) == [[0.0, None], [1.0, 2.0]]
    assert "`ranks` gave none (it compares siblings, of which at least two must succeed)" in stored[1].spans[-1].error


def test_a_plugin_that_compares_makes_the_final_reward_late():
    class Late:
        @agl.hookimpl
        def agl_group_reward(self, group):
            return {result.rollout.rollout_id: agl.Reward(value=2.0) for result in group.results}

    groups, stored = fit(silent, plugins=[Late()])
    assert finals(groups) == [[2.0, 2.0]] * 2
    assert told(stored[0]) == [("reward", 2.0, "plugin:Late"), ("reward", 2.0, "combined")]


@pytest.mark.parametrize(
    ("given", "says"),
    [(lambda group: [1.0], "it must give rewards by rollout id"), (lambda group: {"ro-x": 1.0}, r"it judged \['ro-x'\], which are not in the group")],
)  # fmt: skip
def test_a_comparing_judge_that_gives_something_else_stops_the_run(given, says):
    class Wrong:
        name = "wrong"

        def agl_group_reward(self, group):
            return given(group)

    with pytest.raises(PluginError, match=f"plugin `wrong` failed in `agl_group_reward`.*{says}"):
        fit(agent, rewards=[Wrong()])


# What may be given.


def test_a_judge_is_a_function_an_object_or_a_name(install_package):
    code = "class Length:\n    name = 'length'\n    def __init__(self, unit=1.0):\n        self.unit = unit\n"
    code += "    def agl_reward(self, result):\n        return 3 * self.unit\ndef fixed(result):\n    return 4.0\n"
    install_package("judges-dist", {"length": "mine_judges:Length", "fixed": "mine_judges:fixed"}, "agl.rewards", mine_judges=code)
    groups, stored = fit(silent, rewards=["length", "fixed"])
    assert finals(groups) == [[7.0, 7.0]] * 2
    assert told(stored[0])[:2] == [("length", 3.0, "length"), ("fixed", 4.0, "fixed")]


def test_rewards_and_their_options_may_stand_in_the_settings(install_package, tmp_path):
    code = "class Length:\n    name = 'length'\n    def __init__(self, unit=1.0):\n        self.unit = unit\n"
    code += "    def agl_reward(self, result):\n        return 3 * self.unit\n"
    install_package("judges-dist", {"length": "mine_judges:Length"}, "agl.rewards", mine_judges=code)
    text = '[trainer]\nrewards = ["length"]\nreward_weights = {length = 10.0}\n[rewards.length]\nunit = 2.0\n'
    (tmp_path / "agl.toml").write_text(text)
    assert finals(fit(silent)[0]) == [[60.0, 60.0]] * 2


def test_a_judge_sees_the_calls_of_the_attempt_in_order():
    seen = []

    def watch(result):
        seen.append([(str(span.kind), span.name) for span in result.spans])
        return 1.0

    @agl.rollout
    async def talker(task, llm):
        async with openai.AsyncOpenAI(base_url=llm.base_url, api_key=llm.api_key) as client:
            with agl.operation("think"):
                await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])

    with ScriptedServer("42") as server:
        resources = {"main_llm": agl.LLM(endpoint=server.base_url(), model="m")}
        _, stored = fit(talker, rewards=[watch], n=1, initial_resources=resources)
    assert seen == [[("agent", "talker"), ("operation", "think"), ("llm", "chat m")]] * 2
    assert [(str(span.kind), span.name) for span in stored[0].spans] == seen[0]


def test_an_attempt_lives_while_it_is_judged(monkeypatch):
    monkeypatch.setattr("agl.runner.HEARTBEAT_SECONDS", 0.02)
    beats = []
    monkeypatch.setattr(
        SQLiteStore, "post_heartbeat", lambda self, attempt_ids, alive: beats.append(judging and set(attempt_ids) & judging)
    )
    judging = set()

    async def slow(result):
        judging.add(result.rollout.attempt.attempt_id)
        await asyncio.sleep(0.2)
        judging.discard(result.rollout.attempt.attempt_id)
        return 1.0

    fit(silent, rewards=[slow])
    assert any(beats)


def test_a_run_that_is_stopped_while_it_judges_leaves_its_attempts_cancelled():
    async def slow(result):
        if result.rollout.sample:
            raise KeyError("gold")
        await asyncio.sleep(30)

    with pytest.raises(PluginError, match="plugin `slow` failed"):
        agl.Trainer(algorithm=Keeper(), rewards=[slow], quiet=True).fit(silent, TASKS)
    connection = sqlite3.connect(".agl/store.sqlite")
    found = connection.execute("SELECT status, failure, count(*) FROM attempts GROUP BY 1, 2").fetchall()
    (kept,) = connection.execute("SELECT count(DISTINCT attempt_id) FROM spans").fetchone()
    connection.close()
    assert found == [("cancelled", "cancelled", 4)]
    assert kept >= 2  # what the stopped attempts had recorded


def test_rewards_of_one_trainer_are_not_those_of_another():
    fit(agent, rewards=[style])
    groups, stored = fit(agent)
    assert finals(groups) == [[0.0, 0.25], [1.0, 1.25]]
    assert told(stored[0]) == [("reward", 0.0, "returned")]


class Both(agl.Judge):
    name = "both"

    def agl_reward(self, result): ...

    def agl_rollout_ended(self, result): ...


class Nameless:
    name = ""

    def __call__(self, result): ...


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rewards": [3]}, "`rewards` takes functions, objects with `agl_reward` or `agl_group_reward`, and names; given was 3"),
        ({"rewards": style}, "`rewards` must be a list"),
        ({"rewards": [Ranks]}, r"given was the class `Ranks`; write `Ranks\(…\)`"),
        ({"rewards": [style, style]}, "two of `rewards` are named `style`"),
        ({"rewards": [lambda result: 1.0]}, "a reward needs a name"),
        ({"rewards": [Both()]}, r"also defines \['agl_rollout_ended'\], which only `plugins=\[…\]` calls"),
        ({"rewards": ["llm_judge"]}, r"the reward `llm_judge` cannot be made with the options \[\].*`\[rewards.llm_judge\]` of agl.toml"),
        ({"reward_weights": {"reward": float("nan")}}, "the weight of the reward `reward` must be a finite number, given was nan"),
        ({"reward_weights": {"reward": "1"}}, "must be a finite number, given was '1'"),
        ({"reward_weights": {"reward": None}}, r"gives \['reward'\] no number"),
        ({"reward_weights": {"reward": 0}}, "all weights are 0"),
        ({"reward_weights": [1.0]}, "`reward_weights` must be numbers by name"),
        (
            {"rewards": [agl.ToolOutcome(weight=0.2)], "reward_weights": {"tool_outcome": 0.1}},
            r"the rewards \['tool_outcome'\] have a `weight` of their own and one in `reward_weights`",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(options, says):
    with pytest.raises(ConfigError, match=says):
        agl.Trainer(quiet=True, **options)


def test_an_unknown_name_is_refused_with_those_installed():
    with pytest.raises(PluginError, match=r"no reward is named `llm_juge`; there are \[.*'llm_judge'.*\]; did you mean `llm_judge`\?"):
        agl.Trainer(quiet=True, rewards=["llm_juge"])


@pytest.mark.parametrize("given", ["good", float("nan"), {"value": 1.0}, [1.0, None], agl.Reward(value=1.0, source="combined")])
def test_a_function_that_gives_no_number_stops_the_run_with_its_name(given):
    def wrong(result):
        return given

    with pytest.raises(PluginError, match="plugin `wrong` failed in `agl_reward`"):
        fit(agent, rewards=[wrong])


def test_a_run_goes_on_only_with_the_same_rewards():
    class Fails(Keeper):
        async def fit(self, run):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        agl.Trainer(algorithm=Fails(), quiet=True, rewards=[style]).fit(agent, TASKS)
    with pytest.raises(ConfigError, match=re.escape("rewards was {'style': {}} and is {}")):
        agl.Trainer(algorithm=Fails(), quiet=True).fit(agent, TASKS, resume=True)
