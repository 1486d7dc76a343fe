"""The rights of a key were cut while its mount wrote, and a dataserver read the new list a moment
before the metaserver did: it refused the pass that the metaserver still gave, three times within a
second, and the mount lost what it had not flushed, its own files' too, which it may write as ever.
"""

from typing import Any

import pytest

from zdfs import passes, wire
from zdfs.calls import CallAll, Now
from zdfs.checksum import Seal
from zdfs.contact import Contact
from zdfs.errors import NoPass, Unavailable, Unreachable
from zdfs.ids import BlockNo, Epoch, Incarnation, Ino, Name, Session, Slot, Token, Version
from zdfs.wire import State


class Driver:
    """Of a contact that is driven by hand."""

    session, incarnation = Session(1), Incarnation(1)

    def near(self, peer: Any) -> None:
        """Nobody is."""

    def monotonic(self) -> float:
        """It stands still."""
        return 1.0


def asked(contact: Contact, request: wire.Request[Any]) -> Any:
    """What a dataserver that refuses our pass is taken to have said; no metaserver answers."""
    coroutine = contact.ask_servers([(Slot(0), request)])
    value: Any = None
    while True:
        try:
            trap = coroutine.send(value)
        except StopIteration as done:
            (answer,) = done.value
            return answer
        if isinstance(trap, CallAll):
            ours = isinstance(trap.asks[0].request, wire.Put)
            value = [NoPass("not by now") if ours else Unreachable("silent")]
        else:
            value = 1.0 if isinstance(trap, Now) else True


@pytest.mark.parametrize(("whole", "kind"), [(True, Unavailable), (False, NoPass)])
def test_they_are_asked_until_they_agree(whole: bool, kind: type[Exception]) -> None:
    contact = Contact("127.0.0.1:1", "/mnt", Driver())
    member = wire.Member(Slot(0), "127.0.0.1:2", bytes(16), 0, State.SERVING, False, b"")
    contact.map = wire.ClusterMap(1, Epoch(1), (member,))
    permit = b"w" * passes.PASS_BYTES
    if whole:
        contact.permits.take(wire.Beaten(1, None, (), False, 0, permit))
    name = Name(Ino(5), BlockNo(0), Version(Token(1), 1))
    block = wire.Put1(name, Seal(0, 0), Epoch(1), Slot(0), 1)
    answer = asked(contact, wire.Put(bytes(16), (block,), contact.permits.of(Ino(5)), (b"x",)))
    assert type(answer) is kind
