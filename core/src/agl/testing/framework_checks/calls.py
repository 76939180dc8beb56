"""The LLM calls of an attempt: where they go and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence

from agl.spans import SpanKind
from agl.testing.bench import FIRST, Bench, calls_of, has_tool_result, tasks_in
from agl.testing.expected import require
from agl.testing.framework_checks import counted, on_bench
from agl.testing.reply import Reply, Sampled
from agl.testing.toy_tokens import logprob_of, prompt_ids
from agl.transitions import call_of


@on_bench()
async def a_rollout_gives_the_agents_output(bench: Bench) -> None:
    """If this fails, the agent does not run under AGL, or what it returns does not reach the reward function."""
    result = await bench.one()
    if not bench.plugins.adapt_agent(bench.agent).returns_reward:
        said = f"the output is {result.output!r}"
        require("the answer to task-1" in str(result.output), f"the model answered `the answer to task-1`, {said}; see `output_text`")


@on_bench()
async def every_call_goes_through_the_attempt(bench: Bench) -> None:
    """If this fails, calls of an attempt go to the user's own endpoint, or with the user's own key or model.

    They are neither recorded nor learned from.
    """
    await bench.one()
    astray = [(request.path, request.headers.get("authorization"), request.body.get("model")) for request in bench.users.requests]
    require(not astray, f"these calls of an attempt went to the user's own endpoint: {astray}")
    require(len(bench.endpoint.requests) > 0, "the model was never called")
    models = {(request.headers.get("authorization"), request.body.get("model")) for request in bench.endpoint.requests}
    require(models == {(f"Bearer {FIRST.api_key}", FIRST.model)}, f"the calls used these keys and models: {sorted(map(str, models))}")


@on_bench()
async def every_call_is_a_transition(bench: Bench) -> None:
    """If this fails, calls are lost on the way to the algorithm: a branch of the agent is dropped, or calls are made twice."""
    result = await bench.one()
    made, expected = len(bench.endpoint.requests), len(bench.case.roles)
    require(made == expected, f"the model was called {made} times, `roles` has {expected} calls")
    require(len(result.transitions) == made, f"the model was called {made} times, {len(result.transitions)} of the calls are transitions")
    untrained = [item.untrained for item in result.transitions if not item.trainable]
    require(not untrained, f"these transitions cannot be learned from: {untrained}")


@on_bench()
async def token_ids_arrive_in_the_transitions(bench: Bench) -> None:
    """If this fails, the tokens that the algorithm sees are not those that the model sampled, and what is learned is wrong."""
    result = await bench.one()
    sampled = [(prompt_ids(body), Sampled(reply, _limit(body)).ids) for body, reply in bench.model.said]
    expected = sorted((tuple(prompt), tuple(ids), tuple(map(logprob_of, ids))) for prompt, ids in sampled)
    arrived = sorted((item.prompt_ids, item.response_ids, item.logprobs) for item in result.transitions)
    require(arrived == expected, f"token ids and logprobs of the transitions are not the model's own: {_first(arrived, expected)}")


@on_bench(needs="streams")
async def streams_are_recorded(bench: Bench) -> None:
    """If this fails, the agent's streams do not come through as streams, or are not recorded whole."""
    result = await bench.one()
    streamed = [item for item in map(call_of, calls_of(result)) if item is not None and item.streamed]
    require(streamed, "no call of the attempt was streamed")
    require(
        all(item.choices and item.choices[0].response_ids for item in streamed) and all(item.trainable for item in result.transitions),
        "a stream was recorded without its tokens",
    )


@on_bench(needs="calls_tools")
async def tool_calls_are_recorded(bench: Bench) -> None:
    """If this fails, the tool that the model calls is not run, or its run is no span of the attempt.

    A reward for tool calls needs that span: kind `tool`, with the tool's name as its own or in `gen_ai.tool.name`.
    """
    name, _ = bench.case.calls_tools or ("", {})
    result = await bench.one()
    answered = [body for body, _ in bench.model.said if has_tool_result(body)]
    require(answered, f"the model called `{name}` and never saw its result")
    if bench.case.records_spans:
        tools = [span for span in result.spans if span.kind == SpanKind.TOOL]
        named = [span for span in tools if name in (span.name, span.attributes.get("gen_ai.tool.name"))]
        require(named, f"no span of kind `tool` is named `{name}`; the tool spans are {[span.name for span in tools]}")


@on_bench(needs="retries")
async def retries_are_not_counted_twice(bench: Bench) -> None:
    """If this fails, a call that the client repeats looks like two calls: send one `x-agl-call` over all tries of a call."""
    failures = iter([Reply("try again", status=500, headers={"retry-after-ms": "1", "retry-after": "0"})])
    bench.model.refuse = lambda body: next(failures, None)
    result = await bench.one()
    calls, expected = calls_of(result), len(bench.case.roles)
    require(len(calls) == expected + 1, f"{expected} calls and one repeated should be {expected + 1} llm spans, there are {len(calls)}")
    repeated = [call for call in map(call_of, calls) if call is not None and call.retry_of is not None]
    require(len(repeated) == 1, f"{len(repeated)} of the llm spans say that they repeat another")
    trained = [item for item in result.transitions if item.trainable]
    require(len(trained) == expected, f"{len(trained)} calls would be learned from, the agent made {expected}")


@on_bench()
async def roles_are_those_of_the_callers(bench: Bench) -> None:
    """If this fails, calls carry the role of another agent or node, or none: the wrong one is trained, or frozen.

    Set it with `agl.context.set_role` in the context that the call is made in.
    """
    result = await bench.one()
    found, expected = counted(item.role for item in result.transitions), counted(bench.case.roles)
    require(found == expected, f"the calls have the roles {found}, `roles` says {expected}")
    strangers = [task for span in calls_of(result) for task in tasks_in(span.attributes["agl.call"]["request"]) if task != "task-1"]
    require(not strangers, f"calls of task-1 speak of {strangers}")


def _limit(body: dict[str, object]) -> int | None:
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    return limit if isinstance(limit, int) else None


def _first(arrived: Sequence[object], expected: Sequence[object]) -> str:
    lost, strange = [item for item in expected if item not in arrived], [item for item in arrived if item not in expected]
    return f"{len(lost)} are missing, {len(strange)} are strange; the first of them: {str((strange or lost)[:1])[:400]}"
