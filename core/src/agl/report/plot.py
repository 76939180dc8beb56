"""The learning curve: its geometry for the page's inline SVG, and the same curve as a PNG.

Colours are of Okabe and Ito's set, which people with any colour vision tell apart; each series also has a shape of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agl.report.data import Point, ReportData
from agl.report.intervals import Estimate

LABELS = {
    "train": "training rollouts, mean of a step",
    "val": "validation set",
    "test": "test set, before and after",
}
_COLOURS = {"train": "#0072B2", "val": "#D55E00", "test": "#007A5A"}
_MARKERS = {"val": "o", "test": "D"}
_INK, _GRID = "#333a45", "#dfe3e8"
_DODGE = 7.0
"""How far test marks stand off the step they belong to, so that they do not hide a validation mark."""


class Axes(msgspec.Struct, frozen=True, kw_only=True):
    """Ranges and ticks in the data's units."""

    x_max: float
    y_min: float
    y_max: float
    x_ticks: tuple[float, ...]
    y_ticks: tuple[float, ...]


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """One value with its interval, in pixels, and what it says."""

    x: float
    y: float
    low: float
    high: float
    text: str


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """An SVG's geometry in pixels, y downwards."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    band: str
    """Points of the polygon between the train intervals' ends."""
    line: str
    """Points of the train line."""
    train: tuple[Mark, ...]
    val: tuple[Mark, ...]
    test: tuple[Mark, ...]


def axes_of(data: ReportData) -> Axes:
    """Reward from 0 to 1 where all rewards lie there, else as far as the values with their intervals go."""
    points = [*data.train, *data.measured]
    steps = max([point.step for point in points] + [len(data.metrics), 1])
    x_ticks = [tick for tick in _ticks(0, steps, 8) if tick == int(tick) and tick <= steps]
    if unit_rewards(data):
        return Axes(x_max=steps, y_min=0, y_max=1, x_ticks=tuple(x_ticks), y_ticks=(0, 0.2, 0.4, 0.6, 0.8, 1.0))
    ends = [end for point in points for end in _ends(point.found)]
    y_ticks = _ticks(min(ends), max(ends), 6)
    return Axes(x_max=steps, y_min=y_ticks[0], y_max=y_ticks[-1], x_ticks=tuple(x_ticks), y_ticks=tuple(y_ticks))


def unit_rewards(data: ReportData) -> bool:
    """Whether all rewards that are known lie within 0 and 1."""
    results = [result for evaluation in data.evaluations for result in evaluation.results]
    known = [point.found.mean for point in data.train] + [result.reward for result in results if result.reward is not None]
    return all(0 <= value <= 1 for value in known)


def make_chart(data: ReportData, width: float, height: float) -> Chart:
    """The curve for an image of that size in pixels."""
    axes, left, right, top, bottom = axes_of(data), 52.0, width - 22.0, 14.0, height - 44.0
    inset = 18.0  # room for the marks of the first and the last step

    def x_of(step: float) -> float:
        return round(left + inset + step / axes.x_max * (right - left - 2 * inset), 1)

    def y_of(value: float) -> float:
        within = min(axes.y_max, max(axes.y_min, value))
        return round(bottom - (within - axes.y_min) / (axes.y_max - axes.y_min) * (bottom - top), 1)

    train = _marks(data.train, "training", x_of, y_of)
    test = [point for point in data.measured if point.mode == "test"]
    return Chart(
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=tuple((x_of(tick), f"{tick:g}") for tick in axes.x_ticks),
        y_ticks=tuple((y_of(tick), f"{tick:g}") for tick in axes.y_ticks),
        band=" ".join(f"{mark.x},{mark.high}" for mark in train) + " " + " ".join(f"{mark.x},{mark.low}" for mark in train[::-1]),
        line=" ".join(f"{mark.x},{mark.y}" for mark in train),
        train=train,
        val=_marks([point for point in data.measured if point.mode == "val"], "validation", x_of, y_of),
        test=_marks(test, "test", lambda step: x_of(step) + _dodge(step), y_of),
    )


def save_png(data: ReportData, path: Path) -> Path:
    """Write the curve as a PNG of 1600 x 800 pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A figure of its own, without pyplot: no display is asked for, and any thread may draw.
    figure: Any = Figure(figsize=(8, 4), dpi=200, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    _draw(axes, data, axes_of(data))
    figure.savefig(path)
    return path


def _draw(axes: Any, data: ReportData, ranges: Axes) -> None:
    if data.train:
        steps, ends = [point.step for point in data.train], [_ends(point.found) for point in data.train]
        low, high = [max(low, ranges.y_min) for low, _ in ends], [min(high, ranges.y_max) for _, high in ends]
        axes.fill_between(steps, low, high, color=_COLOURS["train"], alpha=0.16, lw=0)
        axes.plot(steps, [point.found.mean for point in data.train], color=_COLOURS["train"], lw=1.8, label=LABELS["train"])
    for mode, marker in _MARKERS.items():
        points = [point for point in data.measured if point.mode == mode]
        if points:
            shift = ranges.x_max * 0.008 if mode == "test" else 0.0
            places = [point.step + math.copysign(shift, point.step - 0.5) for point in points]
            means = [point.found.mean for point in points]
            ends = [_ends(point.found) for point in points]
            errors = [[mean - low for mean, (low, _) in zip(means, ends, strict=True)]]
            errors.append([high - mean for mean, (_, high) in zip(means, ends, strict=True)])
            axes.errorbar(
                places,
                means,
                errors,
                color=_COLOURS[mode],
                fmt=marker,
                ms=6,
                elinewidth=1.3,
                mec="white",
                label=LABELS[mode],
            )
    pad = 0.025
    axes.set_xlim(-pad * ranges.x_max, (1 + pad) * ranges.x_max)
    height = ranges.y_max - ranges.y_min
    axes.set_ylim(ranges.y_min - 0.01 * height, ranges.y_max + 0.01 * height)
    axes.set_xticks(ranges.x_ticks)
    axes.set_yticks(ranges.y_ticks)
    axes.grid(axis="y", color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#9aa3ae")
    axes.tick_params(colors=_INK, length=0, labelsize=9)
    axes.set_xlabel("steps finished", color=_INK)
    axes.set_ylabel("mean reward, 95 % interval", color=_INK)
    if data.train or data.measured:
        axes.legend(frameon=False, fontsize=9, labelcolor=_INK, loc="best")


def _marks(points: Sequence[Point], name: str, x_of: Callable[[float], float], y_of: Callable[[float], float]) -> tuple[Mark, ...]:
    marks: list[Mark] = []
    for point in points:
        low, high = _ends(point.found)
        between = "" if point.found.low is None else f", 95 % interval {low:.3f} to {high:.3f}"
        text = f"{name}, step {point.step}: {point.found.mean:.3f}{between}"
        marks.append(Mark(x=x_of(point.step), y=y_of(point.found.mean), low=y_of(low), high=y_of(high), text=text))
    return tuple(marks)


def _ends(found: Estimate) -> tuple[float, float]:
    return (found.mean, found.mean) if found.low is None or found.high is None else (found.low, found.high)


def _dodge(step: float) -> float:
    return -_DODGE if step == 0 else _DODGE


def _ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers that enclose the range."""
    span = (high - low) or 1.0
    rough = span / max(1, count - 1)
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * index, 10) for index in range(first, last + 1)]
