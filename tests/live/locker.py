"""Programs that lock files of a mount, as subprocesses (see `programs`).

Each is started as `python -m tests.live.locker NAME ARGUMENT...`, talks through its output and is
told to go on by lines on its input.
"""

import fcntl
import os
import signal
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OFD_SETLK, OFD_SETLKW = 37, 38  # F_OFD_SETLK, F_OFD_SETLKW of linux/fcntl.h


def start(name: str, *arguments: object) -> "subprocess.Popen[str]":
    """Start one of the programs below."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.live.locker", name, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def tell(process: "subprocess.Popen[str]", text: object) -> str:
    """Say something to a program, and hear its answer ("" when it has ended)."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{text}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def end(*processes: "subprocess.Popen[str]") -> None:
    """End programs, whatever they do."""
    for process in processes:
        process.kill()
        process.communicate(timeout=20)


def _flock(kind: int, start: int, length: int, pid: int = 0) -> bytes:
    """struct flock."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, pid)


def _locked(file: int, command: int, kind: int, start: str, length: str) -> str:
    fcntl.fcntl(file, command, _flock(kind, int(start), int(length)))
    return "ok"


def _test(file: int, kind: int, start: str, length: str) -> str:
    said = fcntl.fcntl(file, fcntl.F_GETLK, _flock(kind, int(start), int(length)))
    kind, _, first, size, pid = struct.unpack("hhqqi4x", said)
    if kind == fcntl.F_UNLCK:
        return "free"
    return f"{'exclusive' if kind == fcntl.F_WRLCK else 'shared'} {first} {size} {pid}"


KINDS = {"w": fcntl.F_WRLCK, "r": fcntl.F_RDLCK, "u": fcntl.F_UNLCK}
FLOCKS = {"w": fcntl.LOCK_EX, "r": fcntl.LOCK_SH, "u": fcntl.LOCK_UN}


def _obey(files: list[int], path: str, words: list[str]) -> str:
    """One command: what to do, r, w or u, where."""
    verb, *rest = words
    if verb == "open":
        files.append(os.open(path, os.O_RDWR | os.O_CREAT))
        return "ok"
    if verb == "close":
        os.close(files.pop(int(rest[0])))
        return "ok"
    if verb in ("try", "wait"):
        command = fcntl.F_SETLKW if verb == "wait" else fcntl.F_SETLK
        return _locked(files[0], command, KINDS[rest[0]], *rest[1:])
    if verb in ("ofd-try", "ofd-wait"):
        command = OFD_SETLKW if verb == "ofd-wait" else OFD_SETLK
        return _locked(files[0], command, KINDS[rest[0]], *rest[1:])
    if verb in ("flock-try", "flock"):
        fcntl.flock(files[0], FLOCKS[rest[0]] | (fcntl.LOCK_NB if verb == "flock-try" else 0))
        return "ok"
    if verb == "test":
        return _test(files[0], KINDS[rest[0]], *rest[1:])
    if verb == "read":
        return os.pread(files[0], 100, 0).decode() or "nothing"
    assert verb == "write", verb
    os.pwrite(files[0], rest[0].encode(), 0)
    return "ok"


def obey(path: str) -> None:
    """Do what is said, line by line, and say how it went: "ok", or the errno."""
    signal.signal(signal.SIGALRM, _caught)
    files = [os.open(path, os.O_RDWR | os.O_CREAT)]
    for text in sys.stdin:
        try:
            said = _obey(files, path, text.split())
        except Caught:
            said = "caught"
        except OSError as error:
            said = str(error.errno)
        print(said, flush=True)


class Caught(Exception):
    """A signal came."""


def _caught(number: int, frame: Any) -> None:
    raise Caught


def count(path: str, times: str, kind: str) -> None:
    """Add to a number in a file, under a lock each time."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    lock = fcntl.flock if kind == "flock" else fcntl.lockf
    for _ in range(int(times)):
        lock(file, fcntl.LOCK_EX)
        number = int(os.pread(file, 20, 0) or b"0")
        os.pwrite(file, b"%d" % (number + 1), 0)
        lock(file, fcntl.LOCK_UN)
    print("done", flush=True)


def database(path: str, times: str, me: str) -> None:
    """Move amounts between two accounts, and keep a journal of it, in SQLite's rollback mode."""
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    assert connection.execute("pragma journal_mode=delete").fetchone() == ("delete",)
    for number in range(int(times)):
        connection.execute("begin immediate")
        (total,) = connection.execute("select sum(amount) from accounts").fetchone()
        assert total == 1000, total
        connection.execute("update accounts set amount = amount - 1 where name = 'a'")
        connection.execute("update accounts set amount = amount + 1 where name = 'b'")
        connection.execute("insert into moves values (?, ?)", (me, number))
        connection.execute("commit")
    print("done", flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
