"""The dataserver's store: block versions in a log, and an index of them.

    DIR/lock                       held while a process uses DIR
    DIR/segment-<number>.log       the truth (`log`)
    DIR/index/                     where each version stands (`index`); made anew from the log
    DIR/index.damaged-<n>, DIR/set-aside-<n>, DIR/*.cut-<n>      what could not be trusted, kept

Opening replays the log (`replay`), counts `boot` up and writes the state into a new segment before
the first word.  A round's appends are written by `end_round` and synced by a thread, at once if
anybody waits for that (`promise`); the index follows with each `checkpoint`.

**Compaction** copies what is live in a segment to the end of the log, as records of the round
underway, each verified; how dead a segment must be for that depends on the room (`compacting`). A
segment is deleted only by a checkpoint, when neither the index on disk nor the one in memory finds
anything in it: so the copies are synced and the index that points to them is committed (`emptied`
says when). A live record whose bytes are bad is not copied and keeps its segment.

**Space** is looked up once a round (at each append when it is scarce), less what that round and
those being synced may still take, less a reserve for compaction and the index, a part of which is
lent to what is dead: NoSpace comes before anything is stored.
"""

import errno
import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from zdfs import checksum, compacting, disk, harming, limits, replay, schema, upgrading

from zdfs.checksum import Buffer, Seal
from zdfs.disk import log
from zdfs.errors import Damaged, NoSpace, Posix, StartError, StoreError
from zdfs.ids import Epoch, Name, Round, Slot
from zdfs.index import Index
from zdfs.log import Files, Log, segment_numbers, segment_path
from zdfs.measures import Commits
from zdfs.ports import Press, Space
from zdfs.schema import RECORD_BYTES, DataState, IndexEntry, IndexHead, Position
from zdfs.wire import Harm

_INDEX_BYTES = 256  # what a change that waits for a checkpoint may cost in LMDB: entry and copies
_AMPLE_BYTES = 64 * limits.MIB  # with so much room, one look a round is enough


class LogStore:
    """`ports.BlockStore` on a directory.  StartError: in use, another role's, slot's, or newer."""

    def __init__(
        self, directory: Path, slot: Slot, thread: bool = True, commits: Commits | None = None
    ):
        """`thread`: rounds are synced by a thread of the store's own; else only by `sync`."""
        disk.make_directory(directory)
        if (directory / "meta").exists():
            raise StartError(f"{directory}: holds the metaserver's store; give another --store")
        self._directory = directory
        self._lock = disk.Lock(directory)
        try:
            upgrading.keep_index(directory)
            found = replay.reopen(directory, slot)
        except (StartError, StoreError, OSError) as error:
            self._lock.release()
            text = f"{directory}: {error}" if isinstance(error, OSError) else str(error)
            raise StartError(text) from error
        self._files = Files(directory)
        self._reserve = disk.share(directory, limits.DATA_RESERVE_BYTES)
        self._kept = self._spared = self._reserve // limits.RESERVE_PARTS
        self._segment_bytes = compacting.segment_bytes(disk.total_bytes(directory), self._kept)
        self._pending: dict[Name, Buffer] = {}  # of this round, perhaps not written yet
        self._unsynced: deque[tuple[Round, int]] = deque()
        self._room: int | None = None  # for this round, when known
        self._spare: int | None = None  # of the reserve, as of the last checkpoint, when known
        self._compacting: tuple[int, replay.LiveRecords] | None = None
        self._stuck: set[int] = set()  # segments with a live record that can't be copied
        self._emptied: deque[Round] = deque()  # in which a segment's last record was copied
        self._dirty = False
        self._state = (
            upgrading.in_our_format(found.state) if found.state else replay.new_state(slot)
        )
        self._begin(found, thread, commits)

    def _begin(self, found: replay.Replayed, thread: bool, commits: Commits | None) -> None:
        """The first round of this boot: the state, in a new segment, synced."""
        self._index: Index = found.index
        self._boot = found.boot + 1
        self._opened_round = found.opened
        self._sealed = {
            number: segment_path(self._directory, number).stat().st_size
            for number in segment_numbers(self._directory)
        }
        self._log = Log(
            self._files, self._state.uuid, self._boot, Round(found.last + 1), found.opened,
            thread, commits,
        )  # fmt: skip
        try:
            self._log.begin_segment(found.next_segment)
            self._log.append_state(self._state)
            self._dirty = True
            self.end_round()
            self.settle()
            self.checkpoint()
        except StoreError as error:
            self.abandon()
            raise StartError(f"{self._directory}: can't be written: {error}") from error

    # --- rounds --------------------------------------------------------------------------------

    @property
    def round(self) -> Round:
        """The round that a change made now belongs to."""
        return self._log.round

    @property
    def dirty(self) -> bool:
        """Whether that round has any change."""
        return self._dirty

    @property
    def synced(self) -> Round:
        """The newest round on disk with all before it."""
        return self._log.synced

    @property
    def large(self) -> bool:
        """Whether this round would make its segment too large to be moved."""
        return self._log.pending_bytes >= self._segment_bytes

    def safe(self, synced: bool, change: bool) -> Round:
        """Replies that promise no disk report nothing that needs one."""
        return self.synced if synced or change else self.round

    def promise(self, number: Round) -> None:
        """A reply waits for this round: it is synced as soon as it can be."""
        self._log.syncer.want(number)

    def prepare(self) -> bool:
        """Nothing is sent anywhere."""
        return False

    def oldest_unsynced_s(self) -> float:
        """For how long the oldest round has been waiting for its sync; 0.0: none is."""
        return self._log.syncer.oldest_s()

    def end_round(self) -> None:
        """Write the round and hand it to the syncing thread.  StoreError: stop."""
        self._log.check()
        if not self._dirty:
            return
        number, size = self._log.round, self._log.pending_bytes
        self._log.dirty = True  # drops alone are a round, too
        self._log.end_round()
        at = Position(self._log.number, self._log.size, number, self._log.previous, self._boot)
        self._index.end_round(IndexHead(self._state, at))
        self._unsynced.append((number, size))
        self._pending.clear()
        self._room = None
        self._dirty = False

    def fileno(self) -> int | None:
        """Readable when `synced` moved."""
        return self._log.syncer.eventfd

    def woken(self) -> None:
        """Drain `fileno()`.  StoreError: a sync failed, stop."""
        self._log.syncer.drain()
        self._log.check()

    def sync(self) -> None:
        """Sync every ended round now, where no thread does.  A failure shows at the next call."""
        self._log.syncer.step()

    def settle(self) -> None:
        """Wait until every ended round is synced.  StoreError: one failed."""
        self._log.syncer.wait()
        self._log.check()

    def close(self) -> None:
        """Sync what was ended, commit the index, let go.  A round that was not ended is lost."""
        try:
            self.settle()
            self.checkpoint()
        except StoreError as error:
            log.error("%s: closed after a failure: %s", self._directory, error)
        self.abandon()

    def abandon(self) -> None:
        """Let go at once, as a process that ends: what waited for its sync may be lost."""
        self._log.close()
        self._index.close()
        self._files.close()
        self._lock.release()

    # --- identity ------------------------------------------------------------------------------

    @property
    def state(self) -> DataState:
        """The store's identity and vote."""
        return self._state

    @property
    def boot(self) -> int:
        """How often it was opened."""
        return self._boot

    @property
    def opened_round(self) -> Round:
        """The newest round that survived into this boot."""
        return self._opened_round

    def set_state(self, state: DataState) -> None:
        """Replace the state, in this round."""
        assert state.uuid == self._state.uuid, "a store keeps its uuid"
        self._touch()
        self._state = state
        self._log.append_state(state)

    # --- blocks --------------------------------------------------------------------------------

    def append(
        self,
        name: Name,
        seal: Seal,
        epoch: Epoch,
        start: Slot,
        data: Buffer,
        urgent: bool = False,
    ) -> None:
        """Store a version in this round.  `data` must not change before the round has ended."""
        self._append(name, seal, epoch, start, data, 0 if urgent else self._withheld())

    def find(self, name: Name) -> IndexEntry | None:
        """Where a version is; None: not here; Damaged: the index can't say."""
        return self._index.find(name)

    def read(self, name: Name) -> tuple[IndexEntry, Buffer] | None:
        """A version's bytes, verified; None: not here; Damaged: they are bad."""
        entry = self._index.find(name)
        if entry is None:
            return None
        data = self._pending.get(name)
        if data is None:
            data = self._files.body(entry)
        if checksum.seal(name, data) != (entry.crc16, entry.crc32c):
            raise Damaged(f"block {name.block} of inode {name.ino} fails its checksum on disk")
        return entry, data

    def expect(self, names: Sequence[Name]) -> None:
        """These are read next: the disk begins with all of them, as far as the index can say."""
        with suppress(Damaged, OSError):
            for entry in map(self._index.find, names):
                if entry is not None:
                    self._files.expect(entry)

    def drop(self, names: Sequence[Name]) -> None:
        """Forget versions, in the index, with this round; durable once `checkpointed`."""
        if names:
            self._touch()
        for name in names:
            self._index.change(name, None)
            self._pending.pop(name, None)

    def scan(self, after: Name | None, count: int) -> list[tuple[Name, IndexEntry]]:
        """The next `count` versions in the order of names."""
        return self._index.scan(after, count)

    def checkpoint(self) -> None:
        """Commit the index up to the newest synced round; delete segments that nothing needs."""
        self._log.check()
        if self._index.checkpoint(self.synced):
            self._delete_dead()
            self._spare = None
        while self._emptied and self._emptied[0] <= self.checkpointed:
            self._emptied.popleft()

    @property
    def checkpointed(self) -> Round:
        """Drops made in rounds up to this are durable."""
        head = self._index.head
        return Round(0) if head is None else head.position.round

    def space(self) -> Space:
        """The disk, and what of it may still be stored."""
        used, free = sum(self._index.live.values()), max(0, self._left())
        return Space(disk.total_bytes(self._directory), free, used, self._index.blocks)

    # --- upkeep --------------------------------------------------------------------------------

    def winnable(self) -> bool:
        """Whether compaction makes room yet."""
        most = compacting.worth(0.0, Press.SHORT)
        return bool(self._dead_bytes() or self._compacting) or self._victim(most) is not None

    def reclaimable_bytes(self) -> int:
        """What may be stored beyond `space`, once it is won back: less what others have taken of
        the reserve, and nothing where that leaves no room to move anything."""
        if not self.winnable():
            return 0
        found = self._sealed, self._index.live, self._stuck
        lent = self._reserve - self._withheld()
        return max(0, compacting.winnable(*found) - lent + min(0, self._left()))

    def emptied(self) -> Round | None:
        """The round to be synced before the next checkpoint deletes a segment; None: none waits."""
        return self._emptied[0] if self._emptied else None

    def _dead_bytes(self) -> int:
        """Of segments that a checkpoint will delete."""
        return sum(size for number, size in self._sealed.items() if not self._index.live[number])

    def _victim(self, most: float) -> int | None:
        room = self._free()
        self._spared = min(self._kept, max(0, room) // 2)  # with little left, what moves little
        found = self._sealed, self._index.live, self._stuck
        return compacting.victim(*found, most, room - self._spared)

    def compact(self, most_bytes: int, press: Press = Press.IDLE) -> bool:
        """Move up to about `most_bytes` of live records out of a segment with enough dead ones."""
        if self._compacting is None:
            space = self.space()
            share = (space.free_bytes + self._dead_bytes()) / space.total_bytes
            victim = self._victim(compacting.worth(share, press))
            if victim is None:
                return False
            live = replay.live_records(self._directory, self._state.uuid, victim, self._index)
            self._compacting = (victim, live)
        number = self._compacting[0]
        try:
            return self._compact(most_bytes)
        except OSError as error:  # unreadable here and there: it stays, for what can be read of it
            path = segment_path(self._directory, number)
            log.warning("%s: not compacted before the next start: %s", path, error.strerror)
            self._stop_compacting()
            self._stuck.add(number)
            return True

    def _compact(self, most_bytes: int) -> bool:
        assert self._compacting is not None
        number, live = self._compacting
        moved = 0
        for name, entry, body in live:
            if body is None:
                self._stuck.add(number)
                continue
            seal = Seal(entry.crc16, entry.crc32c)
            try:
                self._append(name, seal, entry.epoch, entry.start, body, self._spared)
            except NoSpace:
                self._stop_compacting()
                return moved > 0
            moved += len(body) + RECORD_BYTES
            if moved >= most_bytes:
                return True
        self._stop_compacting()
        if self._index.live[number]:  # bad bytes: it stays until they are repaired
            self._stuck.add(number)
        else:
            self._emptied.append(Round(self.round - (not self._dirty)))  # copied by then
        return True

    def rebuild_index(self) -> None:
        """Set the index aside and make it anew from the log.  Takes as long as reading the log;
        versions that were dropped may come back: reconcile after it.  StoreError: the log can't
        be read."""
        self.end_round()
        self.settle()
        self._index.close()
        self._stop_compacting()
        self._stuck.clear()
        self._emptied.clear()
        try:
            index = replay.remake(self._directory)
            self._index = replay.replay(self._directory, index, self.synced).index
        except OSError as error:
            raise StoreError(f"{self._directory}: its log can't be read: {error}") from error
        self._touch()
        self._log.append_state(self._state)
        self.end_round()
        self.settle()
        self.checkpoint()

    def harm(self, name: Name, harm: int, seed: int) -> tuple[int, bytes, bytes]:
        """Damage a version on purpose: offset in the block, bytes there before and after."""
        entry = self._index.find(name)
        if entry is None:
            raise Posix(errno.ENOENT, f"block {name.block} of inode {name.ino} is not here")
        if harm == Harm.STALE:
            return self._harm_stale(name, entry)
        if harm == Harm.LOSE or not entry.length:
            self.drop([name])
            return 0, b"", b""
        self._log.flush()
        self._pending.clear()
        self._room = None
        before = self._files.body(entry)
        after = harming.damage(before, Harm(harm), seed)
        fd = os.open(segment_path(self._directory, entry.segment), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, after, entry.offset + RECORD_BYTES)
        finally:
            os.close(fd)
        return harming.shown(before, after)

    def _harm_stale(self, name: Name, entry: IndexEntry) -> tuple[int, bytes, bytes]:
        """A lost write: what stood here before, under the name of what should.  The index and the
        record's own seal agree with the bytes, as on a disk that acknowledged and did nothing."""
        before = self._stored_or_pending(name, entry)
        self._log.flush()
        old = harming.older(self._directory, self._state.uuid, name, before)
        if old is None:
            raise Posix(
                errno.ENOENT,
                f"block {name.block} of inode {name.ino} has no older content on this server: "
                "write over it first",
            )
        seal = checksum.seal(name, old)
        self._append(name, seal, entry.epoch, entry.start, old, reserve=0)
        return harming.shown(before, old)

    # --- inside --------------------------------------------------------------------------------

    def _stored_or_pending(self, name: Name, entry: IndexEntry) -> bytes:
        data = self._pending.get(name)
        return self._files.body(entry) if data is None else bytes(data)

    def _append(
        self, name: Name, seal: Seal, epoch: Epoch, start: Slot, data: Buffer, reserve: int
    ) -> None:
        self._demand(RECORD_BYTES + len(data) + _INDEX_BYTES, reserve)
        self._touch()
        offset = self._log.append(schema.KIND_BLOCK, name, seal, epoch, start, data)
        entry = IndexEntry(self._log.number, offset, len(data), *seal, epoch, start)
        self._index.change(name, entry)
        self._pending[name] = data

    def _touch(self) -> None:
        """There will be a change in this round; a full segment is left at its beginning."""
        self._log.check()
        if self._dirty:
            return
        self._dirty = True
        if self._log.size >= self._segment_bytes:
            self._sealed[self._log.number] = self._log.size
            self._spare = None
            self._log.begin_segment(self._log.number + 1)
            self._log.append_state(self._state)

    def _demand(self, need_bytes: int, reserve: int) -> None:
        """NoSpace unless so much may be stored."""
        taken = self._log.pending_bytes + self._index.waiting * _INDEX_BYTES
        if self._room is None or self._room - taken - reserve < _AMPLE_BYTES:
            self._room = self._free()
        if need_bytes <= self._room - taken - reserve:
            return
        raise NoSpace(f"{self._directory}: the disk is full")

    def _left(self) -> int:
        """What may be stored; below 0: so much of what is withheld is taken."""
        taken = self._log.pending_bytes + self._index.waiting * _INDEX_BYTES
        return self._free() - taken - self._withheld()

    def _withheld(self) -> int:
        """The reserve, without the part of it that what is dead may take, as long as it does."""
        if self._spare is None:
            found = self._sealed, self._index.live, self._stuck
            self._spare = compacting.spare(self._reserve - self._kept, *found)
        return self._reserve - self._spare

    def _free(self) -> int:
        """What disk and map have left, less what is written but perhaps not allocated yet."""
        while self._unsynced and self._unsynced[0][0] <= self.synced:
            self._unsynced.popleft()
        room = min(disk.disk_free(self._directory), self._index.room_bytes())
        return room - sum(size for _, size in self._unsynced)

    def _stop_compacting(self) -> None:
        if self._compacting is not None:
            self._compacting[1].close()
            self._compacting = None

    def _delete_dead(self) -> None:
        """Delete the segments in which neither index finds anything."""
        head, index = self._index.head, self._index
        assert head is not None
        dead = [
            number
            for number in self._sealed
            if number < head.position.segment
            and not index.live[number]
            and not index.stored_live[number]
        ]
        for number in dead:
            if self._compacting is not None and self._compacting[0] == number:
                self._stop_compacting()
            self._files.forget(number)
            del self._sealed[number]
            self._stuck.discard(number)
        if dead:
            disk.remove([segment_path(self._directory, number) for number in dead])
