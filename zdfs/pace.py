"""How fast each server answers, to a mount: pure, told of each answer.

    mean    moves by a fifth of the difference with each answer: the last dozen count
    slow    several answers, lately, of more than `SLOW_S`, and `SLOW_TIMES` what the others take

Kinds are kept apart (a Put waits for a disk, a Get mostly doesn't).  Bounded by the ring.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from zdfs import wire

SLOW_S = 0.05  # below, nobody asks why
SLOW_TIMES = 5  # others differ by less under load
SLOW_COUNT = 3  # one slow answer is a hiccup
SLOW_AGE_S = 60.0  # and what was slow long ago may not be now
SHARE = 0.2

# Answers that say how fast their server is; others wait for another mount, or for nothing at all.
KINDS: dict[type[wire.Message], str] = {
    wire.Put: "write",
    wire.Get: "read",
    wire.Lookup: "ask",
    wire.GetAttributes: "ask",
    wire.Commit: "ask",
}


@dataclass(slots=True)
class Pace:
    """Of one server and kind."""

    mean_s: float
    count: int
    at: float  # of the newest answer


class Slow(NamedTuple):
    """A server beside the others."""

    peer: str
    kind: str
    pace: Pace
    others_s: float  # median; 0.0: there are no others


class Paces:
    """All servers."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], Pace] = {}

    def answered(self, peer: str, request: type[wire.Message], took_s: float, at: float) -> None:
        """An answer came after so long."""
        kind = KINDS.get(request)
        if kind is None:
            return
        pace = self.known.get((peer, kind))
        if pace is None:
            self.known[peer, kind] = Pace(took_s, 1, at)
            return
        pace.mean_s += (took_s - pace.mean_s) * SHARE
        pace.count, pace.at = pace.count + 1, at

    def slowest(self) -> list[Slow]:
        """All, the slowest first, each beside the median of the others of its kind."""
        return sorted(self._beside(), key=lambda one: -one.pace.mean_s)

    def _beside(self) -> Iterator[Slow]:
        known = list(self.known.items())
        for (peer, kind), pace in known:
            others = [p.mean_s for (other, k), p in known if k == kind and other != peer]
            yield Slow(peer, kind, pace, statistics.median(others) if others else 0.0)


def is_slow(one: wire.Pace1) -> bool:
    """Whether writes or reads are as slow as this server, and no other is."""
    return (
        one.mean_us >= SLOW_S * 1e6
        and 0 < one.median_us * SLOW_TIMES <= one.mean_us
        and one.answers >= SLOW_COUNT
        and one.age_ms <= SLOW_AGE_S * 1000
    )
