"""FUSE itself, on a volume in memory: real mounts, real processes, no cluster."""

import ctypes
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import until
from live.memory_volume import KINDS

from zdfs import starting

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-P", "-m", "live.memory_volume"]
OMIT, NOW = (1 << 30) - 2, (1 << 30) - 1


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}


class Mounted:
    """One mount in a process of its own."""

    def __init__(self, base: Path, *arguments: str):
        self.directory = base / "mount"
        self.directory.mkdir()
        self.log, self.saved = base / "log", base / "saved"
        self._trace = base / "trace"
        words = [str(self.directory), "-f", "--log", str(self.log), "--saved", str(self.saved)]
        words += ["--trace", str(self._trace)]
        self.process = subprocess.Popen([*COMMAND, *words, *arguments], env=environment())
        until(lambda: starting.mounted_on(self.directory), what="mounted")
        assert starting.answers(self.directory)

    def trace(self) -> list[str]:
        return self._trace.read_text().splitlines()

    def traced(self, start: str) -> list[str]:
        return [line for line in self.trace() if line.startswith(start)]

    def end(self) -> None:
        if starting.mounted_on(self.directory):
            subprocess.run(["umount", "-l", str(self.directory)], check=True, timeout=30)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(30)
            raise


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    one = Mounted(tmp_path)
    yield one
    one.end()
    assert one.process.returncode == 0


def python(code: str, *arguments: object, **more: object) -> "subprocess.Popen[str]":
    """A program on the mount."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        **more,  # type: ignore[call-overload]
    )


# --- what a file system does -------------------------------------------------------------------


def test_round_trip(mounted: Mounted) -> None:
    top = mounted.directory
    data = os.urandom(3 * 1024 * 1024 + 17)
    (top / "d").mkdir(mode=0o750)
    (top / "d" / "file").write_bytes(data)
    assert (top / "d" / "file").read_bytes() == data
    assert stat.S_IMODE((top / "d").stat().st_mode) == 0o750
    (top / "link").symlink_to("d/file")
    assert os.readlink(top / "link") == "d/file" and (top / "link").read_bytes() == data
    os.link(top / "d" / "file", top / "hard")
    assert (top / "hard").stat().st_nlink == 2
    os.truncate(top / "hard", 5)
    assert (top / "hard").read_bytes() == data[:5]
    os.mkfifo(top / "fifo")
    assert stat.S_ISFIFO((top / "fifo").stat().st_mode)
    os.chmod(top / "hard", 0o4711)
    assert stat.S_IMODE((top / "hard").stat().st_mode) == 0o4711
    with pytest.raises(OSError, match="not empty"):
        (top / "d").rmdir()
    (top / "d" / "file").unlink()
    (top / "d").rmdir()
    assert sorted(os.listdir(top)) == ["fifo", "hard", "link"]
    assert os.statvfs(top).f_namemax == 255


def test_requests_are_large(mounted: Mounted) -> None:
    with open(mounted.directory / "big", "wb", buffering=0) as file:
        file.write(bytes(1024 * 1024))
    assert mounted.traced("write") == ["write b'big' 0 1048576"]
    assert (mounted.directory / "big").read_bytes() == bytes(1024 * 1024)
    reads = [int(line.split()[-1]) for line in mounted.traced("read b'big'")]
    assert max(reads) >= 512 * 1024  # the kernel reads ahead more than its own 128 KiB


def test_names_are_bytes(mounted: Mounted) -> None:
    top = os.fsencode(mounted.directory)
    names = [b"\xff\xfe", b"new\nline", b"\xc3\xa4", bytes(range(1, 47)), b"n" * 255]
    for name in names:
        with open(os.path.join(top, name), "wb") as file:
            file.write(name)
        os.symlink(name, os.path.join(top, name[:254] + b"~"))
    assert set(names) <= set(os.listdir(top))
    for name in names:
        with open(os.path.join(top, name[:254] + b"~"), "rb") as file:
            assert file.read() == name
    with pytest.raises(OSError) as caught:
        os.stat(os.path.join(top, b"n" * 256))
    assert caught.value.errno == errno.ENAMETOOLONG


def test_many_entries(mounted: Mounted) -> None:
    names = {f"entry {number:05}" for number in range(1500)}
    for name in names:
        (mounted.directory / name).touch()
    assert set(os.listdir(mounted.directory)) == names
    with os.scandir(mounted.directory) as entries:
        found = {entry.inode(): entry.stat().st_ino for entry in entries}
    assert len(found) == 1500 and all(number == other for number, other in found.items())


def test_owner_is_the_caller(mounted: Mounted) -> None:
    path = mounted.directory / "theirs"
    code = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534); open('theirs', 'w')"
    assert python(code, cwd=mounted.directory).wait(30) == 0
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)
    os.chown(path, -1, 7)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 7)


def test_extended_attributes(mounted: Mounted) -> None:
    path = mounted.directory / "file"
    path.write_bytes(b"x")
    os.setxattr(path, "user.name", b"\0value")
    assert os.getxattr(path, "user.name") == b"\0value"
    assert os.listxattr(path) == ["user.name"]
    os.removexattr(path, "user.name")
    with pytest.raises(OSError) as caught:
        os.getxattr(path, "user.name")
    assert caught.value.errno == errno.ENODATA


def test_security_capability_is_asked_of_what_is_open(mounted: Mounted) -> None:
    path = mounted.directory / "file"
    with open(path, "wb", buffering=0) as file:
        file.write(b"x")
        path.rename(mounted.directory / "renamed")
        file.write(b"x")
        (mounted.directory / "renamed").unlink()
        file.write(b"x")
    asked = mounted.traced("getxattr b'security.capability'")
    assert len(asked) == 3 and len(set(asked)) == 1
    path.write_bytes(b"another")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(path, "security.capability", capability)
    assert os.getxattr(path, "security.capability") == capability
    assert len(set(mounted.traced("getxattr b'security.capability'"))) == 2


@pytest.mark.parametrize(
    "atime, mtime, kept",
    [((5, 6), (7, 8), (5_000000006, 7_000000008)), ((0, OMIT), (7, 8), (None, 7_000000008))],
)
def test_times(
    mounted: Mounted,
    atime: tuple[int, int],
    mtime: tuple[int, int],
    kept: tuple[int | None, int | None],
) -> None:
    path = mounted.directory / "file"
    path.touch()
    before = path.stat()
    assert utimensat(path, atime, mtime) == 0
    after = path.stat()
    assert after.st_atime_ns == (before.st_atime_ns if kept[0] is None else kept[0])
    assert after.st_mtime_ns == (before.st_mtime_ns if kept[1] is None else kept[1])


def test_times_now(mounted: Mounted) -> None:
    path = mounted.directory / "file"
    path.touch()
    os.utime(path, ns=(1, 1))
    assert utimensat(path, (0, NOW), (0, OMIT)) == 0
    assert path.stat().st_atime_ns > 1 and path.stat().st_mtime_ns == 1
    assert utimensat(path, (3, 4), (0, NOW)) == 0
    assert path.stat().st_atime_ns == 3_000000004 and path.stat().st_mtime_ns > 1
    assert utimensat(path, (0, 0), (0, NOW)) == 0, "1970 is no special time"
    assert path.stat().st_atime_ns == 0 and path.stat().st_mtime_ns > 1
    assert mounted.traced("set")[-3:] == [  # each in one step
        "set None None None now None",
        "set None None None 3000000004 now",
        "set None None None 0 now",
    ]


def utimensat(path: Path, *times: tuple[int, int]) -> int:
    specs = (ctypes.c_long * 4)(*times[0], *times[1])
    return ctypes.CDLL(None, use_errno=True).utimensat(-100, os.fsencode(path), specs, 0)


def test_handles_arrive(mounted: Mounted) -> None:
    with open(mounted.directory / "file", "w+b") as file:
        file.truncate(10)
        os.fsync(file.fileno())
    assert mounted.traced("truncate") == ["truncate b'file' by handle 10"]
    assert mounted.traced("fsync") == ["fsync b'file'"]


def test_ranges_arrive(mounted: Mounted) -> None:
    with open(mounted.directory / "file", "w+b", buffering=0) as file:
        file.write(b"hello")
        os.posix_fallocate(file.fileno(), 3, 7)
        assert os.lseek(file.fileno(), 4, os.SEEK_HOLE) == 10
        assert os.lseek(file.fileno(), 4, os.SEEK_DATA) == 4
        with open(mounted.directory / "other", "w+b", buffering=0) as other:
            assert os.copy_file_range(file.fileno(), other.fileno(), 4, 1, 2) == 4
            assert os.pread(other.fileno(), 9, 0) == b"\0\0ello"
    assert mounted.traced("fallocate") == ["fallocate b'file' 0 3 7"]
    assert mounted.traced("lseek") == [f"lseek b'file' 4 {whence}" for whence in (4, 3)]
    assert mounted.traced("copy_file_range") == ["copy_file_range b'file' 1 2 4"]


# --- names of open files -----------------------------------------------------------------------


def test_unlinked_and_open(mounted: Mounted) -> None:
    path = mounted.directory / "file"
    with open(path, "w+b", buffering=0) as file:
        file.write(b"hello")
        path.unlink()
        assert os.listdir(mounted.directory) == []
        file.write(b" world")
        found = os.fstat(file.fileno())
        assert (found.st_size, found.st_nlink) == (11, 0)
        file.seek(0)
        assert file.read() == b"hello world"
        os.fchmod(file.fileno(), 0o600)
        file.truncate(3)
        assert os.fstat(file.fileno()).st_size == 3
        mounted.directory.joinpath("file").write_bytes(b"another")
    assert path.read_bytes() == b"another"
    assert mounted.traced("unlink") == ["unlink b'file'"] and not mounted.traced("rename")


def test_replacing_an_open_file_is_one_step(mounted: Mounted) -> None:
    top = mounted.directory
    (top / "old").write_bytes(b"old")
    (top / "new").write_bytes(b"new")
    with open(top / "old", "rb") as file:
        os.replace(top / "new", top / "old")
        assert (top / "old").read_bytes() == b"new"
        assert file.read() == b"old" and os.fstat(file.fileno()).st_nlink == 0
    assert (top / "old").read_bytes() == b"new"
    assert mounted.traced("rename") == ["rename b'new' b'old' 0"]


def test_a_failed_rename_onto_an_open_file_harms_nothing(mounted: Mounted) -> None:
    top = mounted.directory
    (top / "forbidden").write_bytes(b"old")
    (top / "new").write_bytes(b"new")
    with open(top / "forbidden", "rb") as file:
        with pytest.raises(PermissionError):
            os.replace(top / "new", top / "forbidden")
        assert file.read() == b"old"
    assert (top / "forbidden").read_bytes() == b"old" and (top / "new").read_bytes() == b"new"


@pytest.mark.parametrize("held", [False, True])
def test_rename_flags(mounted: Mounted, held: bool) -> None:
    top = mounted.directory
    (top / "a").write_bytes(b"A")
    (top / "b").write_bytes(b"B")
    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    paths = os.fsencode(top / "a"), os.fsencode(top / "b")
    descriptor = os.open(top / "b", os.O_RDONLY) if held else -1
    assert renameat2(-100, paths[0], -100, paths[1], 1) == -1
    assert ctypes.get_errno() == errno.EEXIST
    assert renameat2(-100, paths[0], -100, paths[1], 2) == 0
    if held:
        assert os.read(descriptor, 1) == b"B"
        os.close(descriptor)
    assert (top / "a").read_bytes() == b"B" and (top / "b").read_bytes() == b"A"


# --- failures ----------------------------------------------------------------------------------

EXPECTED = {
    "space": errno.ENOSPC,
    "unreachable": errno.ETIMEDOUT,
    "loop": errno.ELOOP,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_exception_is_an_errno(mounted: Mounted, kind: str) -> None:
    path = mounted.directory / f"raise-{kind}"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        for operation in (
            lambda: os.write(descriptor, b"x"),
            lambda: os.fsync(descriptor),
        ):
            with pytest.raises(OSError) as caught:
                operation()
            assert caught.value.errno == EXPECTED.get(kind, errno.EIO)
    finally:
        os.close(descriptor)
    assert mounted.process.poll() is None
    expected = kind not in {*EXPECTED, "damaged", "fenced", "zero"}
    assert ("Traceback" in mounted.log.read_text()) == expected


def test_an_answer_that_cant_be_sent_is_an_errno(mounted: Mounted) -> None:
    """The request is answered once all the same."""
    (mounted.directory / "unsendable").write_bytes(b"x")
    with pytest.raises(OSError) as caught:
        (mounted.directory / "unsendable").read_bytes()
    assert caught.value.errno == errno.EIO
    assert "can't be sent" in mounted.log.read_text()


# --- waiting -----------------------------------------------------------------------------------


def test_blocked_operations_leave_the_mount_alive(mounted: Mounted) -> None:
    top = mounted.directory
    (top / "other").write_bytes(b"other")
    count = 150
    with ThreadPoolExecutor(count) as pool:
        try:
            writers = [pool.submit((top / f"wait {n}").write_bytes, b"x") for n in range(count)]
            until(lambda: len(mounted.traced("write b'wait")) == count, 30)
            assert (top / "other").read_bytes() == b"other"
            (top / "more").write_bytes(b"more")
            assert (top / "more").stat().st_size == 4
            assert not any(writer.done() for writer in writers)
        finally:
            (top / ".go").touch()
        assert [writer.result(20) for writer in writers] == [1] * count
    threads = Path(f"/proc/{mounted.process.pid}/task")
    for number in range(300):
        (top / f"wait {number % count}").stat()
    assert len(list(threads.iterdir())) < count


def test_blocked_readers_too(mounted: Mounted) -> None:
    top = mounted.directory
    for number in range(150):
        (top / f"wait {number}").touch()
        os.truncate(top / f"wait {number}", 4096)
    (top / "other").write_bytes(b"other")
    with ThreadPoolExecutor(150) as pool:
        try:
            readers = [pool.submit((top / f"wait {n}").read_bytes) for n in range(150)]
            until(lambda: len(mounted.traced("read b'wait")) >= 150, 30)
            assert (top / "other").read_bytes() == b"other"
        finally:
            (top / ".go").touch()
        assert all(len(reader.result(20)) == 4096 for reader in readers)


WRITE = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
print('open', flush=True)
os.write(descriptor, b'data')
os.close(descriptor)
print('closed', flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("name", ["wait", "wait-close"])
def test_signals_end_blocked_programs(mounted: Mounted, number: signal.Signals, name: str) -> None:
    program = python(WRITE, mounted.directory / name, stderr=subprocess.DEVNULL)
    try:
        assert program.stdout is not None and program.stdout.readline() == "open\n"
        until(lambda: mounted.traced(f"write b'{name}'"))
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(0.2)
        program.send_signal(number)
        assert program.wait(20) in (-number, 1)
        until(lambda: mounted.traced(f"release b'{name}'"), 20)
    finally:
        program.kill()
        program.wait(30)
        program.stdout.close()


def test_closing_by_a_killed_program_returns_at_once(mounted: Mounted) -> None:
    code = WRITE.replace("os.close(descriptor)", "import signal; signal.pause()")
    program = python(code, mounted.directory / "wait-close")
    try:
        until(lambda: mounted.traced("write b'wait-close'"))
    finally:
        program.kill()
    assert program.wait(20) == -signal.SIGKILL
    until(lambda: mounted.traced("release b'wait-close'"), 20)
    assert program.stdout is not None
    program.stdout.close()


# --- the kernel's cache ------------------------------------------------------------------------


def test_keep_cache(mounted: Mounted) -> None:
    for name in ("keep", "drop"):
        (mounted.directory / name).write_bytes(b"x" * 4096)
        for _ in range(3):
            (mounted.directory / name).read_bytes()
    assert len(mounted.traced("read b'keep'")) == 1
    assert len(mounted.traced("read b'drop'")) == 3


def test_invalidate(mounted: Mounted) -> None:
    path = mounted.directory / "keep"
    path.write_bytes(b"x" * 4096)
    with open(path, "rb", buffering=0) as file:
        file.read()
        (mounted.directory / "invalidate-keep").touch()

        def read_again() -> bool:
            file.seek(0)
            file.read()
            return len(mounted.traced("read b'keep'")) == 2

        until(read_again)


# --- starting and ending -----------------------------------------------------------------------


def start(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=30)


def umount(directory: Path) -> None:
    subprocess.run(["umount", str(directory)], check=True, timeout=30)


def test_start_detached(tmp_path: Path) -> None:
    top = tmp_path / "mount"
    top.mkdir()
    done = start(top, "--log", tmp_path / "log", "--saved", tmp_path / "saved")
    try:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        line = starting.mounted_on(top)
        assert line is not None and (line.kind, line.source) == ("fuse.zdfs", "zdfs:memory:0")
        (top / "file").write_bytes(b"x")
        again = start(top)
        assert again.returncode == 1 and "already a mount of zdfs:memory:0" in again.stderr
    finally:
        umount(top)
    saved = (
        tmp_path / "saved"
    )  # by a process that nobody waits for: it is made before it is written
    until(lambda: saved.exists() and saved.read_text() == "b'file'\n", what="the root was saved")


def test_start_fails_with_a_reason(tmp_path: Path) -> None:
    full = tmp_path / "full"
    (full / "x").mkdir(parents=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, reason in (
        ([tmp_path / "none"], "does not exist"),
        ([full], "not empty"),
        ([full / "x", "--refuse", "no metaserver at 2222"], "no metaserver at 2222"),
        ([empty, "-o", "nonsense=1"], "nonsense"),
        ([empty, "--log", "/nonexistent/log"], "/nonexistent"),
    ):
        done = start(*arguments)
        assert done.returncode == 1 and reason in done.stderr, done
        assert not starting.mounted_on(arguments[0])


def test_a_dead_mount_is_replaced(tmp_path: Path) -> None:
    one = Mounted(tmp_path)
    one.process.kill()
    one.process.wait(30)
    with pytest.raises(OSError) as caught:
        one.directory.stat()
    assert caught.value.errno == errno.ENOTCONN
    assert start(one.directory).returncode == 0
    assert os.listdir(one.directory) == []
    umount(one.directory)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_mount(tmp_path: Path, number: signal.Signals) -> None:
    one = Mounted(tmp_path)
    (one.directory / "file").write_bytes(b"x")
    one.process.send_signal(number)
    assert one.process.wait(30) == 0
    assert not starting.mounted_on(one.directory)
    assert one.saved.read_text() == "b'file'\n"


def test_sigterm_ends_a_busy_mount(tmp_path: Path) -> None:
    one = Mounted(tmp_path)
    failed: list[int | None] = []

    def write(descriptor: int) -> None:
        try:
            os.write(descriptor, b"x")
        except OSError as error:
            failed.append(error.errno)
        finally:
            with suppress(OSError):
                os.close(descriptor)

    # Opened before: whoever opens after the end writes into the directory below.
    opened = [os.open(one.directory / "wait", os.O_CREAT | os.O_WRONLY) for _ in range(20)]
    writers = [threading.Thread(target=write, args=(descriptor,)) for descriptor in opened]
    for writer in writers:
        writer.start()
    until(lambda: len(one.traced("write b'wait'")) >= 1)
    one.process.terminate()
    assert one.process.wait(30) == 0
    for writer in writers:
        writer.join(30)
        assert not writer.is_alive()
    assert len(failed) == 20 and one.saved.exists()
    assert not starting.mounted_on(one.directory)


def test_a_mount_through_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    assert start(tmp_path / "link").returncode == 0
    assert starting.mounted_on(tmp_path / "link") and starting.mounted_on(tmp_path / "target")
    umount(tmp_path / "link")


def test_forced_umount_frees_blocked_operations(tmp_path: Path) -> None:
    one = Mounted(tmp_path)
    program = python(WRITE, one.directory / "wait", stderr=subprocess.DEVNULL)
    until(lambda: one.traced("write b'wait'"))
    subprocess.run(["umount", "-f", "-l", str(one.directory)], check=True, timeout=30)
    assert program.wait(30) == 1 and one.process.wait(30) == 0 and one.saved.exists()
    assert program.stdout is not None
    program.stdout.close()


def test_lazy_umount_serves_until_the_last_close(tmp_path: Path) -> None:
    one = Mounted(tmp_path)
    with open(one.directory / "file", "w+b", buffering=0) as file:
        subprocess.run(["umount", "-l", str(one.directory)], check=True, timeout=30)
        file.write(b"still")
        file.seek(0)
        assert file.read() == b"still"
        assert one.process.poll() is None
    assert one.process.wait(30) == 0 and one.saved.exists()
