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

from zdfs import kernel, limits, mount, starting
from zdfs.calls import Condition, Trap, Wait, wait
from zdfs.errors import Damaged, Fenced, Interrupted, NoSpace, Posix, StartError, Unreachable
from zdfs.ids import Epoch, Ino, Slot
from zdfs.wire import Attributes, Space

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
        self.opened = 0

    def attributes(self) -> Attributes:
        return Attributes(
            *(Ino(self.ino), self.mode, self.nlink, self.uid, self.gid, self.rdev),
            *(len(self.data), len(self.data), self.atime, self.mtime, self.ctime),
            *(1, Epoch(1), Slot(0)),
        )

    def touch(self) -> None:
        self.mtime = self.ctime = time.time_ns()


class MemoryVolume:
    """ports.Volume in memory."""

    block_bytes = 4096

    def __init__(self, saved: Path | None = None, trace: Path | None = None):
        self.saved = saved
        self.root = Node(1, stat.S_IFDIR | 0o777, os.getuid(), os.getgid())
        self.hidden: dict[bytes, Node] = {}
        self.handles: dict[int, tuple[Node, int, bytes]] = {}
        self.last = 1
        self.go = Condition()
        self.released = False
        self.trace = trace.open("w") if trace else None

    # --- helpers -------------------------------------------------------------------------------

    def note(self, *words: object) -> None:
        if self.trace is not None:
            print(*words, file=self.trace, flush=True)

    def find(self, path: bytes) -> Node:
        if path in self.hidden:
            return self.hidden[path]
        node = self.root
        for name in path.split(b"/"):
            if name:
                if len(name) > limits.NAME_BYTES:
                    raise Posix(errno.ENAMETOOLONG)
                if not stat.S_ISDIR(node.mode):
                    raise Posix(errno.ENOTDIR)
                if name not in node.names:
                    raise Posix(errno.ENOENT)
                node = node.names[name]
        return node

    def parent(self, path: bytes) -> tuple[Node, bytes]:
        front, _, name = path.rpartition(b"/")
        return self.find(front), name

    def node(self, path: bytes | None, handle: int | None) -> Node:
        if handle is not None:
            return self.handles[handle][0]
        assert path is not None
        return self.find(path)

    def add(self, path: bytes, mode: int, uid: int, gid: int) -> Node:
        directory, name = self.parent(path)
        if len(name) > limits.NAME_BYTES:
            raise Posix(errno.ENAMETOOLONG)
        if name in directory.names:
            raise Posix(errno.EEXIST)
        self.last += 1
        directory.names[name] = made = Node(self.last, mode, uid, gid)
        directory.touch()
        if name == b".go":
            self.released = True
            waiters, self.go.waiters = self.go.waiters, []
            for wake in waiters:
                wake()
        return made

    def handle(self, node: Node, flags: int, name: bytes) -> int:
        self.last += 1
        self.handles[self.last] = (node, flags, name)
        node.opened += 1
        return self.last

    async def misbehave(self, name: bytes) -> None:
        if name.startswith(b"raise-"):
            raise KINDS[name.removeprefix(b"raise-").decode()]
        while name.startswith(b"wait") and not self.released:
            await wait(self.go)

    # --- the protocol --------------------------------------------------------------------------

    async def lookup(self, path: bytes) -> Attributes:
        return self.find(path).attributes()

    async def stat(self, handle: int) -> Attributes:
        return self.handles[handle][0].attributes()

    async def open(self, path: bytes, flags: int) -> tuple[int, bool]:
        node = self.find(path)
        if flags & os.O_TRUNC:
            del node.data[:]
            node.touch()
        name = path.rpartition(b"/")[2]
        self.note("open", path)
        return self.handle(node, flags, name), name.startswith(b"keep")

    def outdated(self, handle: int) -> bool:
        return False

    async def create(self, path: bytes, mode: int, uid: int, gid: int, flags: int) -> int:
        return self.handle(self.add(path, mode, uid, gid), flags, path.rpartition(b"/")[2])

    async def read(self, handle: int, size: int, offset: int) -> bytes | memoryview:
        node, _, name = self.handles[handle]
        self.note("read", name, offset, size)
        await self.misbehave(name if name != b"wait-close" else b"")
        return memoryview(bytes(node.data[offset : offset + size]))

    async def write(self, handle: int, data: memoryview, offset: int) -> int:
        node, flags, name = self.handles[handle]
        self.note("write", name, offset, len(data))
        await self.misbehave(name if name != b"wait-close" else b"")
        if flags & os.O_APPEND:
            offset = len(node.data)
        if offset > len(node.data):
            node.data.extend(bytes(offset - len(node.data)))
        node.data[offset : offset + len(data)] = data
        node.touch()
        return len(data)

    async def flush(self, handle: int) -> None:
        name = self.handles[handle][2]
        if name == b"wait-close":
            await self.misbehave(name)

    async def fsync(self, handle: int) -> None:
        name = self.handles[handle][2]
        self.note("fsync", name)
        await self.misbehave(name)

    async def release(self, handle: int) -> None:
        node, _, name = self.handles.pop(handle)
        node.opened -= 1
        self.note("release", name)

    async def truncate(self, path: bytes | None, handle: int | None, size: int) -> None:
        self.note("truncate", path, "by handle" if handle else "by path", size)
        node = self.node(path, handle)
        del node.data[size:]
        node.data.extend(bytes(size - len(node.data)))
        node.touch()

    async def make(
        self, path: bytes, mode: int, uid: int, gid: int, rdev: int = 0, target: bytes = b""
    ) -> None:
        made = self.add(path, mode, uid, gid)
        made.rdev, made.target = rdev, target
        made.data[:] = target
        if stat.S_ISDIR(mode):
            self.parent(path)[0].nlink += 1

    async def unlink(self, path: bytes) -> None:
        self.note("unlink", path)
        if self.hidden.pop(path, None) is not None:
            return
        directory, name = self.parent(path)
        self.find(path).nlink -= 1
        del directory.names[name]

    async def rmdir(self, path: bytes) -> None:
        directory, name = self.parent(path)
        if self.find(path).names:
            raise Posix(errno.ENOTEMPTY)
        del directory.names[name]
        directory.nlink -= 1

    async def readlink(self, path: bytes) -> bytes:
        return self.find(path).target

    async def link(self, old: bytes, new: bytes) -> None:
        directory, name = self.parent(new)
        directory.names[name] = node = self.find(old)
        node.nlink += 1

    async def rename(self, old: bytes, new: bytes, flags: int, hidden: bytes = b"") -> None:
        self.note("rename", old, new, flags, hidden)
        node = self.find(old)
        (source, name), (target, new_name) = self.parent(old), self.parent(new)
        replaced = target.names.get(new_name)
        if hidden and replaced is not None:
            self.hidden[hidden] = replaced
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

    async def is_open(self, path: bytes) -> bool:
        return self.find(path).opened > 0

    async def hide(self, path: bytes, hidden: bytes) -> None:
        self.note("hide", path, hidden)
        node = self.find(path)
        directory, name = self.parent(path)
        del directory.names[name]
        node.nlink -= 1
        self.hidden[hidden] = node

    async def set_attributes(
        self,
        path: bytes | None,
        handle: int | None,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        now: bool = False,
    ) -> None:
        self.note("set", mode, uid, gid, atime_ns, mtime_ns, now, handle is not None)
        node = self.node(path, handle)
        clock = time.time_ns()
        if mode is not None:
            node.mode = stat.S_IFMT(node.mode) | mode
        node.uid = node.uid if uid is None else uid
        node.gid = node.gid if gid is None else gid
        if atime_ns is not None:
            node.atime = clock if now else atime_ns
        if mtime_ns is not None:
            node.mtime = clock if now else mtime_ns
        node.ctime = clock

    async def opendir(self, path: bytes) -> int:
        return self.handle(self.find(path), 0, path)

    async def readdir(self, handle: int, offset: int) -> list[tuple[bytes, Attributes | None, int]]:
        node = self.handles[handle][0]
        every: list[tuple[bytes, Node | None]] = [(b".", node), (b"..", None)]
        every += sorted(node.names.items(), key=lambda pair: pair[0])
        page = every[offset : offset + 100]
        return [
            (name, one.attributes() if one else None, offset + place + 1)
            for place, (name, one) in enumerate(page)
        ]

    async def releasedir(self, handle: int) -> None:
        self.handles.pop(handle)[0].opened -= 1

    async def getxattr(self, path: bytes, name: bytes) -> bytes:
        self.note("getxattr", name)
        try:
            return self.find(path).xattrs[name]
        except KeyError:
            raise Posix(errno.ENODATA) from None

    async def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int) -> None:
        self.find(path).xattrs[name] = value

    async def listxattr(self, path: bytes) -> list[bytes]:
        return list(self.find(path).xattrs)

    async def removexattr(self, path: bytes, name: bytes) -> None:
        if self.find(path).xattrs.pop(name, None) is None:
            raise Posix(errno.ENODATA)

    async def statfs(self) -> Space:
        return Space(1 << 30, 1 << 29, 1000, 999)

    async def sync_all(self) -> None:
        self.note("sync_all")
        if self.saved is not None:
            self.saved.write_text("".join(f"{name!r}\n" for name in sorted(self.root.names)))


def invalidate_on_request(volume: MemoryVolume) -> None:
    """Making /invalidate-NAME drops the kernel's pages of /NAME."""
    add = volume.add

    def added(path: bytes, mode: int, uid: int, gid: int) -> Node:
        node = add(path, mode, uid, gid)
        if path.startswith(b"/invalidate-"):
            kernel.invalidate(b"/" + path.removeprefix(b"/invalidate-"))
        return node

    volume.add = added  # type: ignore[method-assign]


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
        invalidate_on_request(volume)
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
