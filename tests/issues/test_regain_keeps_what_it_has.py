"""A metaserver whose store was good, and lacked the newest rounds, began to write over it as soon
as the first page of a copy had come (`Regain._read`: `begin_fill`).  Had the copy a bad sector
further on, both were gone: the store, and with it the vote that let the copy count, so that the
metaserver waited for dead servers for ever."""

from typing import Any

import pytest

from tests.issues.test_reports import report
from tests.world.stores import MemoryMetaStore
from zdfs import chain, schema, wire
from zdfs.calls import CallAll
from zdfs.chain import CopySet
from zdfs.cluster import Heard
from zdfs.copied import CopiedStore
from zdfs.errors import Failure, Unreachable
from zdfs.ids import Incarnation, Round, Slot
from zdfs.regain import Regain

RING = tuple(f"127.0.0.1:{port}" for port in range(1, 6))
SET = CopySet(1, (Slot(0), Slot(1), Slot(2)), 2)  # 1 and 2 are dead


def _change(store: CopiedStore, *keys: bytes) -> None:
    with store.write() as txn:
        for key in keys:
            txn.put(key, b"payload")
    store.end_round()


@pytest.mark.parametrize("how", ["silent", "less"])
def test_a_copy_that_can_not_be_read_to_its_end(how: str) -> None:
    inner = MemoryMetaStore()
    store = CopiedStore(inner)
    _change(store, schema.CLUSTER, b"q1", b"q2")
    own = store.head
    head = own._replace(incarnation=Incarnation(5), round=Round(700), hash=b"h" * 16)
    copy = wire.CopyReport(SET, head, True, SET)
    fields = {"promised": Incarnation(7), "cluster": b"c" * 16, "copy": copy, "addresses": RING}
    living = {Slot(0): Heard(0.0, report(0, **fields))}
    regain = Regain(store, bytes(16), own)
    first = wire.CopyPage(head, b"q2", False, (chain.pack_changes([(schema.CLUSTER, b"x")]),))
    last = wire.CopyPage(head, b"", True, (chain.pack_changes([(b"q3", b"y")]),))
    answers: list[Any] = [wire.CopyRounds(head, (), ()), first]
    answers.append(Unreachable("silent") if how == "silent" else last)
    with pytest.raises(Failure):
        _drive(regain, living, answers)
    assert regain.own == own
    found = CopiedStore(inner.crash())
    assert not found.empty and found.head == own
    with found.read() as read:
        assert dict(read.scan(b"q", b"r")) == {b"q1": b"payload", b"q2": b"payload"}


def _drive(regain: Regain, living: dict[Slot, Heard], answers: list[Any]) -> None:
    task: Any = regain._read([Slot(0)], living)
    trap = task.send(None)
    while True:
        assert isinstance(trap, CallAll)
        try:
            trap = task.send([answers.pop(0)])
        except StopIteration:
            return


def test_what_is_proven_takes_its_place() -> None:
    store = CopiedStore(MemoryMetaStore())
    _change(store, schema.CLUSTER, b"q1")
    other = CopiedStore(MemoryMetaStore())
    _change(other, schema.CLUSTER, b"q2")
    _change(other, b"q3")
    with other.read() as read:
        changes = list(read.scan(schema.FIRST, schema.BEYOND))
    copy = wire.CopyReport(SET, other.head, True, SET)
    fields = {"promised": Incarnation(7), "cluster": b"c" * 16, "copy": copy, "addresses": RING}
    living = {Slot(0): Heard(0.0, report(0, **fields))}
    page = wire.CopyPage(other.head, b"", True, (chain.pack_changes(changes),))
    _drive(Regain(store, bytes(16), None), living, [page, page])
    assert store.head == other.head and not store.empty
