"""What the tests of fallocate, lseek and copy_file_range share.

Each case runs in a directory of this machine too: what is asserted there is what Linux does.  Both
have blocks of 4 KiB, so even st_blocks and the places of holes are the same.
"""

import ctypes
import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.cluster import Cluster

BLOCK = 4096
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE = 0x01, 0x02, 0x08, 0x10
INSERT_RANGE, UNSHARE_RANGE = 0x20, 0x40
PUNCH = PUNCH_HOLE | KEEP_SIZE
NOBODY = 65534
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


@contextmanager
def cluster_of_sides(folder: Path) -> Iterator[Cluster]:
    """Three servers with blocks like the local disk's, mounted at `mnt`; a directory `local`."""
    one = Cluster(folder, 3, block_size=BLOCK)
    try:
        one.start()
        one.mount()
        (folder / "local").mkdir()
        yield one
    finally:
        one.close()


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2); OSError."""
    if LIBC.fallocate(fd, mode, offset, length):
        raise OSError(ctypes.get_errno(), f"fallocate {mode:#x} {offset} {length}")


def refused(number: int, call: Callable[..., object], *arguments: object) -> None:
    """A system call must fail, with this errno."""
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]


@contextmanager
def opened(path: Path, data: bytes = b"", flags: int = os.O_RDWR) -> Iterator[int]:
    """A descriptor of a file that holds `data` (unflushed)."""
    if flags & os.O_ACCMODE != os.O_RDONLY:
        flags |= os.O_CREAT
    fd = os.open(path, flags, 0o644)
    try:
        if data:
            assert os.pwrite(fd, data, 0) == len(data)
        yield fd
    finally:
        os.close(fd)


def pattern(blocks: int) -> bytes:
    """Blocks without a zero, each unlike the others."""
    return b"".join(bytes([number % 255 + 1]) * BLOCK for number in range(blocks))


def content(fd: int) -> bytes:
    """All of a file."""
    return os.pread(fd, os.fstat(fd).st_size + 1, 0)


def under_a_limit(fd: int, limit: int, calls: str) -> list[str]:
    """In a process that may make files of so many bytes: what each call answers, and whether
    SIGXFSZ came."""
    script = (
        "import os, signal, sys\n"
        "from tests.live.posix.stretches import answer_of\n"
        "fd = int(sys.argv[1])\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGXFSZ])\n"
        f"for call in {calls!r}.splitlines():\n"
        "    answer = answer_of(call, fd)\n"
        "    came = signal.sigtimedwait([signal.SIGXFSZ], 0)\n"
        "    print(answer, int(came is not None))\n"
    )

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", script, str(fd)], pass_fds=[fd], preexec_fn=limited,
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def answer_of(call: str, fd: int) -> object:
    """What a call answers, or the name of its errno."""
    try:
        return eval(call, {"os": os, "fd": fd, "fallocate": fallocate})
    except OSError as error:
        return errno.errorcode[error.errno or 0]
