"""Processes of a simulated cluster: each works on one of the mounts, and knows what it may read.

An assertion here ends the run at once.  A failure of a call must have its reason in the faults; it
leaves in doubt what the process wrote meanwhile, and nothing else.
"""

import os
import random
import stat
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from errno import EEXIST, ENODATA, ENOENT

from tests.world.mounts import Died, Mount
from tests.world.nemesis import Nemesis
from zdfs import acls, limits, xattrs
from zdfs.calls import Sleep
from zdfs.errors import Failure, Fenced, NoSession, NoSpace, Posix, Silent
from zdfs.ranges import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE

LOG, ROWS, SHARED = b"/log", b"/rows", b"/shared"
REGION = 40  # bytes: not a divisor of the block, so that neighbours share blocks
FAMILY = acls.pack(
    (
        acls.AclEntry(acls.Tag.USER_OBJ, 7),
        acls.AclEntry(acls.Tag.USER, 7, 1000),
        acls.AclEntry(acls.Tag.GROUP_OBJ, 5),
        acls.AclEntry(acls.Tag.MASK, 7),
        acls.AclEntry(acls.Tag.OTHER, 0),
    )
)
LEAST = 3  # rounds after the faults have stopped


class Process(ABC):
    """Rounds of work, each on a mount that is drawn, until there is peace."""

    rest_s = 1.5

    def __init__(self, name: str, mounts: list[Mount], nemesis: Nemesis):
        self.name, self.mounts, self.nemesis = name, mounts, nemesis
        self.world = mounts[0].world
        self.random = random.Random(f"{name} {nemesis.random.random()}")
        self.rounds = self.failures = 0

    async def run(self) -> None:
        """All rounds."""
        last = 0
        while last < LEAST:
            last += self.nemesis.stopped
            self.rounds += 1
            mount = await self.seat()
            try:
                await self.round(mount)
                sure = True
            except Failure as error:
                sure = False
                self.failures += 1
                self.say(mount, f"failed: {error!r}")
                assert self.expected(error), f"{self.name}: failed without a reason: {error!r}"
            self.ended(sure)
            await Sleep(self.random.uniform(0, self.rest_s))

    async def seat(self) -> Mount:
        """A mount to work on, as soon as it is mounted."""
        place = self.random.choice(self.places())
        while not self.mounts[place].ready:
            await Sleep(0.1)
        return self.mounts[place]

    def places(self) -> range:
        """Which mounts it works on."""
        return range(len(self.mounts))

    def expected(self, error: Failure) -> bool:
        """Whether the faults explain it."""
        faults = self.nemesis.faults
        if isinstance(error, Died):
            return faults.mounts > 0
        if isinstance(error, Silent):  # a read gives up when nobody who has the block answers
            recent = self.world.now - self.nemesis.crashed_at < 2 * limits.GIVE_UP_READ_S
            # With one server skipped, each message to another copy that is lost holds the answers
            # of the metaserver for a timeout; three in a row, and a read gives up.
            held = faults.skips > 0 and error.text.endswith("the metaserver is silent")
            return faults.may_end_sessions or (faults.crashes and recent) or held
        if isinstance(error, NoSpace):
            return faults.full > 0
        return faults.may_end_sessions and isinstance(error, Fenced | NoSession)

    @property
    def unsure(self) -> bool:
        """Whether a change may have been made though nobody could say so."""
        return self.nemesis.faults.may_end_sessions or self.nemesis.faults.mounts > 0

    @abstractmethod
    async def round(self, mount: Mount) -> None:
        """One round of work."""

    def ended(self, sure: bool) -> None:
        """A round is over; `sure`: what it closed is there for good."""

    def check(self, mount: Mount) -> None:
        """After everything, on each mount: what must be there."""

    def say(self, mount: Mount, text: str) -> None:
        """A line of the story."""
        self.world.say(f"{self.name} on {mount.address} {text}")

    async def pause(self, chance: float, most_s: float) -> None:
        """Perhaps let time pass."""
        if self.random.random() < chance:
            await Sleep(self.random.uniform(0, most_s))

    async def finish(self, mount: Mount, handle: int) -> None:
        """close(2), and what it takes until it counts: with --writeback, where mounts may die or
        disks be full, an fsync."""
        risky = self.unsure or self.nemesis.faults.full > 0
        if mount.writeback and (risky or self.random.random() < 0.2):
            await mount.call(mount.volume.fsync(handle))
        await mount.call(mount.volume.flush(handle))

    async def close(self, mount: Mount, handle: int, work: Awaitable[None]) -> None:
        """Work on an open file, which is released also when that fails."""
        try:
            await work
        finally:
            if not mount.dead:
                mount.spawn(mount.volume.release(handle))


def content(mount: Mount, path: bytes) -> bytes:
    """A file's bytes, read by nobody in particular."""
    handle, _ = mount.do(mount.volume.open(path, os.O_RDONLY))
    found = bytes(mount.do(mount.volume.read(handle, 1 << 20, 0)))
    mount.do(mount.volume.release(handle))
    return found


class Owner(Process):
    """Reads and writes its own bytes of blocks that it shares with others."""

    def __init__(self, number: int, mounts: list[Mount], nemesis: Nemesis):
        super().__init__(f"owner{number}", mounts, nemesis)
        self.low = number * REGION
        self.may = [{0} for _ in range(REGION)]  # what each byte may be
        self.last = [{0} for _ in range(REGION)]  # ... in the end
        self.written: dict[int, int] = {}  # in this round

    def _look(self, found: bytes, where: str) -> None:
        for at, allowed in enumerate(self.may):
            byte = found[at] if at < len(found) else 0
            assert byte in allowed, (
                f"{self.name}, {where}: byte {self.low + at} is {byte}, may be {allowed}; "
                f"read {found!r}"
            )

    async def round(self, mount: Mount) -> None:
        """Some writes, each read back, and a close."""
        handle, _ = await mount.call(mount.volume.open(SHARED, os.O_RDWR))
        await self.close(mount, handle, self._work(mount, handle))

    async def _work(self, mount: Mount, handle: int) -> None:
        volume = mount.volume
        for _ in range(self.random.randint(1, 4)):
            found = bytes(await mount.call(volume.read(handle, REGION, self.low)))
            self._look(found, f"on {mount.address}")
            await self.random.choice([self._write, self._write, self._clear])(mount, handle)
            await self.pause(0.5, 0.8)
        if self.random.random() < 0.3:
            await mount.call(volume.fsync(handle))
        await self.finish(mount, handle)
        self.say(mount, "closed")

    async def _write(self, mount: Mount, handle: int) -> None:
        first = self.random.randrange(REGION)
        end = self.random.randint(first + 1, REGION)
        value = self.random.randint(1, 255)
        self.say(mount, f"writes {value} at {self.low + first}..{self.low + end}")
        for at in range(first, end):
            self.may[at] = self.may[at] | {value}
        file = mount.volume.handles[handle].file
        losses, data, offset = file.losses, bytes([value]) * (end - first), self.low + first
        assert await mount.call(mount.volume.write(handle, data, offset)) == len(data)
        self.written |= dict.fromkeys(range(first, end), value)
        found = bytes(await mount.call(mount.volume.read(handle, len(data), offset)))
        if file.losses == losses:
            assert found == data, f"{self.name}: wrote {value}, read back {found!r}"

    async def _clear(self, mount: Mount, handle: int) -> None:
        """Punch a hole, at its ends in blocks of its neighbours, or zero the range."""
        first = self.random.randrange(REGION)
        end = self.random.randint(first + 1, REGION)
        mode = self.random.choice([PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE])
        self.say(mount, f"clears {self.low + first}..{self.low + end} by {mode:#x}")
        for at in range(first, end):
            self.may[at] = self.may[at] | {0}
        file = mount.volume.handles[handle].file
        losses, offset = file.losses, self.low + first
        await mount.call(mount.volume.fallocate(handle, mode, offset, end - first))
        self.written |= dict.fromkeys(range(first, end), 0)
        found = bytes(await mount.call(mount.volume.read(handle, end - first, offset)))
        if file.losses == losses:
            assert not any(found), f"{self.name}: cleared, read back {found!r}"

    def ended(self, sure: bool) -> None:
        """What was closed replaces what was before."""
        if sure:
            for at, value in self.written.items():
                self.last[at] = {value}
                # With --writeback, a mount whose flush can't move is not waited for by readers.
                self.may[at] = self.may[at] if self.mounts[0].writeback else {value}
        else:
            self.last = [last | may for last, may in zip(self.last, self.may)]
        self.written.clear()

    def check(self, mount: Mount) -> None:
        """Its bytes."""
        found = content(mount, SHARED)[self.low : self.low + REGION]
        self.may = self.last
        self._look(found, f"in the end on {mount.address}")


class Appender(Process):
    """Appends records to a log that others append to."""

    def __init__(self, number: int, mounts: list[Mount], nemesis: Nemesis):
        super().__init__(f"appender{number}", mounts, nemesis)
        self.records: list[bytes] = []
        self.kept: list[bytes] = []  # acknowledged by a close
        self._now: list[bytes] = []

    async def round(self, mount: Mount) -> None:
        """Some records, and a close."""
        handle, _ = await mount.call(mount.volume.open(LOG, os.O_WRONLY | os.O_APPEND))
        await self.close(mount, handle, self._work(mount, handle))

    async def _work(self, mount: Mount, handle: int) -> None:
        for number in range(self.random.randint(1, 3)):
            filling = "x" * self.random.randint(0, 90)
            record = f"<{self.name}.{self.rounds}.{number}.{filling}>".encode()
            self._now.append(record)
            assert await mount.call(mount.volume.write(handle, record, 0)) == len(record)
            await self.pause(0.4, 0.8)
        await self.finish(mount, handle)
        self.say(mount, f"appended {len(self._now)}")

    def ended(self, sure: bool) -> None:
        """Its records count, or may."""
        self.records += self._now
        self.kept += self._now if sure else []
        self._now = []

    def check(self, mount: Mount) -> None:
        """Each record once; one that was not acknowledged, at most."""
        log = content(mount, LOG)
        for record in self.records:
            least = record in self.kept
            assert least <= log.count(record) <= 1, f"{record!r}: {log.count(record)} in {log!r}"


class Rewriter(Process):
    """Empties a file and writes it anew, without a zero."""

    rest_s = 1.0

    def __init__(self, mounts: list[Mount], nemesis: Nemesis):
        super().__init__("rewriter", mounts, nemesis)
        self.new = self.last = b""
        self.known = True

    async def round(self, mount: Mount) -> None:
        """All of the file."""
        self.known = False
        self.new = bytes([self.rounds % 255 + 1]) * self.random.randint(1, 400)
        handle, _ = await mount.call(mount.volume.open(ROWS, os.O_WRONLY | os.O_TRUNC))
        await self.close(mount, handle, self._work(mount, handle))

    async def _work(self, mount: Mount, handle: int) -> None:
        assert await mount.call(mount.volume.write(handle, self.new, 0)) == len(self.new)
        await self.finish(mount, handle)
        self.say(mount, f"wrote {len(self.new)} of {self.new[0]}")

    def ended(self, sure: bool) -> None:
        """The newest content, if that is certain."""
        self.known, self.last = sure, self.new

    def check(self, mount: Mount) -> None:
        """What was written last, all of it and nothing else."""
        found = content(mount, ROWS)
        assert not self.known or found == self.last, f"read {found!r}, wrote {self.last!r}"
        assert 0 not in found


class Labeller(Process):
    """Gives a file of its own attributes, and a directory a default list, and takes them away."""

    rest_s = 1.0

    def expected(self, error: Failure) -> bool:
        """A session that died leaves it open whether a change was made."""
        told = isinstance(error, Posix) and error.number in (EEXIST, ENODATA)
        return super().expected(error) or (told and self.unsure)

    async def round(self, mount: Mount) -> None:
        """What was set is there at once, also if its absence was just asked for; and then gone."""
        call, volume = mount.call, mount.volume
        path = f"/{self.name}.{self.rounds}".encode()
        await call(volume.make(path, stat.S_IFDIR | 0o700, 0, 0, umask=0o077))
        for name in (b"user.a", b"user.b"):
            await self._lacks(mount, path, name)
            await call(volume.setxattr(path, name, path, xattrs.CREATE))
            assert await call(volume.getxattr(path, name)) == path
            await self.pause(0.3, 0.8)
        assert await call(volume.listxattr(path)) == [b"user.a", b"user.b"]
        await call(volume.removexattr(path, b"user.a"))
        await self._lacks(mount, path, b"user.a")
        await self._lacks(mount, path, b"security.capability")
        await call(volume.setxattr(path, acls.DEFAULT, FAMILY, 0))
        below = path + b"/file"
        await call(volume.make(below, stat.S_IFREG | 0o664, 0, 0, umask=0o777))
        assert (await call(volume.lookup(below))).mode == stat.S_IFREG | 0o660
        mask = acls.unpack(await call(volume.getxattr(below, acls.ACCESS)))[3]
        assert mask == (acls.Tag.MASK, 0o6, acls.NO_ID), mask
        self.say(mount, f"labelled {path!r}")

    async def _lacks(self, mount: Mount, path: bytes, name: bytes) -> None:
        try:
            found = await mount.call(mount.volume.getxattr(path, name))
        except Posix as error:
            assert error.number == ENODATA, error
        else:
            raise AssertionError(f"{path!r} has {name!r}: {found!r}")


class Watcher(Process):
    """Reads what the rewriter writes: no zero was ever in it."""

    rest_s = 0.5

    async def round(self, mount: Mount) -> None:
        """Some reads."""
        handle, _ = await mount.call(mount.volume.open(ROWS, os.O_RDONLY))
        await self.close(mount, handle, self._work(mount, handle))

    async def _work(self, mount: Mount, handle: int) -> None:
        for _ in range(self.random.randint(1, 4)):
            found = bytes(await mount.call(mount.volume.read(handle, 1000, 0)))
            assert 0 not in found, f"zeros on {mount.address}: {found!r}"
            await self.pause(1.0, 1.0)


class Dater(Process):
    """Writes a file of its own, sets its times and lets everybody read it, and closes it."""

    rest_s = 1.0

    def __init__(self, mounts: list[Mount], nemesis: Nemesis):
        super().__init__("dater", mounts, nemesis)
        self.set: dict[bytes, tuple[int, int, int]] = {}  # mode, atime, mtime
        self._now: dict[bytes, tuple[int, int, int]] = {}

    async def round(self, mount: Mount) -> None:
        """As tar does."""
        path = f"/{self.name}.{self.rounds}".encode()
        handle = await mount.call(mount.volume.create(path, 0o600, 0, 0, os.O_WRONLY))
        await self.close(mount, handle, self._work(mount, handle, path))

    async def _work(self, mount: Mount, handle: int, path: bytes) -> None:
        call, volume = mount.call, mount.volume
        ino = volume.handles[handle].file.ino
        await call(volume.write(handle, path, 0))
        await self.pause(0.3, 0.8)
        mode, times = self.random.choice([0o644, 0o755, 0o400]), (self.rounds, self.rounds * 10**9)
        await call(volume.set_ino(ino, atime_ns=times[0], mtime_ns=times[1]))
        await call(volume.set_ino(ino, uid=0, gid=0))
        await self.pause(0.3, 0.8)
        found = await call(volume.set_ino(ino, mode=mode))
        before = found.ctime_ns
        wanted = stat.S_IFREG | mode, *times
        kept = (found.mode, found.atime_ns, found.mtime_ns) == wanted
        await self.finish(mount, handle)
        assert kept, found  # else it was lost, with the session, and the close should have said so
        found = await call(volume.lookup(path))
        assert (found.mode, found.atime_ns, found.mtime_ns) == wanted, found
        assert found.ctime_ns >= before or self.nemesis.faults.clocks, (found, before)
        self._now[path] = wanted

    def ended(self, sure: bool) -> None:
        """What was closed is so."""
        self.set |= self._now if sure else {}
        self._now = {}

    def check(self, mount: Mount) -> None:
        """All of it, with the name as content."""
        for path, wanted in self.set.items():
            found = mount.do(mount.volume.lookup(path))
            assert (found.mode, found.atime_ns, found.mtime_ns) == wanted, (path, found)
            assert content(mount, path) == path


class Namer(Process):
    """Makes, renames, links and removes names of its own: each change is made exactly once."""

    rest_s = 1.0

    def expected(self, error: Failure) -> bool:
        """A session that died leaves it open whether a change was made."""
        told = isinstance(error, Posix) and error.number in (EEXIST, ENOENT)
        return super().expected(error) or (told and self.unsure)

    async def round(self, mount: Mount) -> None:
        """One file's life."""
        call, volume = mount.call, mount.volume
        one = f"/{self.name}.{self.rounds}".encode()
        other = one + b".b"
        handle = await call(volume.create(one, 0o644, 0, 0, os.O_RDWR | os.O_EXCL))
        await self.close(mount, handle, self._fill(mount, handle, one))
        await call(volume.rename(one, other))
        await call(volume.link(other, one))
        await call(volume.unlink(other))
        handle, _ = await call(volume.open(one, os.O_RDONLY))
        await self.close(mount, handle, self._read(mount, handle, one))
        await call(volume.unlink(one))
        for path in (one, other):
            try:
                await call(volume.lookup(path))
            except Posix as error:
                assert error.number == ENOENT, error
            else:
                raise AssertionError(f"{path!r} was removed and is there")

    async def _fill(self, mount: Mount, handle: int, data: bytes) -> None:
        await mount.call(mount.volume.write(handle, data, 0))
        await self.finish(mount, handle)

    async def _read(self, mount: Mount, handle: int, data: bytes) -> None:
        found = bytes(await mount.call(mount.volume.read(handle, 100, 0)))
        assert found == data, f"{data!r} holds {found!r}"
