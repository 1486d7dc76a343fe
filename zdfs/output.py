"""What a command prints: a disk that is full and a pipe that was closed are told apart from what
goes wrong inside, and a name that the encoding does not have is escaped instead of refused."""

import contextlib
import errno
import io
import os
import sys

CLOSED = 141  # as of a program that SIGPIPE ended: `zdfs health | true` is no warning
UNWRITTEN = 2  # not 1: of health, fsck and others that is an answer


class Unwritten(Exception):
    """stdout takes no more; `status` is then the command's."""

    def __init__(self, error: OSError):
        super().__init__(f"can't write the output: {error.strerror or error}")
        self.status = CLOSED if error.errno == errno.EPIPE else UNWRITTEN


class _Output(io.TextIOWrapper):
    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise Unwritten(error) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise Unwritten(error) from error


def settle() -> None:
    """From here on printing raises Unwritten."""
    plain = sys.stdout
    if isinstance(plain, io.TextIOWrapper) and plain is sys.__stdout__:  # not closed, nor a test's
        encoding, lines = plain.encoding, plain.line_buffering
        sys.stdout = _Output(
            plain.detach(), encoding, errors="backslashreplace", line_buffering=lines
        )


def flush() -> None:
    """What was printed is written; else Unwritten."""
    if sys.stdout is not None:
        sys.stdout.flush()


def give_up() -> None:
    """Nothing more of it: the interpreter's end would try again, and complain."""
    broken, sys.stdout = sys.stdout, open(os.devnull, "w", encoding="ascii")  # noqa: SIM115
    with contextlib.suppress(Unwritten, OSError):
        broken.close()
