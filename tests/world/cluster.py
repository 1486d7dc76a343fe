"""A cluster of the simulated world: a metaserver, dataservers, mounts; and whether all is well."""

import itertools
from collections.abc import Coroutine
from typing import Any

from tests.world.mounts import Mount
from tests.world.servers import Server
from tests.world.stores import MemoryBlockStore, MemoryMetaStore
from tests.world.world import World
from zdfs import metacheck
from zdfs.cache import Blocks
from zdfs.calls import Trap
from zdfs.data import Data
from zdfs.ids import Slot
from zdfs.ledger import Ledger
from zdfs.meta import Meta
from zdfs.ports import Room
from zdfs.wire import State

META = "meta:1"


class Cluster:
    """A metaserver, dataservers and mounts in a world."""

    def __init__(self, world: World, servers: int = 4, block_bytes: int = 64, mounts: int = 1):
        self.world = world
        ring = tuple(f"data:{index}" for index in range(servers))
        uuids = itertools.count(1)

        def meta(store: Any) -> Room:
            return Meta(Ledger(store, next(uuids).to_bytes(16, "big")), block_bytes, faults=True)

        self.meta = Server(world, META, MemoryMetaStore(), meta)
        self.data = [self._dataserver(Slot(slot), ring) for slot in range(servers)]
        self.mounts = [Mount(world, name, META) for name in "ABCDEF"[:mounts]]

    def _dataserver(self, slot: Slot, ring: tuple[str, ...]) -> Server:
        def data(store: Any) -> Room:
            return Data(store, slot, ring, META, faults=True)

        return Server(self.world, ring[slot], MemoryBlockStore(slot, lazy_sync=True), data)

    @property
    def volume(self) -> Any:
        """The first mount's."""
        return self.mounts[0].volume

    def do(self, coroutine: Coroutine[Trap, Any, Any]) -> Any:
        """A call of the first mount's volume, to its end."""
        return self.mounts[0].do(coroutine)

    def mount(self) -> None:
        """Open all sessions."""
        for one in self.mounts:
            one.mount()

    def restart(self) -> None:
        """Whatever was killed comes back."""
        for server in (self.meta, *self.data):
            server.restart()

    def whole(self) -> bool:
        """Whether every server serves, with nothing missing."""
        meta = self.meta.room
        if not isinstance(meta, Meta) or not all(map(_serves, self.data)):
            return False
        return all(m.state is State.SERVING for m in meta.members.map.members) and all(
            one.reconciled == one.reconcile for one in meta.ledger.servers.values()
        )

    def heal(self) -> None:
        """Wait until all is well; what mounts read from now on comes from the servers."""
        self.world.run(self.whole, 300)
        for one in self.mounts:
            one.volume.reader.blocks = Blocks()

    def check(self) -> None:
        """Every block stands intact on its three servers; the metadata is whole."""
        with self.meta.store.read() as read:
            assert metacheck.whole(read) == []
        for server in self.data:
            assert isinstance(server.room, Data)
            missing = server.do(server.room.healer._survey(), 60)
            assert missing == 0, f"{server.address} misses {missing} blocks"


def _serves(server: Server) -> bool:
    """As the server itself knows: what the metaserver heard last may be of its life before."""
    return isinstance(server.room, Data) and server.room.healer.state is State.SERVING
