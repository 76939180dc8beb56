"""Conformance: what all kits share. A kit is a class of checks, methods named `test_…`, that pytest collects from a subclass.

A check may be expected to fail, with a reason, and then must fail:

    class TestMyStore(StoreConformance):
        expected_failures = {"test_late_rewards_are_kept": "rows are immutable here; see issue 12"}

A subclass cannot override a check: what a driver promises is decided by the kit, not by the driver's author.
"""

from __future__ import annotations

import functools
import inspect
import unittest
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Never, cast


class ConformanceError(AssertionError):
    """A check found that the contract is broken; the message says how."""


def require(condition: object, message: str) -> None:
    """Fail a check unless the condition is true. Unlike `assert` it holds under `python -O`, too.

    Raises:
        ConformanceError: with the message.
    """
    if not condition:
        raise ConformanceError(message)


class Conformance:
    """Base of all kits."""

    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Checks that must fail, each with the reason."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _refuse_overrides(cls)
        expected = _reasons(cls)
        for name in checks_of(cls):
            check = _original(getattr(cls, name))
            if name in expected:
                setattr(cls, name, _must_fail(name, check, expected[name]))
            elif getattr(cls, name) is not check:  # a base class expects it to fail, this one does not
                setattr(cls, name, check)


def checks_of(kit: type[Conformance]) -> list[str]:
    """Names of a kit's checks, in the order they are written."""
    names: dict[str, None] = {}
    for base in reversed(kit.__mro__):
        names.update((name, None) for name, value in vars(base).items() if name.startswith("test_") and callable(value))
    return list(names)


def failing(kit: type[Conformance], *, only: tuple[str, ...] = ()) -> dict[str, str]:
    """Run a kit without pytest: what is wrong, by the name of the check; empty when the contract is kept.

    Args:
        kit: a class whose checks take no pytest fixture.
        only: names of the checks to run; all when empty.

    Raises:
        LookupError: the kit has no check of that name.
    """
    if unknown := sorted(set(only) - set(checks_of(kit))):
        raise LookupError(f"{kit.__name__} has no check {unknown}; it has {checks_of(kit)}")
    found = {name: _trouble(kit, name) for name in checks_of(kit) if not only or name in only}
    return {name: trouble for name, trouble in found.items() if trouble is not None}


def not_applicable(why: str) -> Never:
    """Leave a check out, visibly, because the driver does not claim what it is about.

    Raises:
        unittest.SkipTest: what pytest shows as skipped.
    """
    raise unittest.SkipTest(why)


def check(kit: type[Conformance], *, only: tuple[str, ...] = ()) -> None:
    """As `failing`, for scripts.

    Raises:
        ConformanceError: naming every check that fails.
    """
    found = failing(kit, only=only)
    require(not found, f"{len(found)} checks fail:\n" + "\n".join(f"- {name}: {trouble}" for name, trouble in found.items()))


def _trouble(kit: type[Conformance], name: str) -> str | None:
    method, reason = _original(getattr(kit, name)), kit.expected_failures.get(name)
    try:
        result = method(kit())
        if inspect.isawaitable(result):
            import asyncio

            asyncio.run(_awaited(result))
    except unittest.SkipTest:
        return None
    except Exception as error:
        return None if reason is not None else f"{type(error).__name__}: {error}"
    return None if reason is None else _passes(name, reason)


async def _awaited(value: Any) -> Any:
    return await value


def _refuse_overrides(cls: type[Conformance]) -> None:
    for name in vars(cls):
        owner = next((base for base in cls.__mro__[1:] if name in vars(base)), None)
        if name.startswith("test_") and owner is not None and owner is not Conformance:
            raise TypeError(
                f"{cls.__name__} overrides the check `{name}` of {owner.__name__}; name it in `expected_failures` with a reason instead"
            )


def _reasons(cls: type[Conformance]) -> dict[str, str]:
    for name, reason in cls.expected_failures.items():
        if name not in checks_of(cls):
            raise TypeError(f"{cls.__name__} has no check `{name}` that could be expected to fail; it has {checks_of(cls)}")
        if not isinstance(cast(object, reason), str) or not reason.strip():
            raise TypeError(f"{cls.__name__} expects `{name}` to fail without a reason; write why: expected_failures = {{{name!r}: 'why'}}")
    return dict(cls.expected_failures)


def _original(method: Any) -> Callable[..., Any]:
    return getattr(method, "__agl_check__", method)


def _must_fail(name: str, method: Callable[..., Any], reason: str) -> Callable[..., Any]:
    """The check turned round, with its signature kept, so that pytest gives it its fixtures."""
    import pytest

    broken = (Exception, pytest.fail.Exception)

    async def turned_async(*given: Any, **named: Any) -> None:
        try:
            await method(*given, **named)
        except unittest.SkipTest:
            raise
        except broken:
            pytest.xfail(reason)
        pytest.fail(_passes(name, reason), pytrace=False)

    def turned(*given: Any, **named: Any) -> None:
        try:
            method(*given, **named)
        except unittest.SkipTest:
            raise
        except broken:
            pytest.xfail(reason)
        pytest.fail(_passes(name, reason), pytrace=False)

    made = functools.wraps(method)(turned_async if inspect.iscoroutinefunction(method) else turned)
    cast(Any, made).__agl_check__ = method
    return made


def _passes(name: str, reason: str) -> str:
    return f"`{name}` is expected to fail ({reason}), yet it passes; take it out of `expected_failures`"
