"""Charts as inline SVG: lines of losses, bars of counts. Colors come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 520, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 26


def line_chart(values: Sequence[tuple[float, float]], unit: str) -> str:
    """One curve of (x, y), with its moving average over a twentieth of it; `unit` names the x axis."""
    if len(values) < 2:
        return ""
    xs, ys = [x for x, _ in values], [y for _, y in values]
    low, high = min(0.0, *ys), max(ys)
    across = [LEFT + (WIDTH - LEFT - RIGHT) * (x - xs[0]) / _span(xs[0], xs[-1]) for x in xs]

    def down(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (y - low) / _span(low, high))

    ticks = _ticks(low, high)
    grid = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(tick):.1f}" y2="{down(tick):.1f}" class="grid"/>'
        f'<text x="{LEFT - 6}" y="{down(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in ticks
    )
    raw = " ".join(f"{x:.1f},{down(y):.1f}" for x, y in zip(across, ys, strict=True))
    smooth = " ".join(f"{x:.1f},{down(y):.1f}" for x, y in zip(across, smoothed(ys), strict=True))
    ends = (
        f'<text x="{LEFT}" y="{HEIGHT - 8}">{xs[0]:g}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{xs[-1]:g} {escape(unit)}</text>'
    )
    return _svg(f'{grid}{ends}<polyline points="{raw}" class="raw"/><polyline points="{smooth}" class="curve"/>')


def histogram(values: Sequence[int], unit: str, bins: int = 32) -> str:
    """How often whole numbers fall into equally wide bins; `unit` names the x axis."""
    if not len(values):
        return ""
    low, high = float(min(values)), float(max(values))
    bins = min(bins, int(high - low) + 1)  # one bar per whole number where there are few
    width = (high - low) / bins or 1.0
    counts = [0] * bins
    for value in values:
        counts[min(int((value - low) / width), bins - 1)] += 1
    return bars(counts, low, high, unit)


def bars(counts: Sequence[int], low: float, high: float, unit: str) -> str:
    """A bar per count; the x axis goes from `low` to `high` in `unit`s."""
    step = (WIDTH - LEFT - RIGHT) / len(counts)
    scale = (HEIGHT - TOP - BOTTOM) / max(*counts, 1)
    drawn = "".join(
        f'<rect x="{LEFT + index * step:.1f}" width="{max(step - 1, 1):.1f}" '
        f'y="{HEIGHT - BOTTOM - count * scale:.1f}" height="{count * scale:.1f}" class="bar"/>'
        for index, count in enumerate(counts)
    )
    ends = (
        f'<text x="{LEFT}" y="{HEIGHT - 8}">{figure(low)}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{figure(high)} {escape(unit)}</text>'
        f'<text x="{LEFT - 6}" y="{TOP + 8}" text-anchor="end">{max(counts)}</text>'
    )
    return _svg(drawn + ends)


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each value and those around it, over a twentieth of all."""
    reach = max(len(values) // 40, 1)
    windows = [values[max(index - reach, 0) : index + reach + 1] for index in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def figure(value: float) -> str:
    """A whole number, and one of a thousand and more, with all digits; another one with four."""
    return f"{value:.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers from `low` to `high`."""
    span = _span(low, high)
    power = math.floor(math.log10(span / 5))
    step = next(base * 10.0**power for base in (1, 2, 5, 10) if span / (base * 10.0**power) <= 5)
    first = math.floor(low / step)
    ticks = [number * step for number in range(first, first + 8) if low <= number * step <= high]
    return [round(tick, max(-power, 0)) for tick in ticks]


def _span(low: float, high: float) -> float:
    """How far `high` lies above `low`, or 1 where rounding is all that parts them: a flat line, not noise in full."""
    return high - low if high - low > 1e-9 * max(abs(low), abs(high), 1.0) else 1.0


def _svg(content: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" class="chart">{content}</svg>'
