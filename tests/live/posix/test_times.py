"""Which call moves which time: of what it works on, of the directories where names come and go.

(Calls on names say it in their own files, too.)  **Access times** are the one rule that a mount
doesn't follow: a read moves none there, as with `mount -o noatime`.
"""

import mmap
import os
from collections.abc import Callable

import pytest

from tests.live.posix.differences import differs
from tests.live.posix.linux import get, opened, put, tick, touches, utimensat

pytestmark = pytest.mark.usefixtures("place")

OLD = (1_000_000_000, 123)

ON_A_FILE: dict[str, tuple[str, Callable[[int], object]]] = {
    "write": ("mc", lambda fd: os.write(fd, b"x")),
    "pwrite": ("mc", lambda fd: os.pwrite(fd, b"x", 100_000)),
    "writev": ("mc", lambda fd: os.writev(fd, [b"x", b"y"])),
    "ftruncate, shorter": ("mc", lambda fd: os.ftruncate(fd, 1)),
    "ftruncate, the same": ("mc", lambda fd: os.ftruncate(fd, 4)),
    "ftruncate, longer": ("mc", lambda fd: os.ftruncate(fd, 100)),
    "truncate": ("mc", lambda fd: os.truncate("f", 2)),
    "open O_TRUNC": ("mc", lambda fd: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC))),
    "fchmod": ("c", lambda fd: os.fchmod(fd, 0o600)),
    "fchmod, the same": ("c", lambda fd: os.fchmod(fd, 0o644)),
    "fchown": ("c", lambda fd: os.fchown(fd, 1, 1)),
    "fchown, the same": ("c", lambda fd: os.fchown(fd, 0, 0)),
    "utime": ("c", lambda fd: os.utime(fd, ns=(1, OLD[0] * 10**9 + OLD[1]))),
    "setxattr": ("c", lambda fd: os.setxattr(fd, "user.a", b"1")),
    "link": ("c", lambda fd: os.link("f", "g")),
    "rename": ("c", lambda fd: os.rename("f", "g")),
    "unlink": ("c", lambda fd: os.unlink("f")),
    "read": ("", lambda fd: os.read(fd, 9)),
    "open": ("", lambda fd: os.close(os.open("f", os.O_RDWR))),
    "fsync": ("", lambda fd: os.fsync(fd)),
    "fstat": ("", lambda fd: os.fstat(fd)),
    "close of a duplicate": ("", lambda fd: os.close(os.dup(fd))),
    "write of nothing": ("", lambda fd: os.write(fd, b"")),
    "getxattr": ("", lambda fd: os.listxattr(fd)),
    "lseek": ("", lambda fd: os.lseek(fd, 2, os.SEEK_SET)),
    "mmap, only read": ("", lambda fd: mmap.mmap(fd, 4, prot=mmap.PROT_READ)[:]),
}

IN_A_DIRECTORY: dict[str, tuple[str, Callable[[], object]]] = {
    "creat": ("mc", lambda: put("new")),
    "mkdir": ("mc", lambda: os.mkdir("new")),
    "symlink": ("mc", lambda: os.symlink("f", "new")),
    "mkfifo": ("mc", lambda: os.mkfifo("new")),
    "link": ("mc", lambda: os.link("f", "new")),
    "unlink": ("mc", lambda: os.unlink("f")),
    "rmdir": ("mc", lambda: os.rmdir("empty")),
    "rename within": ("mc", lambda: os.rename("f", "new")),
    "rename out": ("mc", lambda: os.rename("f", "d/f")),
    "rename in": ("mc", lambda: os.rename("d/x", "x")),
    "chmod": ("c", lambda: os.chmod(".", 0o700)),
    "chown": ("c", lambda: os.chown(".", 1, 1)),
    "write to a file": ("", lambda: put("f", b"x")),
    "chmod of a file": ("", lambda: os.chmod("f", 0)),
    "listing": ("", lambda: os.listdir()),
    "rename below": ("", lambda: os.rename("d/x", "d/y")),
    "creat below": ("", lambda: put("d/new")),
}


@pytest.mark.parametrize("call", ON_A_FILE)
def test_on_a_file(call: str) -> None:
    put("f", b"data")
    utimensat("f", OLD, OLD)
    letters, work = ON_A_FILE[call]
    with opened("f", os.O_RDWR) as fd, touches(fd, letters):
        work(fd)


@pytest.mark.parametrize("call", [call for call in ON_A_FILE if call not in ("unlink", "rename")])
def test_they_stay_when_it_is_closed(call: str) -> None:
    """What fstat said is what stat says after close, and after a while."""
    put("f", b"data")
    with opened("f", os.O_RDWR) as fd:
        ON_A_FILE[call][1](fd)
        said = os.fstat(fd)
    tick()
    found = os.stat("f")
    assert (found.st_mtime_ns, found.st_ctime_ns) == (said.st_mtime_ns, said.st_ctime_ns)


@pytest.mark.parametrize("call", IN_A_DIRECTORY)
def test_in_a_directory(call: str) -> None:
    put("f", b"data")
    os.mkdir("d")
    os.mkdir("empty")
    put("d/x")
    utimensat(".", OLD, OLD)
    letters, work = IN_A_DIRECTORY[call]
    with touches(".", letters):
        work()


def test_shared_memory() -> None:
    """A store through a mapping counts by the time that msync returns."""
    put("f", b"data")
    with opened("f", os.O_RDWR) as fd:
        shared = mmap.mmap(fd, 4)
        with touches("f", "mc"):
            shared[0:1] = b"D"
            shared.flush()
        shared.close()
    assert get("f") == b"Data"


def test_times_grow_from_call_to_call() -> None:
    times = []
    for number in range(20):
        tick()
        os.close(os.open(f"{number}", os.O_CREAT | os.O_WRONLY))
        times.append(os.stat(f"{number}").st_mtime_ns)
    assert times == sorted(set(times))


def test_a_read_moves_no_other_time() -> None:
    put("f", b"data")
    with touches("f", ""):
        get("f")


@differs("access times")
def test_reading_moves_the_access_time() -> None:
    """relatime: when it isn't later than the last change."""
    put("f", b"data")
    utimensat("f", (1, 0), OLD)
    with touches("f", "a", among="a"):
        get("f")


@differs("access times of directories")
def test_listing_moves_the_access_time() -> None:
    os.mkdir("d")
    put("d/f")
    utimensat("d", (1, 0), OLD)
    with touches("d", "a", among="a"):
        os.listdir("d")


@differs("access times of symlinks")
def test_following_moves_the_access_time() -> None:
    os.symlink("f", "s")
    utimensat("s", (1, 0), OLD, flags=0x100)
    with touches("s", "a", among="a"):
        os.readlink("s")


def test_noatime_moves_none() -> None:
    put("f", b"data")
    utimensat("f", (1, 0), OLD)
    with opened("f", os.O_RDONLY | os.O_NOATIME) as fd, touches("f", "", among="amc"):
        os.read(fd, 4)
