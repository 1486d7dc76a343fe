"""Both stores in memory: the protocols of `zdfs.ports`, with crashes and without disks.

What the next process finds, as the real ones promise it (the contract suites run on both):

    kill()      every round that was ended; drops undone that no checkpoint covered
    crash()     the power went: every round that was synced, and of those behind, in their order,
                some: the log is cut at the first record that is torn, so a later one never
                survives an earlier one, and of the last round that is found there may be a part
    fail()      the disk answers EIO to the next write or sync: the store has failed, for good; what
                it was about to commit may be there or not
    total_bytes may shrink and grow: a full disk, until somebody deletes or adds
"""

import bisect
import dataclasses
import errno
import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from zdfs import checksum, ports, schema
from zdfs.chain import NO_COPIES
from zdfs.checksum import Buffer, Seal
from zdfs.errors import Damaged, NoSpace, Posix, StoreError
from zdfs.harming import damage, shown
from zdfs.ids import Epoch, Incarnation, Name, Round, Slot
from zdfs.schema import RECORD_BYTES, DataState, IndexEntry
from zdfs.wire import Harm

Undo = list[tuple[bytes, bytes | None]]


class MemoryRecords:
    """Ordered keys.  Values stand sealed, so that a test can damage them."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        self.undo: Undo = []

    def get(self, key: bytes) -> bytes | None:
        value = self.values.get(key)
        return None if value is None else schema.open_value(key, value)

    def scan(
        self, first: bytes, end: bytes, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        at = bisect.bisect_left(self.keys, end if reverse else first) - reverse
        while 0 <= at < len(self.keys):
            key = self.keys[at]
            if key < first if reverse else key >= end:
                return
            yield key, schema.open_value(key, self.values[key])
            at = bisect.bisect_left(self.keys, key)
            if reverse:
                at -= 1
            elif at < len(self.keys) and self.keys[at] == key:
                at += 1

    def put(self, key: bytes, payload: bytes) -> None:
        self._set(key, schema.seal_value(key, payload))

    def delete(self, key: bytes) -> bool:
        return self._set(key, None)

    def roll_back(self, length: int) -> None:
        """Undo the changes behind the first `length`."""
        while len(self.undo) > length:
            key, value = self.undo.pop()
            self._set(key, value)
            self.undo.pop()

    def _set(self, key: bytes, value: bytes | None) -> bool:
        old = self.values.get(key)
        self.undo.append((key, old))
        if value is not None:
            if old is None:
                bisect.insort(self.keys, key)
            self.values[key] = value
        elif old is not None:
            del self.values[key]
            del self.keys[bisect.bisect_left(self.keys, key)]
        return old is not None


class MemoryMetaStore:
    """`ports.MetaStore` in memory."""

    def __init__(self, total_bytes: int = 1 << 40) -> None:
        self.records = MemoryRecords()
        self.total_bytes = total_bytes
        self.fail_next_commit = False
        self.lands = False  # ... though what fails stands on the disk
        self._synced = Round(0)
        self._dirty = False
        self._failed = False

    @property
    def round(self) -> Round:
        return Round(self._synced + 1)

    @property
    def dirty(self) -> bool:
        return self._dirty

    @property
    def synced(self) -> Round:
        return self._synced

    large = False

    def safe(self, synced: bool, change: bool) -> Round:
        return self._synced

    def promise(self, number: Round) -> None:
        return

    def prepare(self) -> bool:
        return False

    @contextmanager
    def write(self) -> Iterator[ports.Transaction]:
        self._check()
        start = len(self.records.undo)
        done = False
        try:
            yield self.records
            done = self._dirty = True
        finally:
            if not done:
                self.records.roll_back(start)

    @contextmanager
    def read(self) -> Iterator[ports.Reader]:
        self._check()
        yield self.records

    def end_round(self) -> None:
        self._check()
        fails = self._dirty and self.fail_next_commit
        if self._dirty and (self.lands or not fails):
            self._synced = self.round
            self.records.put(schema.ROUND, self._synced.to_bytes(8, "big"))
            self.records.undo.clear()
        if fails:
            self._failed = True
            self._check()
        self._dirty = False

    def fileno(self) -> int | None:
        return None

    def woken(self) -> None:
        return

    def free_bytes(self) -> int:
        return self.total_bytes - sum(map(len, self.records.values.values()))

    def close(self) -> None:
        self.records.roll_back(0)
        self._dirty = False

    def fail(self, lands: bool = False) -> None:
        """The next commit fails; `lands`: and is on the disk all the same."""
        self.fail_next_commit, self.lands = True, lands

    def kill(self) -> "MemoryMetaStore":
        """What the next process finds: a round is on disk as soon as it has ended."""
        return self.crash()

    def crash(self, dice: random.Random | None = None) -> "MemoryMetaStore":
        """The same, of whatever ended this one."""
        self.records.roll_back(0)
        self._dirty, self._failed = False, True
        found = MemoryMetaStore(self.total_bytes)
        found.records, found._synced = self.records, self._synced
        return found

    def _check(self) -> None:
        if self._failed:
            raise StoreError("this store has failed")


@dataclasses.dataclass
class Held:
    """A version in memory."""

    entry: IndexEntry
    data: bytes


Changes = dict[Name, Held | None]


class MemoryBlockStore:
    """`ports.BlockStore` in memory.  With `lazy_sync`, rounds wait for `sync()`."""

    def __init__(
        self,
        slot: Slot,
        total_bytes: int = 1 << 40,
        lazy_sync: bool = False,
        uuid: bytes | None = None,
    ) -> None:
        self.total_bytes = total_bytes
        self.lazy_sync = lazy_sync
        self.torn = lazy_sync  # a power cut leaves some of what was not synced
        self.stuck_s = 0.0  # what a test wants `oldest_unsynced_s` to say
        self.copy = MemoryMetaStore(total_bytes)  # on the same disk: of the metadata
        self._slot = slot
        self._state = DataState(
            schema.DATA_FORMAT, uuid or checksum.check(b"uuid", bytes([slot])).to_bytes(16, "big"),
            b"", slot, 0, 0, Incarnation(0), Incarnation(0), Round(0), 0, 0, 0, 0, 0,
            NO_COPIES,
        )  # fmt: skip
        self._synced_state = self._state
        self._boot = 1
        self._opened_round = self._checkpointed = Round(0)
        self._synced = self._ended = Round(1)
        self._dirty = self._failed = False
        self._held: dict[Name, Held] = {}
        self._used = 0  # bytes of these, as records
        self._stored: dict[Name, Held] = {}  # as of the checkpoint
        self._layers: list[tuple[Round, Changes, DataState]] = []
        self._open: Changes = {}
        self._offset = 0

    @property
    def round(self) -> Round:
        return Round(self._ended + 1)

    @property
    def dirty(self) -> bool:
        return self._dirty

    @property
    def synced(self) -> Round:
        return self._synced

    def end_round(self) -> None:
        self._check()
        if not self._dirty:
            return
        self._ended = self.round
        self._layers.append((self._ended, self._open, self._state))
        self._open, self._dirty = {}, False
        if not self.lazy_sync:
            self.sync()

    def sync(self) -> None:
        """Every ended round is on disk now."""
        self._check()
        self._synced = self._ended

    def fileno(self) -> int | None:
        return None

    def woken(self) -> None:
        self._check()

    def close(self) -> None:
        if not self._failed:
            self.sync()
            self.checkpoint()

    @property
    def state(self) -> DataState:
        return self._state

    @property
    def boot(self) -> int:
        return self._boot

    @property
    def opened_round(self) -> Round:
        return self._opened_round

    def set_state(self, state: DataState) -> None:
        self._touch()
        self._state = state

    large = False

    def safe(self, synced: bool, change: bool) -> Round:
        return self._synced if synced else self.round

    def promise(self, number: Round) -> None:
        return

    def prepare(self) -> bool:
        return False

    def append(
        self,
        name: Name,
        seal: Seal,
        epoch: Epoch,
        start: Slot,
        data: Buffer,
        urgent: bool = False,
    ) -> None:
        if RECORD_BYTES + len(data) > self.space().free_bytes:
            raise NoSpace("the disk is full")
        self._touch()
        entry = IndexEntry(0, self._offset, len(data), *seal, epoch, start)
        self._offset += RECORD_BYTES + len(data)
        self._let_go(name)
        self._open[name] = self._held[name] = Held(entry, bytes(data))
        self._used += RECORD_BYTES + len(data)

    def find(self, name: Name) -> IndexEntry | None:
        held = self._held.get(name)
        return None if held is None else held.entry

    def read(self, name: Name) -> tuple[IndexEntry, Buffer] | None:
        held = self._held.get(name)
        if held is None:
            return None
        if checksum.seal(name, held.data) != (held.entry.crc16, held.entry.crc32c):
            raise Damaged(f"block {name.block} of inode {name.ino} fails its checksum")
        return held.entry, held.data

    def expect(self, names: Sequence[Name]) -> None:
        """Memory is quick enough."""

    def drop(self, names: Sequence[Name]) -> None:
        if names:
            self._touch()
        for name in names:
            self._open[name] = None
            self._let_go(name)

    def _let_go(self, name: Name) -> None:
        held = self._held.pop(name, None)
        if held is not None:
            self._used -= RECORD_BYTES + len(held.data)

    def scan(self, after: Name | None, count: int) -> list[tuple[Name, IndexEntry]]:
        names = sorted(name for name in self._held if after is None or name > after)
        return [(name, self._held[name].entry) for name in names[:count]]

    def checkpoint(self) -> None:
        self._check()
        while self._layers and self._layers[0][0] <= self._synced:
            self._checkpointed, changes, self._synced_state = self._layers.pop(0)
            for name, held in changes.items():
                if held is None:
                    self._stored.pop(name, None)
                else:
                    self._stored[name] = held

    @property
    def checkpointed(self) -> Round:
        return self._checkpointed

    def space(self) -> ports.Space:
        free = max(0, self.total_bytes - self._used)
        return ports.Space(self.total_bytes, free, self._used, len(self._held))

    def oldest_unsynced_s(self) -> float:
        return self.stuck_s

    def winnable(self) -> bool:
        """Nothing dead stays here."""
        return False

    def compact(self, most_bytes: int, press: ports.Press = ports.Press.IDLE) -> bool:
        return False

    def reclaimable_bytes(self) -> int:
        return 0

    def emptied(self) -> Round | None:
        return None

    def rebuild_index(self) -> None:
        self.end_round()
        self.sync()
        self.checkpoint()

    def harm(self, name: Name, harm: int, seed: int) -> tuple[int, bytes, bytes]:
        held = self._held.get(name)
        if held is None:
            raise Posix(errno.ENOENT)
        if harm == Harm.STALE:
            return self._harm_stale(name, held)
        if harm == Harm.LOSE or not held.data:
            self.drop([name])
            return 0, b"", b""
        before, held.data = held.data, damage(held.data, Harm(harm), seed)
        return shown(before, held.data)

    def _harm_stale(self, name: Name, held: Held) -> tuple[int, bytes, bytes]:
        """Of what is remembered here: the newest older content, sealed as the newer."""
        kept = {**self._stored, **self._held}
        older = [one for one in kept if one[:2] == name[:2] and one.version < name.version]
        for one in sorted(older, reverse=True):
            old, before = kept[one].data, held.data
            if old != before:
                seal = checksum.seal(name, old)
                self.append(name, seal, held.entry.epoch, held.entry.start, old)
                return shown(before, old)
        raise Posix(errno.ENOENT, "no older content here: write over it first")

    def fail(self, lands: bool = False) -> None:
        """From now on every change and sync is a StoreError; `lands`: what was written is on the
        disk all the same."""
        self._failed = True
        if lands:
            self._synced = self._ended

    def kill(self) -> "MemoryBlockStore":
        """What the next process finds: every round that was ended."""
        return self._found(self._ended, None)

    def crash(self, dice: random.Random | None = None) -> "MemoryBlockStore":
        """What the next boot finds.  Without dice: what was synced and nothing else."""
        dice = dice or random.Random(0)
        written = [round_ for round_, _, _ in self._layers if round_ > self._synced]
        kept = dice.choice([0, 0, dice.randint(0, len(written))]) if self.torn else 0
        survived = written[kept - 1] if kept else self._synced
        part = dice if self.torn and dice.random() < 0.3 else None
        return self._found(survived, part)

    def _found(self, survived: Round, dice: random.Random | None) -> "MemoryBlockStore":
        """All rounds to `survived`; with dice, some of the next one's blocks, too."""
        found = MemoryBlockStore(self._slot, self.total_bytes, self.lazy_sync)
        found.torn = self.torn
        found._state, found._boot = self._synced_state, self._boot + 1
        found.copy = self.copy.crash()
        found._held = dict(self._stored)
        for _, changes, state in itertools.takewhile(lambda one: one[0] <= survived, self._layers):
            found._held.update({name: held for name, held in changes.items() if held})
            found._state = state
        last = survived
        torn = next((one for one in self._layers if one[0] > survived), None)
        if dice and torn:
            blocks = [(name, held) for name, held in torn[1].items() if held]
            shreds = blocks[: dice.randint(0, len(blocks))]
            found._held.update(shreds)
            last = torn[0] if shreds else last
        found._stored = dict(found._held)
        found._used = sum(RECORD_BYTES + len(held.data) for held in found._held.values())
        found._synced_state = found._state
        found._opened_round = survived
        # A round of which nothing was found lends its number to another, as in the real log.
        found._synced = found._ended = found._checkpointed = Round(last + 1)
        found._offset = self._offset
        self._failed = True
        return found

    def _touch(self) -> None:
        self._check()
        self._dirty = True

    def _check(self) -> None:
        if self._failed:
            raise StoreError("this store has failed")


class MemoryDisks:
    """Makes the stores of a cluster."""

    def meta_store(self) -> MemoryMetaStore:
        """A new one."""
        return MemoryMetaStore()

    def block_store(self, slot: Slot, uuid: bytes | None = None) -> MemoryBlockStore:
        """A new, empty one, whose syncs take their time."""
        return MemoryBlockStore(slot, lazy_sync=True, uuid=uuid)
