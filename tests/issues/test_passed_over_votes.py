"""A copy whose newest round is of a metaserver that was passed over (it never counted) had a
vote on what a damaged record was, as soon as it had said how far it is: `touched` looks at the
number of its round only. While it was the only one heard of, its value won over a healthy
record of ours (`elected`: among equals, what a copy says)."""

from typing import Any

from tests.world.stores import MemoryMetaStore
from zdfs import chain, wire
from zdfs.calls import CallAll, Sleep
from zdfs.chain import Head
from zdfs.copied import CopiedStore
from zdfs.ids import Incarnation, Round, Slot
from zdfs.ledger import Ledger
from zdfs.proof import Proof


def test_rounds_that_never_counted_have_no_vote() -> None:
    store = CopiedStore(MemoryMetaStore())
    ledger = Ledger(store, bytes(16))
    ledger.begin()
    ledger.ring = ("data:0",)
    with ledger.raw() as txn:
        txn.put(b"q1", b"what was acknowledged")
    store.end_round()
    proof = Proof(ledger, store, lambda: [Slot(0)], lambda: False)
    # The same number of round, of an incarnation that was passed over, with a change of its own.
    head = Head(Incarnation(0), Round(store.head.round), b"?" * 16, 2, 0)
    packed = chain.pack_changes([(b"q1", b"what never counted"), (b"q2", b"what never was")])
    page = wire.CopyPage(head, b"", True, (packed,))
    task = proof._heal_range(b"q", b"r")
    trap: Any = task.send(None)
    try:
        while True:
            assert isinstance(trap, CallAll | Sleep)
            trap = task.send([page] if isinstance(trap, CallAll) else None)
    except StopIteration:
        pass
    with store.read() as read:
        assert dict(read.scan(b"q", b"r")) == {b"q1": b"what was acknowledged"}
