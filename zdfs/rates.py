"""What two looks at a process's measures say of the time between them: pure.

    look      all samples at one moment, by metric and labels
    Between   two looks: how much a counter grew, how fast, and quantiles of a histogram

A counter that is smaller than before belongs to a process that was started again: what it counts
now happened since.  Quantiles are estimated inside of a bucket as Prometheus does, by a straight
line; what is above the last bound counts as that bound.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from zdfs import wire

Key = tuple[str, tuple[tuple[str, str], ...]]

# Requests that a cluster makes by itself, or that wait for something to happen: no load.
HOUSEKEEPING = frozenset(
    kind.__name__
    for kind in (
        wire.Identify, wire.Report, wire.Beat, wire.Announce, wire.GetStatus, wire.GetEvents,
        wire.GetMeasures,
    )
)  # fmt: skip


class Look(NamedTuple):
    """What a process said at one moment."""

    at_s: float  # of its own clock
    values: Mapping[Key, float]

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of all series of a metric with these labels; None: there is none."""
        found = list(_matching(self.values, name, labels).values())
        return sum(found) if found else None

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """The same for each value of a label."""
        return _grouped(_matching(self.values, name, labels), label)


def look(pages: Iterable[wire.Measures]) -> Look:
    """The pages of one answer, together."""
    values: dict[Key, float] = {}
    at_s = 0.0
    for page in pages:
        at_s = page.at_ms / 1000
        for name, labels, value in page.samples:
            values[name, tuple((one.name, one.value) for one in labels)] = value
    return Look(at_s, values)


class Between:
    """From one look to a later one at the same process."""

    def __init__(self, before: Look, after: Look):
        self.after = after
        again = after.at_s < before.at_s  # the machine was started again
        self.seconds = max(0.001, after.at_s - (0.0 if again else before.at_s))
        self.grown: dict[Key, float] = {}
        for key, value in after.values.items():
            old = before.values.get(key, 0.0)
            self.grown[key] = value - old if value >= old else value

    def count(self, name: str, **labels: str) -> float:
        """By how much all series of a counter with these labels grew together."""
        return sum(_matching(self.grown, name, labels).values())

    def rate(self, name: str, **labels: str) -> float:
        """The same in a second."""
        return self.count(name, **labels) / self.seconds

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """By how much a counter grew, for each value of a label."""
        return _grouped(_matching(self.grown, name, labels), label)

    def buckets(
        self, name: str, label: str = "", without: Iterable[str] = ()
    ) -> dict[float, float]:
        """A histogram: how many were at most so large.  `without`: values of `label`."""
        found: dict[float, float] = {}
        left = frozenset(without)
        for (metric, labels), value in self.grown.items():
            if metric == f"{name}_bucket":
                told = dict(labels)
                if told.get(label) not in left:
                    bound = float(told["le"])
                    found[bound] = found.get(bound, 0.0) + value
        return found


def _matching(
    values: Mapping[Key, float], name: str, labels: Mapping[str, str]
) -> dict[Key, float]:
    wanted = labels.items()
    return {key: value for key, value in values.items() if key[0] == name and wanted <= set(key[1])}


def _grouped(values: Mapping[Key, float], label: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for (_, labels), value in values.items():
        told = dict(labels).get(label, "")
        found[told] = found.get(told, 0.0) + value
    return found


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """At most how large so large a share was; None: there was nothing."""
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    rank = share * buckets[bounds[-1]]
    below = reached = 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if bound == float("inf"):
                return below
            inside = buckets[bound] - reached
            return below + (bound - below) * ((rank - reached) / inside if inside else 1.0)
        below, reached = bound, buckets[bound]
    return below
