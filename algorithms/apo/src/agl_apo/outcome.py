"""Outcome: what a search found, as files of the run and in words."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agl.report.intervals import Estimate as Interval
from agl.report.intervals import change, estimate
from agl.results import Evaluation
from agl_apo.moves import Candidate, Draw, Rejected
from agl_apo.search import Outcome
from agl_apo.world import Totals

RESULT = "result.json"
BEST = "best"


def write(
    folder: Path,
    *,
    run_id: str,
    strategy: str,
    outcome: Outcome,
    candidates: Mapping[str, Candidate],
    draws: Mapping[str, Sequence[tuple[tuple[str, str], Draw]]],
    rejected: Sequence[Rejected],
    totals: Totals,
    seconds: float,
    test: tuple[Evaluation, Evaluation] | None = None,
) -> Path:
    """Write `result.json` and `best/<resource>.txt` into the run's folder; each appears whole or not at all.

    Args:
        draws: by candidate, each with (split, id of the task).
        test: of the seed and of the winner.
    """
    estimates = {each.candidate_id: msgspec.to_builtins(each) for each in outcome.estimates}
    result = {
        "run": run_id,
        "strategy": strategy,
        "decision": outcome.decision,
        "reason": outcome.reason,
        "winner": outcome.winner.candidate_id,
        "best": outcome.best.candidate_id,
        "gain": _gain(outcome),
        "noise_floor": outcome.noise_floor,
        "spent": {**msgspec.to_builtins(totals), "cost": totals.cost, "seconds": round(seconds, 3)},
        "test": None if test is None else test_result(*test),
        "prompts": {name: {"seed": text, "best": outcome.winner.texts[name]} for name, text in outcome.seed.texts.items()},
        "candidates": [_candidate(each, candidates, draws.get(name, ()), estimates.get(name)) for name, each in candidates.items()],
        "rejected": msgspec.to_builtins(list(rejected)),
    }
    for name, text in outcome.winner.texts.items():
        _put(folder / BEST / f"{file_name(name)}.txt", text.encode())
    path = folder / RESULT
    _put(path, msgspec.json.format(msgspec.json.encode(result), indent=1))
    return path


def summary(outcome: Outcome, totals: Totals, test: tuple[Evaluation, Evaluation] | None = None) -> str:
    """The result in a sentence."""
    spent = f"{totals.rollouts} rollouts" + (f", cost {totals.cost:.4f}" if totals.cost else "")
    if outcome.decision != "improved":
        return f"the prompts stay as they are: {outcome.reason} ({spent})"
    changed = [name for name, text in outcome.winner.texts.items() if text != outcome.seed.texts[name]]
    interval = "" if math.isnan(outcome.gain_low) else f", 95 % interval {outcome.gain_low:+.3f} to {outcome.gain_high:+.3f}"
    sure = "not tested for chance" if math.isnan(outcome.p_better) else f"P(better) {outcome.p_better:.3f}"
    return f"better prompts for {changed}: validation reward {outcome.gain:+.3f}{interval}, {sure}{_tested(test)} ({spent})"


def _tested(test: tuple[Evaluation, Evaluation] | None) -> str:
    gain = None if test is None else test_result(*test)["gain"]
    if gain is None:
        return ""
    interval = "" if gain["low"] is None else f", 95 % interval {gain['low']:+.3f} to {gain['high']:+.3f}"
    return f"; test reward {gain['mean']:+.3f}{interval}"


def test_result(seed: Evaluation, winner: Evaluation) -> dict[str, Any]:
    """Rewards on the test set with 95 % intervals, and of their paired difference."""
    first, last = ([result.reward for result in each.results] for each in (seed, winner))
    pairs = [(old, new) for old, new in zip(first, last, strict=True) if old is not None and new is not None]
    return {
        "seed": _interval(estimate([reward for reward in first if reward is not None])),
        "winner": _interval(estimate([reward for reward in last if reward is not None])),
        "gain": _interval(change([old for old, _ in pairs], [new for _, new in pairs])),
    }


def diff(old: str, new: str, name: str) -> str:
    """A unified diff of two texts."""
    lines = difflib.unified_diff((old + "\n").splitlines(), (new + "\n").splitlines(), f"{name} (old)", f"{name} (new)", lineterm="")
    return "".join(f"{line}\n" for line in lines)


def file_name(resource: str) -> str:
    """A resource's name as that of a file."""
    return re.sub(r"[^\w.-]+", "_", resource)


def _gain(outcome: Outcome) -> dict[str, Any]:
    names = {"mean": "gain", "low": "gain_low", "high": "gain_high", "p_better": "p_better", "pairs": "pairs"}
    return {name: getattr(outcome, field) for name, field in names.items()}


def _candidate(
    one: Candidate, candidates: Mapping[str, Candidate], draws: Sequence[tuple[tuple[str, str], Draw]], known: dict[str, Any] | None
) -> dict[str, Any]:
    parent = candidates[one.parent_id] if one.parent_id is not None else None
    changed = one.component if parent is not None else None
    return {
        "id": one.candidate_id,
        "parent": one.parent_id,
        "component": one.component,
        "hypothesis": one.hypothesis,
        "diff": diff(parent.texts[changed], one.texts[changed], changed) if parent is not None and changed else None,
        "texts": one.texts,
        "evidence": {split: _evidence([draw for (of, _), draw in draws if of == split]) for split in ("train", "val")},
        "estimate": known,
    }


def _evidence(draws: Sequence[Draw]) -> dict[str, Any]:
    rewards = [draw.reward for draw in draws if draw.reward is not None]
    return {
        "mean": sum(rewards) / len(rewards) if rewards else None,
        "rewards": len(rewards),
        "missing": len(draws) - len(rewards),
        "rollouts": [draw.rollout_id for draw in draws if draw.rollout_id],
    }


def _interval(found: Interval | None) -> dict[str, Any] | None:
    return None if found is None else msgspec.to_builtins(found)


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
