"""What the metaserver lets go of: when dataservers hear of it, and for how long.

A drop is told once the change that let go of it can't be undone and its readers are through, to
each server until that one has acknowledged it.
"""

from collections.abc import Coroutine
from typing import Any

import pytest

from tests.issues.test_early_drops import commit, session
from tests.issues.test_kept_grant import caller, drive, metaserver
from tests.world.stores import MemoryMetaStore
from zdfs import limits, schema, wire
from zdfs.calls import Now, Sleep, Trap
from zdfs.errors import Foreign
from zdfs.ids import ROOT, Ino, Session, Slot, Token
from zdfs.ledger import Ledger
from zdfs.meta import Meta

LATER_S = 1.0 + 2 * limits.KEEP_SUPERSEDED_S


class Cut:
    """A metaserver on which a file of one block was just emptied."""

    def __init__(self) -> None:
        self.store = MemoryMetaStore()
        self.meta = metaserver(self.store)
        us = session(self.meta, bytes(16))
        made = create(self.meta, us)
        self.ino: Ino = made.attributes.ino
        commit(self.meta, self.ino, made.token)
        self.store.end_round()
        cut = wire.Truncate(self.ino, made.token, 2, 0)
        drive(self.meta.contents.truncate(cut, caller(us, 0)))

    def look(self, at: float) -> None:
        """The task that lets drops ripen looks at its list, at this time."""
        turns(self.meta.members.watch(), at, 2)

    def told(self, slot: int = 0, done: int = 0, at: float = 1.0) -> wire.Drops:
        """What a dataserver hears, at this time."""
        server = self.meta.ledger.servers[Slot(slot)]
        request = wire.TakeDrops(Slot(slot), server.uuid, done)
        return drive(self.meta.members.take_drops(request, caller(Session(0))), at)

    def queue(self) -> int:
        """How many records of drops there are."""
        with self.store.read() as read:
            return len(list(read.scan(b"d", schema.after(b"d"))))


def create(meta: Meta, us: Session) -> wire.Opened:
    request = wire.Create(ROOT, b"f", b"/f", 0o644, 0, 0, True, 1, 0)
    return drive(meta.contents.create(request, caller(us, 0)))


def turns(task: Coroutine[Trap, Any, None], at: float, sleeps: int) -> None:
    """A task, until it has slept so often."""
    value: Any = None
    while True:
        trap = task.send(value)
        value = None
        if isinstance(trap, Now):
            value = int(at * 1e9) if trap.wall else at
        else:
            assert isinstance(trap, Sleep), trap
            sleeps -= 1
            if not sleeps:
                return


def test_drops_ripen() -> None:
    cut = Cut()
    cut.store.end_round()
    assert not cut.told().items, "readers may be underway to it"
    cut.look(1.0)
    assert not cut.told().items
    cut.look(LATER_S)
    assert [item.ino for item in cut.told().items] == [cut.ino]


def test_who_asks_before_he_is_told_hears_what_is_ripe_by_then() -> None:
    """A store that fills up does; the task that looks now and then may not have come to it."""
    cut = Cut()
    cut.store.end_round()
    assert cut.told(at=LATER_S).items


def test_no_drop_is_told_of_a_change_that_a_power_cut_undoes() -> None:
    cut = Cut()
    cut.look(LATER_S)
    assert not cut.told().items
    with metaserver(cut.store.crash()).ledger.view() as view:
        assert view.inode(cut.ino).size == 8, "the old content counts again"

    kept = Cut()
    kept.store.end_round()
    kept.look(LATER_S)
    assert kept.told().items


def test_drops_are_told_until_they_are_acknowledged() -> None:
    cut = Cut()
    cut.store.end_round()
    cut.look(LATER_S)
    first = [cut.told(slot) for slot in range(3)]
    assert all([item.ino for item in told.items] == [cut.ino] for told in first)
    through = first[0].through
    for slot in (1, 2):
        assert not cut.told(slot, through).items
    assert cut.told(0).items, "its answer was lost"
    assert cut.queue() == 1
    assert not cut.told(0, through).items and cut.queue() == 0


def test_orphans_wait_until_every_mount_has_announced_itself() -> None:
    """A removed file that is open somewhere stays; after a restart nobody has said so yet."""
    store = MemoryMetaStore()
    before = metaserver(store)
    us = session(before, bytes(16))
    made = create(before, us)
    ino = made.attributes.ino
    commit(before, ino, made.token)
    drive(before.names.unlink(wire.Unlink(ROOT, b"f"), caller(us, 0)))
    store.end_round()

    after = metaserver(store)
    reaper = after.contents.reap()
    turns(reaper, 1.0, 5)
    with after.ledger.view() as view:
        assert view.find(ino) is not None
    opening = (wire.Opening(ino, 1),)
    drive(after.announce(wire.Announce(opening, (), (), after.incarnation, True), caller(us)))
    turns(reaper, 1.0, 5)
    with after.ledger.view() as view:
        assert view.find(ino) is not None, "it is open"
    after.sessions.closed(us, ino, 1)
    turns(reaper, 1.0, 5)
    with after.ledger.view() as view:
        assert view.find(ino) is None


def test_an_incarnation_is_on_disk_before_it_is_used() -> None:
    """All numbers carry it: a power cut must not bring it back."""
    store = MemoryMetaStore()
    first = Ledger(store, bytes(16))
    token = first.new_token()
    second = Ledger(store.crash(), bytes(16))
    assert second.incarnation > first.incarnation and second.new_token() > token > Token(0)


@pytest.mark.parametrize("slot", range(3))
def test_a_new_store_in_a_slot_hears_no_drops_for_the_old_one(slot: int) -> None:
    cut = Cut()
    request = wire.TakeDrops(Slot(slot), b"x" * 16, 0)
    with pytest.raises(Foreign):
        drive(cut.meta.members.take_drops(request, caller(Session(0))))
