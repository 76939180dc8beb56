"""What a critic reads: the calls of the prompt's own agent, shortened, with everything that judges said."""

import pytest
from msgspec import to_builtins

from agl.results import RolloutResult
from agl.rewards import Reward
from agl.rollouts import Attempt, AttemptStatus, Failure, Rollout
from agl.spans import LLMCall, Span, SpanKind, SpanStatus
from agl.tasks import Task
from agl_apo.records import belongs, cut, is_plain, longest_literal, record, role_of, training_text


def span(kind=SpanKind.LLM, role=None, number=0, **attributes):
    return Span(
        span_id=f"s{number}", trace_id="t", rollout_id="ro", attempt_id="at", name="x", kind=kind, started_at=number, ended_at=number + 1, role=role,
        attributes=attributes,
    )  # fmt: skip


def call(*messages, answer="fine", role=None, number=0, overridden=None, tools=None, tool_calls=None):
    request = {"messages": [{"role": who, "content": said} for who, said in messages]} | ({"tools": tools} if tools else {})
    message = {"role": "assistant", "content": answer} | ({"tool_calls": tool_calls} if tool_calls else {})
    told = LLMCall(request=request, response={"choices": [{"message": message}]}, overridden=overridden or {})
    return span(role=role, number=number, **{"agl.call": to_builtins(told)})


def result(*spans, reward=0.5, output=None, rewards=(), failure=None, error=None, data=None):
    attempt = Attempt(
        attempt_id="at", rollout_id="ro", number=1, worker_id="w", status=AttemptStatus.FAILED if failure else AttemptStatus.SUCCEEDED, failure=failure,
        error=error, output=output,
    )  # fmt: skip
    rollout = Rollout(
        rollout_id="ro", run_id="r", task=Task(task_id="t", data=data or {"q": "six times seven"}), group_id="g", attempt=attempt
    )
    given = (Reward(value=reward),) if reward is not None else ()
    return RolloutResult(rollout=rollout, spans=spans, rewards=(*given, *rewards))


WRITER = call(("system", "Write well."), ("user", "about pens"), role="crew/writer", number=1, answer="A pen.")
CHECKER = call(("system", "Check it."), ("user", "A pen."), role="crew/checker", number=2, answer="wrong")


def test_only_calls_of_the_prompts_own_role_are_shown():
    text = record(result(WRITER, CHECKER), "crew/writer.system_prompt", "Write well.")
    assert "user: about pens" in text
    assert "assistant: A pen." in text
    assert "wrong" not in text
    assert "Write well." not in text  # it is told apart from the records


def test_a_role_in_a_longer_path_is_the_same_agent_and_a_similar_name_is_not():
    other = call(("user", "x"), role="ghostwriter", number=3)
    assert [each.span_id for each, _ in belongs([WRITER, other], "writer.system_prompt", "…")] == ["s1"]


def test_calls_into_which_the_prompt_was_put_are_its_own_whatever_their_role_is_called():
    put = call(("system", "New."), role="else", number=4, overridden={"writer.goal": "Old."})
    assert [each.span_id for each, _ in belongs([put, CHECKER], "writer.goal", "New.")] == ["s4"]


def test_a_template_of_the_users_code_belongs_to_the_calls_that_hold_its_text():
    template = "Answer in one word, please: {q}"
    own, other = call(("user", "Answer in one word, please: six"), number=1), call(("user", "Is it right?"), number=2)
    assert [each.span_id for each, _ in belongs([own, other], "prompt", template)] == ["s1"]
    assert [each.span_id for each, _ in belongs([own, other], "prompt", "{q}")] == ["s1", "s2"]  # nothing in it tells it apart


def test_a_prompt_of_an_agent_that_made_no_call_has_none():
    assert belongs([CHECKER], "writer.system_prompt", "Something else entirely.") == []
    assert "calls: none of this prompt's agent" in record(result(CHECKER), "writer.system_prompt", "Something else entirely.")


def test_a_tools_description_is_read_by_the_agent_that_has_the_tool():
    assert role_of("team/solver.tools.add.description") == "team/solver"
    assert role_of("solver.system_prompt") == "solver"
    assert role_of("prompt_template") == ""


def test_a_conversation_is_told_once_with_its_tool_calls():
    asked = {"function": {"name": "add", "arguments": '{"a": 1}'}}
    first = call(("system", "S"), ("user", "one plus"), role="solver", number=1, answer=None, tool_calls=[asked])
    second = call(("system", "S"), ("user", "one plus"), ("tool", "two"), role="solver", number=2, answer="It is two.")
    text = record(result(first, second), "solver.system_prompt", "S")
    assert text.count("one plus") == 1
    assert 'assistant: calls add({"a": 1})' in text
    assert "tool: two" in text
    assert text.index("calls add") < text.index("tool: two") < text.index("It is two.")


def test_what_judges_and_the_agents_own_code_said_is_there():
    said = [
        span(SpanKind.MESSAGE, number=5, body="too long"),
        span(SpanKind.OBJECT, number=6, value={"expected": 42}),
        Span(
            span_id="r", trace_id="t", rollout_id="ro", attempt_id="at", name="no reward", kind=SpanKind.REWARD, started_at=7, ended_at=7, error="judge down",
            status=SpanStatus.ERROR,
        ),
    ]  # fmt: skip
    rewards = [Reward(value=0.2, name="style", details={"rationale": "clumsy"}), Reward(value=0.1, role="writer")]
    text = record(result(*said, rewards=rewards, output="thirteen"), "p", "…")
    for told in ("reward: 0.5", "feedback: too long", 'x: {"expected": 42}', "not judged: judge down", "judged style: 0.2, since clumsy"):
        assert told in text
    assert "output: thirteen" in text
    assert "judged reward of writer: 0.1" in text


def test_a_failure_is_told_by_the_last_line_of_its_traceback():
    text = record(result(reward=0.0, failure=Failure.AGENT, error="Traceback\n  File x\nValueError: no {braces} here"), "p", "…")
    assert "error (agent): ValueError: no {braces} here" in text
    assert "File x" not in text


def test_long_texts_are_cut_in_the_middle_and_the_whole_has_a_limit():
    assert cut("a" * 10, 20) == "a" * 10
    long = cut("begin" + "x" * 5000 + "end", 300)
    assert long.startswith("begin")
    assert long.endswith("end")
    assert "characters left out" in long
    assert len(long) < 360
    many = [call(("user", f"{n} " + "y" * 4000), number=n) for n in range(30)]
    assert len(record(result(*many), "p", "{q}", limit=6000)) < 6100


def test_calls_to_the_agents_own_endpoint_are_said_to_be_unrecorded():
    own = span(SpanKind.OPERATION, number=1, **{"agl.endpoint": "the agent's own"})
    assert "calls: not recorded" in record(result(own), "w.system_prompt", "…")


def test_the_training_text_has_every_text_of_a_task():
    assert training_text({"q": "one", "n": 3, "more": [{"a": "two"}, "three"]}).splitlines() == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("name", "text", "plain"),
    [
        ("prompt", "Say {x}", False),
        ("prompt", "nothing", False),
        ("w.system_prompt", "nothing", True),
        ("w.system_prompt", 'JSON: {"a": 1}', True),
        ("w.system_prompt", "a lone {", True),
        ("w.goal", "Find {topic}", False),
    ],
)
def test_braces_are_text_where_nothing_fills_them_in(name, text, plain):
    assert is_plain(name, text) is plain


def test_the_longest_literal_part_of_a_template():
    assert longest_literal("Hi {name}, answer in one word: {q}") == ", answer in one word:"
    assert longest_literal("a lone { stays") == "a lone { stays"
