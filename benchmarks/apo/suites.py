"""The worlds of the benchmark: those to tune on, and those to report on, which differ in their parameters and their seeds."""

from __future__ import annotations

from worlds import Parameters

DEV = (
    Parameters(name="planted"),
    Parameters(name="bold edits", fixes=4),
    Parameters(name="conflicting rules", conflicts=4),
    Parameters(name="weak critic", hit=0.2),
    Parameters(name="misleading critic", hit=0.4, lured=0.8),
    Parameters(name="breaking editor", breaks=0.3),
    Parameters(name="several components", components=3, rules=12, given=3),
    Parameters(name="costly slips", slip=0.08, fixes=3),
    Parameters(name="noise-free", noisy=False, base=1.0),
    Parameters(name="null", given=-1, base=0.7),
)
DEV_SEED = 0

TEST = (
    Parameters(name="planted", rules=12, given=3, needs=(2, 4), weight=(0.25, 0.55), families=6, lures=6),
    Parameters(name="bold edits", rules=14, given=2, needs=(1, 5), fixes=5, hit=0.5, base=0.9),
    Parameters(name="conflicting rules", rules=9, given=1, conflicts=5, families=6, hit=0.7),
    Parameters(name="weak critic", rules=8, hit=0.25, fixes=3, base=0.9, needs=(1, 3)),
    Parameters(name="misleading critic", rules=12, hit=0.35, lured=0.9, lure_weight=(0.2, 0.5), families=5),
    Parameters(name="breaking editor", rules=9, breaks=0.4, base=0.92, needs=(1, 3)),
    Parameters(name="several components", components=4, rules=16, given=4, needs=(2, 5), weight=(0.2, 0.5)),
    Parameters(name="costly slips", rules=11, slip=0.12, fixes=2, needs=(1, 3), base=0.9),
    Parameters(name="noise-free", rules=13, given=3, noisy=False, base=1.0, hit=0.5),
    Parameters(name="null", rules=8, given=-1, base=0.6, lured=0.5),
)
TEST_SEED = 100_000

SUITES = {"dev": (DEV, DEV_SEED), "test": (TEST, TEST_SEED)}
"""Worlds and the first of their seeds."""
