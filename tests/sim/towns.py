"""Clusters to begin with: with two mounts; or with files, whose metadata is about to be lost."""

import copy
from typing import Any

from tests.world.cluster import Cluster
from tests.world.stores import MemoryMetaStore
from tests.world.world import World
from zdfs.copying import Copying
from zdfs.ids import Slot
from zdfs.meta import Meta


def spoil(records: Any, key: bytes, how: str = "flipped") -> None:
    """A value in any of the world's stores loses a bit, or is gone."""
    if how == "flipped":
        value = records.values[key]
        records.values[key] = value[:-1] + bytes([value[-1] ^ 4])
    else:
        del records.values[key]
        records.keys.remove(key)


class Town:
    """A cluster, and what was acknowledged in it."""

    def __init__(self, seed: int, servers: int = 4, loss: float = 0.0, **more: Any):
        self.world = World(seed, loss=loss, doubling=loss)
        self.cluster = Cluster(self.world, servers, **more)
        self.cluster.mount()
        self.files: dict[bytes, bytes] = {}
        self.do, self.volume = self.cluster.do, self.cluster.volume

    def write(self, *names: bytes) -> None:
        """Files with their names as content, closed."""
        for name in names:
            self.cluster.mounts[0].put(name, name * 20)
            self.files[name] = name * 20

    def lose(self, store: Any = None) -> None:
        """The metaserver dies, and comes back with another store (None: an empty one)."""
        self.cluster.meta.crash()
        self.cluster.meta.store = store or MemoryMetaStore()

    def read(self) -> None:
        """Every file is there."""
        for name, data in self.files.items():
            assert self.cluster.mounts[0].get(name) == data

    def all_is_well(self) -> None:
        """Nothing is lost, and the mount goes on."""
        self.cluster.heal()
        self.read()
        self.write(b"/after%d" % len(self.files))
        network = self.world.network
        loss, network.loss, network.doubling = network.loss, 0.0, 0.0
        self.cluster.rest(5.0)
        self.cluster.check()
        network.loss = network.doubling = loss

    @property
    def meta(self) -> Meta:
        """The metaserver, serving."""
        room = self.cluster.meta.room
        assert isinstance(room, Meta)
        return room

    @property
    def members(self) -> tuple[Slot, ...]:
        """The journal set."""
        return self.copying.copies.slots

    @property
    def copying(self) -> Copying:
        """What the metaserver knows of its copies."""
        assert self.meta.members.copying is not None
        return self.meta.members.copying

    def key(self, table: bytes, place: int = 0) -> bytes:
        """Of a record in the metaserver's store."""
        keys: list[bytes] = self.cluster.meta.store.records.keys
        return [key for key in keys if key[:1] == table][place]

    def damage(self, key: bytes, how: str = "gone") -> None:
        """A stored value loses a bit, or is gone, behind everybody's back."""
        spoil(self.cluster.meta.store.records, key, how)


def begun(seed: int) -> Town:
    """One that is whole, with a file in it."""
    town = Town(seed)
    town.write(b"/a")
    town.cluster.heal()
    return town


def backed_up(seed: int) -> tuple[Town, Any]:
    """One that is whole, and its metaserver's store as it was some files ago."""
    town = Town(seed)
    town.write(b"/a")
    town.cluster.meta.crash()
    old = copy.deepcopy(town.cluster.meta.store)
    town.cluster.restart()
    town.cluster.heal()
    town.write(*(b"/f%d" % number for number in range(20)))
    return town, old


def pair(seed: int, **more: Any) -> Cluster:
    """Whole, with two mounts."""
    made = Cluster(World(seed), mounts=2, **more)
    made.mount()
    made.world.run(made.whole, 60)
    return made
