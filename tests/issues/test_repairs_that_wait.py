"""A damaged block whose other copies were silent for a moment was given up until the next scrub.

That may be days away, on a large store: until then one more damaged copy would have lost the block.
"""

import random

from tests.world.cluster import Cluster
from tests.world.world import World
from zdfs import blockmap, checksum, placement, recovery
from zdfs.data import Data
from zdfs.ids import BlockNo
from zdfs.wire import Harm, Held, Wanted


def test_a_repair_waits_for_whoever_has_the_block(seed: int) -> None:
    cluster = Cluster(World(seed))
    cluster.mount()
    cluster.mounts[0].put(b"/file", random.Random(seed).randbytes(64))
    cluster.rest(3.0)
    found, pages = cluster.do(cluster.volume.where(b"/file"))
    entry = blockmap.unpack_page(pages[0].entries)[0]
    assert entry is not None
    name = blockmap.name_of(found.ino, BlockNo(0), entry)
    home, *others = placement.slots(found.start, BlockNo(0), 4)
    healer = _data(cluster, home).healer
    _data(cluster, home).scrubber.rates = recovery.Rates(scrub=1)
    cluster.rest(30.0)  # its pass is underway, and so slow that it finds nothing
    stored, _ = cluster.data[home].store.read(name)
    cluster.data[home].store.harm(name, Harm.FLIP, 1)
    for slot in others:
        cluster.data[slot].crash()
    cluster.rest(1.0)
    seal = checksum.Seal(stored.crc16, stored.crc32c)
    healer.mend(Wanted(name, seal, stored.epoch, stored.start, stored.length), Held.DAMAGED)
    cluster.rest(20.0)
    assert not healer.whole(name)
    cluster.restart()
    cluster.heal()
    cluster.world.run(lambda: healer.found["healed"] > 0, 30.0)
    assert healer.whole(name)
    cluster.check()


def _data(cluster: Cluster, slot: int) -> Data:
    room = cluster.data[slot].room
    assert isinstance(room, Data)
    return room
