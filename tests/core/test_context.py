"""Code inside an attempt finds it through context variables, in threads too; outside everything is inert."""

import asyncio
import contextvars
import gc
import logging
import threading
import time
import weakref

import pytest

import agl
from agl import context
from agl.context import ContextExecutor, entered
from agl.errors import RewardError
from agl.rewards import make_reward
from agl.spans import SpanKind, SpanStatus


def spans_of(attempt):
    return attempt.close()[0]


def test_outside_an_attempt_everything_is_empty_and_inert():
    assert (agl.current(), context.current_role(), context.current_span()) == (None, None, None)
    agl.emit_reward(1.0)
    agl.emit_message("hello")
    with agl.operation("think") as attributes:
        attributes["k"] = 1


def test_a_wrong_reward_is_an_error_even_outside_an_attempt():
    with pytest.raises(RewardError):
        agl.emit_reward(None)


def test_operations_hang_under_each_other_and_under_the_root(make_attempt):
    attempt = make_attempt()
    with entered(attempt), agl.operation("outer", k=1) as attributes:
        attributes["late"] = 2
        with agl.role("writer"), agl.operation("inner"):
            pass
    inner, outer = spans_of(attempt)
    assert (inner.name, inner.parent_id, inner.role) == ("inner", outer.span_id, "writer")
    assert (outer.parent_id, outer.attributes, outer.status) == (attempt.root_id, {"k": 1, "late": 2}, SpanStatus.OK)


def test_attributes_may_have_any_name(make_attempt):
    attempt = make_attempt()
    with entered(attempt):
        agl.emit_message("hi", name="n", kind="k")
        agl.emit_object({"a": 1}, name="state")
    message, value = spans_of(attempt)
    assert (message.kind, message.attributes) == (SpanKind.MESSAGE, {"body": "hi", "name": "n", "kind": "k"})
    assert (value.name, value.kind, value.attributes) == ("state", SpanKind.OBJECT, {"value": {"a": 1}})


def test_a_made_span_is_the_attempts_and_ends_now_unless_told(make_attempt):
    attempt = make_attempt()
    span = attempt.make_span(span_id="1" * 16, name="step", kind=SpanKind.OPERATION, started_at=1.0)
    assert (span.trace_id, span.rollout_id, span.attempt_id) == (attempt.trace_id, attempt.rollout.rollout_id, attempt.attempt_id)
    assert span.ended_at == pytest.approx(time.time(), abs=60)
    assert attempt.make_span(span_id="2" * 16, name="step", kind=SpanKind.OPERATION, started_at=1.0, ended_at=2.0).ended_at == 2.0


def test_an_operation_that_raises_is_kept_with_its_error(make_attempt):
    attempt = make_attempt()
    with pytest.raises(ValueError, match="no"), entered(attempt), agl.operation("think"):
        raise ValueError("no")
    (span,) = spans_of(attempt)
    assert (span.status, span.error) == (SpanStatus.ERROR, "ValueError: no")


def test_outside_an_attempt_emitting_does_nothing_and_says_so_once(caplog):
    context._say_outside.cache_clear()
    with caplog.at_level("DEBUG", logger="agl"):
        for _ in range(2):
            context.emit_reward(1.0)
            context.emit_message("hi")
            context.emit_object(3)
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "said once" in caplog.text


def test_roles_nest_and_end(make_attempt):
    with entered(make_attempt()):
        with agl.role("team"), agl.role("writer"):
            assert context.current_role() == "team/writer"
        assert context.current_role() is None


def test_an_attempt_starts_with_nothing_of_the_code_around_it(make_attempt):
    context.set_role("old")
    with entered(make_attempt()) as attempt:
        assert (context.current_role(), context.current_span()) == (None, attempt.root_id)
    assert context.current_role() == "old"
    context.set_role(None)


def test_what_comes_after_the_end_is_dropped_and_said_at_debug_level(make_attempt, caplog):
    attempt = make_attempt()
    with entered(attempt):
        attempt.close()
        with caplog.at_level(logging.DEBUG, logger="agl"):
            agl.emit_reward(1.0)
            agl.emit_message("late")
    assert attempt.close() == ([], [])
    assert len(caplog.records) == 2


def test_a_final_reward_judges_the_rollout_and_a_named_one_the_last_call(make_attempt):
    attempt = make_attempt()
    with entered(attempt):
        agl.emit_reward(0.1, name="early")
        attempt.last_call = "call"
        agl.emit_reward(0.2, name="parsed")
        agl.emit_reward(True)
    assert [(reward.name, reward.value, reward.span_id) for reward in attempt.rewards()] == [
        ("early", 0.1, None), ("parsed", 0.2, "call"), ("reward", 1.0, None),
    ]  # fmt: skip


async def test_a_named_reward_belongs_to_the_call_of_its_own_branch(make_attempt):
    attempt = make_attempt()

    async def branch(number):
        context.set_call(f"call-{number}")
        attempt.last_call = f"call-{number}"
        await asyncio.sleep(0.01 * (3 - number))
        agl.emit_reward(float(number), name="parsed")

    with entered(attempt):
        attempt.call_spans["call-2"] = "its-second-try"
        await asyncio.gather(*(branch(number) for number in range(3)))
    assert {reward.value: reward.span_id for reward in attempt.rewards()} == {0.0: "call-0", 1.0: "call-1", 2.0: "its-second-try"}


def test_an_attempt_takes_spans_and_rewards_from_many_threads(make_attempt, make_span):
    attempt = make_attempt()

    def work():
        for _ in range(200):
            attempt.add_span(make_span())
            attempt.add_reward(make_reward(1.0, source="agent"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans, rewards = attempt.close()
    assert (len(spans), len(rewards)) == (1600, 1600)


# Threads.

_VALUE = contextvars.ContextVar("value", default=0)


@pytest.fixture
def executor():
    made = ContextExecutor()
    yield made
    made.shutdown()


def test_threads_see_the_callers_context_and_leave_it_alone(executor):
    _VALUE.set(3)

    def work():
        seen = _VALUE.get()
        _VALUE.set(9)
        return seen

    assert [executor.submit(work).result(10) for _ in range(2)] == [3, 3]
    assert _VALUE.get() == 3


def test_work_never_waits_for_work_that_hangs(executor):
    hang = threading.Event()
    for _ in range(20):
        executor.submit(hang.wait, 30)
    assert executor.submit(lambda: "done").result(10) == "done"
    hang.set()


def test_idle_threads_are_used_again(executor):
    names = {executor.submit(threading.get_ident).result(10) for _ in range(1)}
    for _ in range(20):
        time.sleep(0.005)
        names.add(executor.submit(threading.get_ident).result(10))
    assert len(names) <= 2


def test_threads_end_with_their_executor():
    executor, hang = ContextExecutor(), threading.Event()
    before = threading.active_count()
    busy = executor.submit(hang.wait, 30)
    assert [executor.submit(lambda: 1).result(10) for _ in range(3)] == [1, 1, 1]
    time.sleep(0.05)
    executor.shutdown()
    hang.set()
    busy.result(10)
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_an_idle_thread_holds_on_to_nothing(executor):
    class Big:
        def __call__(self):
            return 1

    big = Big()
    gone = weakref.ref(big)
    assert executor.submit(big).result(10) == 1
    del big
    deadline = time.monotonic() + 10
    while gone() is not None and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert gone() is None


@pytest.mark.parametrize("raised", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_work_raises_reaches_the_caller(executor, raised):
    def work():
        raise raised

    with pytest.raises(type(raised)):
        executor.submit(work).result(10)


async def test_a_stop_iteration_reaches_who_awaits_it_as_an_error(executor):
    with pytest.raises(RuntimeError, match="StopIteration was raised"):
        await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(executor, lambda: next(iter(()))), 10)
