"""The race's table: medians, how zdfs compares with the better peer and with the disk, and notes.

It is Markdown that can be read as it is.  A figure with a star stands on fewer rounds or
peers than the others, because some failed; without any it is a word.  The notes say why.
"""

import math
import statistics
from typing import Any

PEERS = ("gluster", "moosefs")
GOAL = 1.2  # times the better peer


def median(row: dict[str, Any], name: str) -> float | None:
    """Of a contestant's rounds that succeeded; None: none did."""
    rates = [rate for rate in row["rates"].get(name, []) if rate is not None]
    return statistics.median(rates) if rates else None


def best_peer(row: dict[str, Any]) -> float | None:
    """The better of the peers' medians."""
    found = [rate for name in PEERS if (rate := median(row, name)) is not None]
    return max(found, default=None)


def ratio(row: dict[str, Any], to: float | None, name: str = "zdfs") -> float | None:
    """Of a contestant's median to a figure; None: one of them is missing."""
    ours = median(row, name)
    return ours / to if ours is not None and to else None


def mean(ratios: list[float]) -> float:
    """Geometric."""
    return math.exp(statistics.fmean(map(math.log, ratios)))


def text(document: dict[str, Any]) -> str:
    """The table, and below it the notes."""
    names = list(document["contestants"])
    titles = [document["contestants"][name]["title"] for name in names]
    compared = [name for name in ("zdfs", "unsynced", "keyed", "writeback") if name in names]
    heads = ["", "unit", *titles]
    for name in compared:
        heads += [f"{document['contestants'][name]['title']} / best peer", "/ local disk"]
    lines = [heads]
    for row in document["rows"]:
        cells = [row["what"], row["unit"], *(_figure(document, row, name) for name in names)]
        for name in compared:
            alone = any(None in row["rates"].get(peer, []) for peer in PEERS)
            cells.append(_times(ratio(row, best_peer(row), name)) + "*" * alone)
            cells.append(_times(ratio(row, median(row, "local"), name)))
        lines.append(cells)
    return "\n".join([_head(document), "", *_aligned(lines), "", *_notes(document, compared)])


def _figure(document: dict[str, Any], row: dict[str, Any], name: str) -> str:
    rate = median(row, name)
    if rate is not None:
        return f"{rate:,.{0 if rate >= 100 else 1}f}" + ("*" if None in row["rates"][name] else "")
    texts = [
        failure["text"]
        for failure in document["failures"]
        if (failure["row"], failure["contestant"]) == (row["name"], name)
    ]
    first = texts[0].split(":")[0] if texts else "not run"
    return " ".join(first.split()[:2])


def _times(value: float | None) -> str:
    """Two digits that say something."""
    return "-" if value is None else f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}"


def _aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = []
    for line in lines:
        cells = [
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        texts.append(f"| {' | '.join(cells)} |")
    rule = [("-" * (w - 1) + ":") if n >= 2 else "-" * max(3, w) for n, w in enumerate(widths)]
    return [texts[0], f"| {' | '.join(rule)} |", *texts[1:]]


def _head(document: dict[str, Any]) -> str:
    who = document["contestants"].values()
    versions = [f"{one['title']} {one['version']}" for one in who if one["version"]]
    rounds = f"{document['rounds']} round" + "s" * (document["rounds"] > 1)
    return (
        f"{', '.join(versions)}; three copies each, one machine and disk, "
        f"{document['machine']}; medians of {rounds}, scale {document['scale']:g}."
    )


def _notes(document: dict[str, Any], compared: list[str]) -> list[str]:
    notes = ["the race was stopped before its end"] if document["stopped"] else []
    for name in compared:
        title = document["contestants"][name]["title"]
        found = [value for row in document["rows"] if (value := ratio(row, best_peer(row), name))]
        if found:
            ahead = sum(value >= GOAL for value in found)
            notes.append(
                f"{title} / best peer: geometric mean {mean(found):.2f}; at least {GOAL} in "
                f"{ahead} of {len(document['rows'])} rows ({len(found)} have both)"
            )
    notes.append("cold: after a new mount, and after the kernel dropped its caches")
    notes += [one["note"] for one in document["contestants"].values()]
    for name, found in document["copies"].items():
        title = document["contestants"][name]["title"]
        notes.append(f"{title}: copies of a synced file, at start and end: {_counts(found)}")
    for one in document["failures"]:
        title = document["contestants"][one["contestant"]]["title"]
        notes.append(f"round {one['round']}, {one['row']}, {title}: {one['text']}")
    return [f"- {note}" for note in notes]


def _counts(found: list[int]) -> str:
    return ", ".join(map(str, found)) or "none"
