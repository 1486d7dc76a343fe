"""A reader's word alone made a dataserver count damage, raise events and look for copies.

Whoever may read a file could ask for one of its blocks under a false seal, as often as he liked:
the newest events were all his, and real repairs waited behind those that can't succeed.
"""

from typing import Any

import pytest

from tests.issues.test_repairs import BYTES, CALLER, NAME, WANT, dataserver, drive
from zdfs import blockmap, checksum, wire
from zdfs.blockmap import MapEntry
from zdfs.calls import Peer
from zdfs.data import Data
from zdfs.errors import Unreachable
from zdfs.ids import Epoch, Ino, PageNo, Slot
from zdfs.wire import Held

FALSE = WANT._replace(seal=checksum.seal(NAME, b"not what it holds"))
CLUSTER = b"c" * 16


def stocked() -> Data:
    data = dataserver()
    data.store.append(NAME, WANT.seal, WANT.epoch, WANT.start, BYTES)
    return data


def read(data: Data, want: wire.Wanted) -> None:
    """As a reader does that found something wrong."""
    drive(data.get(wire.Get(CLUSTER, (want,), True), CALLER), lambda peer, request: None)


class Cluster:
    """A metaserver whose map names WANT, and neighbours that have it."""

    def __init__(self, silent: bool = False, epoch: int = 1) -> None:
        self.silent, self.asked = silent, list[Any]()
        entry = MapEntry(NAME.version, len(BYTES), len(BYTES), WANT.seal)
        packed = blockmap.pack_page([entry])
        self.page = wire.InventoryPage(Ino(7), Epoch(epoch), Slot(0), PageNo(0), packed)

    def answer(self, peer: Peer, request: Any) -> Any:
        """A peer's."""
        self.asked.append(request)
        if self.silent:
            return Unreachable("no")
        if isinstance(request, wire.Inventory):
            return wire.Stock((self.page,), True, Ino(7), 0)
        if isinstance(request, wire.Judge):
            return wire.Judgement(b"\1" * len(request.names), 0)
        assert isinstance(request, wire.Fetch)
        good = [want == WANT for want in request.blocks]
        held = tuple(Held.OK if one else Held.DAMAGED for one in good)
        return wire.Fetched(held, False, tuple(BYTES if one else b"" for one in good))


def healed(data: Data, cluster: Cluster) -> None:
    """What it does beside the requests."""
    drive(data.doubts.look(), cluster.answer)
    drive(data.healer.repair(), cluster.answer)


def events(data: Data) -> list[str]:
    return [event.kind for event in data.healer.events]


@pytest.mark.parametrize("want", [FALSE, WANT._replace(name=NAME._replace(block=NAME.block + 1))])
def test_who_asks_for_what_the_map_does_not_name_is_not_believed(want: wire.Wanted) -> None:
    data, cluster = stocked(), Cluster()
    for _ in range(3):
        read(data, want)
    healed(data, cluster)
    assert [type(one) for one in cluster.asked] == [wire.Inventory]
    assert cluster.asked[0].most == 1, "more would cost the metaserver more than the reader"
    assert not events(data) and not data.store.state.damaged and not len(data.healer.sick)


def test_bytes_that_are_bad_are_repaired_whoever_saw_it() -> None:
    data, cluster = stocked(), Cluster()
    data.store.harm(NAME, wire.Harm.FLIP, 1)
    read(data, WANT)
    assert events(data) == ["damage"], "this server has seen it itself: nobody need be asked"
    healed(data, cluster)
    assert events(data) == ["damage", "repaired"] and data.healer.held(WANT) == (Held.OK, BYTES)


def test_bad_bytes_are_repaired_as_the_map_says_and_not_as_the_reader_does() -> None:
    data, cluster = stocked(), Cluster()
    data.store.harm(NAME, wire.Harm.FLIP, 1)
    read(data, FALSE)
    assert not events(data)
    healed(data, cluster)
    assert events(data) == ["damage", "repaired"] and data.healer.held(WANT) == (Held.OK, BYTES)


def test_what_is_missing_comes_back() -> None:
    data, cluster = dataserver(), Cluster()
    data.healer.state = wire.State.SERVING
    read(data, WANT)
    healed(data, cluster)
    assert events(data) == ["repaired"] and data.healer.held(WANT) == (Held.OK, BYTES)


def test_a_server_that_holds_other_bytes_than_the_map_says_believes_the_map() -> None:
    data, cluster = dataserver(), Cluster()
    other = b"not what it holds"
    data.store.append(NAME, checksum.seal(NAME, other), WANT.epoch, WANT.start, other)
    read(data, WANT)
    healed(data, cluster)
    assert events(data) == ["damage", "repaired"] and data.healer.held(WANT) == (Held.OK, BYTES)


def test_a_metaserver_that_is_silent_is_asked_again() -> None:
    data, silent = stocked(), Cluster(silent=True)
    data.store.harm(NAME, wire.Harm.LOSE, 1)
    data.healer.state = wire.State.SERVING
    read(data, WANT)
    healed(data, silent)
    assert len(data.doubts.waiting) == 1 and not events(data)
    healed(data, Cluster())
    assert not len(data.doubts.waiting) and data.healer.held(WANT) == (Held.OK, BYTES)


def test_what_stands_on_a_ring_that_is_not_known_is_left_alone() -> None:
    data, cluster = stocked(), Cluster(epoch=9)
    read(data, FALSE)
    healed(data, cluster)
    assert not events(data) and not len(data.doubts.waiting)
