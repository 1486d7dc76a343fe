"""Programs that tests run on a mount, as subprocesses: a mount that hangs must not hang the tests.

Each is started as `python -m tests.live.programs NAME ARGUMENT...` and talks through its output.
"""

import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WIDE = 40_000  # bytes of a file that stands on every server
MOST = 200_000  # bytes of the files that are compared


def start(name: str, *arguments: object) -> "subprocess.Popen[str]":
    """Start one of the programs below."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.live.programs", name, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def python(text: str, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """A program of a test's own beside it; it ends with the test."""
    with subprocess.Popen(
        (sys.executable, "-c", text, *words), cwd=ROOT, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:  # fmt: skip
        try:
            yield child
        finally:
            child.kill()


def run(*words: object, timeout: float = 60) -> "subprocess.CompletedProcess[bytes]":
    """Run a command; its output as bytes."""
    return subprocess.run(list(map(str, words)), capture_output=True, timeout=timeout)


def line(process: "subprocess.Popen[str]") -> str:
    """The next line that a program says; "" when it has ended."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def say(text: object) -> None:
    """Tell the test."""
    print(text, flush=True)


# --- the programs --------------------------------------------------------------------------------


def accept(path: str, how: str, text: str) -> None:
    """Write (accepted into the buffer), then wait in fsync or close."""
    file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(file, text.encode().ljust(WIDE))
    say("accepted")
    os.fsync(file) if how == "fsync" else os.close(file)
    say("done")


def handler(path: str) -> None:
    """Blocked in write; a signal is caught, and the program lives on."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    say("open")
    try:
        while True:
            os.pwrite(file, b"x", 0)
            os.fsync(file)
    except KeyboardInterrupt:
        say("caught")


def append(own: str, shared: str, me: str, count: str) -> None:
    """Numbered records at the end of two files; some are synced, some closed and opened again."""
    files = [os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644) for path in (own, shared)]
    for number in range(int(count)):
        record = b"%s %06d\n" % (me.encode(), number)
        for place, path in enumerate((own, shared)):
            assert os.write(files[place], record) == len(record)
            if number % 50 == 49:
                os.close(files[place])
                files[place] = os.open(path, os.O_WRONLY | os.O_APPEND)
            elif number % 20 == 19:
                os.fsync(files[place])
        if number % 100 == 0:
            say(number)
    for file in files:
        os.close(file)
    say("done")


def read(path: str) -> None:
    """Read an open file over and over, past the kernel's cache; say how often."""
    file = os.open(path, os.O_RDONLY)
    first = os.pread(file, 1 << 20, 0)
    count = 0
    while True:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(file, 1 << 20, 0) == first
        count += 1
        say(count)


def hold(path: str, text: str) -> None:
    """Write, wait for a signal, then fsync and say how that went; then again."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(file, text.encode())
    say("accepted")
    for _ in range(2):
        signal.sigwait({signal.SIGUSR1})
        try:
            os.pwrite(file, b"later " + text.encode(), 0)
            os.fsync(file)
            say("fine")
        except OSError as error:
            say(error.errno)


def timer(path: str) -> None:
    """Write, sync, rename and read under a timer whose handler C code would not notice."""
    libc = ctypes.CDLL(None, use_errno=True)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    data = bytes(100_000)
    for number in range(30):
        # Straight to the C library: Python itself would repeat what EINTR ends.
        for call, *arguments in (
            (libc.pwrite, file, data, len(data), ctypes.c_long(number * len(data))),
            (libc.fsync, file),
            (libc.rename, path.encode(), path.encode() + b"x"),
            (libc.rename, path.encode() + b"x", path.encode()),
            (libc.close, os.open(path, os.O_WRONLY | os.O_TRUNC if number % 9 == 8 else 1)),
        ):
            if call(*arguments) < 0:
                sys.exit(f"{call.__name__}: {os.strerror(ctypes.get_errno())}")
    signal.setitimer(signal.ITIMER_REAL, 0)
    say("done")


def differ(there: str, here: str, seed: str, count: str) -> None:
    """The same random writes, cuts and reads on two files; they must never differ."""
    dice = random.Random(seed)
    files = [os.open(path, os.O_CREAT | os.O_RDWR, 0o644) for path in (there, here)]
    for number in range(int(count)):
        offset, size = dice.randrange(MOST), dice.choice((1, 100, 4096, 5000, 30_000))
        kind = dice.choice("wwwwwrrrtasdco")
        data = dice.randbytes(size)
        results = []
        for place, path in enumerate((there, here)):
            if kind == "c":
                os.close(files[place])
                files[place] = os.open(path, os.O_RDWR)
            results.append(_act(kind, files[place], path, data, offset))
        if results[0] != results[1]:
            say(f"operation {number} ({kind}, {offset}, {size}) differs")
            return
        say(number)
    for file in files:
        os.close(file)
    say("same")


def _act(kind: str, file: int, path: str, data: bytes, offset: int) -> object:
    """One operation of `differ`, and what it says."""
    if kind == "w":
        return os.pwrite(file, data, offset)
    if kind == "a":
        with open(path, "ab", buffering=0) as end:
            return end.write(data)
    if kind == "r":
        return os.pread(file, len(data), offset)
    if kind == "t":
        return os.ftruncate(file, offset)
    if kind == "s":
        return os.fsync(file)
    if kind == "d":
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.pread(file, MOST * 2, 0)
    return os.fstat(file).st_size


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
