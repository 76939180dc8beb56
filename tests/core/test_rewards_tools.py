"""A tool's outcome belongs to the call that asked for it: by its id, else by name and time within the nearest span around both."""

import msgspec
import pytest

import agl
from agl.builtin.credit import agl_assign_credit
from agl.errors import ConfigError, RewardError
from agl.rewards import make_reward
from agl.spans import SpanKind, SpanStatus
from agl.transitions import transitions_of


@pytest.fixture
def call(make_call):
    """An LLM call with its start and the tools that it asks for, as `name` or `name id`."""

    def make(started, *asked, parent=None, **values):
        span = make_call([1], [2], parent_id=parent, started_at=float(started), ended_at=started + 0.5, **values)
        named = [one.split() for one in asked]
        calls = [{"id": name[1] if len(name) > 1 else None, "function": {"name": name[0], "arguments": "{}"}} for name in named]
        span.attributes["agl.call"]["response"] = {"choices": [{"index": 0, "message": {"content": None, "tool_calls": calls}}]}
        return span

    return make


@pytest.fixture
def tool(make_span):
    def make(started, name="add", *, call_id=None, parent=None, status=SpanStatus.OK, **values):
        attributes = {"gen_ai.tool.call.id": call_id} if call_id else {}
        times = {"started_at": float(started), "ended_at": started + 0.5}
        return make_span(name=name, kind=SpanKind.TOOL, parent_id=parent, status=status, attributes=attributes, **times, **values)

    return make


@pytest.fixture
def outcomes(make_result):
    """Value by span id of the call."""

    def judge(*spans, **options):
        rewards = agl.ToolOutcome(**options).agl_reward(make_result(spans=spans))
        assert {(reward.name, reward.source) for reward in rewards} <= {("tool_outcome", "tool_outcome")}
        return {reward.span_id: reward.value for reward in rewards}

    return judge


def test_a_tool_is_matched_by_its_call_id_whatever_came_between(call, tool, outcomes):
    first, second = call(1, "add a"), call(2, "add b")
    spans = [first, second, tool(3, call_id="b"), tool(4, call_id="a", status=SpanStatus.ERROR)]
    assert outcomes(*spans) == {first.span_id: -1.0, second.span_id: 1.0}


def test_an_id_that_two_calls_gave_means_the_last_one_before_the_tool(call, tool, outcomes):
    first, second, third = call(1, "add call_0"), call(3, "add call_0"), call(5, "add call_0")
    assert outcomes(first, tool(2, call_id="call_0", status=SpanStatus.ERROR), second, tool(4, call_id="call_0"), third) == {
        first.span_id: -1.0,
        second.span_id: 1.0,
    }


def test_an_id_that_no_call_gave_is_nobodys(call, tool, outcomes):
    assert outcomes(call(1, "add a"), tool(2, call_id="other")) == {}


def test_several_tools_of_one_call_give_their_mean(call, tool, outcomes):
    asked = call(1, "add a", "divide b")
    spans = [asked, tool(2, call_id="a"), tool(2, "divide", call_id="b", status=SpanStatus.ERROR)]
    assert outcomes(*spans) == {asked.span_id: 0.0}
    assert outcomes(*spans, success=1.0, failure=0.0) == {asked.span_id: 0.5}


def test_without_an_id_the_last_call_of_the_same_branch_is_meant(call, tool, make_span, outcomes):
    root = make_span(kind=SpanKind.AGENT, started_at=0.0)
    left, right = (make_span(kind=SpanKind.NODE, parent_id=root.span_id, started_at=0.5) for _ in range(2))
    ours, theirs = call(1, "add", parent=left.span_id), call(2, "add", parent=right.span_id)
    assert outcomes(root, left, right, ours, theirs, tool(3, parent=left.span_id)) == {ours.span_id: 1.0}


def test_without_an_id_a_tool_beside_the_node_of_the_call_belongs_to_it(call, tool, make_span, outcomes):
    root = make_span(kind=SpanKind.AGENT, started_at=0.0)
    think, work = (make_span(kind=SpanKind.NODE, parent_id=root.span_id, started_at=0.5) for _ in range(2))
    asked, other = call(1, "add", parent=think.span_id), call(2, "divide", parent=think.span_id)
    assert outcomes(root, think, work, asked, other, tool(3, "add", parent=work.span_id)) == {asked.span_id: 1.0}


def test_a_call_that_names_its_tool_in_the_text_is_the_last_one_before(call, tool, make_span, outcomes):
    root = make_span(kind=SpanKind.AGENT, started_at=0.0)
    first, second = (call(number, parent=root.span_id) for number in (1, 2))
    assert outcomes(root, first, second, tool(3, parent=root.span_id)) == {second.span_id: 1.0}


def test_what_a_tool_calls_by_itself_is_nobodys_unless_a_model_inside_of_it_asked(call, tool, make_span, outcomes):
    root = make_span(kind=SpanKind.AGENT, started_at=0.0)
    asked = call(1, "expert a", parent=root.span_id)
    expert = tool(2, "expert", call_id="a", parent=root.span_id)
    inner = call(3, "add", parent=expert.span_id)
    helped = tool(4, "add", parent=expert.span_id, status=SpanStatus.ERROR)
    unasked = tool(2.5, "log", parent=expert.span_id, status=SpanStatus.ERROR)
    assert outcomes(root, asked, expert, unasked, inner, helped) == {asked.span_id: 1.0, inner.span_id: -1.0}


def test_a_tool_whose_end_was_never_seen_and_a_call_that_failed_say_nothing(call, tool, outcomes):
    asked, broken = call(1, "add a"), call(2, "add b", status=SpanStatus.ERROR)
    assert outcomes(asked, broken, tool(3, call_id="a", status=SpanStatus.OPEN), tool(3, call_id="b")) == {}


def test_details_tell_the_tools(call, tool, make_result):
    asked = call(1, "add a")
    failed = tool(2, call_id="a", status=SpanStatus.ERROR, error="ValueError: no")
    (reward,) = agl.ToolOutcome().agl_reward(make_result(spans=(asked, failed)))
    assert reward.details == {"tools": [{"tool": "add", "span_id": failed.span_id, "error": "ValueError: no"}]}


def test_values_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="different values for success and failure"):
        agl.ToolOutcome(success=1.0, failure=1.0)
    with pytest.raises(RewardError, match="must be a finite number"):
        agl.ToolOutcome(success=float("inf"))


def test_credit_adds_what_a_call_was_given_times_its_weight(call, make_result):
    first, second = call(1, "add a", role="solver"), call(2, "add b", role="writer")
    rewards = [
        make_reward(9.0, source="returned"),
        make_reward(7.0, source="judge", role="writer"),
        make_reward(2.0, source="combined"),
        make_reward(3.0, source="combined", role="writer"),
        make_reward(1.0, name="tool_outcome", source="tool_outcome", span_id=first.span_id),
        make_reward(0.5, name="parsed", source="agent", span_id=second.span_id),
    ]
    result = make_result(spans=(first, second), rewards=tuple(rewards))
    weighted = msgspec.structs.replace(
        result, rollout=msgspec.structs.replace(result.rollout, reward_weights={"reward": 1.0, "tool_outcome": 0.1})
    )
    assert [item.reward for item in agl_assign_credit(weighted, transitions_of(weighted.spans))] == pytest.approx([2.1, 3.5])
    plain = msgspec.structs.replace(result, rewards=tuple(reward for reward in rewards if reward.source != "combined"))
    assert [item.reward for item in agl_assign_credit(plain, transitions_of(plain.spans))] == pytest.approx([10.0, 7.5])
