"""A process that does what a test says, one step at a time, with its files open in between.

    with Hand(mount) as a, Hand(other) as b:
        a("fd = os.open('f', os.O_RDWR | os.O_CREAT)")
        assert b("os.stat('f').st_size") == 0

A step is a statement or an expression of Python, run in the hand's directory; what an expression
gives comes back, an OSError is raised here too.  A mount that hangs stops the hand, not the test.
"""

import ast
import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

LOOP = """
import ast, errno, fcntl, mmap, os, signal, stat, sys, time
space = globals()
for line in sys.stdin:
    step = ast.literal_eval(line)
    try:
        try:
            answer = (0, eval(step, space))
        except SyntaxError:
            exec(step, space)
            answer = (0, None)
    except OSError as error:
        answer = (error.errno, str(error))
    print(repr(answer), flush=True)
"""


class Hand:
    """One process in a directory."""

    def __init__(self, where: Path):
        # The directory is entered inside: a mount that hangs shall not hang Popen.
        code = f"import os; os.chdir({str(where)!r})" + LOOP
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def start(self, step: str) -> None:
        """Begin a step; `end` has its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(repr(step) + "\n")
        self._process.stdin.flush()

    def waits(self, seconds: float) -> bool:
        """Whether the step that was begun is still underway after so long."""
        return not select.select([self._process.stdout], [], [], seconds)[0]

    def end(self, patience_s: float = 60.0) -> Any:
        """The answer to the step that was begun."""
        if self.waits(patience_s):
            pytest.fail(f"a step did not end within {patience_s:g} s")
        assert self._process.stdout is not None
        number, answer = ast.literal_eval(self._process.stdout.readline())
        if number:
            raise OSError(number, answer)
        return answer

    def __call__(self, step: str, patience_s: float = 60.0) -> Any:
        self.start(step)
        return self.end(patience_s)

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()

    def __enter__(self) -> "Hand":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    os.sched_yield()
        self._process.wait(timeout=30)
