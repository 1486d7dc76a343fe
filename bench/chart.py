"""The race as a picture: one line a row, one mark a contestant, by speed relative to the best peer.

An SVG by hand, for a README: no library, no script, colours that hold on a white ground of its own.
The axis is logarithmic; right of the line at 1 is faster than GlusterFS and MooseFS, whichever is
better there.  A contestant that failed in a row has no mark; the table says why.
"""

import math
from typing import Any
from xml.sax.saxutils import escape

from bench.table import best_peer, median

LEFT, RIGHT, TOP, LINE, WIDTH = 270, 30, 64, 22, 900
COLOURS = {
    "gluster": "#e08a1e",
    "moosefs": "#8a5fbf",
    "zdfs": "#0b6bcb",
    "unsynced": "#7fb6ee",
    "keyed": "#0a8f7a",
    "writeback": "#d0487e",
    "local": "#8a8a8a",
}
INK, PALE = "#222222", "#dddddd"


def draw(document: dict[str, Any]) -> str:
    """The SVG's text."""
    points = _points(document)
    low, high = _bounds([value for row in points for value in row.values()])
    height = TOP + LINE * len(points) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        *_legend(document),
        *_axis(low, high, height - 20),
    ]
    for number, (row, found) in enumerate(zip(document["rows"], points, strict=True)):
        y = TOP + LINE * number + LINE / 2
        parts.append(_text(LEFT - 10, y + 4, row["what"], "end"))
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, PALE))
        for name, value in found.items():
            parts.append(_mark(name, _place(value, low, high), y, f"{value:.2f}"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _points(document: dict[str, Any]) -> list[dict[str, float]]:
    """For each row, each contestant's speed by the best peer's."""
    points = []
    for row in document["rows"]:
        best = best_peer(row)
        rates = {name: median(row, name) for name in document["contestants"]}
        points.append({n: rate / best for n, rate in rates.items() if rate and best})
    return points


def _bounds(values: list[float]) -> tuple[int, int]:
    """Powers of ten around all values."""
    if not values:
        return -1, 1
    return min(-1, math.floor(math.log10(min(values)))), max(1, math.ceil(math.log10(max(values))))


def _place(value: float, low: int, high: int) -> float:
    return LEFT + (math.log10(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT)


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    words = escape(text)
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{INK}" text-anchor="{anchor}">{words}</text>'


def _line(x: float, y: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    place = f'x1="{x:.1f}" y1="{y:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{colour}" stroke-width="{width:g}"/>'


def _mark(name: str, x: float, y: float, title: str = "") -> str:
    """zdfs is larger than the others; the disk is a bar, for it is no contestant of their kind."""
    colour, told = COLOURS[name], f"<title>{escape(f'{name} {title}')}</title>"
    if name == "local":
        place = f'x="{x - 2:.1f}" y="{y - 6:.1f}" width="4" height="12"'
        return f'<rect {place} fill="{colour}">{told}</rect>'
    size = 6 if name == "zdfs" else 4.5
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" fill="{colour}">{told}</circle>'


def _legend(document: dict[str, Any]) -> list[str]:
    parts, x = [], float(LEFT)
    for name, one in document["contestants"].items():
        parts += [_mark(name, x + 6, 18), _text(x + 18, 22, one["title"])]
        x += 40 + 7 * len(one["title"])
    return [*parts, _text(LEFT - 10, 22, "speed by that of the better peer", "end")]


def _axis(low: int, high: int, bottom: float) -> list[str]:
    parts = []
    for power in range(low, high + 1):
        x = _place(10.0**power, low, high)
        parts.append(_text(x, TOP - 12, f"{10.0**power:g} x", "middle"))
        strong = power == 0
        parts.append(_line(x, TOP - 6, x, bottom, INK if strong else PALE, 1.5 if strong else 1))
    return parts
