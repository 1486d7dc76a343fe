"""The proof of the metaserver's store found a record missing, and could not heal it: the copies did
not answer just then, or were behind at each look, since names changed all the time.  It took what
was left for what there is all the same (`Proof.prove` -> `_proven(rebase=True)`): the record was
never missed again, an event said "healed", and copies that were filled from this store had it no
more: an acknowledged name was gone, with copies of it on three servers."""

import os

import pytest

from tests.sim.towns import Town, begun
from tests.world.stores import MemoryBlockStore
from zdfs.calls import notify


def _lose_disk(town: Town, slot: int) -> None:
    server = town.cluster.data[slot]
    server.crash()
    server.store = MemoryBlockStore(slot, lazy_sync=True, uuid=town.world.random.randbytes(16))
    server.restart()
    town.cluster.heal()


@pytest.mark.parametrize("why", ["silent", "busy"])
def test_a_record_that_could_not_be_healed_is_looked_for_again(seed: int, why: str) -> None:
    town = begun(seed)
    town.write(*(b"/f%d" % number for number in range(4)))
    town.cluster.rest(5.0)
    store, proof = town.cluster.meta.store, town.copying.proof
    key = town.key(b"e", 1)
    town.damage(key, "gone")
    if why == "silent":
        town.world.run(lambda: proof.store.checked is not None, 700)
        links = {(town.cluster.meta.address, server.address) for server in town.cluster.data}
        town.world.cuts.update(links)
        town.cluster.rest(5.0)
        town.world.cuts.difference_update(links)
    else:
        mount, volume = town.cluster.mounts[0], town.volume
        busy = [True]

        async def work(number: int) -> None:
            while busy:
                handle = await volume.create(b"/w%d" % number, 0o644, 0, 0, os.O_RDWR)
                await volume.release(handle)
                await volume.unlink(b"/w%d" % number)

        town.cluster.rest(590.0)
        for number in range(12):
            mount.spawn(work(number))
        notify(proof.doubt)  # the ten minutes are over
        town.cluster.rest(1.5)
        busy.clear()
    town.cluster.rest(1500.0)
    if key not in store.records.values:
        for slot in town.members:
            _lose_disk(town, slot)
        town.cluster.meta.crash()
        town.cluster.meta.restart()
        town.cluster.rest(30)
    assert key in store.records.values
    town.all_is_well()
