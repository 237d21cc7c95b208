"""Plots of the report as inline SVG; colours are the page's, so they follow light and dark."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 460, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 26, 26, 46
Scale = Callable[[float], float]  # a value -> its place in 0-1
Ticks = list[tuple[float, str]]
NUM_COLOURS = 6  # classes c0-c5 of the page's style


@dataclass(frozen=True, slots=True)
class Line:
    """One line or point of a plot.

    Attributes:
        label: For the legend.
        x, y: Values; one each for a point.
        colour: Index of the page's colours.
        is_dashed: Drawn broken.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int
    is_dashed: bool = False


def roc_plot(lines: Sequence[Line]) -> str:
    """TPR over FAR on a logarithmic scale from 1e-4, with the diagonal of a blind attacker."""
    ticks_x = [(10.0**e, f"1e{e}" if e else "1") for e in range(-4, 1)]
    ticks_y = [(v / 4, f"{25 * v} %") for v in range(5)]

    def to_x(value: float) -> float:
        return (math.log10(max(value, 1e-4)) + 4) / 4

    blind = [10 ** (-4 + 4 * i / 40) for i in range(41)]
    every = [*lines, Line("blind guess", blind, blind, NUM_COLOURS - 1, True)]
    body = "".join(_curve(line, to_x, lambda v: v) for line in every)
    return _frame(body, ticks_x, ticks_y, to_x, lambda v: v, "false accept rate",
                  "true accept rate") + _legend(every)  # fmt: skip


def frontier_plot(lines: Sequence[Line], *, x_label: str, y_label: str) -> str:
    """Points in the unit square: what remains useful against what leaks."""
    ticks = [(v / 4, f"{25 * v} %") for v in range(5)]
    dots = []
    for line in lines:
        x, y = _place(line.x[0], line.y[0])
        dots.append(
            f'<circle class="c{line.colour} dot" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'
            f'<text x="{x + (9 if line.x[0] < 0.7 else -9):.1f}" y="{y - 8:.1f}"'
            f' text-anchor="{"start" if line.x[0] < 0.7 else "end"}">'
            f"{html.escape(line.label)}</text>"
        )
    return _frame("".join(dots), ticks, ticks, lambda v: v, lambda v: v, x_label, y_label)


def _place(x: float, y: float) -> tuple[float, float]:
    return (
        _LEFT + min(max(x, 0), 1) * (_WIDTH - _LEFT - _RIGHT),
        _HEIGHT - _BOTTOM - min(max(y, 0), 1) * (_HEIGHT - _TOP - _BOTTOM),
    )


def _curve(line: Line, to_x: Scale, to_y: Scale) -> str:
    points = " ".join(
        "{:.1f},{:.1f}".format(*_place(to_x(x), to_y(y)))
        for x, y in zip(line.x, line.y, strict=True)
    )
    dash = ' stroke-dasharray="5 4"' if line.is_dashed else ""
    return f'<polyline class="c{line.colour} line" points="{points}"{dash}/>'


def _frame(
    body: str, ticks_x: Ticks, ticks_y: Ticks, to_x: Scale, to_y: Scale, x_label: str,
    y_label: str,
) -> str:  # fmt: skip
    parts = []
    for value, label in ticks_x:
        x, y = _place(to_x(value), 0.0)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{y}"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 16}" text-anchor="middle">{label}</text>')
    for value, label in ticks_y:
        x, y = _place(0.0, to_y(value))
        parts.append(
            f'<line class="grid" x1="{x}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    middle_x, middle_y = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text x="{middle_x}" y="{_HEIGHT - 8}" text-anchor="middle">{html.escape(x_label)}</text>'
        f'<text transform="translate(12 {middle_y}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(y_label)}</text>"
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(y_label)} over'
        f' {html.escape(x_label)}">{"".join(parts)}{body}</svg>'
    )


def _legend(lines: Sequence[Line]) -> str:
    items = "".join(
        f'<li><span class="key c{line.colour}{" dashed" if line.is_dashed else ""}"></span>'
        f"{html.escape(line.label)}</li>"
        for line in lines
    )
    return f'<ul class="legend">{items}</ul>'
