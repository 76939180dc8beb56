"""What is installed, from the names of its metadata folders. Parses nothing until it is asked.

`importlib.metadata` opens every distribution's files through several layers, which costs more than all the rest of
discovery. Here only folders on the path are read directly; whatever else holds distributions (archives, eggs, finders of
other packages) is left to it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, DistributionFinder


class Installed:
    """Distributions by name; the first one on the path has the name, as it has the imports."""

    def __init__(self) -> None:
        self._places: dict[str, str | Distribution] = {}
        for name, place in _places():
            self._places.setdefault(name, place)

    def with_entry_points(self, group: str) -> Iterator[Distribution]:
        """Those that have entry points of a group."""
        section = f"[{group}]".encode()
        return (_opened(place) for place in self._places.values() if section in _entry_points(place))

    def version(self, name: str) -> str | None:
        """Version of a distribution; None where it is not installed."""
        place = self._places.get(plain_name(name))
        return None if place is None else _opened(place).version


def plain_name(package: str) -> str:
    """A distribution's name as names are compared."""
    return package.lower().replace("_", "-").replace(".", "-")


def _places() -> Iterator[tuple[str, str | Distribution]]:
    for finder in sys.meta_path:
        if finder is PathFinder:
            for root in sys.path:
                yield from _in_folder(root)
        elif find := getattr(finder, "find_distributions", None):
            yield from ((plain_name(dist.name), dist) for dist in find(DistributionFinder.Context()))


def _in_folder(root: str) -> Iterator[tuple[str, str | Distribution]]:
    try:
        names = None if root.endswith(".egg") else os.listdir(root or ".")
    except NotADirectoryError:
        names = None
    except OSError:  # what is on the path need not exist
        return
    if names is None:
        yield from ((plain_name(dist.name), dist) for dist in PathFinder.find_distributions(DistributionFinder.Context(path=[root])))
        return
    for name in names:
        if name.endswith((".dist-info", ".egg-info")):
            yield plain_name(name.rpartition(".")[0].partition("-")[0]), os.path.join(root, name)


def _entry_points(place: str | Distribution) -> bytes:
    if isinstance(place, Distribution):
        return (place.read_text("entry_points.txt") or "").encode()
    try:
        with open(os.path.join(place, "entry_points.txt"), "rb") as file:
            return file.read()
    except OSError:  # most have none; an `.egg-info` may be a file
        return b""


def _opened(place: str | Distribution) -> Distribution:
    return place if isinstance(place, Distribution) else Distribution.at(place)
