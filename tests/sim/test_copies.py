"""The metaserver's store is lost, damaged or old: everything comes back from the copies."""

import copy
import os
from collections import Counter
from typing import Any

import pytest

from tests.sim.towns import Town, backed_up, begun
from tests.world.stores import MemoryBlockStore
from zdfs import wire
from zdfs.errors import Failure, Unavailable
from zdfs.ids import Slot
from zdfs.mirror import Mirror
from zdfs.regain import Regain


@pytest.fixture
def town(seed: int) -> Town:
    """Whole, with a file in it."""
    return begun(seed)


@pytest.mark.parametrize("loss", [0.0, 0.03])
def test_a_lost_store(seed: int, loss: float) -> None:
    town = Town(seed, loss=loss)
    town.write(b"/a", b"/b")
    session = town.cluster.mounts[0].session
    for number in range(3):
        town.lose()
        town.cluster.restart()
        town.all_is_well()
        town.write(b"/more%d" % number)
    assert town.cluster.mounts[0].session == session, "the mount carried on"


def test_a_store_lost_in_the_middle_of_work(seed: int) -> None:
    """What was acknowledged a moment before the disk died is there."""
    town = Town(seed)
    town.cluster.heal()
    for number in range(12):
        town.write(b"/f%d" % number)
        if number % 3 == 2:
            town.lose()
            town.cluster.restart()
    town.all_is_well()


def test_an_older_store(seed: int) -> None:
    """A backup that was restored takes over what it missed, and wins over nobody."""
    town, old = backed_up(seed)
    town.lose(old)
    town.cluster.restart()
    town.all_is_well()


def test_a_store_of_a_metaserver_that_was_passed_over(town: Town) -> None:
    """Its last round was never answered, and another one stands in its place."""
    meta = town.cluster.meta
    town.world.network.cuts |= {(meta.address, server.address) for server in town.cluster.data}
    town.cluster.mounts[0].spawn(town.volume.make(b"/never", 0o40755, 0, 0))
    town.cluster.rest(0.1)
    town.world.network.cuts.clear()
    meta.crash()
    passed_over = copy.deepcopy(meta.store)
    town.lose()
    town.cluster.restart()
    town.cluster.heal()
    town.write(b"/b")
    town.lose(passed_over)
    town.cluster.restart()
    town.all_is_well()


def test_never_from_less_than_is_needed(town: Town) -> None:
    for slot in town.members[1:]:
        town.cluster.data[slot].crash()
    town.lose()
    town.cluster.meta.restart()
    town.cluster.rest(20)
    room = town.cluster.meta.room
    assert isinstance(room, Regain) and "waiting" in room.note
    town.cluster.restart()
    town.all_is_well()


def test_a_member_that_lost_its_disk_counts_when_it_is_filled(town: Town) -> None:
    first, second, _ = town.members
    for slot in (first, second):
        server = town.cluster.data[slot]
        server.crash()
        uuid = town.world.random.randbytes(16)
        server.store = MemoryBlockStore(slot, lazy_sync=True, uuid=uuid)
        server.restart()
        town.cluster.heal()
    town.write(b"/b")
    town.lose()
    town.cluster.restart()
    town.all_is_well()


def test_a_member_that_stays_away_is_replaced(town: Town) -> None:
    gone = town.members[0]
    town.cluster.data[gone].crash()
    town.cluster.rest(20)
    assert gone not in town.members and len(town.members) == 3
    town.do(town.volume.make(b"/d", 0o40755, 0, 0))
    town.lose()
    town.cluster.meta.restart()
    town.cluster.rest(10)
    assert town.do(town.volume.lookup(b"/d")).mode == 0o40755
    town.cluster.restart()
    town.all_is_well()


def test_with_two_of_three_servers_dead_reads_go_on(seed: int) -> None:
    town = Town(seed, servers=3)
    town.write(b"/a")
    town.cluster.heal()
    for slot in (0, 1):
        town.cluster.data[slot].crash()
    town.cluster.rest(10)
    town.read()
    with pytest.raises(Failure):
        town.cluster.mounts[0].do(_soon(town))
    town.cluster.meta.crash()
    town.cluster.meta.restart()
    town.cluster.rest(10)
    town.read()
    town.cluster.restart()
    town.all_is_well()


async def _soon(town: Town) -> None:
    """A change that is asked for once."""
    try:
        town.meta.members.may_change()
    except Unavailable as error:
        assert "data:0, data:1" in error.text
        raise


def test_two_members_that_die_at_once_are_replaced(town: Town) -> None:
    """Names go on although only two of four dataservers are up."""
    for slot in town.members[:2]:
        town.cluster.data[slot].crash()
    town.do(town.volume.make(b"/d", 0o40755, 0, 0))
    assert town.do(town.volume.lookup(b"/d")).mode == 0o40755
    town.cluster.restart()
    town.all_is_well()


def test_no_reply_to_a_change_before_its_copies_have_it(seed: int) -> None:
    town = Town(seed)
    town.cluster.heal()
    meta = town.cluster.meta
    town.world.network.cuts |= {(meta.address, server.address) for server in town.cluster.data}
    ended: list[Any] = []
    making = town.volume.make(b"/d", 0o40755, 0, 0)
    town.cluster.mounts[0].spawn(making, lambda *result: ended.append(result))
    town.cluster.rest(2.0)
    assert not ended
    town.world.network.cuts.clear()
    town.cluster.rest(5.0)
    assert ended and ended[0][1] is None


# --- records that are damaged while it serves --------------------------------------------------


@pytest.mark.parametrize("how", ["flipped", "gone"])
@pytest.mark.parametrize("table", ["i", "e", "m", "x"])
def test_what_a_disk_spoils_comes_back_before_anybody_sees_it(
    seed: int, table: str, how: str
) -> None:
    town = Town(seed)
    town.write(b"/a", b"/b")
    town.do(town.volume.setxattr(b"/a", b"user.x", b"value", 0))
    town.cluster.heal()
    town.cluster.rest(5.0)
    keys = [key for key in town.cluster.meta.store.records.keys if key[:1] == table.encode()]
    for key in keys:
        town.damage(key, how)
    if how == "gone":  # what was once seen to be complete is believed until the next start
        town.cluster.meta.crash()
        town.cluster.meta.restart()
    town.cluster.mounts[0].kill()
    town.cluster.remount(town.cluster.mounts[0])
    town.do, town.volume = town.cluster.do, town.cluster.volume
    town.cluster.rest(20.0)
    town.read()
    assert town.do(town.volume.getxattr(b"/a", b"user.x")) == b"value"
    town.all_is_well()
    assert "metadata healed" in {event.kind for event in town.meta.ledger.events(20)}


def test_a_record_that_nobody_counts_is_missed(town: Town) -> None:
    """The proof of the whole store finds it, and so does no other check."""
    key = town.key(b"n")
    town.damage(key, "gone")
    town.cluster.rest(700.0)
    assert key in town.cluster.meta.store.records.values
    town.all_is_well()


def test_a_copy_that_lost_something_takes_nothing_away(seed: int) -> None:
    """Our store lost one name without a sign, and each copy another one of the same directory."""
    town = Town(seed)
    town.write(*(b"/f%d" % number for number in range(6)))
    town.cluster.heal()
    town.cluster.rest(5.0)
    stores = [town.cluster.meta.store, *(town.cluster.data[s].store.copy for s in town.members)]
    keys = [key for key in stores[0].records.keys if key[:1] == b"e"]
    assert len(keys) >= len(stores)
    for key, store in zip(keys, stores, strict=False):
        del store.records.values[key]
        store.records.keys.remove(key)
    town.cluster.meta.crash()
    town.cluster.meta.restart()
    town.cluster.rest(1500.0)
    for store in stores[:1] + [town.cluster.data[s].store.copy for s in town.members]:
        assert not set(keys) - set(store.records.keys)
    town.all_is_well()


def test_a_copy_that_rots_is_filled_again(town: Town) -> None:
    town.cluster.rest(5.0)
    records = town.cluster.data[town.members[0]].store.copy.records
    key = next(k for k in records.keys if k[:1] == b"i")
    del records.values[key]
    records.keys.remove(key)
    town.cluster.rest(1500.0)
    assert key in records.values
    town.all_is_well()


# --- what fsync adds -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fsync", "fsyncdir", "written"])
def test_what_fsync_acknowledged_is_on_the_disks_of_copies(seed: int, how: str) -> None:
    """The metaserver's disk is lost, and the power of all dataservers goes, right after it."""
    for number in range(8):
        town = begun(seed + number)
        town.world.sync_s = 0.3
        handle = town.do(town.volume.create(b"/new", 0o644, 0, 0, os.O_RDWR))
        if how == "written":
            town.do(town.volume.write(handle, b"new", 0))
        town.do(town.volume.fsyncdir() if how == "fsyncdir" else town.volume.fsync(handle))
        for server in town.cluster.data:
            server.crash()
        town.lose()
        town.cluster.restart()
        town.cluster.mounts[0].kill()  # which believes what it was told
        town.cluster.remount(town.cluster.mounts[0])
        town.cluster.heal()
        other = town.cluster.mounts[0]
        assert other.do(other.volume.lookup(b"/new")).mode == 0o100644
        assert other.get(b"/new") == (b"new" if how == "written" else b"")


def test_who_takes_over_has_on_disk_what_fsync_acknowledged(town: Town) -> None:
    """Also when it was in the set before, and lacks a few rounds only."""
    for gone in (2, 3):
        town.cluster.data[gone].kill()
        while gone in town.members:
            town.cluster.rest(0.1)
        town.cluster.data[gone].restart()
        town.cluster.heal()
    assert town.members == (0, 1, 2)
    town.write(b"/b", b"/c")
    town.do(town.volume.fsyncdir())
    acknowledged = town.meta.ledger.store.synced
    town.cluster.data[0].kill()
    town.world.sync_s = 0.3
    while town.copying.proposed is None:
        town.cluster.rest(0.01)
    (new,) = set(town.copying.proposed.slots) - set(town.members)
    store = copy.deepcopy(town.cluster.data[new].store)
    store.torn = False
    found = store.crash()  # as a power cut would leave it
    assert Mirror(found, found.copy).head.round >= acknowledged
    town.cluster.restart()
    town.all_is_well()


def test_without_it_a_name_waits_for_no_disk_but_the_metaservers(seed: int) -> None:
    """It is in the logs of copies when it is answered, and on their disks soon after."""
    town = begun(seed)
    town.cluster.rest(5.0)
    town.world.sync_s = 1e9
    town.cluster.rest(5.0)  # what was underway has ended
    began = town.world.now
    town.do(town.volume.make(b"/d", 0o40755, 0, 0))
    assert town.world.now - began < 5.0
    newest = town.meta.ledger.copied.head
    heads = [town.cluster.data[slot].room.mirror.head for slot in town.members]
    assert sum(head == newest for head in heads) >= 2
    ended: list[Any] = []
    town.cluster.mounts[0].spawn(town.volume.fsyncdir(), lambda *result: ended.append(result))
    town.cluster.rest(2.0)
    assert not ended, "an fsync that waited for no disk"
    town.world.sync_s = 0.01
    town.cluster.rest(300.0)
    assert ended and ended[0][1] is None


# --- what it costs --------------------------------------------------------------------------------


def _heard(town: Town, *kinds: type[wire.Message]) -> Counter[Slot]:
    """Counts from now on what of these kinds each member is sent."""
    heard: Counter[Slot] = Counter()
    for slot in town.members:
        room = town.cluster.data[slot].room

        def counting(kind: type[wire.Message], slot: Slot, handler: Any) -> Any:
            def handle(request: Any, caller: Any) -> Any:
                heard[slot] += 1
                return handler(request, caller)

            return handle

        more = {kind: counting(kind, slot, room.handlers[kind]) for kind in kinds}
        room.handlers = {**room.handlers, **more}
    return heard


def test_a_member_that_no_reply_waits_for_gets_several_rounds_at_once(town: Town) -> None:
    town.cluster.rest(5.0)
    heard = _heard(town, wire.Append, wire.AppendSynced)
    for number in range(60):
        town.do(town.volume.make(b"/d%d" % number, 0o40755, 0, 0))
    few, *others = sorted(heard.values())
    assert few < 50 <= others[0], heard
    town.cluster.rest(1.0)
    rooms = [town.cluster.data[slot].room for slot in town.members]
    assert len({room.mirror.head for room in rooms}) == 1, "it has them all soon after"
    quick = max(town.members, key=lambda slot: heard[slot])
    town.cluster.data[quick].kill()
    began = town.world.now
    for number in range(20):
        town.do(town.volume.make(b"/e%d" % number, 0o40755, 0, 0))
    assert town.world.now - began < 3.0, "nobody waits until a dead member is called down"
    town.cluster.restart()
    town.all_is_well()
