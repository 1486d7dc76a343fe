"""Two stored flights were committed in one: one had been put before a server was skipped, and had
its acknowledgement; the other, put without it, passed for acknowledged by that.  Its blocks stood
on two servers, and nobody knew of it until the next scrub.
"""

import os
from typing import Any

from tests.sim.towns import Town
from tests.world.cluster import META
from zdfs import wire
from zdfs.calls import Ask, Peer
from zdfs.ids import Session, Slot


def test_a_flight_without_a_server_is_not_committed_with_one_that_has_it(seed: int) -> None:
    town = Town(seed)
    town.cluster.heal()
    town.world.sync_s = 0.004
    volume, mount = town.volume, town.cluster.mounts[0]
    handle = town.do(volume.create(b"/f", 0o644, 0, 0, os.O_RDWR))
    file = volume.handles[handle].file
    ended: list[Any] = []

    def flush(place: int) -> None:
        """A flight more; each has its block on the same servers."""
        town.do(volume.write(handle, b"%d" % place * 64, place * 4 * 64))
        mount.spawn(volume.flush(handle), lambda *result: ended.append(result))
        town.cluster.rest(0.5)

    def skip(on: bool) -> None:
        ask = Ask(Peer(META), wire.Skip(file.attributes.start, on))
        town.world.ask("admin", ask, Session(0), lambda _: None)
        town.cluster.rest(2.5)

    town.cluster.rest(2.0)  # the metaserver knows where to send its map
    town.world.cuts.add((mount.address, META))
    flush(0)  # its commit is underway from now on
    flush(1)
    skip(True)
    flush(2)
    skip(False)
    assert [flight.stored for flight in file.flights] == [True, True, True]
    assert Slot(file.attributes.start) not in file.flights[2].acks and not ended
    town.world.cuts.clear()
    town.world.run(lambda: len(ended) == 3, 20.0)
    assert [error for _, error in ended] == [None] * 3
    store = town.cluster.data[file.attributes.start].store
    names = [name for name, _ in store.scan(None, 100) if name.ino == file.ino]
    assert [name.block for name in names] == [0, 4, 8]
    town.cluster.check()
