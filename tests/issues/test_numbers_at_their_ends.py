"""A question whose number is the last of 64 bits was an error of the server's, not an answer.

Behind it is one that no key can hold: the handler broke, and its traceback filled the log.  What a
dataserver called dropped was recorded before that, so its slot was never told of a drop again.
"""

from typing import Any

import pytest
from tests.fuzz.siege import Siege

from zdfs import wire
from zdfs.errors import BadMessage
from zdfs.ids import Incarnation, Ino, PageNo, Slot

LAST = 2**64 - 1


def head(siege: Siege) -> wire.RequestHead:
    """Of a question."""
    return wire.RequestHead(siege.session, wire.NO_SLOT, 1, 2000, Incarnation(0))


def asked(siege: Siege, request: wire.Request[Any]) -> wire.Reply:
    """The metaserver's answer."""
    siege.send(0, wire.encode_request(head(siege), request))
    siege.world.run(lambda: bool(siege.answers), 10)
    return siege.answers.pop()


def test_a_page_behind_the_longest_file() -> None:
    """It is refused as it arrives."""
    siege = Siege()
    frames = wire.encode_request(head(siege), wire.ReadMap(siege.inos[2], PageNo(7), 1))
    whole = bytes(frames[0])
    assert whole.endswith(b"\x07\x01")
    with pytest.raises(BadMessage):
        wire.decode_request([whole[:-2] + b"\xcf" + b"\xff" * 8 + b"\x01"])


def test_files_behind_the_last_inode() -> None:
    told = asked(Siege(), wire.Foresee((), (), 0, Ino(LAST), -1))
    assert isinstance(told, wire.Forecast) and told.end and not told.files


def test_drops_that_were_never_queued() -> None:
    siege = Siege()
    before = siege.meta.ledger.servers[Slot(1)]
    told = asked(siege, wire.TakeDrops(Slot(1), before.uuid, LAST))
    assert isinstance(told, wire.Failed) and isinstance(told.failure(), BadMessage)
    assert siege.meta.ledger.servers[Slot(1)].dropped == before.dropped
