"""Locks between processes on one mount: fcntl's and flock's."""

import fcntl
import os
from collections.abc import Callable
from errno import EACCES, EAGAIN

import pytest

from tests.live.posix.linux import opened, put

pytestmark = pytest.mark.usefixtures("place")


@pytest.mark.parametrize("lock", [fcntl.lockf, fcntl.flock])
def test_one_process_at_a_time(lock: Callable[[int, int], object]) -> None:
    put("f")

    def another_gets_it() -> bool:
        child = os.fork()
        if child == 0:
            with opened("f", os.O_RDWR) as fd:
                try:
                    lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    os._exit(1 if error.errno in (EACCES, EAGAIN) else 2)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 1)
        return code == 0

    with opened("f", os.O_RDWR) as fd:
        lock(fd, fcntl.LOCK_EX)
        assert not another_gets_it()
        lock(fd, fcntl.LOCK_UN)
        assert another_gets_it()
        lock(fd, fcntl.LOCK_EX)
    assert another_gets_it()  # closing lets go
