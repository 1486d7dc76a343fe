"""The last hour of what servers did, as charts want it: pure, from counters that only grow.

Servers count from their start on; what happened between two looks is the difference, and a counter
that fell belongs to a new start, which began at nought.  A look at nothing (a server that did not
answer) leaves a gap, which a chart shows as one.  Each step of `STEP_S` sums what the looks in it
found; an hour of steps is kept.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from zdfs import measures, wire

BOUNDS_S = measures.SECONDS
METRICS = ("zdfs_request_seconds", "zdfs_received_bytes", "zdfs_sent_bytes")  # that are asked for
WORK = ("Get", "Put")  # what programs' reads and writes ask of dataservers
STEP_S = 10
STEPS = 360  # an hour
LATE_S = 30.0  # two looks further apart say nothing of when it happened


class Counts(NamedTuple):
    """What a server has counted since it started."""

    operations: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    taken: tuple[int, ...] = ()  # answers by the time that they took: for each bound, and above


def counted(samples: Iterable[wire.Sample]) -> Counts:
    """What a dataserver's measures say."""
    sums: Counter[str] = Counter()
    below: Counter[float] = Counter()  # answers within a bound
    for one in samples:
        labels = {label.name: label.value for label in one.labels}
        if "request" not in labels:
            sums[one.name] += int(one.value)
        elif labels["request"] in WORK:
            sums[one.name] += int(one.value)
            if one.name == "zdfs_request_seconds_bucket":
                below[float(labels["le"])] += int(one.value)
    within = [below[bound] for bound in BOUNDS_S] + [sums["zdfs_request_seconds_count"]]
    return Counts(
        sums["zdfs_request_seconds_count"],
        sums["zdfs_sent_bytes_total"],
        sums["zdfs_received_bytes_total"],
        tuple([more - less for less, more in zip([0, *within], within)]),
    )


class Step(NamedTuple):
    """What was done in one stretch of time."""

    watched_s: float
    counts: Counts


def less(new: Counts, old: Counts) -> Counts:
    """What was counted between two looks; `new` itself if the server started in between."""
    if any(a < b for a, b in zip(new[:3], old[:3])) or len(new.taken) != len(old.taken):
        return new
    taken = tuple([a - b for a, b in zip(new.taken, old.taken)])
    if any(count < 0 for count in taken):
        return new
    return Counts(
        new.operations - old.operations,
        new.read_bytes - old.read_bytes,
        new.written_bytes - old.written_bytes,
        taken,
    )


def plus(one: Counts, other: Counts) -> Counts:
    """Both together."""
    longer = max(len(one.taken), len(other.taken))
    pads = [each.taken + (0,) * (longer - len(each.taken)) for each in (one, other)]
    return Counts(
        one.operations + other.operations,
        one.read_bytes + other.read_bytes,
        one.written_bytes + other.written_bytes,
        tuple([a + b for a, b in zip(*pads)]),
    )


def share(bounds_s: Sequence[float], taken: Sequence[int], part: float) -> float | None:
    """Seconds within which that part of all answers came, straight between two bounds; None: there
    was no answer.  What took longer than the last bound counts as that bound."""
    wanted, seen, low = part * sum(taken), 0, 0.0
    if not wanted:
        return None
    for bound_s, count in zip(bounds_s, taken):
        if count and seen + count >= wanted:
            return low + (bound_s - low) * (wanted - seen) / count
        seen, low = seen + count, bound_s
    return low


class History:
    """One server's hour."""

    def __init__(self) -> None:
        self.steps: deque[tuple[int, Step]] = deque(maxlen=STEPS)  # with their numbers
        self.last: tuple[float, Counts] | None = None
        self.now = Step(0.0, Counts())  # between the last two looks

    def look(self, at_s: float, counts: Counts | None) -> None:
        """The counters at a time that only grows; None: nobody knows."""
        before, self.last = self.last, None if counts is None else (at_s, counts)
        if counts is None or before is None or not 0 < at_s - before[0] <= LATE_S:
            self.now = Step(0.0, Counts())
            return
        self.now = Step(at_s - before[0], less(counts, before[1]))
        number = int(at_s // STEP_S)
        if self.steps and self.steps[-1][0] == number:
            sofar = self.steps[-1][1]
            grown = Step(sofar.watched_s + self.now.watched_s, plus(sofar.counts, self.now.counts))
            self.steps[-1] = (number, grown)
        else:
            self.steps.append((number, self.now))


def rates(step: Step) -> dict[str, Any] | None:
    """A stretch of time, each second of it; None: nobody looked."""
    if not step.watched_s:
        return None
    counts, seconds = step.counts, step.watched_s

    def within_ms(part: float) -> float | None:
        found = share(BOUNDS_S, counts.taken, part)
        return None if found is None else round(found * 1000, 3)

    return {
        "operations_per_s": round(counts.operations / seconds, 1),
        "read_bytes_per_s": round(counts.read_bytes / seconds),
        "written_bytes_per_s": round(counts.written_bytes / seconds),
        "half_within_ms": within_ms(0.5),
        "most_within_ms": within_ms(0.99),
    }


def together(steps: Sequence[Step]) -> Step:
    """Several servers at the same time."""
    counts = Counts()
    for one in steps:
        counts = plus(counts, one.counts)
    return Step(max((one.watched_s for one in steps), default=0.0), counts)


def chart(histories: Sequence[History], at_s: float) -> list[dict[str, Any] | None]:
    """The hour before a time, a place for each step, the newest last; the step underway is left
    out, for it would seem to fall."""
    last = int(at_s // STEP_S) - 1
    found: dict[int, list[Step]] = {}
    for history in histories:
        for number, step in history.steps:
            if last - STEPS < number <= last:
                found.setdefault(number, []).append(step)
    return [
        rates(together(found[number])) if number in found else None
        for number in range(last - STEPS + 1, last + 1)
    ]
