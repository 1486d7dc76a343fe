"""A metaserver without copies (--meta-copies 0) that some dataserver had promised past (a
metaserver with an empty store was started by mistake, twice) said that its store was empty,
which was not so, and waited for ever: `Regain._judge` asks for copies before it looks whether
the own store counts."""

import copy

from tests.sim.towns import Town
from tests.world.stores import MemoryMetaStore


def test_a_store_that_nobody_outran_serves_again(seed: int) -> None:
    town = Town(seed, meta_copies=0)
    town.cluster.heal()
    town.write(b"/a")
    meta = town.cluster.meta
    for _ in range(2):
        meta.kill()
        meta.restart()
        town.cluster.heal()
    meta.kill()
    right = copy.deepcopy(meta.store)
    for _ in range(2):
        meta.store = MemoryMetaStore()
        meta.restart()
        town.cluster.rest(5.0)
        meta.kill()
    meta.store = right
    meta.restart()
    town.cluster.rest(60.0)
    assert not hasattr(meta.room, "note") or "empty" not in meta.room.note, meta.room.note
    town.cluster.heal()
    town.read()
