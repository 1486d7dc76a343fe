"""A new set of copies is recorded in the metaserver's store.  When that had no room just then, or a
page of it could not be read, the task that looks after the set ended (`Copying.steer`): no copy was
replaced any more, and nothing said so but a line in the log, until the metaserver was restarted."""

from tests.sim.towns import Town
from tests.world.stores import MemoryDisks, MemoryMetaStore, MemoryRecords
from zdfs import limits, schema
from zdfs.errors import NoSpace


class Records(MemoryRecords):
    """Without room for a new set of copies, while `full`."""

    full = False

    def put(self, key: bytes, payload: bytes) -> None:
        if self.full and key == schema.COPY_SET:
            raise NoSpace("the store's map is full")
        super().put(key, payload)


class Disks(MemoryDisks):
    def __init__(self) -> None:
        self.records = Records()

    def meta_store(self) -> MemoryMetaStore:
        store = MemoryMetaStore()
        store.records = self.records
        return store


def test_a_set_that_could_not_be_recorded_is_recorded_later(seed: int) -> None:
    disks = Disks()
    town = Town(seed, disks=disks)
    town.cluster.heal()
    town.write(b"/a")
    town.cluster.rest(3.0)
    gone = town.members[0]
    disks.records.full = True
    town.cluster.data[gone].kill()
    world = town.world
    world.run(lambda: town.copying.proposed is not None, 2 * limits.REPLACE_S)
    town.cluster.rest(10.0)
    assert gone in town.members, "there is no room yet"
    disks.records.full = False
    world.run(lambda: gone not in town.members, 10.0)
    town.cluster.restart()
    town.all_is_well()
