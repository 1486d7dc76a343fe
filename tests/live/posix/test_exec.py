"""Programs that lie on the file system are run from there."""

import os
import shutil
import subprocess
from errno import EACCES, ENOEXEC, ETXTBSY

import pytest

from tests.live.posix.differences import differs
from tests.live.posix.linux import ALICE, fails, mode_of, opened, put, user

pytestmark = pytest.mark.usefixtures("place")


def program(name: str = "true") -> None:
    """A copy of one of the machine's binaries."""
    path = shutil.which(name)
    assert path is not None
    shutil.copy(path, name)


def test_a_binary() -> None:
    program("echo")
    done = subprocess.run(["./echo", "hello"], capture_output=True, timeout=30)
    assert done.stdout == b"hello\n"


def test_a_script() -> None:
    put("script", b'#!/bin/sh\necho "$0 $1"\n')
    os.chmod("script", 0o755)
    done = subprocess.run(["./script", "x"], capture_output=True, timeout=30)
    assert done.stdout == b"./script x\n"


def test_an_interpreter_that_lies_here_too() -> None:
    program("cat")
    put("script", f"#!{os.getcwd()}/cat\nme\n".encode())
    os.chmod("script", 0o755)
    done = subprocess.run(["./script"], capture_output=True, timeout=30)
    assert done.stdout.endswith(b"me\n")


def test_what_may_not_be_run() -> None:
    program()
    for mode in (0o644, 0o666):
        os.chmod("true", mode)
        with fails(EACCES):
            os.execv("./true", ["true"])
    os.chmod("true", 0o700)
    with user(ALICE), fails(EACCES):
        os.execv("./true", ["true"])
    with fails(EACCES):
        os.execv(".", ["."])
    put("empty")
    os.chmod("empty", 0o755)
    with fails(ENOEXEC):
        os.execv("./empty", ["empty"])


def test_a_program_that_is_open_for_writing() -> None:
    program()
    with opened("true", os.O_WRONLY), fails(ETXTBSY):
        os.execv("./true", ["true"])
    assert subprocess.run(["./true"], timeout=30).returncode == 0


def test_a_program_that_runs_is_not_written() -> None:
    program("cat")
    running = subprocess.Popen(["./cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert running.stdin and running.stdout
        running.stdin.write(b"up\n")
        running.stdin.flush()
        assert running.stdout.readline() == b"up\n"
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            with fails(ETXTBSY):
                os.open("cat", flags)
        with fails(ETXTBSY):
            os.truncate("cat", 0)
        os.close(os.open("cat", os.O_RDONLY))
        os.rename("cat", "moved")
        os.unlink("moved")  # it runs on
        running.stdin.write(b"still\n")
        running.stdin.flush()
        assert running.stdout.readline() == b"still\n"
    finally:
        running.stdin.close()
        assert running.wait(30) == 0


@differs("set-id programs")
def test_a_set_id_program_runs_as_its_owner() -> None:
    program("id")
    os.chmod("id", 0o4755)
    assert mode_of("id") == 0o4755
    done = subprocess.run(["./id", "-u"], capture_output=True, timeout=30, user=ALICE, group=ALICE)
    assert done.stdout == b"0\n"


def test_a_shared_library() -> None:
    """Mapped privately, executable, by the dynamic loader."""
    import _ctypes
    import ctypes

    shutil.copy(_ctypes.__file__, "library.so")
    assert ctypes.PyDLL("./library.so")._handle
