"""What AGL's contract promises of a framework plugin, one function each. `agl.testing.checks` lists them all."""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import traceback
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable

from agl.testing.bench import Bench, with_bench
from agl.testing.case import FrameworkCase
from agl.testing.expected import not_applicable
from agl.testing.kit_loop import run
from agl.testing.patched import is_kept, keep_pristine

Check = Callable[[FrameworkCase], None]


def on_bench(needs: str | None = None) -> Callable[[Callable[[Bench], Awaitable[None]]], Check]:
    """Make a coroutine function of a bench a check of a case; it does not apply to a case that lacks what it `needs`."""

    def decorate(check: Callable[[Bench], Awaitable[None]]) -> Check:
        @functools.wraps(check)
        def checked(case: FrameworkCase) -> None:
            if needs is not None:
                need(case, needs)
            with _own_garbage():
                if not is_kept(case):
                    run(with_bench(case, _keep_pristine))
                run(with_bench(case, check))

        return checked

    return decorate


async def _keep_pristine(bench: Bench) -> None:
    with contextlib.suppress(Exception):  # the checks themselves will tell
        await bench.alone()
    keep_pristine(bench.case)


@contextlib.contextmanager
def _own_garbage() -> Generator[None]:
    """Let go of a check's agents and their clients, which nobody closes, at its end and not within a later test.

    What was there before is set aside: to scan a million objects of frameworks again takes longer than most checks.
    """
    gc.freeze()
    try:
        yield
    except BaseException as error:
        _clear_frames(error)  # their variables hold the agent
        raise
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        gc.unfreeze()


def _clear_frames(error: BaseException | None) -> None:
    cleared: set[int] = set()
    while error is not None and id(error) not in cleared:
        cleared.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def need(case: FrameworkCase, name: str) -> None:
    """Leave the check out where the case does not have what it is about."""
    value = getattr(case, name)
    if not (case.defines(name) if inspect.ismethod(value) else value):
        not_applicable(f"the case sets no `{name}`")


def counted(roles: Iterable[str | None]) -> dict[str, int]:
    """How often each role occurs, for a message."""
    return dict(sorted(Counter(str(role) for role in roles).items()))
