"""Resources: every attempt uses its own, and after it everything is as before."""

from __future__ import annotations

import asyncio
import contextvars
import re
from typing import Any, cast

import msgspec

from agl.testing.bench import FIRST, Bench, calls_of, succeeded, tasks_in
from agl.testing.expected import require
from agl.testing.framework_checks import on_bench
from agl.testing.patched import changes, declared, pristine, snapshot, undo

ATTEMPTS = 32


@on_bench()
async def rollouts_with_different_resources_never_mix(bench: Bench) -> None:
    """If this fails, attempts that run at the same time use each other's model, sampling parameters, key or prompts.

    Keep what belongs to an attempt in context variables (`agl.current()`), never in a global or on a shared object.
    """
    bench.model.delay = 0.02
    versions = {number: {"main_llm": _llm(bench, number), **bench.prompts(str(number))} for number in range(1, ATTEMPTS + 1)}
    for number, result in enumerate(await bench.run(versions, resources=versions), 1):
        seen = {task for span in calls_of(succeeded(result)) for task in tasks_in(span.attributes["agl.call"]["request"])}
        require(seen == {f"task-{number}"}, f"the attempt of task-{number} recorded calls of {sorted(seen)}")
    for request in bench.endpoint.requests:
        _check_request(request.path, request.headers["authorization"], request.body)
    require(len(bench.endpoint.requests) == ATTEMPTS * len(bench.case.roles), f"the model was called {len(bench.endpoint.requests)} times")
    require(not bench.users.requests, f"{len(bench.users.requests)} calls went to the user's own endpoint")


def _llm(bench: Bench, number: int) -> Any:
    url = bench.endpoint.base_url(f"/version-{number}")
    sampling = {"temperature": number / 100, "max_completion_tokens": 1000 + number}
    return msgspec.structs.replace(
        FIRST, endpoint=url, model=f"policy-{number}", api_key=f"key-{number}", version=str(number), sampling_parameters=sampling
    )


def _check_request(path: str, key: str, body: dict[str, Any]) -> None:
    number = path.split("/")[1].removeprefix("version-")
    said = (key, body["model"], body["temperature"], body.get("max_completion_tokens") or body.get("max_tokens"), tasks_in(body))
    own = (f"Bearer key-{number}", f"policy-{number}", int(number) / 100, 1000 + int(number), [f"task-{number}"])
    require(said == own, f"a call under version {number} was made with {said}, its own is {own}")
    marks = set(re.findall(r"version-\d+", msgspec.json.encode(body).decode()))
    require(marks <= {f"version-{number}"}, f"a call under version {number} holds the prompts of {sorted(marks)}")


@on_bench(needs="has_prompts")
async def prompts_reach_the_model(bench: Bench) -> None:
    """If this fails, a prompt that an algorithm has improved is never seen by the model: the agent keeps its own."""
    for version in ("1", "2"):
        del bench.model.said[:]
        await bench.one(resources={1: {"main_llm": bench.policy, **bench.prompts(version)}})
        asked = [msgspec.json.encode(body).decode() for body, _ in bench.model.said]
        for name in bench.case.has_prompts:
            text = f"{name} of version-{version}."
            require(any(text in body for body in asked), f"the text of the resource `{name}`, {text!r}, is in no request of the agent")


@on_bench()
async def resources_return_after_the_attempt(bench: Bench) -> None:
    """If this fails, the user's agent stays changed after an attempt.

    It calls AGL's endpoint, or speaks with AGL's prompts, when it is used as usual.
    """
    await bench.alone()
    before = _as_sent(bench)
    require(before, "the agent, used without AGL, never called its own endpoint; see `run_alone`")
    await bench.one()
    bench.endpoint.requests.clear()
    bench.users.requests.clear()
    await bench.alone()
    require(not bench.endpoint.requests, "after an attempt the agent, used without AGL, calls the attempt's endpoint")
    after = _as_sent(bench)
    require(after == before, f"after an attempt the agent, used without AGL, asks {after}; before it asked {before}")


def _as_sent(bench: Bench) -> list[tuple[str, str, str]]:
    """What went to the user's own endpoint since it was asked last: path, key and body, without the ids of tool calls."""
    sent = [(request.path, request.headers.get("authorization", ""), _text(request.body)) for request in bench.users.requests]
    bench.users.requests.clear()
    return sorted(sent)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return str({name: _text(item) for name, item in sorted(fields.items()) if name not in ("id", "tool_call_id")})
    return str([_text(item) for item in cast("list[Any]", value)]) if isinstance(value, list) else str(value)


@on_bench()
async def undo_leaves_the_original_objects(bench: Bench) -> None:
    """If this fails, what the plugin puts into the framework's classes and modules stays there.

    After two attempts that overlap (the first to start ends first), and the plugin's `uninstall()` if it has one, every
    function must be the very same object as before.
    """
    before = pristine(bench.case)
    await bench.alone()
    first_ended, second_started = asyncio.Event(), asyncio.Event()
    during: list[str] = []

    async def first() -> None:
        with bench.attempt(1):
            await bench.call(1)
            await second_started.wait()
            during.extend(changes(before, snapshot(bench.case)))
        first_ended.set()

    async def second() -> None:
        with bench.attempt(2):
            second_started.set()
            await first_ended.wait()
            await bench.call(2)

    await asyncio.gather(first(), second())
    undo(bench.case)
    left = changes(before, snapshot(bench.case))
    require(not left, f"after the attempts these are not the original objects: {left}")
    for name in declared(bench.case.patched_objects):
        owner = name.replace(":", ".")
        touched = [change for change in during if change.replace(":", ".").startswith(owner + ".") or _owner_of(name, change)]
        require(touched, f"`patched_objects` names `{name}`, which nothing shadows during an attempt; what is shadowed: {during}")


def _owner_of(name: str, change: str) -> bool:
    """Whether a class that was imported under another name is where it is defined."""
    found = declared([name])[name]
    return isinstance(found, type) and change.startswith(f"{found.__module__}:{found.__qualname__}.")


@on_bench()
async def nothing_leaks_into_the_context(bench: Bench) -> None:
    """If this fails, the plugin sets context variables for an attempt and does not reset them, also when the agent raises.

    Code after the attempt then takes itself for a part of it. Reset with the token that `ContextVar.set` gives.
    """
    for raised in (None, ValueError("the agent's own")):
        before = dict(contextvars.copy_context().items())
        try:
            with bench.attempt():
                if raised is not None:
                    raise raised
        except ValueError as error:
            require(error is raised, f"the plugin turned the agent's exception into {error!r}")
        else:
            require(raised is None, "the plugin swallowed the agent's exception")
        after = dict(contextvars.copy_context().items())
        missing = object()
        left = [variable.name for variable, value in after.items() if before.get(variable, missing) is not value and value is not None]
        require(not left, f"after an attempt these context variables are still set: {left}")
