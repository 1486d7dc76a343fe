"""What to copy, from whom, and how far it is: pure decisions of a dataserver that heals itself.

A dataserver's duty is a function: the metaserver's maps say which versions count, placement says
which of them belong here.  What is missing or damaged comes from the two other replicas, verified
against the map's seal before it is stored.  Totals are exact because the duty is counted first.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from zdfs import blockmap, checksum, limits, placement, wire
from zdfs.ids import BlockNo, Name, Slot


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
    """Where else the block stands; alternates by block, so that both sides share the load."""
    others = [s for s in placement.slots(want.start, want.name.block, servers) if s != slot]
    return tuple(others if want.name.block % 2 else reversed(others))


def genuine(want: wire.Wanted, data: checksum.Buffer) -> bool:
    """Whether these bytes are that version."""
    return len(data) == want.length and checksum.seal(want.name, data) == want.seal


def batches(
    wanted: Iterable[wire.Wanted], slot: Slot, servers: int, attempt: int
) -> dict[Slot, list[wire.Wanted]]:
    """Wanted blocks by the server to ask in this attempt (0: the nearer source, 1: the other)."""
    found: dict[Slot, list[wire.Wanted]] = {}
    for want in wanted:
        found.setdefault(sources(want, slot, servers)[attempt], []).append(want)
    return found


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


@dataclass(slots=True)
class Progress:
    """A rebuild underway."""

    total: int
    started: float
    done: int = 0
    done_bytes: int = 0

    def shown(self, now: float) -> wire.Rebuild:
        """For the wire."""
        elapsed = int((now - self.started) * 1000)
        return wire.Rebuild(self.done, self.total, self.done_bytes, max(0, elapsed))


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

    def take(self, count: int) -> list[wire.Wanted]:
        """The next few."""
        return [self._queue.popleft() for _ in range(min(count, len(self._queue)))]

    def cured(self, want: wire.Wanted) -> None:
        """It may be reported again from now on."""
        self._names.discard(want.name)
