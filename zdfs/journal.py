"""Where log lines go: stderr, a file, or systemd's journal, with their level and fields.

The journal is written to by its own protocol (systemd's JOURNAL_NATIVE_PROTOCOL): a datagram of
KEY=value lines, values with line ends by length.  So each line has its PRIORITY, a traceback is one
entry, and `journalctl ZDFS_SERVER=storage1:3333` finds what one server said:

    ZDFS_ROLE meta, data or mount    ZDFS_SERVER its address    ZDFS_SLOT its place on the ring
    ZDFS_MOUNT the directory         ZDFS_LOGGER the part that speaks

`--log journal` asks for it.  Without --log it is taken when stderr is the journal already, as
systemd has it for services (JOURNAL_STREAM, systemd.exec(5)).
"""

import errno
import logging
import os
import socket
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from zdfs.errors import StartError

SOCKET = "/run/systemd/journal/socket"
WORD = Path("journal")  # after --log
MOST_BYTES = 48 * 1024  # of a message; a datagram must fit the socket's buffer
PRIORITIES = (  # syslog(3)
    (logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6),
)  # fmt: skip


def priority(level: int) -> int:
    """syslog's number for logging's."""
    return next((number for least, number in PRIORITIES if level >= least), 7)


def encode(fields: Mapping[str, str]) -> bytes:
    """An entry, as the journal takes it."""
    parts = []
    for key, value in fields.items():
        raw = value.encode(errors="backslashreplace")[:MOST_BYTES]
        if b"\n" in raw:
            parts.append(key.encode() + b"\n" + struct.pack("<Q", len(raw)) + raw + b"\n")
        else:
            parts.append(key.encode() + b"=" + raw + b"\n")
    return b"".join(parts)


class Aloud(logging.Handler):
    """While a command runs, warnings are lines on stderr under its name.  A StartError whose words
    were such a line just now ends it (exit status 1) without being said again."""

    def __init__(self, name: str):
        super().__init__(logging.WARNING)
        self.name, self.said = name, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        self.said.add(record.getMessage())
        print(f"{self.name}: {self.format(record)}", file=sys.stderr)

    def __enter__(self) -> Self:
        logging.getLogger("zdfs").addHandler(self)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        logging.getLogger("zdfs").removeHandler(self)
        if isinstance(error, StartError) and str(error) in self.said:
            raise SystemExit(1) from error


class JournalHandler(logging.Handler):
    """Sends records to the journal; `fields` stand on each of them."""

    def __init__(self, name: str, fields: Mapping[str, str], path: str = SOCKET):
        """OSError: nobody listens there."""
        super().__init__()
        self.fields = {"SYSLOG_IDENTIFIER": name, "SYSLOG_PID": str(os.getpid()), **fields}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._path = path
        self._socket.connect(path)

    def emit(self, record: logging.LogRecord) -> None:
        """One entry.  A journal that starts anew has a new socket: it is found again."""
        entry = encode(
            {
                "MESSAGE": self.format(record),
                "PRIORITY": str(priority(record.levelno)),
                "CODE_FILE": record.pathname,
                "CODE_LINE": str(record.lineno),
                "CODE_FUNC": record.funcName or "",
                "ZDFS_LOGGER": record.name,
                **self.fields,
            }
        )
        try:
            self._send(entry)
        except OSError as error:
            print(f"{record.name}: {record.getMessage()} (journal: {error})", file=sys.stderr)

    def _send(self, entry: bytes) -> None:
        try:
            self._socket.send(entry)
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.ENOTCONN, errno.ECONNRESET):
                raise
            self._socket.connect(self._path)
            self._socket.send(entry)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()
        super().close()


def is_stream(stream: str, descriptor: int) -> bool:
    """Whether a descriptor is the one that JOURNAL_STREAM ("device:inode") speaks of."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return stream == f"{found.st_dev}:{found.st_ino}"


def log_to(
    path: Path | None,
    name: str,
    fields: Mapping[str, str],
    environment: Mapping[str, str],
    where: str = SOCKET,
) -> None:
    """Let log lines go to a file (made with its directory), to the journal ("journal"), or, where
    none is named, to stderr, whatever that is."""
    handler: logging.Handler | None = None
    if path == WORD or (path is None and is_stream(environment.get("JOURNAL_STREAM", ""), 2)):
        try:
            handler = JournalHandler(name, fields, where)
        except OSError as error:
            if path is not None:
                raise StartError(
                    f"--log journal: there is no journal at {where} ({error.strerror}): name a "
                    "file, or leave it out"
                ) from error
    elif path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(path)
        except OSError as error:
            raise StartError(f"can't write the log {path}: {error.strerror}") from error
    if handler is None:
        handler = logging.StreamHandler()
    if not isinstance(handler, JournalHandler):
        form = logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s")
        form.converter = time.gmtime
        form.default_msec_format = "%s.%03dZ"
        handler.setFormatter(form)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
