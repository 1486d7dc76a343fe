"""A metaserver that found itself behind gave way to a `Regain` that forgot what it had heard: the
promise of a dataserver that reported last.  So that claimed too little again, the metaserver after
it was granted by the quicker ones, heard of the promise, gave way, and so on: a dozen times, if the
one that was late had heard of a dozen metaservers that the others had not.

Two more ways to start what can't last: a `Regain` without a store claimed 1, which the first
metaserver of the cluster had been promised, and took these promises for its own, though that one
may still have added rounds; and it began without a copy that it had heard to be newer, as long as
that dataserver had yet to promise itself."""

from typing import Any

from tests.issues.test_reports import report
from tests.sim.towns import Town
from tests.world.stores import MemoryMetaStore
from zdfs import schema, wire
from zdfs.calls import Now
from zdfs.chain import CopySet
from zdfs.cluster import Heard
from zdfs.copied import CopiedStore
from zdfs.ids import Incarnation, Round, Session, Slot
from zdfs.ports import Caller
from zdfs.regain import Past, Regain

RING = tuple(f"127.0.0.1:{port}" for port in range(1, 5))
SET = CopySet(1, (Slot(0), Slot(1), Slot(2)), 2)
ROOMS = "another room takes over"


def test_what_was_heard_is_not_forgotten(seed: int) -> None:
    town = Town(seed)
    town.cluster.heal()
    town.write(b"/a")
    meta, world = town.cluster.meta, town.world
    *near, far = town.cluster.data
    cuts = {(meta.address, server.address) for server in near}
    world.cuts.update(cuts)
    for _ in range(10):  # only one dataserver hears of these
        meta.kill()
        meta.restart()
        town.cluster.rest(2.5)
    meta.kill()
    world.cuts.difference_update(cuts)
    meta.store = MemoryMetaStore()
    blink(town, (far.address, meta.address))
    meta.restart()
    before = len(world.story)
    town.cluster.heal()
    rooms = sum(ROOMS in line for line in world.story[before:])
    assert rooms <= 3, "Regain, Meta, behind once, Regain with all that is known"
    town.all_is_well()


def blink(town: Town, link: tuple[str, str]) -> None:
    """For half a minute it is heard now and then only: after the others."""
    world, end = town.world, town.world.now + 30.0

    def off() -> None:
        if world.now < end:
            world.cuts.add(link)
            world.after(2.5, on)

    def on() -> None:
        world.cuts.discard(link)
        world.after(0.5, off)

    off()


def heard(slot: int, promised: int, rounds: int) -> wire.Report:
    """Of a member of the set, whose copy reaches so far."""
    head = CopiedStore(MemoryMetaStore()).head
    copy = wire.CopyReport(SET, head._replace(round=Round(rounds)), True, SET)
    fields = {"promised": Incarnation(promised), "cluster": b"c" * 16, "addresses": RING}
    return report(slot, copy=copy, **fields)


def tell(regain: Regain, said: wire.Report) -> wire.Instructions:
    """A report at time 0."""
    task: Any = regain.report(
        said, Caller(b"", wire.RequestHead(Session(0), 0, 0, 0, Incarnation(0)))
    )
    assert isinstance(task.send(None), Now)
    try:
        task.send(0.0)
    except StopIteration as done:
        assert isinstance(done.value, wire.Instructions)
        return done.value
    raise AssertionError("it waits")


def test_a_promise_to_another_metaserver_is_none_to_us() -> None:
    regain = Regain(CopiedStore(MemoryMetaStore()), bytes(16), None)
    for slot in range(3):
        assert tell(regain, heard(slot, 1, 5)).claim.incarnation == 2
    assert "more than half" in regain._judge(regain.reports).text
    for slot in range(2):
        tell(regain, heard(slot, 2, 5))
    assert tell(regain, heard(3, 2, 5)).claim.incarnation == 3, "nobody here has asked it for 2"
    assert "more than half" in regain._judge(regain.reports).text
    for slot in range(4):
        tell(regain, heard(slot, 2, 5))
        assert tell(regain, heard(slot, 3, 5)).claim.incarnation == 3
    assert regain._judge(regain.reports).source is not None


def test_it_claims_more_than_the_metaserver_before_it_had_heard_of() -> None:
    past = Past(Incarnation(4), {Slot(3): Heard(0.0, heard(3, 11, 5))})
    regain = Regain(CopiedStore(MemoryMetaStore()), bytes(16), None, past=past)
    assert tell(regain, heard(0, 4, 5)).claim.incarnation == 12


def test_whoever_has_more_is_waited_for() -> None:
    store = CopiedStore(MemoryMetaStore())
    with store.write() as txn:
        txn.put(schema.CLUSTER, b"payload")
    store.end_round()
    newer = Heard(0.0, heard(0, 6, store.head.round + 1))
    regain = Regain(store, bytes(16), store.head, past=Past(Incarnation(6), {Slot(0): newer}))
    for slot in (1, 2, 3):
        tell(regain, heard(slot, 7, 0))
        tell(regain, heard(slot, regain.claimed, 0))
    verdict = regain._judge(regain.reports)
    assert not verdict.settled and verdict.text.startswith("waiting for the promise of 1:")
    silent = {slot: one for slot, one in regain.reports.items() if slot}
    assert regain._judge(silent).settled, "it is not needed"
    for promised in (6, regain.claimed):
        tell(regain, heard(0, promised, store.head.round + 1))
    assert regain._judge(regain.reports).source == Slot(0)


def test_nobody_is_outbid_who_can_not_be() -> None:
    """Whoever said that it was promised to the last number of 64 bits ended the metaserver."""
    regain = Regain(CopiedStore(MemoryMetaStore()), bytes(16), None)
    told = tell(regain, heard(0, 2**64 - 1, 5))
    assert "can't be so many" in told.refused and told.claim.incarnation == 1
    assert not regain.reports
