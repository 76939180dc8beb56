"""LangChain's global LLM cache, out of the way inside an attempt: samples of one prompt must differ, and weights change."""

from __future__ import annotations

from typing import Any

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.globals import get_llm_cache, set_llm_cache

from agl import context
from agl_langgraph._tracing import current_trace


class BypassedCache(BaseCache):
    """The user's cache outside an attempt; inside, nothing is found in it and nothing is put into it."""

    def __init__(self, cache: BaseCache) -> None:
        self.cache = cache

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """As the cache does, or None."""
        return None if _is_bypassed() else self.cache.lookup(prompt, llm_string)

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """As the cache does, or nothing."""
        if not _is_bypassed():
            self.cache.update(prompt, llm_string, return_val)

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """As the cache does, or None."""
        return None if _is_bypassed() else await self.cache.alookup(prompt, llm_string)

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """As the cache does, or nothing."""
        if not _is_bypassed():
            await self.cache.aupdate(prompt, llm_string, return_val)

    def clear(self, **kwargs: Any) -> None:
        """As the cache does."""
        self.cache.clear(**kwargs)


def _is_bypassed() -> bool:
    """Inside an attempt, but for roles whose calls are left alone."""
    trace = current_trace()
    return trace is not None and not trace.attempt.roles.is_original(context.current_role())


def give_back_cache() -> None:
    """Put the user's own global cache back."""
    cache = get_llm_cache()
    if isinstance(cache, BypassedCache):
        set_llm_cache(cache.cache)
