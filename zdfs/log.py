"""The dataserver's log: segments of checksummed records, written in rounds, synced by a thread.

    append, append, ... end_round          one pwritev into the current segment, a ROUND record last
        `-> Syncer: fdatasync              one for all rounds that wait; then `synced` moves
                                           (a new segment's name is synced, too): at once when
                                           somebody waits for a round, or after LAZY_S

Each record quotes the checksum of the record header before it; header checksums are salted with the
store and the segment, so that no bytes from elsewhere pass for records.  A round stands in one
segment; a full segment is left at the beginning of the next round.  A write or sync that failed is
never tried again: after a failed fsync the kernel calls lost pages clean.

The path of a block's bytes: the frame that was received -> pwritev -> page cache -> disk.  No copy.
"""

import errno
import itertools
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zdfs import checksum, disk, records, schema
from zdfs.checksum import Buffer, Seal
from zdfs.errors import Damaged, StoreError
from zdfs.ids import BlockNo, Epoch, Ino, Name, Round, Slot, Token, Version
from zdfs.measures import Commits
from zdfs.schema import RECORD_BYTES, SEGMENT_HEADER_BYTES, IndexEntry, RecordHeader, SegmentHeader

NO_NAME = Name(Ino(0), BlockNo(0), Version(Token(0), 0))
_SEGMENT_NAME = re.compile(r"segment-([0-9a-f]{16})\.log")
_OPEN_FILES = 64
LAZY_S = 0.2  # a round that nobody waits for: syncs cost others their turn at the disk
_LOOK_BYTES = 1 << 20  # read at once when looking for the next record
_BUFFERS = os.sysconf("SC_IOV_MAX") if os.sysconf("SC_IOV_MAX") > 0 else 1024
_MAGIC = schema.RECORD_MAGIC.to_bytes(4, "big")


class Found(NamedTuple):
    """A record whose header is good and whose body lies inside the file."""

    header: RecordHeader
    crc: int
    offset: int

    @property
    def end(self) -> int:
        return self.offset + RECORD_BYTES + self.header.length


class Bad(NamedTuple):
    """Bytes at `offset` that are no record."""

    offset: int
    reason: str


def segment_path(directory: Path, number: int) -> Path:
    """Where a segment stands."""
    return directory / f"segment-{number:016x}.log"


def segment_numbers(directory: Path) -> list[int]:
    """The segments in a directory, in order."""
    matches = (_SEGMENT_NAME.fullmatch(one.name) for one in directory.iterdir())
    return sorted(int(match[1], 16) for match in matches if match)


def walk(fd: int, salt: int, offset: int, previous: int | None) -> Iterator[Found | Bad]:
    """The records from `offset` on; behind bad bytes it goes on at the next good header.
    `previous`: what the first record must quote; None: unknown."""
    size = os.fstat(fd).st_size
    while offset < size:
        try:
            header, crc = schema.unpack_record(os.pread(fd, RECORD_BYTES, offset), salt)
            if previous is not None and header.previous != previous:
                raise Damaged("a record that does not follow the one before it")
            if offset + RECORD_BYTES + header.length > size:
                raise Damaged("the log ends inside a record's body")
        except Damaged as error:
            yield Bad(offset, str(error))
            offset, previous = _next_header(fd, salt, offset + 1, size), None
            continue
        found = Found(header, crc, offset)
        yield found
        offset, previous = found.end, crc


def _next_header(fd: int, salt: int, offset: int, size: int) -> int:
    """Where the next good record header begins, or `size`."""
    while offset < size:
        chunk = os.pread(fd, _LOOK_BYTES + RECORD_BYTES, offset)
        at = chunk.find(_MAGIC)
        while 0 <= at < _LOOK_BYTES:
            try:
                schema.unpack_record(chunk[at : at + RECORD_BYTES], salt)
            except Damaged:
                at = chunk.find(_MAGIC, at + 1)
            else:
                return offset + at
        offset += _LOOK_BYTES
    return size


def read_body(fd: int, found: Found) -> bytes | None:
    """A record's body; None when it fails its seal."""
    header = found.header
    try:
        body = os.pread(fd, header.length, found.offset + RECORD_BYTES)
    except OSError:  # a bad sector: as good as bad bytes
        return None
    if header.kind == schema.KIND_BLOCK:
        good = len(body) == header.length and checksum.seal(header.name, body) == header.seal
    else:
        good = len(body) == header.length and checksum.crc32c(body) == header.seal.crc32c
    return body if good else None


class Files:
    """The segments, open for reading: the most recently used stay open."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._open: OrderedDict[int, int] = OrderedDict()

    def fd(self, number: int) -> int:
        """A descriptor, good until the next call; OSError when the file can't be opened."""
        fd = self._open.get(number)
        if fd is not None:
            self._open.move_to_end(number)
            return fd
        if len(self._open) >= _OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        path = segment_path(self.directory, number)
        fd = self._open[number] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return fd

    def expect(self, entry: IndexEntry) -> None:
        """This body is read soon: the disk may begin."""
        fd = self.fd(entry.segment)
        os.posix_fadvise(fd, entry.offset, RECORD_BYTES + entry.length, os.POSIX_FADV_WILLNEED)

    def body(self, entry: IndexEntry) -> bytes:
        """The bytes of a record that the index names; Damaged when there are none to be had."""
        try:
            fd = self.fd(entry.segment)
            return os.pread(fd, entry.length, entry.offset + RECORD_BYTES)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EIO):
                raise
            raise Damaged(f"segment {entry.segment:x} of the log: {error.strerror}") from error

    def forget(self, number: int) -> None:
        """Close a segment."""
        fd = self._open.pop(number, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Close all."""
        for number in list(self._open):
            self.forget(number)


class _Job(NamedTuple):
    """A round to be synced; `created`: the first of its segment, whose name is to be synced, too;
    `retired` is a segment that got its last record before it."""

    round: Round
    fd: int
    created: bool
    retired: int | None
    since_s: float


class Syncer:
    """The thread that syncs.  `synced` only grows; `failure` ends everything."""

    def __init__(self, directory: Path, synced: Round, commits: Commits | None = None):
        self._commits = commits
        self._directory = directory
        self._jobs: list[_Job] = []
        self._busy: list[_Job] = []
        self._changed = threading.Condition()
        self._stop = False
        self._wanted = synced  # somebody waits for the rounds up to here; one may not have ended
        self._due = False  # one of those that have is among the jobs
        self.synced = synced
        self.failure: str | None = None
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to sync beside whoever hands over; without it, only `step` does."""
        self._thread = threading.Thread(target=self._run, name="zdfs sync", daemon=True)
        self._thread.start()

    def hand_over(self, number: Round, fd: int, created: bool, retired: int | None) -> None:
        """Sync this round after those before it, and then close `retired`."""
        with self._changed:
            self._jobs.append(_Job(number, fd, created, retired, time.monotonic()))
            self._due |= number <= self._wanted
            if len(self._jobs) == 1 or self._due:
                self._changed.notify_all()

    def want(self, number: Round) -> None:
        """Somebody waits for the rounds up to this one: don't let them lie."""
        with self._changed:
            self._wanted = max(self._wanted, number)
            if self._jobs and self._jobs[0].round <= number <= self._jobs[-1].round:
                self._due = True  # else it is still to end: one sync for all
                self._changed.notify_all()

    def oldest_s(self) -> float:
        """For how long the oldest round has been waiting; 0.0: none is."""
        with self._changed:
            waiting = self._busy or self._jobs
            return time.monotonic() - waiting[0].since_s if waiting else 0.0

    def wait(self) -> None:
        """Until all that was handed over is synced, or it failed."""
        if self._thread is None:
            self.step()
        with self._changed:
            self._due |= bool(self._jobs)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.failure or not (self._jobs or self._busy))

    def drain(self) -> None:
        """Make the eventfd unreadable."""
        try:
            os.eventfd_read(self.eventfd)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Sync what waits and end the thread."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        os.close(self.eventfd)

    def _run(self) -> None:
        while self.failure is None:
            with self._changed:
                while (rest_s := self._rest_s()) != 0.0:
                    self._changed.wait(rest_s)
                if not self._jobs:
                    return
            self.step()

    def _rest_s(self) -> float | None:
        """How long the thread may sleep, unless it is woken; None: for ever; 0.0: it may not."""
        if self._stop or self._due:
            return 0.0
        if not self._jobs:
            return None
        return max(0.0, self._jobs[0].since_s + LAZY_S - time.monotonic())

    def step(self) -> None:
        """Sync all rounds that wait."""
        with self._changed:
            if self.failure is not None or not self._jobs:
                return
            self._busy, self._jobs, self._due = self._jobs, [], False
        began = time.monotonic()
        failure = self._sync(self._busy)
        if self._commits is not None:
            self._commits.took(time.monotonic() - began)
        with self._changed:
            self.failure = failure
            if failure is None:
                self.synced = self._busy[-1].round
            self._busy = []
            self._changed.notify_all()
        os.eventfd_write(self.eventfd, 1)

    def _sync(self, jobs: list[_Job]) -> str | None:
        retired = [job.retired for job in jobs if job.retired is not None]
        try:
            for fd in dict.fromkeys(job.fd for job in jobs):
                os.fdatasync(fd)
            if any(job.created for job in jobs):
                disk.sync_directory(self._directory)
            for fd in retired:
                os.close(fd)
        except OSError as error:
            return f"{self._directory}: a sync failed: {error.strerror}"
        return None


class Log:
    """The end of the log: where records are appended."""

    def __init__(
        self, files: Files, uuid: bytes, boot: int, round_: Round, synced: Round,
        thread: bool = True, commits: Commits | None = None,
    ):  # fmt: skip
        """`thread`: rounds are synced beside us; else whenever `syncer.step` is called."""
        self.files = files
        self.uuid = uuid
        self.boot = boot
        self.round = round_
        self.number = 0
        self.size = 0  # of the current segment, with what is gathered
        self.previous = 0
        self.pending_bytes = 0
        self.dirty = False
        self._buffers: list[Buffer] = []
        self._written = 0  # of the current segment
        self._salt = 0
        self._fd = -1
        self._created = False  # the segment, in this round
        self._retired: int | None = None
        self._failure: str | None = None
        self._commits = commits
        self.syncer = Syncer(files.directory, synced, commits)
        if thread:
            self.syncer.start()

    @property
    def synced(self) -> Round:
        """The newest round on disk with all before it."""
        return self.syncer.synced

    def check(self) -> None:
        """StoreError once anything failed."""
        failure = self._failure or self.syncer.failure
        if failure is not None:
            raise StoreError(f"{failure}; the node stops: look at its disk, then start it again")

    def begin_segment(self, number: int) -> None:
        """Go on in a new segment.  Its first record should be a STATE."""
        assert not self._buffers, "a round stands in one segment"
        head = schema.pack_segment(SegmentHeader(self.uuid, self.boot, number, self.round))
        path = segment_path(self.files.directory, number)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._fail(f"{path}: can't be made: {error.strerror}") from error
        if self._fd >= 0:
            assert self._retired is None, "two segments in one round"
            self._retired = self._fd
        self._fd, self.number, self._created = fd, number, True
        self._buffers = [head]
        self._written, self.size = 0, SEGMENT_HEADER_BYTES
        self._salt = self.previous = schema.record_salt(self.uuid, number)

    def append(
        self, kind: int, name: Name, seal: Seal, epoch: Epoch, start: Slot, body: Buffer
    ) -> int:
        """Gather a record; its offset in the current segment.  The body is not copied: it must not
        change before the round has ended."""
        length = len(body)
        head, crc = schema.pack_record(
            RecordHeader(
                kind, self.boot, self.round, self.synced, self.previous, length,
                name, epoch, start, seal,
            ),
            self._salt,
        )  # fmt: skip
        offset = self.size
        self._buffers.append(head)
        if length:
            self._buffers.append(body)
        self.size += RECORD_BYTES + length
        self.pending_bytes += RECORD_BYTES + length
        self.previous = crc
        self.dirty = True
        return offset

    def append_state(self, state: schema.DataState) -> None:
        """Gather a STATE record."""
        body = records.pack(state)
        seal = Seal(0, checksum.crc32c(body))
        self.append(schema.KIND_STATE, NO_NAME, seal, Epoch(0), Slot(0), body)

    def flush(self) -> None:
        """Write what is gathered into the page cache."""
        self.check()
        buffers, self._buffers = self._buffers, []
        first = 0
        try:
            while first < len(buffers):
                part = buffers[first : first + _BUFFERS]
                done = os.pwritev(self._fd, part, self._written)
                self._written += done
                first += _drop_written(buffers, first, done)
        except OSError as error:
            raise self._fail(f"{self.files.directory}: write: {error.strerror}") from error
        assert self._written == self.size
        self.pending_bytes = 0

    def end_round(self) -> None:
        """Write the round, with its ROUND record, and hand it to the syncing thread."""
        self.check()
        if not self.dirty:
            return
        empty = Seal(0, checksum.crc32c(b""))
        self.append(schema.KIND_ROUND, NO_NAME, empty, Epoch(0), Slot(0), b"")
        if self._commits is not None:
            self._commits.wrote(self.pending_bytes)
        self.flush()
        self.syncer.hand_over(self.round, self._fd, self._created, self._retired)
        self._created, self._retired = False, None
        self.dirty = False
        self.round = Round(self.round + 1)

    def close(self) -> None:
        """Sync what was ended; what was not is lost."""
        self.syncer.close()
        for fd in (self._fd, -1 if self._retired is None else self._retired):
            if fd >= 0:
                os.close(fd)
        self._fd = -1

    def _fail(self, text: str) -> StoreError:
        self._failure = text
        return StoreError(text)


def _drop_written(buffers: list[Buffer], first: int, done: int) -> int:
    """How many whole buffers `done` bytes were; cuts the one that was written in part."""
    for count, buffer in enumerate(itertools.islice(buffers, first, None)):
        if done < len(buffer):
            if done:
                buffers[first + count] = memoryview(buffer)[done:]
            return count
        done -= len(buffer)
    return len(buffers) - first
