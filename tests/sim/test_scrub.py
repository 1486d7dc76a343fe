"""The scrub in a simulated cluster: what it finds and heals, and that it goes on where it was."""

import random
from typing import Any

import pytest

from tests.world.cluster import META, Cluster
from tests.world.world import World
from zdfs import blockmap, checksum, placement, recovery, scrubbing
from zdfs.calls import Peer, call
from zdfs.data import Data
from zdfs.ids import BlockNo, Epoch, Name, Slot, Token, Version
from zdfs.schema import RECORD_BYTES
from zdfs.scrubbing import SAVE_S
from zdfs.tools import scrub
from zdfs.wire import Check, Checked, Harm, Held, Inventory, ScrubStatus

BLOCKS = 12
SERVERS = 4
PAGE = 64  # of the scrub, where it is to have many


@pytest.fixture
def cluster(seed: int) -> Cluster:
    """With one file, at rest; its scrub has just rested."""
    made = Cluster(World(seed), SERVERS)
    made.mount()
    made.mounts[0].put(b"/file", random.Random(seed).randbytes(BLOCKS * 64))
    made.rest(3.0)
    return made


def places(cluster: Cluster) -> dict[tuple[int, int], tuple[Slot, Name]]:
    """Server and name of each replica of each block."""
    found, pages = cluster.do(cluster.volume.where(b"/file"))
    entries = blockmap.unpack_page(pages[0].entries)
    return {
        (block, replica): (slot, blockmap.name_of(found.ino, BlockNo(block), entry))
        for block, entry in enumerate(entries)
        if entry is not None
        for replica, slot in enumerate(placement.slots(found.start, BlockNo(block), SERVERS))
    }


def room(cluster: Cluster, slot: int) -> Data:
    """A running dataserver."""
    found = cluster.data[slot].room
    assert isinstance(found, Data)
    return found


def scrubbed(cluster: Cluster) -> list[Any]:
    """What `zdfs scrub --now` found, server by server."""
    passes: list[Any] = cluster.do(scrub.everything(META, lambda stage, done, total: None))
    return passes


def total(passes: list[Any], field: str) -> int:
    """Over all servers."""
    return sum(getattr(one.shown, field) for one in passes)


def test_nothing_is_found_where_nothing_is(cluster: Cluster) -> None:
    passes = scrubbed(cluster)
    assert [one.status for one in passes] == [0] * SERVERS
    stored = 3 * BLOCKS * (64 + RECORD_BYTES)
    assert total(passes, "done_bytes") == total(passes, "total_bytes") == stored
    assert not any(total(passes, what) for what in ("damaged", "missing", "excess", "healed"))


@pytest.mark.parametrize("harm", list(Harm))
def test_each_harm_is_healed(cluster: Cluster, harm: Harm) -> None:
    if harm is Harm.STALE:
        cluster.mounts[0].put(b"/file", random.Random(0).randbytes(BLOCKS * 64))
        cluster.rest(0.5)  # what was there before is garbage soon
    for at, (slot, name) in places(cluster).items():
        if at[1] == at[0] % 3:
            cluster.data[slot].store.harm(name, harm, 1)
    passes = scrubbed(cluster)
    assert max(one.status for one in passes) == 1
    # of a stale version, index and record agree: only the map knows that it is another
    kind = "missing" if harm in (Harm.LOSE, Harm.STALE) else "damaged"
    assert total(passes, kind) == BLOCKS
    assert total(passes, "healed") == BLOCKS + total(passes, "excess")
    assert all(room(cluster, slot).healer.whole(name) for slot, name in places(cluster).values())
    assert [one.status for one in scrubbed(cluster)] == [0] * SERVERS
    cluster.check()


def test_what_cannot_be_healed_is_said(cluster: Cluster) -> None:
    for replica, harm in enumerate((Harm.FLIP, Harm.TRUNCATE, Harm.LOSE)):
        slot, name = places(cluster)[4, replica]
        cluster.data[slot].store.harm(name, harm, 1)
    passes = scrubbed(cluster)
    assert sorted(one.status for one in passes) == [0, 2, 2, 2]
    assert sum(one.left for one in passes) == 3 and total(passes, "healed") == 0


def test_what_should_not_be_here_is_dropped(cluster: Cluster) -> None:
    """A version of a passed-over writer, and a copy of a block that stands elsewhere."""
    slot, name = places(cluster)[0, 0]
    store = cluster.data[slot].store
    void = name._replace(version=Version(Token(1), 1))
    store.append(void, checksum.seal(void, b"void"), Epoch(1), Slot(0), b"void")
    (elsewhere,) = set(range(SERVERS)) - {places(cluster)[0, r][0] for r in range(3)}
    entry, data = store.read(name)
    seal = checksum.Seal(entry.crc16, entry.crc32c)
    cluster.data[elsewhere].store.append(name, seal, entry.epoch, entry.start, data)
    passes = scrubbed(cluster)
    assert total(passes, "excess") == total(passes, "healed") == 2
    assert store.find(void) is None and store.find(name) is not None
    assert cluster.data[elsewhere].store.find(name) is None
    cluster.check()


def test_a_copy_too_many_stays_while_another_is_bad(cluster: Cluster) -> None:
    spots = places(cluster)
    (slot, name), others = spots[0, 0], {spots[0, r][0] for r in range(3)}
    (elsewhere,) = set(range(SERVERS)) - others
    entry, data = cluster.data[slot].store.read(name)
    seal = checksum.Seal(entry.crc16, entry.crc32c)
    cluster.data[elsewhere].store.append(name, seal, entry.epoch, entry.start, data)
    for replica in range(3):
        cluster.data[spots[0, replica][0]].store.harm(name, Harm.FLIP, 1)
    scrubbed(cluster)
    assert cluster.data[elsewhere].store.find(name) is not None, "it is the only good one"


def test_another_seal_than_the_maps_is_replaced(cluster: Cluster) -> None:
    """Sound in itself, under the right name, and not what was written."""
    slot, name = places(cluster)[2, 1]
    store = cluster.data[slot].store
    good = store.read(name)
    store.append(name, checksum.seal(name, b"other"), good[0].epoch, good[0].start, b"other")
    passes = scrubbed(cluster)
    assert total(passes, "missing") == total(passes, "healed") == 1
    assert bytes(store.read(name)[1]) == bytes(good[1])


def test_a_server_that_is_down_is_said(cluster: Cluster) -> None:
    cluster.data[1].crash()
    cluster.rest(5.0)
    passes = scrubbed(cluster)
    assert [one.status for one in passes] == [0, 2, 0, 0] and passes[1].why == "it is down"
    cluster.restart()
    cluster.heal()


def test_a_pass_goes_on_after_a_crash(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from the beginning, and none of what follows the cursor is left out."""
    monkeypatch.setattr(scrubbing, "PAGE", PAGE)
    cluster = Cluster(World(seed), 3)
    cluster.mount()
    page = PAGE * (64 + RECORD_BYTES)
    cluster.mounts[0].put(b"/file", random.Random(seed).randbytes(6 * PAGE * 64))
    cluster.heal()
    slow = recovery.Rates(page // 40)  # a page in 40 seconds
    shown = room(cluster, 0).scrubber.shown
    cluster.world.run(lambda: shown().ended_ns > 0 and not shown().began_ns, 60)
    room(cluster, 0).scrubber.rates = slow
    cluster.world.run(lambda: shown().began_ns > 0 and shown().done_bytes >= 3 * page, 400)
    cluster.rest(5.0)  # the cursor is on disk
    before: ScrubStatus = shown()
    last = max(name for name, _ in cluster.data[0].store.scan(None, 9 * PAGE))
    cluster.data[0].crash()
    cluster.restart()
    cluster.data[0].store.harm(last, Harm.FLIP, 1)
    room(cluster, 0).scrubber.rates = slow
    shown = room(cluster, 0).scrubber.shown
    cluster.world.run(lambda: shown().began_ns > 0, 60)
    assert shown().began_ns == before.began_ns
    done = before.done_bytes - (SAVE_S + 1) * page // 40
    assert done <= shown().done_bytes <= before.done_bytes + page // 40, "at most a minute's again"
    room(cluster, 0).scrubber.rates = recovery.Rates()
    cluster.world.run(lambda: not shown().began_ns, 400)
    assert (shown().damaged, shown().healed) == (1, 1)
    cluster.check()


def test_who_asks_twice_is_told_of_one_pass(cluster: Cluster) -> None:
    scrubber = room(cluster, 0).scrubber
    first = scrubber.asked(b"r" * 16)
    assert not first.finished
    cluster.world.run(lambda: scrubber.asked(b"r" * 16).finished, 60)
    done = scrubber.asked(b"r" * 16)
    cluster.rest(60.0)
    assert scrubber.asked(b"r" * 16) == done
    assert not scrubber.asked(b"s" * 16).finished


def test_the_maps_and_the_servers_still_agree(cluster: Cluster) -> None:
    """The helpers above speak of what M's inventory says, too."""
    stock = cluster.do(call(Peer(META), Inventory(Slot(0), places(cluster)[0, 0][1].ino, -1)))
    wanted = tuple(recovery.duty(stock.pages[0], Slot(0), SERVERS))
    state = room(cluster, 0).store.state
    asked = cluster.do(call(Peer("data:0"), Check(state.cluster, wanted)))
    assert asked == Checked((Held.OK,) * len(wanted))
