"""What to copy, from whom, and how far it is: pure decisions of a dataserver that heals itself.

A dataserver's duty is a function: the metaserver's maps say which versions count, placement says
which of them belong here.  What is missing or damaged comes from the two other replicas, verified
against the map's seal before it is stored.  Totals are exact because the duty is counted first.

While others work, a rebuild rests after each batch for twice as long as the batch took: whatever it
needs for that, disk, network or processor, is all theirs for two thirds of the time (`pause`).

A pass of the scrub reads at its set rate, or faster if it could not end within half a period else
(`pace`); then it rests nine times as long as it took, but begins anew half a period after it began
(`rest`).  So no byte is left alone for longer than a period, whatever is stored.
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from zdfs import addresses, blockmap, checksum, limits, placement, wire
from zdfs.calls import Peer
from zdfs.ids import BlockNo, Name, Slot

WINDOW_S = 30.0  # the speed of a rebuild is that of so long: foreground work comes and goes
SCRUB_REST_S = 10.0  # between two passes, at least
RESTS = 2  # as long as it works: with 1, reads were measured to keep less than half of their speed
SILENT_S = limits.SUSPECT_S  # a source that did not answer is left alone for so long, then longer
SILENT_MOST_S = 10.0  # ... and at most for this, or it would be back unnoticed


class Rates(NamedTuple):
    """How much of the disk healing may take, in bytes a second.  `rebuild` 0: no limit."""

    scrub: int = limits.SCRUB_BYTES_PER_S
    scrub_period_s: float = limits.SCRUB_PERIOD_S
    rebuild: int = 0


def duty(page: wire.InventoryPage, slot: Slot, servers: int) -> Iterator[wire.Wanted]:
    """The versions of one map page that belong on `slot`."""
    first = page.page * limits.PAGE_BLOCKS
    for position, entry in enumerate(blockmap.unpack_page(page.entries)):
        block = BlockNo(first + position)
        if entry is None or placement.replica(page.start, block, servers, slot) is None:
            continue
        name = Name(page.ino, block, entry.version)
        yield wire.Wanted(name, entry.seal, page.epoch, page.start, entry.stored)


def sources(want: wire.Wanted, slot: Slot, servers: int) -> tuple[Slot, ...]:
    """Where else the block stands."""
    return tuple(s for s in placement.slots(want.start, want.name.block, servers) if s != slot)


class Sources:
    """Whom to ask: of those that have a block the one that was asked for fewest bytes so far."""

    def __init__(self) -> None:
        self.asked: Counter[Peer] = Counter()  # bytes
        self._silent: dict[Peer, tuple[float, float]] = {}  # until when, and for how long

    def choose(self, peers: Sequence[Peer], length: int, now: float) -> Peer | None:
        """One of these; None while all of them are left alone."""
        awake = [peer for peer in peers if self._silent.get(peer, (now, 0.0))[0] <= now]
        if not awake:
            return None
        chosen = min(awake, key=lambda peer: self.asked[peer])
        self.asked[chosen] += max(1, length)
        return chosen

    def shares(self) -> str:
        """Who was asked for how many bytes, for people."""
        parts = [f"{addresses.short(peer)} {size}" for peer, size in sorted(self.asked.items())]
        return "bytes asked for: " + ", ".join(parts)

    def silent(self, peer: Peer, now: float) -> None:
        """It did not answer: each question costs a timeout, so it is asked less and less often."""
        pause = min(SILENT_MOST_S, 2 * self._silent.get(peer, (0.0, SILENT_S / 2))[1])
        self._silent[peer] = (now + pause, pause)

    def heard(self, peer: Peer) -> None:
        """It answers."""
        self._silent.pop(peer, None)


def pause(took_s: float, copied_bytes: int, rate: int, busy: bool) -> float:
    """How long a rebuild rests after a batch, in seconds.  `rate`: bytes a second, 0: no limit."""
    rest = RESTS * took_s if busy else 0.0
    return max(rest, copied_bytes / rate - took_s) if rate else rest


def genuine(want: wire.Wanted, data: checksum.Buffer) -> bool:
    """Whether these bytes are that version."""
    return len(data) == want.length and checksum.seal(want.name, data) == want.seal


def chunks(wanted: list[wire.Wanted]) -> Iterator[list[wire.Wanted]]:
    """Lists short enough for one Get and its reply."""
    chunk: list[wire.Wanted] = []
    size = 0
    for want in wanted:
        if chunk and (size + want.length > limits.BATCH_BYTES or len(chunk) >= limits.BLOCKS):
            yield chunk
            chunk, size = [], 0
        chunk.append(want)
        size += want.length
    if chunk:
        yield chunk


def pace(rates: Rates, left_bytes: int, since_s: float) -> float:
    """Bytes a second that the scrub is to read, so long after its pass began."""
    left_s = max(1.0, rates.scrub_period_s / 2 - since_s)
    return max(rates.scrub, left_bytes / left_s)


def rest(rates: Rates, took_s: float) -> float:
    """How long the scrub rests after a pass, in seconds."""
    wished = max(SCRUB_REST_S, 9 * took_s)
    return max(limits.BEAT_S, min(wished, rates.scrub_period_s / 2 - took_s))


class Amount(NamedTuple):
    """Blocks and their bytes."""

    blocks: int
    bytes: int


@dataclass(slots=True)
class Progress:
    """A rebuild underway."""

    total: int
    started: float
    total_bytes: int = 0
    done: int = 0
    done_bytes: int = 0
    told: int = 0  # tenths that an event has told of
    _samples: deque[tuple[float, int]] = field(default_factory=deque)  # when, done_bytes

    def missing(self, left: Amount) -> None:
        """Counted anew: what is left belongs to the total."""
        self.total = self.done + left.blocks
        self.total_bytes = self.done_bytes + left.bytes

    def copied(self, wanted: Sequence[wire.Wanted], now: float) -> None:
        """These came back."""
        if not self._samples:
            self._samples.append((self.started, 0))
        self.done += len(wanted)
        self.done_bytes += sum(want.length for want in wanted)
        self._samples.append((now, self.done_bytes))
        while len(self._samples) > 2 and self._samples[1][0] < now - WINDOW_S:
            self._samples.popleft()

    def bytes_per_s(self, now: float) -> int:
        """How fast it was lately."""
        if not self._samples:
            return 0
        since, before = self._samples[0]
        return round((self.done_bytes - before) / max(0.001, now - since))

    def tenth(self) -> int | None:
        """The tenth that was just reached, once each; the last is the end, which is told anyway."""
        reached = 10 * self.done // self.total if self.total else 0
        if not self.told < reached < 10:
            return None
        self.told = reached
        return reached

    def shown(self, now: float) -> wire.Rebuild:
        """For the wire."""
        elapsed = int((now - self.started) * 1000)
        return wire.Rebuild(
            self.done, self.total, self.done_bytes, max(0, elapsed), self.total_bytes,
            self.bytes_per_s(now),
        )  # fmt: skip


class Sick:
    """Blocks to be repaired, each once, oldest first."""

    def __init__(self) -> None:
        self._queue: deque[wire.Wanted] = deque()
        self._names: set[Name] = set()

    def add(self, want: wire.Wanted) -> bool:
        """False when it is already known."""
        if want.name in self._names or len(self._queue) >= limits.LIST_ITEMS:
            return False
        self._names.add(want.name)
        self._queue.append(want)
        return True

    def __len__(self) -> int:
        """Those whose repair hasn't ended."""
        return len(self._names)

    def take(self, count: int) -> list[wire.Wanted]:
        """The next few."""
        return [self._queue.popleft() for _ in range(min(count, len(self._queue)))]

    def again(self, wanted: list[wire.Wanted]) -> None:
        """These were taken in vain: whoever has them is silent."""
        self._queue.extend(wanted)

    def cured(self, want: wire.Wanted) -> None:
        """It may be reported again from now on."""
        self._names.discard(want.name)
