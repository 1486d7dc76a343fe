"""How far a command is: on a terminal, elsewhere, and never in the way of a script."""

import os
import pty
import subprocess
import sys

import pytest

from tests.conftest import until
from zdfs import progress

# Ends when its stdin does.
CODE = """
import sys
from zdfs import progress
print('before', flush=True)
with progress.Shown(quiet={quiet}, words='asking [b]everybody') as tell:
    sys.stdin.readline()
    tell('counting', 2500, 10000)
    print('in between', flush=True)
    sys.stdin.readline()
print('after', flush=True)
"""


def shown(quiet: bool, stdout: int | None = None) -> tuple[str, str]:
    """What a terminal shows while nothing is counted, and after; `stdout`: goes elsewhere."""
    near, far = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", CODE.format(quiet=quiet)], stdin=subprocess.PIPE,
        stdout=far if stdout is None else stdout, stderr=far,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(far)
    os.set_blocking(near, False)
    seen = b""

    def has(what: bytes) -> bool:
        nonlocal seen
        try:
            seen += os.read(near, 65536)
        except OSError:  # nothing yet, or nothing any more
            return what in seen or child.poll() is not None
        return what in seen

    assert child.stdin is not None
    if not quiet:
        until(lambda: has(b"asking [b]everybody"), 10, "words")
    first, seen = seen, b""
    child.stdin.write(b"\n")
    child.stdin.flush()
    if not quiet:
        until(lambda: has(b"2,500/10,000"), 10, "a bar")
    child.stdin.close()
    until(lambda: has(b"never said") and child.poll() is not None, 10, "its end")
    os.close(near)
    assert child.returncode == 0
    return first.decode(), seen.decode()


def test_a_terminal_shows_words_and_then_a_bar() -> None:
    first, then = shown(False)
    assert "before" in first and "counting" in then and "in between" in then and "after" in then


def test_a_script_gets_its_lines_and_nothing_else() -> None:
    reads, writes = os.pipe()
    with os.fdopen(reads, "rb") as pipe:
        _, then = shown(False, writes)
        os.close(writes)
        assert pipe.read() == b"before\nin between\nafter\n"
    assert "in between" not in then


def test_quiet_is_quiet() -> None:
    first, then = shown(True)
    assert (first + then).replace("\r", "").split() == ["before", "in", "between", "after"]


def test_elsewhere_lines_come_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINES_S", 0.01)
    seen = ""

    def said(what: str) -> bool:
        nonlocal seen
        seen += capsys.readouterr().err
        return what in seen

    with progress.Shown(words="asking") as tell:
        until(lambda: said("asking (0 s)\n"))
        tell("counting", 1500, 2000)
        until(lambda: said("counting: 1,500 of about 2,000 (0 s)\n"))
    with progress.Shown(quiet=True, words="hushed"):
        seen += capsys.readouterr().err
    assert not said("hushed")
