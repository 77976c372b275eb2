"""Curves as inline SVG for the report, and as a PNG where matplotlib is installed.

Left out: interaction; colours are CSS classes, so that one picture serves light, dark and paper.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from bottega.core.rundir import atomic_write

MAX_POINTS = 300
WIDTH, HEIGHT = 480, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 30, 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Points of one line. kind: raw (thin), smooth (bold) or dots."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    kind: str = "smooth"


def smooth(ys: Sequence[float], *, radius: int | None = None) -> list[float]:
    """Each value's mean with `radius` neighbours on either side (fewer at the ends), which does not lag behind as a
    running mean does.

    Args:
        radius: neighbours on a side; None: a fortieth of the points.

    Example (radius 1): 2, 4, 9 -> 3, 5, 6.5.
    """
    radius = len(ys) // 40 if radius is None else radius
    sums = [0.0]
    for y in ys:
        sums.append(sums[-1] + y)
    spans = [(max(0, at - radius), min(len(ys), at + radius + 1)) for at in range(len(ys))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """At most `most` round numbers (1, 2, 2.5 or 5 times a power of ten apart) from low to high.

    Example: 0.3 to 7.9 -> 2, 4, 6.
    """
    if not high > low:
        return [low]
    power = 10 ** math.floor(math.log10((high - low) / most))
    step = next(s * power for s in (1, 2, 2.5, 5, 10, 20) if (high - low) / (s * power) <= most - 1)
    first = math.ceil(low / step - 1e-9)
    return [round(step * k, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """The values with as many decimals as keep them apart: 0.692, 0.6925, 0.693 -> 0.6920, 0.6925, 0.6930."""
    for decimals in range(7):
        if all(math.isclose(round(value, decimals), value, abs_tol=1e-12) for value in values):
            return [label(value) if decimals == 0 else f"{value:.{decimals}f}" for value in values]
    return [f"{value:.2g}" for value in values]


def label(value: float) -> str:
    """A short number: 0.25, 12, 3,400, 2.5M."""
    if value == 0:
        return "0"
    for bound, mark in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= bound:
            return f"{value / (1e3 if mark == 'k' else bound):.3g}{mark}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _thin(series: Series) -> list[tuple[float, float]]:
    points = [(x, y) for x, y in zip(series.xs, series.ys) if math.isfinite(x) and math.isfinite(y)]
    step = max(1, math.ceil(len(points) / MAX_POINTS))
    kept = points[::step]
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def svg(series: Sequence[Series], *, title: str, x_label: str = "step", y_label: str = "loss") -> str:
    """One picture with axes, ticks, a legend and the last value of each bold line; empty when there is no finite
    point."""
    drawn = [(one, _thin(one)) for one in series]
    drawn = [(one, points) for one, points in drawn if points]
    if not drawn:
        return ""
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points]
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1e-9)
    pad = (max(ys) - min(ys)) * 0.06 or abs(max(ys)) * 0.1 or 1.0
    y_low, y_high = min(ys) - pad, max(ys) + pad
    if min(ys) >= 0 > y_low:
        y_low = 0.0
    inner_w, inner_h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        return LEFT + across * inner_w, TOP + (1 - (y - y_low) / (y_high - y_low)) * inner_h

    parts = [
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}: {escape(y_label)} by '
        f'{escape(x_label)}"><title>{escape(title)}</title>'
    ]
    marks = ticks(y_low, y_high)
    for y, text in zip(marks, tick_labels(marks)):
        height = at(x_low, y)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{text}</text>')
    for x in [x for x in ticks(x_low, x_high) if x == round(x)]:
        across = at(x, y_low)[0]
        parts.append(
            f'<line class="axis" x1="{across:.1f}" x2="{across:.1f}" y1="{TOP + inner_h}" y2="{TOP + inner_h + 4}"/>'
        )
        parts.append(
            f'<text class="tick" x="{across:.1f}" y="{TOP + inner_h + 17}" text-anchor="middle">{label(x)}</text>'
        )
    floor = TOP + inner_h
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}"/>')
    parts.append(
        f'<text class="name" x="{LEFT + inner_w / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(f'<text class="name" x="{LEFT}" y="{TOP - 12}" text-anchor="start">{escape(y_label)}</text>')
    parts += _lines(drawn, at)
    parts.append(_legend([one for one, _ in drawn]))
    return "".join(parts) + "</svg>"


def _lines(drawn: Iterable[tuple[Series, list[tuple[float, float]]]], at: Any) -> Iterable[str]:
    for one, points in drawn:
        places = [at(x, y) for x, y in points]
        if one.kind == "dots":
            yield "".join(f'<circle class="dots" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>' for x, y in places)
        elif len(places) == 1:
            yield f'<circle class="{one.kind} alone" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="2.5"/>'
        else:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            yield f'<path class="{one.kind}" d="M{path}"/>'


def _legend(series: Sequence[Series]) -> str:
    parts, right = [], WIDTH - RIGHT
    for one in reversed(series):
        if one.kind == "raw":
            continue
        width = 6 * len(one.name) + 30
        right -= width
        mark = (
            f'<circle class="dots" cx="{right + 7}" cy="{TOP - 16}" r="3.2"/>'
            if one.kind == "dots"
            else f'<path class="smooth" d="M{right} {TOP - 16}h14"/>'
        )
        parts.append(f'{mark}<text class="name" x="{right + 18}" y="{TOP - 12}">{escape(one.name)}</text>')
    return "".join(parts)


def ends(series: Sequence[Series]) -> str:
    """Where each line of a picture began and ended, in words: training 4.52 to 0.404, held out 4.6 to 0.51."""
    found = []
    for one in series:
        ys = [y for y in one.ys if math.isfinite(y)]
        if one.kind != "raw" and ys:
            found.append(
                f"{one.name} {label(ys[0])} to {label(ys[-1])}" if len(ys) > 1 else f"{one.name} {label(ys[0])}"
            )
    return ", ".join(found)


def series_of(lines: Sequence[Mapping[str, Any]], metric: str = "loss") -> list[Series]:
    """Raw and smoothed training values of a metrics.jsonl, and the evaluations as dots."""

    def column(name: str) -> tuple[list[float], list[float]]:
        kept = [
            (line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float) and "step" in line
        ]
        kept = [(x, y) for x, y in kept if math.isfinite(y)]  # one that is not would spoil every mean
        return [float(x) for x, _ in kept], [float(y) for _, y in kept]

    xs, ys = column(metric)
    found = []
    if ys:
        found = [Series(name="each step", xs=xs, ys=ys, kind="raw"), Series(name="training", xs=xs, ys=smooth(ys))]
    eval_xs, eval_ys = column(f"eval.{metric}")
    if eval_ys:
        found.append(Series(name="held out", xs=eval_xs, ys=eval_ys, kind="dots"))
    return found


def png(stages: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> bool:
    """All stages' loss curves side by side as a PNG; False where matplotlib is not installed.

    Args:
        stages: stage -> lines of its metrics.jsonl.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(4.2 * max(1, len(stages)), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, max(1, len(stages)), squeeze=False)[0]
    for axis, (name, lines) in zip(axes, stages.items()):
        for one in series_of(lines):
            if one.kind == "dots":
                axis.plot(one.xs, one.ys, "o", color="#c2410c", markersize=4, label=one.name)
            else:
                wide = one.kind == "smooth"
                axis.plot(
                    one.xs,
                    one.ys,
                    color="#0f6e6e",
                    alpha=1 if wide else 0.25,
                    lw=1.8 if wide else 0.8,
                    label=one.name if wide else None,
                )
        axis.set(title=name, xlabel="step", ylabel="loss")
        axis.grid(alpha=0.25)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130, metadata={"Software": None})
    atomic_write(path, picture.getvalue())
    return True
