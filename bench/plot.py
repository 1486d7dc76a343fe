"""Lines over a logarithmic axis, as an SVG for the docs: no library, no script, a ground of its
own.  Each line is drawn by its share of its own largest value, so that flat is flat, whatever the
units; the values stand at the points.
"""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 300, 50, 200, 40, 44
COLOURS = ("#0b6bcb", "#e08a1e", "#8a5fbf", "#2a8a57", "#b3363e")
INK, PALE = "#222222", "#dddddd"


def draw(title: str, axis: str, lines: Mapping[str, Points]) -> str:
    """The SVG's text; `lines`: what (with its unit) -> points, x above zero."""
    every = [x for points in lines.values() for x, _ in points]
    low, high = math.log10(min(every)), math.log10(max(every))
    span = (high - low) or 1.0

    def across(x: float) -> float:
        return LEFT + (math.log10(x) - low) / span * (WIDTH - LEFT - RIGHT)

    def down(share: float) -> float:
        return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 20, title, "start", INK),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, axis, "middle", INK),
    ]
    for share in (0.0, 0.5, 1.0):
        y = down(share)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y))
        parts.append(_text(LEFT - 6, y + 4, f"{share:.0%}", "end", INK))
    for x in sorted(set(every)):
        parts.append(_text(across(x), HEIGHT - BOTTOM + 16, _short(x), "middle", INK))
    for number, (what, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        most = max(y for _, y in points) or 1.0
        placed = [(across(x), down(y / most), y) for x, y in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y, value in placed:
            shown = f"<title>{escape(what)}: {value:,.4g}</title>"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">{shown}</circle>'
            )
        key = TOP + 18 * number
        parts.append(_text(WIDTH - RIGHT + 16, key, f"{what}, most {most:,.3g}", "start", colour))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _short(x: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if x >= size:
            return f"{x / size:g}{unit}"
    return f"{x:g}"


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{PALE}"/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{escape(text)}</text>"
    )
