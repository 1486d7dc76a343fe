"""While names change all the time, `Proof` is woken by the very notice that a round was sealed: the
broker runs it before the round is committed (`Broker.turn`: prepare, then what is ready).  When the
second look found all well, it recorded its event there: an assertion ("a change after its round was
sealed") ended the proof for the rest of the metaserver's life."""

from typing import Any

from tests.world.stores import MemoryMetaStore
from zdfs import chain, wire
from zdfs.calls import CallAll, Now, Sleep, Wait
from zdfs.copied import CopiedStore
from zdfs.ids import Slot
from zdfs.ledger import Ledger
from zdfs.proof import Proof


def test_an_event_of_the_proof_waits_for_the_round() -> None:  # noqa: C901 (it is the broker)
    store = CopiedStore(MemoryMetaStore())
    ledger = Ledger(store, bytes(16))
    ledger.begin()
    ledger.ring = ("data:0",)
    with ledger.raw() as txn:
        txn.put(b"x1", b"kept")
        txn.put(b"x2", b"lost")
    store.end_round()
    records = store.inner.records
    del records.values[b"x2"]
    records.keys.remove(b"x2")
    proof = Proof(ledger, store, lambda: [Slot(0)], lambda: False)
    task = proof.prove()
    number = [0]

    def change() -> None:
        """What handlers do in each turn of a busy broker."""
        number[0] += 1
        with ledger.raw() as txn:
            txn.put(b"y", b"%d" % number[0])

    def answer() -> wire.CopyPage:
        """A whole copy, as of the newest round."""
        with store.read() as read:
            found = dict(read.scan(b"\1", b"\xff"))
        found[b"x2"] = b"lost"
        packed = chain.pack_changes(sorted(found.items()))
        return wire.CopyPage(store.head, b"", True, (packed,))

    value: Any = None
    trap = task.send(None)
    for _ in range(40):
        if isinstance(trap, Wait) and trap.condition is proof.doubt:
            if number[0]:
                break  # a whole look, and it waits for the next
            value = True
            change()
        elif isinstance(trap, Wait):
            assert trap.condition is store.news
            if not store.dirty:
                change()
            store.prepare()  # notifies `news`: the broker resumes who waits, now
            value = True
        elif isinstance(trap, CallAll):
            store.end_round()
            value = [answer()]
        elif isinstance(trap, Sleep):
            if store.dirty:
                store.end_round()
            value = None
        else:
            assert isinstance(trap, Now)
            value = 0
        trap = task.send(value)
    else:
        raise AssertionError("it never ended")
    task.close()
    assert b"x2" in records.values
