"""Learned: what a policy loss made of each call, one file per step below the run's folder, for `agl explain`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from agl.store.base import RunRecord, Store
from agl.transitions import Row

FOLDER = "learned"


class LearnedCall(msgspec.Struct, frozen=True, kw_only=True):
    """One sampled answer in a policy loss."""

    span_id: str
    choice: int
    reward: float | None
    advantage: float
    weight: float
    """Of each of its tokens in the step's loss."""
    tokens: int


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout in a policy loss."""

    rollout_id: str
    at: float
    """Unix time in seconds: rewards that came later were not learned from."""
    calls: list[LearnedCall] = []


def directory_of(record: RunRecord, store: Store) -> Path:
    """Where a run's files are: also when the folder with store and runs has been moved as a whole."""
    recorded, beside = Path(record.directory), store.folder.absolute() / "runs" / record.run_id
    return beside if beside.exists() and not recorded.exists() else recorded


def write_learned(
    directory: Path, step: int, rows: Sequence[Row], advantages: Sequence[float | Sequence[float]], weights: Sequence[float]
) -> None:
    """Write the file of a step; one that is done again is written anew."""
    found: dict[str, Learned] = {}
    now = time.time()
    for row, advantage, weight in zip(rows, advantages, weights, strict=True):
        of_rollout = found.setdefault(row.rollout_id, Learned(rollout_id=row.rollout_id, at=now))
        for call in row.transitions:
            of_rollout.calls.append(
                LearnedCall(
                    span_id=call.span_id,
                    choice=call.choice,
                    reward=call.reward,
                    advantage=float(advantage if isinstance(advantage, (int, float)) else advantage[len(call.prompt_ids)]),
                    weight=weight,
                    tokens=len(call.response_ids),
                )
            )
    path = _path(directory, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(msgspec.json.encode(item) + b"\n" for item in found.values()))


def has_learned(directory: Path, step: int) -> bool:
    """Whether a policy loss was made of this step's rollouts."""
    return _path(directory, step).exists()


def read_learned(directory: Path, step: int, rollout_id: str) -> Learned | None:
    """What was made of a rollout in the step that asked for it; None when nothing was."""
    path = _path(directory, step)
    lines = path.read_bytes().splitlines() if path.exists() else []
    name = rollout_id.encode()
    found = (msgspec.json.decode(line, type=Learned) for line in lines if name in line)
    return next((item for item in found if item.rollout_id == rollout_id), None)


def drop_learned(directory: Path, finished: int) -> None:
    """Forget the steps after the first `finished` ones: they are done again."""
    for path in (directory / FOLDER).glob("step-??????.jsonl"):
        if int(path.stem.removeprefix("step-")) > finished:
            path.unlink()


def _path(directory: Path, step: int) -> Path:
    return directory / FOLDER / f"step-{step + 1:06d}.jsonl"
