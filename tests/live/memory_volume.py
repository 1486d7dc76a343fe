"""A file system in memory, mounted in a process of its own: what the mount's tests stand on.

    python -P -m live.memory_volume DIRECTORY [-f --herald FD] [--log FILE] [-o OPTION]

Names steer it, all in the root.  `wait...` makes read, write and fsync block until a file `.go` is
made (in steps that look at kernel.interrupted), `wait-close` only flush; `raise-KIND` makes them
raise; pages of `keep...` may be kept; making `invalidate-NAME` drops those of NAME.  --trace FILE
gets a line per call, --saved FILE the names in the root, by sync_all.
"""

import argparse
import errno
import logging
import os
import stat
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zdfs import kernel, limits, locks, mount, ranges, starting
from zdfs.calls import Condition, Trap, Wait, notify, wait
from zdfs.errors import Damaged, Fenced, Interrupted, NoSpace, Posix, StartError, Unreachable
from zdfs.ids import Epoch, Ino, Session, Slot
from zdfs.ports import Listed, Owner
from zdfs.wire import Attributes, FileLock, Space, Span

KINDS: dict[str, BaseException] = {
    "exit": SystemExit(0),
    "keyboard": KeyboardInterrupt(),
    "recursion": RecursionError("too deep"),
    "value": ValueError("unexpected"),
    "assertion": AssertionError(),
    "memory": MemoryError(),
    "oserror": OSError(errno.ENOTTY, "not of ours"),
    "damaged": Damaged("every copy"),
    "fenced": Fenced(),
    "space": NoSpace(),
    "unreachable": Unreachable(),
    "loop": Posix(errno.ELOOP),
    "zero": Posix(0),
    "stop": StopIteration(),
    "generator": GeneratorExit(),
}


class Driver:
    """Runs coroutines in the calling thread; the volume's lock is free while one waits."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def __call__(self, coroutine: Coroutine[Trap, Any, Any]) -> Any:
        with self.lock:
            send: Any = coroutine.send
            value: Any = None
            while True:
                try:
                    trap = send(value)
                except StopIteration as stop:
                    return stop.value
                assert isinstance(trap, Wait)
                try:
                    value, send = self._wait(trap), coroutine.send
                except Interrupted as error:
                    value, send = error, coroutine.throw

    def _wait(self, trap: Wait) -> bool:
        woken = threading.Event()
        trap.condition.waiters.append(woken.set)
        with self._released():
            while not woken.wait(limits.INTERRUPT_POLL_S):
                if kernel.interrupted():
                    raise Interrupted()
        return True

    @contextmanager
    def _released(self) -> Iterator[None]:
        self.lock.release()
        try:
            yield
        finally:
            self.lock.acquire()


class Node:
    """A file of any type."""

    def __init__(self, ino: int, mode: int, uid: int, gid: int):
        self.ino, self.mode, self.uid, self.gid = ino, mode, uid, gid
        self.rdev = 0
        self.target = b""
        self.data = bytearray()
        self.names: dict[bytes, Node] = {}
        self.xattrs: dict[bytes, bytes] = {}
        self.nlink = 2 if stat.S_ISDIR(mode) else 1
        self.atime = self.mtime = self.ctime = time.time_ns()
        self.name = b""  # the one that it was made with

    def attributes(self) -> Attributes:
        return Attributes(
            *(Ino(self.ino), self.mode, self.nlink, self.uid, self.gid, self.rdev),
            *(len(self.data), len(self.data), self.atime, self.mtime, self.ctime),
            *(1, Epoch(1), Slot(0), len(self.xattrs)),
        )

    def touch(self) -> None:
        self.mtime = self.ctime = time.time_ns()


class MemoryVolume:
    """ports.Volume in memory."""

    block_bytes = 4096
    on_change: Any = None  # nobody else changes anything

    def __init__(self, saved: Path | None = None, trace: Path | None = None):
        self.saved = saved
        self.root = Node(1, stat.S_IFDIR | 0o777, os.getuid(), os.getgid())
        self.nodes: dict[int, Node] = {1: self.root}
        self.handles: dict[int, tuple[Node, int]] = {}
        self.last = 1
        self.go = Condition()
        self.released = False
        self.locks, self.unlocked = locks.Locks(), Condition()
        self.trace = trace.open("w") if trace else None

    def last_place(self, ino: int) -> None:
        return None

    def last_known(self, ino: int) -> None:
        return None

    def names_in(self, ino: int) -> tuple[bytes, ...]:
        return ()

    # --- helpers -------------------------------------------------------------------------------

    def note(self, *words: object) -> None:
        if self.trace is not None:
            print(*words, file=self.trace, flush=True)

    def find(self, parent: int, name: bytes) -> Node:
        if len(name) > limits.NAME_BYTES:
            raise Posix(errno.ENAMETOOLONG)
        names = self.nodes[parent].names
        if name not in names:
            raise Posix(errno.ENOENT)
        return names[name]

    def add(self, parent: int, name: bytes, mode: int, uid: int, gid: int) -> Node:
        directory = self.nodes[parent]
        if len(name) > limits.NAME_BYTES:
            raise Posix(errno.ENAMETOOLONG)
        if name in directory.names:
            raise Posix(errno.EEXIST)
        self.last += 1
        directory.names[name] = made = Node(self.last, mode, uid, gid)
        self.nodes[made.ino], made.name = made, name
        directory.touch()
        if name == b".go":
            self.released = True
            waiters, self.go.waiters = self.go.waiters, []
            for wake in waiters:
                wake()
        if name.startswith(b"invalidate-"):  # drops the kernel's pages of another name
            kernel.forget_inode(Ino(self.find(parent, name.removeprefix(b"invalidate-")).ino))
        return made

    def handle(self, node: Node, flags: int) -> int:
        self.last += 1
        self.handles[self.last] = (node, flags)
        return self.last

    async def misbehave(self, name: bytes) -> None:
        if name.startswith(b"raise-"):
            raise KINDS[name.removeprefix(b"raise-").decode()]
        while name.startswith(b"wait") and not self.released:
            await wait(self.go)

    # --- the protocol --------------------------------------------------------------------------

    async def lookup_at(self, parent: int, name: bytes) -> Attributes:
        return self.find(parent, name).attributes()

    async def stat_ino(self, ino: int) -> Attributes:
        return self.nodes[ino].attributes()

    async def open_ino(self, ino: int, flags: int) -> tuple[int, bool]:
        node = self.nodes[ino]
        if flags & os.O_TRUNC:
            del node.data[:]
            node.touch()
        self.note("open", node.name)
        return self.handle(node, flags), node.name.startswith(b"keep")

    def may_be_mapped(self, handle: int) -> bool:
        return False

    def known_mode(self, handle: int) -> int:
        return self.handles[handle][0].mode

    def outdated(self, handle: int) -> bool:
        return False

    async def create_at(
        self, parent: int, name: bytes, mode: int, uid: int, gid: int, flags: int, umask: int = 0
    ) -> tuple[int, Attributes]:
        node = self.add(parent, name, mode & ~umask, uid, gid)
        return self.handle(node, flags), node.attributes()

    async def read(self, handle: int, size: int, offset: int) -> bytes | memoryview:
        node = self.handles[handle][0]
        self.note("read", node.name, offset, size)
        if node.name == b"unsendable":
            return 5 * [0]  # type: ignore[return-value]
        await self.misbehave(node.name if node.name != b"wait-close" else b"")
        return memoryview(bytes(node.data))[offset : offset + size]

    async def write(self, handle: int, data: memoryview, offset: int, append: bool) -> int:
        node = self.handles[handle][0]
        self.note("write", node.name, offset, len(data))
        await self.misbehave(node.name if node.name != b"wait-close" else b"")
        if append:
            offset = len(node.data)
        if offset > len(node.data):
            node.data.extend(bytes(offset - len(node.data)))
        node.data[offset : offset + len(data)] = data
        node.touch()
        return len(data)

    async def flush(self, handle: int) -> None:
        name = self.handles[handle][0].name
        if name == b"wait-close":
            await self.misbehave(name)

    async def fsync(self, handle: int) -> None:
        name = self.handles[handle][0].name
        self.note("fsync", name)
        await self.misbehave(name)

    async def fsyncdir(self) -> None:
        self.note("fsyncdir")

    async def release(self, handle: int) -> None:
        self.note("release", self.handles.pop(handle)[0].name)

    async def truncate_ino(self, ino: int, handle: int | None, size: int) -> None:
        node = self.nodes[ino]
        self.note("truncate", node.name, "by handle" if handle else "by inode", size)
        del node.data[size:]
        node.data.extend(bytes(size - len(node.data)))
        node.touch()

    async def make_at(
        self, parent: int, name: bytes, mode: int, uid: int, gid: int, rdev: int = 0,
        target: bytes = b"", umask: int = 0,
    ) -> Attributes:  # fmt: skip
        made = self.add(parent, name, mode & ~umask, uid, gid)
        made.rdev, made.target = rdev, target
        made.data[:] = target
        if stat.S_ISDIR(mode):
            self.nodes[parent].nlink += 1
        return made.attributes()

    async def unlink_at(self, parent: int, name: bytes) -> None:
        self.note("unlink", name)
        self.find(parent, name).nlink -= 1
        del self.nodes[parent].names[name]

    async def rmdir_at(self, parent: int, name: bytes) -> None:
        if self.find(parent, name).names:
            raise Posix(errno.ENOTEMPTY)
        self.nodes[parent].names.pop(name).nlink = 0
        self.nodes[parent].nlink -= 1

    async def readlink_ino(self, ino: int) -> bytes:
        return self.nodes[ino].target

    async def link_at(self, ino: int, parent: int, name: bytes) -> Attributes:
        self.nodes[parent].names[name] = node = self.nodes[ino]
        node.nlink += 1
        return node.attributes()

    async def rename_at(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0
    ) -> None:
        self.note("rename", name, new_name, flags)
        node, source, target = self.find(parent, name), self.nodes[parent], self.nodes[new_parent]
        replaced = target.names.get(new_name)
        if flags & 1 and replaced is not None:
            raise Posix(errno.EEXIST)
        if new_name.startswith(b"forbidden"):
            raise Posix(errno.EPERM)
        if flags & 2:
            if replaced is None:
                raise Posix(errno.ENOENT)
            source.names[name], target.names[new_name] = replaced, node
            return
        if replaced is not None:
            replaced.nlink -= 1
        del source.names[name]
        target.names[new_name] = node

    async def set_ino(
        self, ino: int, *, mode: int | None = None, uid: int | None = None, gid: int | None = None,
        atime_ns: int | None = None, mtime_ns: int | None = None,
        atime_now: bool = False, mtime_now: bool = False,
    ) -> Attributes:  # fmt: skip
        times = [
            "now" if now else given for now, given in ((atime_now, atime_ns), (mtime_now, mtime_ns))
        ]
        self.note("set", mode, uid, gid, *times)
        node, clock = self.nodes[ino], time.time_ns()
        if mode is not None:
            node.mode = stat.S_IFMT(node.mode) | mode
        node.uid = node.uid if uid is None else uid
        node.gid = node.gid if gid is None else gid
        if atime_ns is not None:
            node.atime = clock if atime_now else atime_ns
        if mtime_ns is not None:
            node.mtime = clock if mtime_now else mtime_ns
        node.ctime = clock
        return node.attributes()

    # --- ranges and locks ----------------------------------------------------------------------

    async def fallocate(self, handle: int, mode: int, offset: int, length: int) -> None:
        node = self.handles[handle][0]
        self.note("fallocate", node.name, mode, offset, length)
        await self.misbehave(node.name)
        if not mode & ranges.KEEP_SIZE:
            node.data.extend(bytes(max(0, offset + length - len(node.data))))
        if mode & (ranges.PUNCH_HOLE | ranges.ZERO_RANGE):
            end = min(offset + length, len(node.data))
            node.data[offset:end] = bytes(end - offset)
        node.touch()

    async def lseek(self, handle: int, offset: int, whence: int) -> int:
        node = self.handles[handle][0]
        self.note("lseek", node.name, offset, whence)
        if offset >= len(node.data):
            raise Posix(errno.ENXIO)
        return offset if whence == os.SEEK_DATA else len(node.data)

    async def copy_file_range(
        self, source: int, offset: int, target: int, at: int, length: int
    ) -> int:
        node = self.handles[source][0]
        self.note("copy_file_range", node.name, offset, at, length)
        data = bytes(node.data[offset : offset + length])
        return await self.write(target, memoryview(data), at, False)

    def claim(self, handle: int, owner: Owner, span: Span) -> tuple[locks.Owner, FileLock]:
        """As a metaserver with one mount sees it."""
        ino = Ino(self.handles[handle][0].ino)
        claim = FileLock(ino, owner.kind, owner.number, owner.pid, span)
        return locks.Owner(Session(0), owner.number), claim

    async def lock(self, handle: int, owner: Owner, span: Span, waits: bool) -> None:
        who, claim = self.claim(handle, owner, span)
        while self.locks.conflict(who, claim):
            if not waits:
                raise Posix(errno.EAGAIN)
            await wait(self.unlocked)
        self.locks.lock(who, claim)

    async def unlock(self, handle: int, owner: Owner, span: Span) -> None:
        who, claim = self.claim(handle, owner, span)
        if self.locks.unlock(who, (claim.ino, claim.kind), span.first, span.last):
            notify(self.unlocked)

    async def test_lock(self, handle: int, owner: Owner, span: Span) -> FileLock | None:
        found = self.locks.conflict(*self.claim(handle, owner, span))
        return None if found is None else found[1]

    def stale(self, handle: int) -> int | None:
        return None

    def dropped(self, handle: int, change: int) -> None:
        """Nothing ever is."""

    # --- directories, extended attributes ------------------------------------------------------

    async def opendir_ino(self, ino: int) -> int:
        return self.handle(self.nodes[ino], 0)

    async def readdir(
        self, handle: int, offset: int, plus: bool = True, most: int = sys.maxsize
    ) -> list[Listed]:
        node = self.handles[handle][0]
        every: list[tuple[bytes, Node]] = [(b".", node), (b"..", node)]
        every += sorted(node.names.items(), key=lambda pair: pair[0])
        return [
            Listed(
                name,
                Ino(one.ino),
                one.mode,
                one.attributes() if place > 1 else None,
                place + 1,
            )
            for place, (name, one) in list(enumerate(every))[offset : offset + min(100, most)]
        ]

    async def releasedir(self, handle: int) -> None:
        del self.handles[handle]

    def lacks(self, ino: int, name: bytes) -> bool:
        return False

    async def getxattr_ino(self, ino: int, name: bytes) -> bytes:
        self.note("getxattr", name, ino)
        try:
            return self.nodes[ino].xattrs[name]
        except KeyError:
            raise Posix(errno.ENODATA) from None

    async def setxattr_ino(
        self, ino: int, name: bytes, value: bytes, flags: int, ends_sgid: bool = False
    ) -> None:
        self.nodes[ino].xattrs[name] = value

    async def listxattr_ino(self, ino: int) -> list[bytes]:
        return list(self.nodes[ino].xattrs)

    async def removexattr_ino(self, ino: int, name: bytes) -> None:
        if self.nodes[ino].xattrs.pop(name, None) is None:
            raise Posix(errno.ENODATA)

    async def statfs(self) -> Space:
        return Space(1 << 30, 1 << 29, 1000, 999)

    async def sync_all(self) -> None:
        self.note("sync_all")
        if self.saved is not None:
            self.saved.write_text("".join(f"{name!r}\n" for name in sorted(self.root.names)))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("-f", action="store_true", dest="foreground")
    parser.add_argument("-o", action="append", default=[])
    parser.add_argument("--herald", type=int)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--saved", type=Path)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--refuse", default="")
    given = parser.parse_args(arguments)
    logging.basicConfig(filename=given.log, level=logging.INFO)
    herald = starting.Herald(given.herald, given.log)
    try:
        starting.prepare(given.directory)
        if not given.foreground:
            command = [sys.executable, "-P", "-m", "live.memory_volume", *arguments]
            return starting.start_detached(command, given.directory, given.log)
        if given.refuse:
            raise StartError(given.refuse)
        volume = MemoryVolume(given.saved, given.trace)
        settings = mount.Settings("memory:0", tuple(given.o), ready=herald.ready)
        mount.mount(given.directory, volume, Driver(), settings)
    except StartError as error:
        if given.herald is None:
            print(error, file=sys.stderr)
        herald.failed(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
