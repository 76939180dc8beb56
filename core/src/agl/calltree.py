"""Call tree: the earlier call that a prompt goes on from, found by the prompt's tokens in time linear in them.

A radix tree over token ids: each node is the end of a call (its prompt + response) or a place where calls part.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Hashable, Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

TOKEN = array("q").itemsize
"""Bytes of a packed token id."""
_RESYNC = 8
"""Most tokens on either side of a place where text was tokenised in another way."""
_HEADER = 2
"""Tokens before an answer (such as those that open the assistant's turn) that it is recognised by."""


class Mismatch(StrEnum):
    """Why a prompt does not go on from the call before it, judged by the token ids alone."""

    NEW = "new"
    """A conversation of its own."""
    REWRITTEN = "rewritten"
    """The history has other tokens than were read and sampled: a chat template (or the agent) changed what was said before."""
    RETOKENISED = "retokenised"
    """The history differs in a few tokens and is the same after them: the sampled text was tokenised anew."""
    TRUNCATED = "truncated"
    """Earlier tokens were left out, and the last answer is still there: the conversation was cut to fit."""


class Node:
    """A place in the tree."""

    __slots__ = ("above", "calls", "children", "edge", "held")

    def __init__(self, edge: bytes, above: Node | None) -> None:
        self.edge = edge
        """Packed token ids from the node above to this one."""
        self.above = above
        self.children: dict[bytes, Node] = {}
        """By the first token of their edge."""
        self.calls: list[int] = []
        """Numbers of the calls whose prompt + response end here."""
        self.held: Any = None
        """What a user of the tree keeps here."""

    def upwards(self) -> Iterator[Node]:
        """This node and those above it."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.above


class Place(NamedTuple):
    """How far a prompt is known."""

    node: Node
    """The last node that it passes."""
    at: int
    """Bytes from the root to that node."""
    matched: int
    """Bytes that it has in common with some earlier call."""
    below: Node | None
    """Where that call goes on, when it does within an edge."""


class CallTree:
    """Prompts and responses of the calls of one attempt, in order."""

    def __init__(self) -> None:
        self._root = Node(b"", None)
        self._newest: dict[Hashable, tuple[bytes, Node]] = {}
        self._known: list[tuple[bytes, bytes]] = []
        self._last: dict[Hashable, int] = {}

    def find(self, prompt: bytes, role: Hashable = None) -> Place:
        """Follow a packed prompt as far as it is known. `role` is whose: it most likely goes on where that one was last."""
        path, node = self._newest.get(role, (b"", self._root))
        at = len(path)
        if not prompt.startswith(path):
            node, at = self._root, 0
        return _follow(prompt, node, at)

    def put(self, place: Place, prompt: bytes, response: bytes, role: Hashable = None) -> Node:
        """Add a call; `place` is where `find` left its prompt. The node of its end."""
        path = prompt + response
        node = _end(_follow(path, place.node, place.at), path)
        number = len(self._known)
        node.calls.append(number)
        self._known.append((prompt, response))
        self._newest[role] = path, node
        self._last[role] = number
        return node

    def mismatch(self, place: Place, prompt: bytes, role: Hashable = None) -> Mismatch | None:
        """Why a prompt, found at `place`, does not go on from what its role was told last; None when it goes on from a call."""
        found = self._rewritten(place, prompt) if place.matched < len(prompt) else None
        if found is None and role in self._last:
            found = _cut(prompt, *self._known[self._last[role]], place.matched)
        if found is None and not any(node.calls for node in place.node.upwards()):
            return Mismatch.NEW
        return found

    def _rewritten(self, place: Place, prompt: bytes) -> Mismatch | None:
        """Whether the prompt leaves the tree in the midst of what a call sampled."""
        node = place.below or (None if place.node.calls else _newest_child(place.node))
        while node is not None and not node.calls:
            node = _newest_child(node)
        if node is None:
            return None
        asked, answered = self._known[node.calls[-1]]
        if not len(asked) <= place.matched < len(asked) + len(answered):
            return None
        rest = answered[place.matched - len(asked) :]
        return Mismatch.RETOKENISED if _resumes(rest, prompt[place.matched :]) else Mismatch.REWRITTEN


def packed(ids: Sequence[int]) -> bytes:
    """Token ids as bytes of a fixed width, which compare at memory speed."""
    return array("q", ids).tobytes()


def _follow(path: bytes, node: Node, at: int) -> Place:
    while True:
        below = node.children.get(path[at : at + TOKEN])
        if below is None:
            return Place(node, at, at, None)
        if not path.startswith(below.edge, at):
            return Place(node, at, at + _common(below.edge, path[at : at + len(below.edge)]), below)
        at += len(below.edge)
        node = below


def _end(place: Place, path: bytes) -> Node:
    """The node at the end of a path that was followed to `place`; made when there is none."""
    node = place.node
    if place.below is not None:
        node = _split(place.below, place.matched - place.at)
    if place.matched < len(path):
        edge = path[place.matched :]
        node.children[edge[:TOKEN]] = node = Node(edge, node)
    return node


def _split(node: Node, size: int) -> Node:
    """A new node within the edge above a node, `size` bytes below its upper end."""
    assert node.above is not None
    middle = Node(node.edge[:size], node.above)
    node.above.children[middle.edge[:TOKEN]] = middle
    node.edge, node.above = node.edge[size:], middle
    middle.children[node.edge[:TOKEN]] = node
    return middle


def _newest_child(node: Node) -> Node | None:
    return next(reversed(node.children.values()), None)


def _common(one: bytes, other: bytes) -> int:
    """Bytes, in whole tokens, that two packed paths begin with alike."""
    low, high = 0, min(len(one), len(other)) // TOKEN
    while low < high:
        middle = (low + high + 1) // 2
        if one[: middle * TOKEN] == other[: middle * TOKEN]:
            low = middle
        else:
            high = middle - 1
    return low * TOKEN


def _resumes(sampled: bytes, given: bytes) -> bool:
    """Whether two paths that part here are alike again a few tokens later, with other tokens between in both.

    Tokens that are missing or new on one side only are a change of the text, and so is one token for another.
    """
    one, other = array("q", sampled[: (_RESYNC + 2) * TOKEN]), array("q", given[: (_RESYNC + 2) * TOKEN])
    places = itertools.product(range(min(_RESYNC + 1, len(one))), range(min(_RESYNC + 1, len(other))))
    for i, j in sorted(places, key=sum):
        if one[i : i + 2] == other[j : j + len(one[i : i + 2])]:
            return min(i, j) > 0 and i + j > 2
    return False


def _cut(prompt: bytes, asked: bytes, answered: bytes, matched: int) -> Mismatch | None:
    """Whether a prompt holds a call's answer, though after something else than the call's prompt: shortened, or changed."""
    if not answered or prompt.startswith(asked + answered):
        return None
    signature = asked[-_HEADER * TOKEN :] + answered
    at = prompt.find(signature)
    while at >= 0 and at % TOKEN:
        at = prompt.find(signature, at + 1)
    if at < 0:
        return None
    before = prompt[: at + len(signature) - len(answered)]
    kept = min(matched, len(before), _common(before, asked))
    return Mismatch.TRUNCATED if len(before) < len(asked) and asked.endswith(before[kept:]) else Mismatch.REWRITTEN
