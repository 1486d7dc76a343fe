"""Entries of the journal, on a real socket that stands in for journald's."""

import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from zdfs import journal
from zdfs.errors import StartError


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    """The root logger as it was."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in before:
            handler.close()
    root.handlers[:], root.level = before, level


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "socket"))
        made.settimeout(5)
        yield made


def entry(journald: socket.socket) -> dict[str, str]:
    """The next entry, parsed as journald does."""
    raw, found = journald.recv(1 << 20), {}
    while raw:
        line, _, raw = raw.partition(b"\n")
        key, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", raw[:8])
            value, raw = raw[8 : 8 + size], raw[8 + size + 1 :]
        found[key.decode()] = value.decode()
    return found


def to(journald: socket.socket, path: Path | None = journal.WORD, stream: str = "") -> None:
    environment = {"JOURNAL_STREAM": stream} if stream else {}
    fields = {"ZDFS_ROLE": "data", "ZDFS_SERVER": "storage1:3333"}
    journal.log_to(path, "zdfs-node", fields, environment, str(journald.getsockname()))


def test_a_line_with_its_level_and_fields(journald: socket.socket) -> None:
    to(journald)
    logging.getLogger("zdfs.data").warning("block %d is damaged", 7)
    found = entry(journald)
    assert found["MESSAGE"] == "block 7 is damaged" and found["PRIORITY"] == "4"
    assert found["ZDFS_SERVER"] == "storage1:3333" and found["ZDFS_ROLE"] == "data"
    assert found["SYSLOG_IDENTIFIER"] == "zdfs-node" and found["ZDFS_LOGGER"] == "zdfs.data"
    assert found["CODE_FILE"] == __file__ and found["CODE_FUNC"].startswith("test_a_line")


def test_a_traceback_is_one_entry(journald: socket.socket) -> None:
    to(journald)
    try:
        raise ValueError("odd\nthing")
    except ValueError:
        logging.getLogger("zdfs").exception("unexpected")
    found = entry(journald)
    assert found["PRIORITY"] == "3" and found["MESSAGE"].startswith("unexpected\nTraceback (most")
    assert found["MESSAGE"].endswith("ValueError: odd\nthing")


def test_a_value_can_not_make_a_field(journald: socket.socket) -> None:
    to(journald)
    logging.getLogger("zdfs").error("a name\nPRIORITY=0\n\udcff")
    found = entry(journald)
    assert found["PRIORITY"] == "3" and found["MESSAGE"] == "a name\nPRIORITY=0\n\\udcff"


def test_what_is_too_long_is_cut(journald: socket.socket) -> None:
    to(journald)
    logging.getLogger("zdfs").error("x" * (1 << 20))
    assert len(entry(journald)["MESSAGE"]) == journal.MOST_BYTES


def test_levels() -> None:
    levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL, 99)
    assert [journal.priority(level) for level in levels] == [7, 6, 4, 3, 2, 2]


def test_a_journal_that_starts_anew_is_found_again(
    journald: socket.socket, capfd: pytest.CaptureFixture[str]
) -> None:
    to(journald)
    path = journald.getsockname()
    journald.close()
    os.unlink(path)
    logging.getLogger("zdfs").error("nobody hears")
    assert "zdfs: nobody hears (journal: " in capfd.readouterr().err  # nothing is swallowed
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.bind(path)
        logging.getLogger("zdfs").error("and now")
        assert entry(again)["MESSAGE"] == "and now"


def test_without_a_word_it_is_taken_where_stderr_is_the_journal(journald: socket.socket) -> None:
    def handler(stream: str) -> logging.Handler:
        to(journald, None, stream)
        return logging.getLogger().handlers[0]

    stderr = os.fstat(2)
    ours = handler(f"{stderr.st_dev}:{stderr.st_ino}")
    assert isinstance(ours, journal.JournalHandler)
    ours.close()
    assert not isinstance(handler(f"{stderr.st_dev}:{stderr.st_ino + 1}"), journal.JournalHandler)
    assert not isinstance(handler(""), journal.JournalHandler)


def test_no_journal_is_said(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    with pytest.raises(StartError, match="there is no journal at .*gone"):
        journal.log_to(journal.WORD, "zdfs-node", {}, {}, gone)
    stderr = os.fstat(2)
    stream = {"JOURNAL_STREAM": f"{stderr.st_dev}:{stderr.st_ino}"}
    journal.log_to(None, "zdfs-node", {}, stream, gone)  # then stderr is
    assert not isinstance(logging.getLogger().handlers[0], journal.JournalHandler)
