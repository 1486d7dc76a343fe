"""What a mount said of itself went into the metaserver's log as it was: 8 KiB of it, and lines of
its own making between the metaserver's."""

import logging

import pytest
from tests.fuzz.siege import Siege

from zdfs import wire
from zdfs.ids import Incarnation, Session


def test_a_mount_can_not_write_the_log(caplog: pytest.LogCaptureFixture) -> None:
    siege = Siege()
    head = wire.RequestHead(Session(0), wire.NO_SLOT, 5, 2000, Incarnation(0))
    forged = "h\n2026-01-01 00:00:00 zdfs.meta ERROR all is lost\x1b[2J"
    with caplog.at_level(logging.INFO, "zdfs"):
        siege.send(0, wire.encode_request(head, wire.OpenSession(bytes(16), forged, "m" * 4096)))
        siege.world.run(lambda: bool(siege.answers), 10)
    (line,) = [one for one in caplog.messages if one.startswith("session ")]
    assert line.isprintable() and len(line) < 300
