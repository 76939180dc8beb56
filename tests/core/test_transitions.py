"""LLM calls become transitions in a call tree, and rows in which every sampled token is trained once."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agl.roles import Roles
from agl.spans import SpanKind
from agl.transitions import rows_of, transitions_of


def reasons(*spans):
    return [item.untrained for item in transitions_of(spans)]


# The call tree.


def test_a_call_is_a_transition_with_the_engines_own_tokens(make_call):
    span = make_call([1, 2], [3, 4], role="writer", logprobs=[-0.1, -0.2], request={"temperature": 0.7})
    (item,) = transitions_of([span])
    assert (item.prompt_ids, item.response_ids, item.logprobs) == ((1, 2), (3, 4), (-0.1, -0.2))
    assert (item.role, item.version, item.temperature, item.finish_reason, item.parent) == ("writer", "1", 0.7, "stop", None)
    assert item.trainable


def test_the_parent_is_the_call_whose_prompt_and_response_begin_the_prompt(make_call):
    first, second = make_call([1], [2]), make_call([1, 2, 9], [3])
    other, third = make_call([1, 3], [2]), make_call([1, 2, 9, 3], [4])
    assert [item.parent for item in transitions_of([first, second, other, third])] == [None, first.span_id, None, second.span_id]


def test_text_that_was_tokenised_anew_is_no_continuation(make_call):
    assert [item.parent for item in transitions_of([make_call([1], [2, 3]), make_call([1, 23, 9], [4])])] == [None, None]


def test_a_call_is_no_parent_of_an_earlier_one(make_call):
    later = make_call([1], [2], started_at=9.0)
    earlier = make_call([1, 2, 3], [4], started_at=1.0)
    assert [(item.span_id, item.parent) for item in transitions_of([later, earlier])] == [(earlier.span_id, None), (later.span_id, None)]


def test_other_spans_are_no_transitions(make_span):
    assert transitions_of([make_span(kind=SpanKind.TOOL), make_span(kind=SpanKind.LLM)]) == []
    assert transitions_of([]) == []


def test_a_conversation_of_two_thousand_calls_needs_no_recursion_and_little_time(make_call):
    ids, spans = [1], []
    for _ in range(2000):
        spans.append(make_call(list(ids), [2, 3]))
        ids += [2, 3, 4]
    (row,) = rows_of(transitions_of(spans))
    assert (len(row.transitions), sum(row.mask)) == (2000, 4000)


# Fail closed.


def test_a_failed_call_stays_visible_and_is_not_trained(make_call):
    (item,) = transitions_of([make_call(None, failed=True, request={"temperature": "hot"})])
    assert (item.untrained, item.response_ids, item.temperature) == ("the call failed", (), 1.0)


@pytest.mark.parametrize(("prompt", "response"), [(None, [1]), ([1], None), (None, None)])
def test_a_call_without_token_ids_is_not_trained(make_call, prompt, response):
    assert reasons(make_call(prompt, response, logprobs=[-0.5])) == ["the endpoint gave no token ids"]


@pytest.mark.parametrize("logprobs", [[], [-0.5], [-0.5, -0.5, -0.5], [-0.5, float("nan")], [-0.5, float("-inf")]])
def test_a_call_without_a_finite_logprob_for_each_token_is_not_trained(make_call, logprobs):
    assert reasons(make_call([1], [2, 3], logprobs=logprobs)) == ["the endpoint gave no logprob for each token"]


def test_a_call_without_logprobs_is_not_trained(make_call):
    span = make_call([1], [2])
    call = span.attributes["agl.call"]
    call["choices"][0]["logprobs"] = None
    assert reasons(span) == ["the endpoint gave no logprob for each token"]


def test_a_call_without_a_version_is_not_trained(make_call):
    assert reasons(make_call([1], [2], version=None)) == ["the endpoint gave no version of its weights"]


@pytest.mark.parametrize(("prompt", "response"), [([1], []), ([], [1])])
def test_a_call_that_sampled_nothing_is_not_trained(make_call, prompt, response):
    assert reasons(make_call(prompt, response)) == ["no token was sampled"]


def test_a_call_that_was_answered_with_no_choice_is_not_trained(make_call):
    assert reasons(make_call([1])) == ["the endpoint gave no answer"]


def test_of_several_choices_only_those_with_tokens_are_trained(make_call):
    assert reasons(make_call([1], [2], [], [3])) == [None, "no token was sampled", None]


def test_only_the_last_try_of_a_call_is_trained(make_call):
    spans = [make_call([1], [2], call_id="a" * 16), make_call([1], [2], call_id="b" * 16), make_call([1], [3], call_id="a" * 16)]
    assert reasons(*spans) == ["the client retried the call", None, None]


def test_a_try_that_failed_before_the_one_that_worked_is_named_so(make_call):
    spans = [make_call(None, failed=True, call_id="a" * 16), make_call([1], [2], call_id="a" * 16)]
    assert reasons(*spans) == ["the call failed", None]


def test_equal_calls_are_samples_of_their_own(make_call):
    spans = [make_call([1], [2]), make_call([1], [2]), make_call([1], [2])]
    rows = rows_of(transitions_of(spans))
    assert [row.token_ids for row in rows] == [(1, 2)] * 3
    assert reasons(*spans) == [None] * 3


def test_a_role_that_is_left_out_says_why_and_the_first_reason_wins(make_call):
    why_not = Roles(roles={"check": "freeze"}).why_not
    items = transitions_of([make_call([1], [2], role="check"), make_call(None, failed=True, role="check")], why_not)
    assert [item.untrained for item in items] == ["role `check` is frozen", "the call failed"]


# Rows.


def rows(*spans, why_not=lambda role: None):
    return rows_of(transitions_of(spans, why_not))


def test_calls_that_extend_each_other_exactly_are_one_row(make_call):
    (row,) = rows(make_call([1], [2], logprobs=[-0.2]), make_call([1, 2, 3], [4, 5], logprobs=[-0.4, -0.5]))
    assert row.token_ids == (1, 2, 3, 4, 5)
    assert row.mask == (False, True, False, True, True)
    assert row.logprobs == (0.0, -0.2, 0.0, -0.4, -0.5)
    assert row.owners == (-1, 0, -1, 1, 1)


def test_a_call_that_goes_on_without_new_prompt_tokens_is_in_the_row_too(make_call):
    (row,) = rows(make_call([1], [2]), make_call([1, 2], [3]))
    assert (row.token_ids, row.mask) == ((1, 2, 3), (False, True, True))


def test_calls_that_do_not_extend_each_other_are_rows_of_their_own(make_call):
    assert [row.token_ids for row in rows(make_call([1], [2]), make_call([1, 9, 2], [3]))] == [(1, 2), (1, 9, 2, 3)]


def test_agents_that_take_turns_have_one_row_each(make_call):
    spans = [make_call([1], [2]), make_call([5], [6]), make_call([1, 2], [3]), make_call([5, 6], [7])]
    assert [row.token_ids for row in rows(*spans)] == [(1, 2, 3), (5, 6, 7)]


def test_a_fork_has_a_row_of_its_own_in_which_the_shared_tokens_are_context(make_call):
    first, second = rows(make_call([1], [2]), make_call([1, 2], [3]), make_call([1, 2], [4]))
    assert (first.token_ids, first.mask) == ((1, 2, 3), (False, True, True))
    assert (second.token_ids, second.mask, second.owners) == ((1, 2, 4), (False, False, True), (-1, -1, 0))


def test_every_choice_is_kept_and_each_may_be_gone_on_with(make_call):
    spans = [make_call([1], [2], [3]), make_call([1, 3, 8], [4])]
    assert [(row.token_ids, sum(row.mask)) for row in rows(*spans)] == [((1, 2), 1), ((1, 3, 8, 4), 2)]


def test_tokens_of_a_frozen_role_are_context_within_a_row(make_call):
    spans = [make_call([1], [2], role="a"), make_call([1, 2], [3], role="b"), make_call([1, 2, 3], [4], role="a")]
    (row,) = rows(*spans, why_not=Roles(roles={"b": "freeze"}).why_not)
    assert (row.token_ids, row.mask, row.owners) == ((1, 2, 3, 4), (False, True, False, True), (-1, 0, -1, 1))
    assert [item.role for item in row.transitions] == ["a", "a"]


def test_a_row_without_a_trained_token_is_left_out(make_call):
    assert rows(make_call([1], [2], version=None), make_call(None, failed=True)) == []


def test_calls_of_different_temperatures_do_not_share_a_row(make_call):
    made = rows(make_call([1], [2], request={"temperature": 1.0}), make_call([1, 2], [3], request={"temperature": 0.5}))
    assert [(row.token_ids, row.temperature, sum(row.mask)) for row in made] == [((1, 2), 1.0, 1), ((1, 2, 3), 0.5, 1)]


def test_a_row_may_hold_tokens_of_several_versions(make_call):
    (row,) = rows(make_call([1], [2], version="1"), make_call([1, 2], [3], version="2"))
    assert [item.version for item in row.transitions] == ["1", "2"]


def test_an_excluded_rollout_has_no_rows(make_call, make_result):
    result = make_result(transitions=tuple(transitions_of([make_call([1], [2])])))
    assert result.rows() == []


# Any tree of calls. Few different tokens, so that prompts collide and continue each other by chance as well.

_ids = st.lists(st.integers(0, 1), max_size=2)


@st.composite
def call_trees(draw):
    """Per call: its prompt (an earlier path, or nothing, and what is added), its answers, and whether it fails or is frozen."""
    paths, calls = [()], []
    for _ in range(draw(st.integers(0, 9))):
        prompt = draw(st.sampled_from(paths)) + tuple(draw(_ids))
        answers = draw(st.lists(_ids.map(tuple), min_size=1, max_size=2))
        kind = draw(st.sampled_from(["ok", "ok", "ok", "failed", "frozen", "hot"]))
        calls.append((prompt, answers, kind))
        paths += [prompt + answer for answer in answers]
    return calls


@settings(deadline=None, derandomize=True)
@given(call_trees())
def test_every_sampled_token_of_a_trained_call_is_in_exactly_one_mask(tree):
    spans, number = [], iter(range(1000))
    for prompt, answers, kind in tree:
        spans.append(_span(prompt, answers, kind, next(number)))
    items = transitions_of(spans, Roles(roles={"frozen": "freeze"}).why_not)
    made = rows_of(items)
    found = []
    for row in made:
        assert len(row.token_ids) == len(row.mask) == len(row.logprobs) == len(row.owners)
        owners = np.array(row.owners)
        assert (np.array(row.mask) == (owners >= 0)).all()
        assert all(logprob == 0.0 for logprob, sampled in zip(row.logprobs, row.mask, strict=True) if not sampled)
        for index, item in enumerate(row.transitions):
            assert item.trainable
            assert item.temperature == row.temperature
            start = len(item.prompt_ids)
            assert row.token_ids[: start + len(item.response_ids)] == item.prompt_ids + item.response_ids
            assert np.flatnonzero(owners == index).tolist() == list(range(start, start + len(item.response_ids)))
            assert row.logprobs[start : start + len(item.response_ids)] == item.logprobs
            found.append((item.span_id, item.choice))
    assert sorted(found) == sorted((item.span_id, item.choice) for item in items if item.trainable)
    for item in items:
        if item.parent is not None:
            parents = [other for other in items if other.span_id == item.parent]
            assert any(
                item.prompt_ids[: len(other.prompt_ids + other.response_ids)] == other.prompt_ids + other.response_ids for other in parents
            )


def _span(prompt, answers, kind, number):
    from agl.spans import Choice, LLMCall, Span, SpanStatus

    choices = [Choice(response_ids=list(ids), logprobs=[-0.1 * (number + 1)] * len(ids)) for ids in answers]
    request = {"temperature": 2.0 if kind == "hot" else 1.0}
    failed = kind == "failed"
    call = LLMCall(
        request=request, response=None if failed else {}, choices=[] if failed else choices, prompt_ids=list(prompt), version="1"
    )
    return Span(
        span_id=f"{number:016x}", trace_id="0", rollout_id="ro", attempt_id="at", name="chat", kind=SpanKind.LLM, started_at=float(number),
        ended_at=number + 0.5, role="frozen" if kind == "frozen" else None, status=SpanStatus.ERROR if failed else SpanStatus.OK,
        attributes={"agl.call": msgspec.to_builtins(call), "agl.call_id": None},
    )  # fmt: skip
