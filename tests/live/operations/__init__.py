"""What each operation of POSIX does: one function each, run as a program on a directory.

    python -m live.operations NAME DIRECTORY

`test_operations` runs every one on the mount and on a local directory: what is asserted here is
what Linux does, not what we believe it does.  A function takes its own empty directory.
"""

import errno
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NS = 1_000_000_000
KIB, MIB, GIB = 1024, 1024**2, 1024**3
NOBODY = 65534


@contextmanager
def fails(*numbers: int) -> Iterator[None]:
    """What stands below fails with one of these errnos."""
    try:
        yield
    except OSError as error:
        assert error.errno in numbers, error
        return
    raise AssertionError(f"no {[errno.errorcode[number] for number in numbers]}")


@contextmanager
def opened(path: Path | str | bytes, flags: int, mode: int = 0o666) -> Iterator[int]:
    """A descriptor."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def as_user(work: Callable[[], None], uid: int, gid: int, groups: list[int]) -> None:
    """Do something as somebody else, in a child; its failure is ours."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0, "see above"
