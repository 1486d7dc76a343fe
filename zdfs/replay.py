"""Opening a dataserver's store: what does this directory hold, and up to where is it true?

    nothing                          a new, empty store
    index and log that fit           replay the log behind the index's position
    log without a trusted index      the index is set aside and made anew from the whole log
    files, but no state anywhere     all set aside; a new, empty store: counts as a lost disk

A bad record in the log is **torn** or **damaged**.  Each record says what was synced when it was
written; the largest such number S is known to be on disk.  A bad record of a round above S was
never acknowledged: the log is cut there.  One at or below S is damage: it is skipped, its blocks
come from the neighbours, and what stands behind it counts.  In doubt it is damage, because cutting
loses records and skipping doesn't.

The log is synced before LMDB hears of it.  Nothing is deleted but the bytes behind a cut.
"""

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from zdfs import disk, records, schema
from zdfs.chain import NO_COPIES
from zdfs.disk import log
from zdfs.errors import Damaged, Foreign, StartError
from zdfs.ids import Incarnation, Name, Round, Slot
from zdfs.index import Distrust, Index
from zdfs.log import Bad, Found, read_body, segment_numbers, segment_path, walk
from zdfs.schema import DataState, IndexEntry, Position

_BATCH = 50_000  # replayed changes committed at once

LiveRecords = Generator[tuple[Name, IndexEntry, bytes | None], None, None]


@dataclass(slots=True)
class Replayed:
    """A directory that was read: `opened` is its newest complete round, `last` the newest of which
    anything was seen, so that no number is used twice."""

    index: Index
    state: DataState | None
    boot: int
    opened: Round
    last: Round
    next_segment: int


def reopen(directory: Path, slot: Slot) -> Replayed:
    """Read what a directory holds; `state` is None when that is nothing."""
    numbers = segment_numbers(directory)
    index = _trusted_index(directory, numbers)
    if index is not None and index.head is not None:
        _refuse_other_slot(directory, index.head.state, slot)
    if index is None:
        index = _new_index(directory)
    result = replay(directory, index)
    if result.state is None and numbers:
        index.close()
        _set_all_aside(directory)
        result = replay(directory, _new_index(directory))
    if result.state is not None:
        try:
            _refuse_other_slot(directory, result.state, slot)
        except StartError:
            index.close()
            raise
    return result


def remake(directory: Path) -> Index:
    """Set the index aside and begin an empty one.  The old one is closed."""
    _set_index_aside(directory, "asked for")
    return _new_index(directory)


def replay(directory: Path, index: Index, synced: Round = Round(0)) -> Replayed:
    """Bring an index up to the end of the log; sync, and cut what is torn.  `synced`: a round that
    is known to be on disk."""
    return _Replay(directory, index).run(synced)


class _Replay:
    """One reading of the log behind the index's position."""

    def __init__(self, directory: Path, index: Index):
        self.directory = directory
        self.index = index
        head = index.head
        self.numbers = segment_numbers(directory)
        self.position = Position(0, 0, Round(0), 0, 0) if head is None else head.position
        self.state = None if head is None else head.state
        self.last = self.position.round
        self.complete = self.position.round
        self.boot = self.position.boot
        self.uuid = _log_uuid(directory, self.numbers) if head is None else head.state.uuid
        self.changes = 0

    def run(self, synced: Round) -> Replayed:
        """Replay; the index is complete up to the end of the log, but has no head yet."""
        todo = [number for number in self.numbers if number >= self.position.segment]
        _sync_segments(self.directory, todo)
        synced = max(synced, self._known_synced(todo))
        cut_at = None
        for at, number in enumerate(todo):
            cut_at = self._segment(number, synced)
            if cut_at is not None:
                self._cut(number, cut_at, todo[at + 1 :])
                break
        self.index.commit_replayed()
        self.complete = max(self.complete, synced)
        self.last = max(self.last, self.complete)
        next_segment = 1 + max(self.numbers, default=0)
        return Replayed(self.index, self.state, self.boot, self.complete, self.last, next_segment)

    def _known_synced(self, todo: list[int]) -> Round:
        """The largest synced-through of any record.  It only grows along the log, so the last
        segment that has a good record knows."""
        for number in reversed(todo):
            found = [one for one in self._records(number) if isinstance(one, Found)]
            if found:
                newest = max(one.header.synced for one in found)
                self.last = max(self.last, Round(max(one.header.round for one in found)))
                self.boot = max(self.boot, max(one.header.boot for one in found))
                return max(self.position.round, Round(newest))
        return self.position.round

    def _records(self, number: int) -> Iterator[Found | Bad]:
        if self.uuid is None:
            return
        salt = schema.record_salt(self.uuid, number)
        offset, previous = schema.SEGMENT_HEADER_BYTES, salt
        if number == self.position.segment:
            offset, previous = self.position.offset, self.position.previous
        fd = os.open(segment_path(self.directory, number), os.O_RDONLY | os.O_CLOEXEC)
        try:
            if offset == schema.SEGMENT_HEADER_BYTES:
                yield from self._header(fd, number)
            yield from walk(fd, salt, offset, previous)
        finally:
            os.close(fd)

    def _header(self, fd: int, number: int) -> Iterator[Bad]:
        try:
            header = schema.unpack_segment(os.pread(fd, schema.SEGMENT_HEADER_BYTES, 0))
            if header.uuid != self.uuid or header.number != number:
                raise Damaged("the segment of another store")
            self.boot = max(self.boot, header.boot)
        except Foreign as error:
            raise StartError(f"{self.directory}: {error}") from error
        except Damaged as error:
            yield Bad(0, str(error))

    def _segment(self, number: int, synced: Round) -> int | None:
        """Replay a segment; where to cut it, or None."""
        path = segment_path(self.directory, number)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for one in self._records(number):
                body = read_body(fd, one) if isinstance(one, Found) else None
                if isinstance(one, Found) and body is not None:
                    self._apply(number, one, body)
                    continue
                # Rounds follow one another: a bad record belongs at least to this one.
                round_ = max(self.last_of(one), self.complete + 1)
                reason = one.reason if isinstance(one, Bad) else "its body fails its checksum"
                if round_ > synced:
                    return one.offset
                log.error("%s: damaged at %d: %s; skipped", path, one.offset, reason)
                if isinstance(one, Found):
                    self._apply_bad(number, one)
        finally:
            os.close(fd)
        return None

    def last_of(self, one: Found | Bad) -> int:
        """The least round that these bytes can belong to."""
        return one.header.round if isinstance(one, Found) else 0

    def _apply(self, number: int, found: Found, body: bytes) -> None:
        header = found.header
        self.last = max(self.last, Round(header.round))
        self.boot = max(self.boot, header.boot)
        if header.kind == schema.KIND_BLOCK:
            self._change(header.name, entry_of(number, found))
        elif header.kind == schema.KIND_ROUND:
            self.complete = max(self.complete, Round(header.round))
        elif header.kind == schema.KIND_STATE:
            self.state = records.unpack(DataState, body)

    def _apply_bad(self, number: int, found: Found) -> None:
        """A block whose bytes are bad: known, so that it is repaired, unless an older copy is here
        (then that one serves)."""
        if found.header.kind == schema.KIND_BLOCK and self.index.find(found.header.name) is None:
            self._change(found.header.name, entry_of(number, found))

    def _change(self, name: Name, entry: IndexEntry) -> None:
        self.index.change(name, entry)
        self.changes += 1
        if self.changes % _BATCH == 0:
            self.index.commit_replayed()

    def _cut(self, number: int, offset: int, later: list[int]) -> None:
        path = segment_path(self.directory, number)
        log.info(  # what every kill in the middle of a write leaves
            "%s: cut at %d, and %d segments after it: what follows was never acknowledged",
            path, offset, len(later),
        )  # fmt: skip
        for one in later if offset else [number, *later]:
            torn = segment_path(self.directory, one)
            disk.set_aside(torn, f"{torn.name}.cut")
        if offset:
            os.truncate(path, offset)
            _sync_segments(self.directory, [number])


def entry_of(number: int, found: Found) -> IndexEntry:
    """The index entry of a block record."""
    header = found.header
    return IndexEntry(number, found.offset, header.length, *header.seal, header.epoch, header.start)


def live_records(directory: Path, uuid: bytes, number: int, index: Index) -> LiveRecords:
    """What an index still finds in a segment; without its body where that is bad."""
    salt = schema.record_salt(uuid, number)
    fd = os.open(segment_path(directory, number), os.O_RDONLY | os.O_CLOEXEC)
    try:
        for found in walk(fd, salt, schema.SEGMENT_HEADER_BYTES, None):
            if isinstance(found, Bad) or found.header.kind != schema.KIND_BLOCK:
                continue
            name, entry = found.header.name, entry_of(number, found)
            if _finds(index, name, entry):
                yield name, entry, read_body(fd, found)
    finally:
        os.close(fd)


def _finds(index: Index, name: Name, entry: IndexEntry) -> bool:
    try:
        return index.find(name) == entry
    except Damaged:
        return False


def new_state(slot: Slot) -> DataState:
    """Of a store that is made now."""
    return DataState(
        format=schema.DATA_FORMAT,
        uuid=os.urandom(16),
        cluster=b"",
        slot=slot,
        block_bytes=0,
        life=0,
        promised=Incarnation(0),
        served_incarnation=Incarnation(0),
        served_round=Round(0),
        reconciled=0,
        wanted=0,
        dropped=0,
        damaged=0,
        repaired=0,
        copies=NO_COPIES,
    )


# --- trust -------------------------------------------------------------------------------------


def _trusted_index(directory: Path, numbers: list[int]) -> Index | None:
    """The index, or None: there is none, or it was set aside because it can't be trusted."""
    path = directory / "index"
    if not path.exists():
        if numbers:
            log.warning("%s: no index beside the log: it is made anew from the log", directory)
        return None
    index: Index | None = None
    try:
        faults = disk.find_faults(path)
        if faults:
            raise Distrust(faults[0])
        index = Index(path)
        _compare_with_log(directory, index, numbers)
    except Distrust as reason:
        if index is not None:
            index.close()
        _set_index_aside(directory, str(reason))
        return None
    return index


def _compare_with_log(directory: Path, index: Index, numbers: list[int]) -> None:
    """Distrust when the log doesn't reach as far as the index says."""
    if index.head is None:
        raise Distrust("it is not complete")
    position = index.head.position
    sizes = {number: segment_path(directory, number).stat().st_size for number in numbers}
    if sizes.get(position.segment, 0) < position.offset:
        raise Distrust("the log ends before the place up to which the index was made")
    lost = [number for number, live in index.live.items() if live and number not in sizes]
    if lost:
        raise Distrust(f"{len(lost)} segments that it names are missing")


def _set_index_aside(directory: Path, reason: str) -> None:
    target = disk.set_aside(directory / "index", "index.damaged")
    log.error(
        "%s: the index can't be trusted (%s): kept as %s, made anew from the log",
        directory, reason, target.name,
    )  # fmt: skip


def _new_index(directory: Path) -> Index:
    try:
        return Index(directory / "index")
    except Distrust as error:
        raise StartError(f"{directory}: the index can't be made: {error}") from error


def _set_all_aside(directory: Path) -> None:
    target = directory / "set-aside-new"
    target.mkdir(exist_ok=True)
    for one in directory.iterdir():
        if one.name != "lock" and not one.name.startswith("set-aside-"):
            one.rename(target / one.name)
    disk.sync_directory(target)
    kept = disk.set_aside(target, "set-aside")
    log.error(
        "%s: no state can be recovered from it: all kept in %s; starts as an empty store, which "
        "the cluster fills again", directory, kept.name,
    )  # fmt: skip


def _refuse_other_slot(directory: Path, state: DataState, slot: Slot) -> None:
    if state.slot != slot:
        raise StartError(
            f"{directory}: the store of dataserver {state.slot}, not {slot}; give that index, or "
            "another --store"
        )


def _log_uuid(directory: Path, numbers: list[int]) -> bytes | None:
    """Whose log this is, by its newest good segment header."""
    for number in reversed(numbers):
        with segment_path(directory, number).open("rb") as file:
            try:
                return schema.unpack_segment(file.read(schema.SEGMENT_HEADER_BYTES)).uuid
            except Foreign as error:
                raise StartError(f"{directory}: {error}") from error
            except Damaged:
                continue
    return None


def _sync_segments(directory: Path, numbers: list[int]) -> None:
    for number in numbers:
        fd = os.open(segment_path(directory, number), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    disk.sync_directory(directory)
