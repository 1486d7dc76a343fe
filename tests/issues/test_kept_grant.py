"""A metaserver dies between the commit of an open and its reply.

The mount announces what it holds, which can't include a grant it has not heard of yet; then its
repeat gets the kept reply.  The grant and the open file that this reply speaks of must be known
again: a commit under the token was refused (EIO), a file unlinked elsewhere was let go while open.
"""

from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.world.stores import MemoryMetaStore
from zdfs import wire
from zdfs.calls import Now, Trap
from zdfs.cluster import Heard
from zdfs.ids import ROOT, Incarnation, Round, Session, Slot, Token
from zdfs.ledger import Ledger
from zdfs.meta import Meta
from zdfs.ports import Caller
from zdfs.wire import State

T = TypeVar("T")
ADDRESSES = ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")


def drive(coroutine: Coroutine[Trap, Any, T], at: float = 1.0) -> T:
    """Run a handler that only asks for the time."""
    value: Any = None
    while True:
        try:
            trap = coroutine.send(value)
        except StopIteration as done:
            result: T = done.value
            return result
        assert isinstance(trap, Now), trap
        value = 1 if trap.wall else at


def report(slot: int) -> wire.Report:
    health = wire.Health(State.SERVING, 1, 1, 0, 0, None, 0, 0, 0, "test")
    return wire.Report(
        slot=Slot(slot), addresses=ADDRESSES, host=b"", cluster=b"", uuid=bytes([slot]) * 16,
        life=0, boot=1, opened_round=Round(0), synced_round=Round(0), health=health,
        promised=Incarnation(0), served_incarnation=Incarnation(0), served_round=Round(0),
        reconciled=0, events=(),
    )  # fmt: skip


def metaserver(store: MemoryMetaStore) -> Meta:
    """A metaserver that may serve."""
    made = Meta(Ledger(store, bytes(16)), 65536)
    if made.ledger.cluster is None:
        for slot in range(3):
            made.members.reports[Slot(slot)] = Heard(1.0, report(slot))
        made.members._found(1.0, 1)
    made.members.granted = True
    return made


def caller(session: Session, slot: int = wire.NO_SLOT, sequence: int = 1) -> Caller:
    return Caller(b"peer", wire.RequestHead(session, slot, sequence, 1000, Incarnation(0)))


def test_a_kept_reply_restores_the_grant_and_the_open_file() -> None:
    store = MemoryMetaStore()
    before = metaserver(store)
    opened = drive(before.open_session(wire.OpenSession(bytes(16), "h", "m"), caller(Session(0))))
    change = caller(opened.session, 0)
    request = wire.Create(ROOT, b"f", b"/f", 0o644, 0, 0, True, 7, 0)
    assert before.admit(change.head, request) is None
    reply = drive(before.contents.create(request, change))
    before.keep(change.head, reply)
    store.end_round()  # and the reply is lost with the process

    after = metaserver(store)
    drive(
        after.announce(wire.Announce((), (), (), after.incarnation, True), caller(opened.session))
    )
    assert after.admit(change.head, request) == reply
    ino = reply.attributes.ino
    held = after.sessions.holder(ino)
    assert held is not None and (held.session, held.token) == (opened.session, reply.token)
    assert after.sessions.is_open(ino)
    assert not after.sessions.closed(opened.session, ino, 6)

    after.sessions.free(ino)
    drive(after.contents.grant(wire.Grant(ino), caller(opened.session, 1)))
    newer = after.sessions.holder(ino)
    assert newer is not None and newer.token > reply.token
    after.sessions.free(ino)
    late = after.admit(change.head, request)  # later: somebody was given a newer token since
    assert isinstance(late, wire.Opened) and late.token == 0, "void: its writes would be lost"
    assert after.sessions.holder(ino) is None and newer.token > Token(0)
