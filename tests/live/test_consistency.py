"""docs/CONSISTENCY.md, row by row: what A did, what B does, what B sees; on real mounts.

And mounts that die or freeze in the middle of it, and programs that wait for a change.
"""

import ctypes
import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from errno import EIO, ENOENT
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live.cluster import Cluster
from tests.live.hands import Hand

pytestmark = pytest.mark.shared

LIFE_S = 3
MOUNTS = ("a", "b", "c", "d")
STRICT = ("--attr-timeout", "0", "--entry-timeout", "0")
CREATE = "fd = os.open('{}', os.O_RDWR | os.O_CREAT | os.O_TRUNC)"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four mounts: two as they come, one that wakes watchers, one that keeps nothing in memory."""
    one = Cluster(tmp_path_factory.mktemp("consistency"), meta_more=["--session-life", str(LIFE_S)])
    try:
        one.start()
        one.mount("a")
        one.mount("b")
        one.mount("c", "--watchers")
        one.mount("d", *STRICT)
        yield one
    finally:
        one.close()


@pytest.fixture
def a(cluster: Cluster) -> Iterator[Hand]:
    with Hand(cluster.folder / "a") as hand:
        yield hand


@pytest.fixture
def b(cluster: Cluster) -> Iterator[Hand]:
    with Hand(cluster.folder / "b") as hand:
        yield hand


# --- the table -----------------------------------------------------------------------------------


def test_closed_then_opened(a: Hand, b: Hand) -> None:
    """A wrote and closed; B opens and reads at once: A's bytes, whatever B had in its caches."""
    for turn in range(30):
        text = f"{turn} " * (1 + turn * 300)
        writer, reader = (a, b) if turn % 2 else (b, a)
        writer(f"open('closed', 'w').write({text!r}) and None")
        assert reader("open('closed').read()") == text


def test_closed_then_copied_without_asking_how_long(a: Hand, b: Hand) -> None:
    """copy_file_range and splice go by the size that the kernel knows; nobody has to fstat."""
    a("open('grown', 'w').close()")
    for turn in range(1, 61):
        b("os.stat('grown').st_size")
        b("before = os.open('grown', os.O_RDONLY)")
        a("log = open('grown', 'a')")
        a("log.write('line' * 2500)")
        a("log.close()")
        b("fd = os.open('grown', os.O_RDONLY)")
        b("into = os.open('copy', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)")
        copied = b("os.copy_file_range(fd, into, 1 << 30)")
        b("[os.close(n) for n in (before, fd, into)] and None")
        assert copied == turn * 10000


def test_locked_then_copied_without_asking_how_long(a: Hand, b: Hand) -> None:
    """Nor under a lock, by a descriptor that was opened before the file grew."""
    for hand in (a, b):
        hand("fd = os.open('locked-grown', os.O_RDWR | os.O_CREAT)")
    b("into = os.open('copy', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)")
    for turn in range(1, 4):
        a("fcntl.flock(fd, fcntl.LOCK_EX)")
        a("os.write(fd, b'line' * 2500)")
        a("fcntl.flock(fd, fcntl.LOCK_UN)")
        b("fcntl.flock(fd, fcntl.LOCK_EX)")
        assert b("os.copy_file_range(fd, into, 1 << 30, 0)") == turn * 10000
        assert b("mmap.mmap(fd, 0, prot=mmap.PROT_READ)[-1:]") == b"e"
        b("fcntl.flock(fd, fcntl.LOCK_UN)")


def test_synced_then_opened(a: Hand, b: Hand) -> None:
    a(CREATE.format("synced"))
    a("os.write(fd, b'one')")
    a("os.fsync(fd)")
    assert b("open('synced').read()") == "one"


def test_written_then_opened(a: Hand, b: Hand) -> None:
    """Not closed, not synced: the open makes A flush first."""
    for turn in range(5):
        a(CREATE.format("written"))
        a(f"os.write(fd, b'half {turn}')")
        assert b("open('written').read()") == f"half {turn}"
        a("os.close(fd)")


def test_written_while_open(a: Hand, b: Hand) -> None:
    """B had the file open before A wrote: B sees it soon, without opening it again."""
    a("open('both', 'w').write('old') and None")
    b("fd = os.open('both', os.O_RDONLY)")
    assert b("os.pread(fd, 10, 0)") == b"old"
    a("open('both', 'r+').write('new and longer') and None")
    until(lambda: b("os.pread(fd, 100, 0)") == b"new and longer", 10, "B sees A's bytes")
    assert b("os.fstat(fd).st_size") == 14


def test_mapped(a: Hand, b: Hand) -> None:
    """A mapping of B shows what A wrote, soon."""
    a("open('mapped', 'wb').write(b'o' * 8192) and None")
    b("fd = os.open('mapped', os.O_RDONLY)")
    b("m = mmap.mmap(fd, 8192, mmap.MAP_SHARED, mmap.PROT_READ)")
    assert b("m[:3]") == b"ooo"
    a("open('mapped', 'r+b').write(b'new') and None")
    until(lambda: b("m[:3]") == b"new", 10, "the mapping shows it")


def test_names_and_attributes_soon(a: Hand, b: Hand) -> None:
    a("os.mkdir('soon')")
    until(lambda: "soon" in b("os.listdir('.')"), 15, "the directory is listed")
    a("os.close(os.open('soon/x', os.O_CREAT, 0o644))")
    until(lambda: b("os.listdir('soon')") == ["x"], 15, "the name is listed")
    for mode in (0o600, 0o640, 0o755):
        a(f"os.chmod('soon/x', {mode})")
        until(lambda: b("os.stat('soon/x').st_mode & 0o777") == mode, 15, "the mode is seen")
    a("os.rename('soon/x', 'soon/y')")
    until(
        lambda: b("os.path.exists('soon/y') and not os.path.exists('soon/x')"), 15, "the new name"
    )
    a("os.unlink('soon/y')")
    until(lambda: not b("os.path.exists('soon/y')"), 15, "it is gone")


def test_names_and_attributes_at_once_without_timeouts(cluster: Cluster, a: Hand) -> None:
    """--attr-timeout 0 --entry-timeout 0: nothing is ever stale, not once in many."""
    with Hand(cluster.folder / "d") as d:
        a("os.mkdir('strict')")
        a("open('strict/f', 'w').write('x') and None")
        assert d("os.stat('strict/f').st_size") == 1
        for turn in range(20):
            mode = 0o600 + turn % 8
            a(f"os.chmod('strict/f', {mode})")
            assert d("os.stat('strict/f').st_mode & 0o777") == mode
            a(f"open('strict/f', 'a').write({'y' * turn!r}) and None")
            assert d("os.stat('strict/f').st_size") == a("os.stat('strict/f').st_size")
            a(f"os.rename('strict/f', 'strict/{turn}')")
            assert d("os.listdir('strict')") == [str(turn)]
            with pytest.raises(OSError) as refused:
                d("os.stat('strict/f')")
            assert refused.value.errno == ENOENT
            a(f"os.rename('strict/{turn}', 'strict/f')")
            assert d("os.path.exists('strict/f')")


def test_unlinked_elsewhere_goes_on_being_read_and_written(a: Hand, b: Hand) -> None:
    a("open('held', 'w').write('kept') and None")
    b("fd = os.open('held', os.O_RDWR)")
    a("os.unlink('held')")
    assert b("os.pread(fd, 10, 0)") == b"kept"
    b("os.pwrite(fd, b'more', 4)")
    b("os.fsync(fd)")
    assert b("os.pread(fd, 10, 0)") == b"keptmore"
    until(lambda: b("os.fstat(fd).st_nlink") == 0, 15, "B's descriptor shows no name")


def test_two_writers_of_one_block(cluster: Cluster, a: Hand, b: Hand) -> None:
    """Overlapping writes, then closed: as if one had come after the other, on every replica."""
    for turn in range(20):
        a("fd = os.open('block', os.O_RDWR | os.O_CREAT)")
        b("fd = os.open('block', os.O_RDWR | os.O_CREAT)")
        a("os.ftruncate(fd, 0)")
        a("os.fsync(fd)")
        a.start("os.pwrite(fd, b'A' * 3000, 0)")
        b.start("os.pwrite(fd, b'B' * 3000, 2000)")
        a.end()
        b.end()
        a.start("os.close(fd)")
        b.start("os.close(fd)")
        a.end()
        b.end()
        seen = a("open('block', 'rb').read()")
        one_first = b"A" * 2000 + b"B" * 3000
        other_first = b"A" * 3000 + b"B" * 2000
        assert seen in (one_first, other_first), turn
        assert b("open('block', 'rb').read()") == seen
    done = cluster.command("zdfs", "fsck", "--meta", cluster.meta_port, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_appenders_on_four_mounts(cluster: Cluster) -> None:
    """10,000 lines each to one file: none lost, torn or doubled, each writer's in its order."""
    lines = 10_000
    code = (
        "import os, sys\n"
        "fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
        f"for i in range({lines}):\n"
        "    line = b'%s %05d %s\\n' % (sys.argv[2].encode(), i, b'.' * (i % 97))\n"
        "    assert os.write(fd, line) == len(line)\n"
        "os.close(fd)\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(cluster.folder / name / "log"), name])
        for name in MOUNTS
    ]
    assert [one.wait(240) for one in writers] == [0] * len(MOUNTS)
    with Hand(cluster.folder / "b") as hand:
        found = hand("open('log', 'rb').read()").splitlines()
    wanted = {
        name: [b"%s %05d %s" % (name.encode(), i, b"." * (i % 97)) for i in range(lines)]
        for name in MOUNTS
    }
    assert len(found) == lines * len(MOUNTS)
    for name in MOUNTS:
        assert [line for line in found if line.startswith(name.encode())] == wanted[name]


def test_reads_do_not_wait_for_invalidations(cluster: Cluster, a: Hand) -> None:
    """A changes a file all the time; on B it is read, mapped and asked for meanwhile, and every
    byte that is seen is one that A wrote."""
    a(f"open('busy', 'wb').write(bytes([1]) * {1 << 16}) and None")
    look = (
        "(lambda fd, m: [({*os.pread(fd, 65536, 0)}, m[0], os.stat('busy').st_size)"
        " for _ in range(300)])(fd, m)"
    )
    hands = [Hand(cluster.folder / "b") for _ in range(3)]
    try:
        for hand in hands:
            hand("fd = os.open('busy', os.O_RDONLY)")
            hand("m = mmap.mmap(fd, 65536, mmap.MAP_SHARED, mmap.PROT_READ)")
            hand.start(look)
        a("fd = os.open('busy', os.O_WRONLY)")
        for turn in range(60):
            a(f"os.pwrite(fd, bytes([{turn + 2}]) * {1 << 16}, 0)")
            a("os.fsync(fd)")
        for hand in hands:
            for kinds, first, size in hand.end():
                assert kinds | {first} <= {*range(1, 62)} and size == 1 << 16
    finally:
        for hand in hands:
            hand.__exit__(None, None, None)


def test_pages_of_a_mapping_are_not_appended(a: Hand, b: Hand) -> None:
    """The kernel writes them back with any handle that may write, also one that appends."""
    a("open('notes', 'wb').write(b'-' * 5000) and None")
    a("log = os.open('notes', os.O_WRONLY | os.O_APPEND)")
    a("fd = os.open('notes', os.O_RDWR)")
    a("m = mmap.mmap(fd, 5000)")
    a("m[10:13] = b'map'")
    a("os.write(log, b'end')")
    a("m.flush()")
    a("m[4998:5000] = b'xy'")
    a("m.flush()")
    a("os.fsync(fd)")
    want = b"-" * 10 + b"map" + b"-" * 4985 + b"xy" + b"end"
    assert b("open('notes', 'rb').read()") == want
    assert a("open('notes', 'rb').read()") == want


def test_append_that_was_switched_on_later(a: Hand, b: Hand) -> None:
    """F_SETFL: the kernel knows, the open did not."""
    a(CREATE.format("later"))
    a("os.write(fd, b'one')")
    a("fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)")
    b("open('later', 'a').write('two') and None")
    a("os.write(fd, b'three')")
    a("os.close(fd)")
    assert b("open('later').read()") == "onetwothree"


# --- mounts that die or freeze -------------------------------------------------------------------


def test_a_killed_mount_does_not_keep_others_waiting(cluster: Cluster, b: Hand) -> None:
    """kill -9 with a grant and dirty data: what was synced is whole, others write within its life
    time, and nothing of the dead one comes later."""
    where = cluster.mount("victim")
    with Hand(where) as victim:
        victim(CREATE.format("left"))
        victim("os.write(fd, b'acknowledged' * 10_000)")
        victim("os.fsync(fd)")
        victim("os.pwrite(fd, b'never synced', 0)")
        process = cluster.mounts.pop(where)
        process.kill()
        process.wait(timeout=30)
        subprocess.run(["umount", "-l", str(where)], timeout=10, check=True)
    assert b("open('left', 'rb').read()", patience_s=40) == b"acknowledged" * 10_000
    b("fd = os.open('left', os.O_RDWR)", patience_s=40)
    b("os.pwrite(fd, b'mine', 0)", patience_s=40)
    b("os.close(fd)")
    assert b("open('left', 'rb').read()") == b"mine" + (b"acknowledged" * 10_000)[4:]


@pytest.mark.timeout(200)
def test_a_frozen_mount_wakes_up(cluster: Cluster, b: Hand) -> None:
    """SIGSTOP beyond its life: what it had not flushed is an error at the next call, is not applied
    over newer data, and the mount goes on."""
    where = cluster.mount("frozen")
    process = cluster.mounts[where]
    with Hand(where) as frozen:
        frozen(CREATE.format("cold"))
        frozen("os.write(fd, b'first')")
        frozen("os.fsync(fd)")
        frozen("os.pwrite(fd, b'stale', 0)")
        os.kill(process.pid, signal.SIGSTOP)
        try:
            b("open('cold', 'w').write('newer data') and None", patience_s=60)
            b("fd = os.open('cold', os.O_RDONLY)")
            until(lambda: len(_sessions(cluster)) == len(cluster.mounts) - 1, 60, "it has ended")
        finally:
            os.kill(process.pid, signal.SIGCONT)
        with pytest.raises(OSError) as lost:
            frozen("os.fsync(fd)")
        assert lost.value.errno == EIO
        assert frozen("os.fsync(fd)") is None, "the loss is told once"
        assert frozen("open('cold').read()") == "newer data"
        assert b("os.pread(fd, 100, 0)") == b"newer data"
        frozen("open('cold', 'w').write('and on it goes') and None")
        assert b("open('cold').read()") == "and on it goes"
        frozen("os.close(fd)")
    cluster.unmount(where)


def _sessions(cluster: Cluster) -> list[str]:
    """The mounts that the metaserver takes for alive."""
    mounts: list[str] = cluster.status().get("mounts", [])
    return mounts


# --- watchers ------------------------------------------------------------------------------------

IN_MODIFY, IN_ATTRIB = 2, 4  # sys/inotify.h
EVENT = struct.Struct("iIII")


class Watch:
    """An inotify instance of this process."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK)

    def add(self, path: Path) -> int:
        """Watch a path; the number that its events carry."""
        number: int = self._libc.inotify_add_watch(
            self._descriptor, os.fsencode(path), IN_MODIFY | IN_ATTRIB
        )
        assert number > 0, os.strerror(ctypes.get_errno())
        return number

    def events(self) -> set[tuple[int, int]]:
        """(watch, kind) of what came meanwhile."""
        found = set()
        while select.select([self._descriptor], [], [], 0)[0]:
            data = os.read(self._descriptor, 4096)
            while data:
                number, mask, _, length = EVENT.unpack_from(data)
                found.add((number, mask & (IN_MODIFY | IN_ATTRIB)))
                data = data[EVENT.size + length :]
        return found

    def sees(self, number: int, kind: int) -> None:
        """Wait for such an event."""
        until(lambda: (number, kind) in self.events(), 15, f"event {kind} of watch {number}")

    def close(self) -> None:
        os.close(self._descriptor)


def test_watchers_wake(cluster: Cluster, a: Hand) -> None:
    """A change on one mount wakes inotify watchers on another: files, attributes, directories."""
    a("os.mkdir('watched')")
    a("open('watched/f', 'w').write('one') and None")
    there = cluster.folder / "c" / "watched"
    until(lambda: (there / "f").exists(), 15, "the file is there")
    watch = Watch()
    try:
        file, folder = watch.add(there / "f"), watch.add(there)
        for turn in range(3):
            watch.events()
            a(f"open('watched/f', 'a').write('{turn}') and None")
            watch.sees(file, IN_MODIFY)
        watch.events()
        a("os.chmod('watched/f', 0o600)")
        watch.sees(file, IN_ATTRIB)
        watch.events()
        a("os.close(os.open('watched/g', os.O_CREAT))")
        watch.sees(folder, IN_MODIFY)
        watch.events()
        a("os.unlink('watched/g')")
        watch.sees(folder, IN_MODIFY)
        assert (there / "f").read_bytes() == b"one012"
    finally:
        watch.close()
    before, seen = a("os.stat('watched/f').st_mtime_ns"), (there / "f").stat().st_mtime_ns
    assert before == seen, "waking changes nothing"
