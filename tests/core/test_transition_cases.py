"""The cases in which recorded calls were lost, bent or trained twice elsewhere; each says what becomes of them here.

In all of them: nothing is lost, nothing is trained twice, masks and ids are of one length, and every sampled id is the engine's own.
"""

import asyncio
import itertools
import math
from collections import Counter

import msgspec
import openai
import pytest

import agl
from agl.credit import lightning
from agl.errors import DataError, RewardError
from agl.rewards import Reward, make_reward
from agl.roles import Roles
from agl.rollouts import AttemptStatus, Failure
from agl.testing.scripted import Reply, ScriptedServer
from agl.transitions import rows_of, transitions_of
from agl.untrained import why_untrained


def rows(*spans, why_not=lambda role: None):
    """Rows of an attempt with these spans, checked against the spans themselves."""
    items = transitions_of(spans, why_not)
    made = rows_of(items)
    sampled = {}
    for span in spans:
        call = span.attributes["agl.call"]
        for index, choice in enumerate(call["choices"]):
            sampled[span.span_id, index] = call["prompt_ids"], choice
    trained = Counter()
    for row in made:
        assert len(row.token_ids) == len(row.mask) == len(row.logprobs) == len(row.owners)
        for place, owner in enumerate(row.owners):
            assert row.mask[place] == (owner >= 0)
            if owner >= 0:
                item = row.transitions[owner]
                prompt, choice = sampled[item.span_id, item.choice]
                at = place - len(prompt)
                assert (row.token_ids[place], row.logprobs[place]) == (choice["response_ids"][at], choice["logprobs"][at])
                assert list(row.token_ids[: len(prompt)]) == prompt
                trained[item.span_id, item.choice, at] += 1
    wanted = {(item.span_id, item.choice, at) for item in items if item.trainable for at in range(len(item.response_ids))}
    assert trained == Counter(wanted)
    return made


def shape(made):
    return [(row.token_ids, "".join("x" if on else "." for on in row.mask)) for row in made]


def mismatches(*spans):
    return [item.mismatch and str(item.mismatch) for item in transitions_of(spans)]


# How prompts go on from earlier calls.


def test_text_that_was_tokenised_anew_begins_a_row_and_is_counted(make_call):
    spans = [make_call([1, 2], [10, 11, 12, 3]), make_call([1, 2, 15, 12, 3, 5], [6])]
    assert shape(rows(*spans)) == [((1, 2, 10, 11, 12, 3), "..xxxx"), ((1, 2, 15, 12, 3, 5, 6), "......x")]
    assert mismatches(*spans) == ["new", "retokenised"]


def test_reasoning_that_the_chat_template_strips_is_a_history_rewritten(make_call):
    spans = [make_call([1, 2], [90, 91, 92, 93, 7, 3]), make_call([1, 2, 7, 3, 5, 2], [6])]
    assert [len(row.transitions) for row in rows(*spans)] == [1, 1]
    assert mismatches(*spans) == ["new", "rewritten"]


def test_a_system_prompt_that_changes_between_calls_is_a_history_rewritten(make_call):
    assert mismatches(make_call([1, 70, 8, 2], [9, 4, 3]), make_call([1, 71, 8, 2, 9, 4, 3, 5, 2], [6])) == ["new", "rewritten"]


def test_a_conversation_whose_beginning_was_cut_off_is_truncated(make_call):
    spans = [make_call([1, 20, 21, 22, 23, 2], [9, 4, 3]), make_call([1, 22, 23, 2, 9, 4, 3, 5, 2], [6])]
    assert mismatches(*spans) == ["new", "truncated"]
    assert len(rows(*spans)) == 2


def test_another_task_of_the_same_agent_is_a_conversation_of_its_own(make_call):
    assert mismatches(make_call([1, 8, 20, 2], [9, 4, 3]), make_call([1, 8, 30, 2], [9, 5, 3])) == ["new", "new"]


def test_a_continuation_without_new_prompt_tokens_stays_in_its_row(make_call):
    assert shape(rows(make_call([1], [2, 3]), make_call([1, 2, 3], [4]))) == [((1, 2, 3, 4), ".xxx")]


def test_a_long_prompt_is_never_trained_on_whatever_its_length(make_call):
    long = list(range(100, 20_100))
    (row,) = rows(make_call([1], [2]), make_call([1, 2, *long], [3]))
    assert (len(row.token_ids), sum(row.mask), row.mask[1], row.mask[-1]) == (20_003, 2, True, True)


def test_a_shorter_prompt_that_an_earlier_one_begins_with_goes_back_to_where_it_was(make_call):
    spans = [make_call([1], [2]), make_call([1, 2, 3], [4]), make_call([1, 2], [5]), make_call([1], [6])]
    assert shape(rows(*spans)) == [((1, 2, 3, 4), ".x.x"), ((1, 2, 5), "..x"), ((1, 6), ".x")]
    assert [item.parent for item in transitions_of(spans)] == [None, spans[0].span_id, spans[0].span_id, None]


def test_compaction_to_a_summary_begins_a_conversation_and_keeps_both(make_call):
    spans = [
        make_call([1, 5], [6, 3]),
        make_call([1, 5, 6, 3, 7], [8, 3]),
        make_call([1, 60, 61], [9, 3]),
        make_call([1, 60, 61, 9, 3, 7], [4]),
    ]
    assert [sum(row.mask) for row in rows(*spans)] == [4, 3]


def test_results_of_tools_are_context_in_the_row_of_the_call_that_asked(make_call):
    assert shape(rows(make_call([1], [50, 51]), make_call([1, 50, 51, 80, 81, 82], [52]))) == [((1, 50, 51, 80, 81, 82, 52), ".xx...x")]


def test_agents_that_take_turns_have_a_row_each(make_call):
    spans = [
        make_call([1], [2], role="a"),
        make_call([5], [6], role="b"),
        make_call([1, 2], [3], role="a"),
        make_call([5, 6], [7], role="b"),
    ]
    assert shape(rows(*spans)) == [((1, 2, 3), ".xx"), ((5, 6, 7), ".xx")]


def test_sub_agents_in_parallel_give_the_same_tokens_whatever_the_order(make_call):
    def calls(order):
        chains = {name: iter([([name, 1], [2]), ([name, 1, 2, 3], [4])]) for name in (10, 20, 30)}
        return [make_call(*next(chains[name]), role="worker") for name in order]

    orders = [(10, 10, 20, 20, 30, 30), (10, 20, 30, 10, 20, 30), (30, 20, 10, 10, 20, 30)]
    assert len({tuple(sorted(shape(rows(*calls(order))))) for order in orders}) == 1


def test_parallel_calls_that_fork_from_one_share_what_was_before_and_train_it_once(make_call):
    made = rows(make_call([1, 2], [3]), make_call([1, 2, 3, 40], [5]), make_call([1, 2, 3, 41], [6]))
    assert shape(made) == [((1, 2, 3, 40, 5), "..x.x"), ((1, 2, 3, 41, 6), "....x")]
    assert [row.shared for row in made] == [0, 3]


# Samples of one prompt, retries, failures.


def test_an_identical_call_is_a_sample_of_its_own(make_call):
    assert shape(rows(make_call([1], [2, 3]), make_call([1], [2, 3]))) == [((1, 2, 3), ".xx")] * 2


def test_all_four_samples_of_a_vote_are_kept_and_so_is_the_same_question_asked_again(make_call):
    spans = [make_call([1], [2], [3], [2], [4]), make_call([1], [2])]
    assert [row.token_ids for row in rows(*spans)] == [(1, 2), (1, 3), (1, 2), (1, 4), (1, 2)]


def test_a_vote_whose_second_answer_is_gone_on_with_continues_that_one(make_call):
    spans = [make_call([1], [2], [3]), make_call([1, 3, 9], [5])]
    assert shape(rows(*spans)) == [((1, 2), ".x"), ((1, 3, 9, 5), ".x.x")]


def test_a_call_that_the_client_sent_twice_is_trained_once_though_both_are_kept(make_call):
    spans = [make_call([1], [2], call_id="a" * 16), make_call([1], [3], call_id="a" * 16), make_call([1, 3], [4])]
    assert shape(rows(*spans)) == [((1, 3, 4), ".xx")]
    assert [item.untrained for item in transitions_of(spans)] == ["the client retried the call", None, None]


def test_a_retry_changes_no_weight_of_what_is_trained(make_call):
    without = rows(make_call([1], [2]), make_call([1, 2], [4]))
    again = rows(make_call([1], [9, 9], call_id="a" * 16), make_call([1], [2], call_id="a" * 16), make_call([1, 2], [4]))
    assert shape(without) == shape(again)


def test_a_failed_call_is_listed_and_makes_no_row(make_call):
    spans = [make_call(None, failed=True), make_call([1], [2])]
    assert [item.untrained for item in transitions_of(spans)] == ["the call failed", None]
    assert shape(rows_of(transitions_of(spans))) == [((1, 2), ".x")]


def test_calls_without_token_ids_are_each_kept_and_none_is_trained(make_call):
    items = transitions_of([make_call(None, [1]), make_call(None, [1]), make_call([1], None)])
    assert [item.untrained for item in items] == ["the endpoint gave no token ids"] * 3
    assert [item.mismatch for item in items] == [None, None, "new"]
    assert rows_of(items) == []


def test_one_call_without_logprobs_leaves_the_others_trained_and_is_their_context(make_call):
    spans = [make_call([1], [2]), make_call([1, 2], [3], logprobs=[]), make_call([1, 2, 3], [4])]
    assert shape(rows(*spans)) == [((1, 2, 3, 4), ".x.x")]


def test_no_calls_make_no_transitions_and_no_rows():
    assert (transitions_of([]), rows_of([])) == ([], [])


def test_calls_that_start_at_the_same_time_keep_the_order_of_the_store(make_call):
    spans = [make_call([1], [2], started_at=5.0), make_call([1, 2], [3], started_at=5.0)]
    assert shape(rows(*spans)) == [((1, 2, 3), ".xx")]


def test_a_conversation_of_two_thousand_calls_is_one_row(make_call):
    ids, spans = [1], []
    for _ in range(2000):
        spans.append(make_call(list(ids), [2]))
        ids += [2, 3]
    (row,) = rows_of(transitions_of(spans))
    assert (sum(row.mask), len(row.token_ids)) == (2000, 4000)


def test_making_rows_changes_no_transition(make_call):
    items = transitions_of([make_call([1], [2]), make_call([1, 2], [3]), make_call([1, 2], [4])])
    before = msgspec.json.encode(items)
    assert rows_of(items) == rows_of(items)
    assert msgspec.json.encode(items) == before


def test_calls_of_a_frozen_role_are_context_and_never_trained(make_call):
    spans = [make_call([1], [2], role="writer"), make_call([1, 2], [3], role="critic"), make_call([1, 2, 3], [4], role="writer")]
    assert shape(rows(*spans, why_not=Roles(roles={"critic": "freeze"}).why_not)) == [((1, 2, 3, 4), ".x.x")]


# Rewards. `given` are (value, name, call) in order of time; the call is an index, None for the whole rollout.


@pytest.fixture
def credited(make_result, make_call):
    def make(calls, given):
        spans = [make_call([number], [number + 50]) for number in range(1, calls + 1)]
        rewards = [
            Reward(value=value, name=name, span_id=None if call is None else spans[call].span_id, created_at=float(at))
            for at, (value, name, call) in enumerate(given)
        ]
        result = make_result(spans=tuple(spans), rewards=tuple(rewards))
        attempt = msgspec.structs.replace(result.rollout.attempt, status=AttemptStatus.SUCCEEDED)
        result = msgspec.structs.replace(result, rollout=msgspec.structs.replace(result.rollout, attempt=attempt))
        return result.reward, [item.reward for item in lightning(result, transitions_of(spans))]

    return make


@pytest.mark.parametrize(
    ("calls", "given", "final", "of_calls"),
    [
        pytest.param(1, [(0.3, "part", 0), (1.0, "reward", None)], 1.0, [1.3], id="two rewards after one call"),
        pytest.param(2, [(0.2, "part", 0), (0.3, "part", 1), (1.0, "reward", None)], 1.0, [1.2, 1.3], id="three rewards, two calls"),
        pytest.param(2, [(0.3, "part", 1), (1.0, "reward", None)], 1.0, [1.0, 1.3], id="two calls, then two rewards"),
        pytest.param(1, [(1.0, "reward", None), (0.3, "part", 0)], 1.0, [1.3], id="the final one comes first"),
        pytest.param(2, [(0.1, "part", None), (1.0, "reward", None)], 1.0, [1.0, 1.0], id="a reward before any call is the rollout's"),
        pytest.param(1, [(0.3, "reward", None), (1.0, "reward", None)], 1.0, [1.0], id="the last final reward counts"),
        pytest.param(2, [(0.2, "part", 0), (0.3, "part", 0), (1.0, "reward", None)], 1.0, [1.5, 1.0], id="two rewards of one call add up"),
        pytest.param(1, [(0.3, "part", 0)], None, [0.3], id="no final reward is none"),
        pytest.param(1, [], None, [None], id="no reward at all is none, not 0"),
        pytest.param(1, [(0.0, "reward", None)], 0.0, [0.0], id="a reward of 0 is one"),
        pytest.param(0, [(1.0, "reward", None)], 1.0, [], id="a rollout without calls keeps its reward"),
        pytest.param(2, [(0.7, "reward", 1), (1.0, "reward", None)], 1.0, [1.0, 1.7], id="a call's reward of the final name is the call's"),
        pytest.param(1, [(0.1 + 0.2, "reward", None)], 0.1 + 0.2, [0.1 + 0.2], id="fractions keep all their digits"),
    ],
)
def test_rewards_reach_what_they_judge(credited, calls, given, final, of_calls):
    assert credited(calls, given) == (final, pytest.approx(of_calls, abs=1e-12) if None not in of_calls else of_calls)


def test_a_rollout_without_a_reward_makes_no_row(make_result, make_call):
    assert make_result(transitions=tuple(transitions_of([make_call([1], [2])]))).rows() == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "1.0", [1.0]])
def test_what_is_no_finite_number_is_refused_at_the_door(value):
    with pytest.raises(RewardError, match="must be"):
        make_reward(value, source="agent")


# Whole rollouts, with agents that misbehave.


class Once(agl.Algorithm):
    """Asks for one batch and keeps it."""

    name = "once"

    def __init__(self, n=1):
        self.n, self.groups, self.problem = n, [], None

    async def start(self, run):
        return {"prompt": agl.PromptTemplate(template="?")}

    async def fit(self, run):
        for _ in run.steps(1):
            self.groups = await run.rollout(list(run.train), n=self.n, strict=False)
            await run.publish(metrics={})


@pytest.fixture
def learn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(agent, *, tasks=1, n=1, server=None, **options):
        once = Once(n)
        resources = {"llm": server.llm()} if server else None
        agl.Trainer(algorithm=once, quiet=True, initial_resources=resources, **options).fit(agent, [{"id": i} for i in range(tasks)])
        return [result for group in once.groups for result in group.results]

    return run


def ask(llm, text="?"):
    with openai.OpenAI(base_url=llm.base_url, api_key=llm.api_key, max_retries=0) as client:
        return client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": text}]).choices[0].message.content


def test_an_agent_that_raises_after_its_calls_is_data_with_the_failure_reward(learn):
    @agl.rollout
    def agent(task, llm):
        ask(llm)
        raise ValueError("mine")

    with ScriptedServer("x") as server:
        (result,) = learn(agent, server=server)
    assert (result.failure, result.reward, [call.reward for call in result.transitions]) == (Failure.AGENT, 0.0, [0.0])
    assert sum(sum(row.mask) for row in result.rows()) == len(result.transitions[0].response_ids)


def test_a_timeout_is_its_own_class_and_what_comes_after_it_changes_nothing(learn):
    late = []

    @agl.rollout
    async def agent(task):
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            agl.emit_reward(1.0)
            late.append(agl.current())
            raise

    (result,) = learn(agent, timeout=0.05)
    late[0].add_reward(make_reward(1.0, source="agent"))
    assert (result.failure, result.rollout.attempt.status) == (Failure.TIMEOUT, AttemptStatus.TIMEOUT)


def test_only_the_last_attempt_is_learned_from(learn):
    numbers = itertools.count()

    @agl.rollout
    def agent(task, llm):
        text = ask(llm, str(next(numbers)))
        ask(llm)
        return float(text == "good")

    with ScriptedServer(["good", Reply("down", status=500), "good", "fine"]) as server:
        (result,) = learn(agent, server=server)
    assert (result.failure, result.reward, result.rollout.attempt.number, len(result.transitions)) == (None, 1.0, 2, 2)


def test_a_failure_of_the_endpoint_never_becomes_a_number_even_where_the_agent_gave_one(learn):
    @agl.rollout
    def agent(task, llm):
        agl.emit_reward(1.0)
        ask(llm)

    with ScriptedServer([Reply("down", status=500)]) as server:
        (result,) = learn(agent, server=server, max_attempts=1)
    assert (result.failure, result.reward, result.rows()) == (Failure.INFRASTRUCTURE, None, [])


def test_spans_and_calls_after_the_end_belong_to_no_rollout(learn):
    kept = []

    @agl.rollout
    def agent(task, llm):
        kept.append((agl.current(), llm))
        return float(ask(llm) == "x")

    with ScriptedServer("x") as server:
        (result,) = learn(agent, server=server)
        attempt, llm = kept[0]
        with pytest.raises(openai.APIConnectionError):
            ask(llm)
    attempt.add_span(attempt.make_span(span_id="f" * 16, name="late", kind="operation", started_at=1.0))
    assert (len(result.transitions), [span for span in attempt.close()[0] if span.name == "late"]) == (1, [])


def test_a_nan_reward_fails_the_rollout_and_says_so(learn):
    (result,) = learn(agl.rollout(lambda task: float("nan")))
    assert (result.failure, result.reward) == (Failure.REWARD, None)
    assert "must be a finite number, given was nan" in result.rollout.attempt.error


def test_several_rewards_are_combined_by_their_weights_and_kept(learn):
    @agl.rollout
    def agent(task):
        agl.emit_reward(0.5, name="style")
        return 1.0

    (result,) = learn(agent, reward_weights={"reward": 1.0, "style": 0.2})
    assert result.reward == pytest.approx(1.1)
    assert {(reward.name, reward.value) for reward in result.rewards} >= {("style", 0.5), ("reward", 1.0)}


@pytest.mark.parametrize("kind", ["returned", "judged"])
def test_a_reward_of_several_dimensions_keeps_each_of_them(learn, kind):
    given = {"reward": 1.0, "style": 0.5}
    agent = (
        agl.rollout(lambda task: given)
        if kind == "returned"
        else agl.agent(lambda text: text, input=str, reward=lambda task, output: given)
    )
    (result,) = learn(agent, reward_weights={"reward": 1.0, "style": 0.2})
    assert [(reward.name, reward.value, reward.source) for reward in result.rewards[:2]] == [
        ("reward", 1.0, "returned"),
        ("style", 0.5, "returned"),
    ]
    assert result.reward == pytest.approx(1.1)


def test_calls_of_an_endpoint_without_token_ids_are_named_with_the_endpoint_and_the_remedy(make_call, make_result, llm_of):
    with ScriptedServer("x") as server:
        llm = llm_of(server, version=None)
    span = make_call(None, [1], role="writer")
    span = msgspec.structs.replace(span, attributes={**span.attributes, "gen_ai.request.model": llm.model})
    result = make_result(spans=(span,), transitions=tuple(transitions_of([span])))
    groups = [agl.Group(task=result.task, results=(result,))]
    told = why_untrained(groups, agl.Resources(version=0, values={"llm": llm}))
    assert told.startswith(f"1 calls: the endpoint gave no token ids. {llm.endpoint} (model `policy`): The gateway asks for token ids")
    assert 'agl.LLM(…, version="0")' in told
    native = msgspec.structs.replace(llm, dialects=("messages",))
    told = why_untrained(groups, agl.Resources(version=0, values={"llm": native}))
    assert "It is called in its own messages, which tell no token ids: leave `dialects` out" in told
    assert issubclass(DataError, agl.AglError)
