"""Types under the names that users of Agent Lightning annotate with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, TypeVar

from agl.resources import LLM, Resource
from agl.rollouts import Rollout
from agl.tasks import Mode

T = TypeVar("T", covariant=True)

AttemptedRollout: TypeAlias = Rollout
"""A rollout that an agent is given always has its `attempt`."""
NamedResources: TypeAlias = Mapping[str, Resource]
ProxyLLM: TypeAlias = LLM
"""An agent's LLM always is the attempt's own."""
ResourceUnion: TypeAlias = Resource
RolloutMode: TypeAlias = Mode
TaskInput: TypeAlias = Any


class Dataset(Protocol[T]):
    """What a Trainer takes as a dataset: a list, or anything of a length whose items have indices."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> T: ...
