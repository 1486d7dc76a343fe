"""A small cluster at rest, for scenarios about policies: a mount writes one file, another reads it.

The file's one block stands on the servers `one`, `two` and `three`; `other` has nothing of it.
"""

import copy
import os
import stat

from tests.world.cluster import META, Cluster
from tests.world.servers import Server
from tests.world.stores import MemoryBlockStore
from tests.world.world import World
from zdfs import blockmap, schema, wire
from zdfs.cache import Blocks
from zdfs.calls import Peer, call
from zdfs.errors import Failure
from zdfs.ids import BlockNo, Name, PageNo, Policy, Slot
from zdfs.meta import Meta
from zdfs.schema import Account
from zdfs.wire import Held, Wanted

DIRECTORY, FILE = b"/d", b"/d/f"
OLD, NEW, NEWER = b"o" * 64, b"n" * 64, b"N" * 64
LONG_S = 12.0  # longer than any timeout of a write


class Write:
    """A write and its close, by a program of its own."""

    def __init__(self, scene: "Scene", data: bytes):
        self.scene = scene
        self.ended: list[Failure | None] = []
        scene.mount.spawn(scene.store(data), lambda value, error: self.ended.append(error))

    def done(self, within_s: float = 60.0) -> None:
        """It goes through."""
        self.scene.world.run(lambda: bool(self.ended), within_s)
        assert self.ended == [None], self.ended

    def waits(self) -> None:
        """It doesn't, for long; nothing of it counts."""
        before = self.scene.current()
        self.scene.rest(LONG_S)
        assert not self.ended, self.ended
        assert self.scene.current() == before


class Scene:
    """Four servers, a mount, a file with a block of OLD; all is well."""

    def __init__(self, seed: int, policy: Policy):
        self.world = World(seed)
        self.cluster = Cluster(self.world, mounts=2)
        self.cluster.mount()
        self.mount, self.reader = self.cluster.mounts
        self.do, self.volume, self.rest = self.cluster.do, self.mount.volume, self.cluster.rest
        self.do(self.volume.make(DIRECTORY, stat.S_IFDIR | 0o755, 0, 0))
        self.give(policy, DIRECTORY)
        handle = self.do(self.volume.create(FILE, 0o644, 0, 0, os.O_RDWR))
        self.do(self.volume.release(handle))
        self.do(self.store(OLD))
        self.attributes = self.do(self.volume.lookup(FILE))
        places = [(self.attributes.start + place) % 4 for place in range(4)]
        self.one, self.two, self.three, self.other = (self.cluster.data[at] for at in places)
        self.rest(2.0)

    # --- what programs do

    async def store(self, data: bytes) -> None:
        """Write the file from its start, and close it."""
        handle, _ = await self.volume.open(FILE, os.O_RDWR)
        try:
            assert await self.volume.write(handle, memoryview(data), 0) == len(data)
            await self.volume.flush(handle)
        finally:
            await self.volume.release(handle)

    def read(self) -> bytes:
        """The file as committed, by another mount, which has none of it in memory."""
        volume = self.reader.volume
        volume.reader.blocks = Blocks()
        handle, _ = self.reader.do(volume.open(FILE, os.O_RDONLY))
        try:
            return bytes(self.reader.do(volume.read(handle, 1 << 20, 0)))
        finally:
            self.reader.do(volume.release(handle))

    def give(self, policy: Policy, path: bytes) -> None:
        """zdfs policy PATH ..."""
        ino = self.do(self.volume.lookup(path)).ino
        found = self.do(self.volume.contact.change(wire.SetPolicy(ino, policy)))
        assert found.given is policy

    # --- what happens to servers

    def slot(self, server: Server) -> Slot:
        return Slot(self.cluster.data.index(server))

    def kill(self, *servers: Server) -> None:
        """With the power; the metaserver sees it some seconds later."""
        for server in servers:
            server.crash()

    def known(self) -> None:
        """Let the cluster map say what there is."""
        self.rest(5.0)

    def wipe(self, server: Server) -> None:
        """It comes back with a new, empty disk."""
        slot = self.slot(server)
        uuid = self.world.random.randbytes(16)
        server.store = MemoryBlockStore(slot, lazy_sync=True, uuid=uuid)
        server.restart()

    def part(self, *pairs: tuple[str, str]) -> None:
        """These don't hear one another."""
        self.world.cuts.update({pair for a, b in pairs for pair in ((a, b), (b, a))})

    def join(self) -> None:
        """Everybody does again."""
        self.world.cuts.clear()

    def isolate(self, server: Server) -> None:
        """From its fellows: it can copy nothing."""
        fellows = [one for one in self.cluster.data if one is not server]
        self.part(*((server.address, one.address) for one in fellows))

    # --- what there is

    def current(self) -> Wanted:
        """The version of the block that the map names."""
        attributes = self.attributes
        with self.cluster.meta.store.read() as read:
            data = read.get(schema.page_key(attributes.ino, PageNo(0)))
        entry = blockmap.entry_at(data or b"", 0)
        assert entry is not None
        name = blockmap.name_of(attributes.ino, BlockNo(0), entry)
        return Wanted(name, entry.seal, attributes.epoch, attributes.start, entry.stored)

    def has(self, server: Server, name: Name | None = None) -> bool:
        """Whether a server would have a version (the current one) after a loss of power."""
        found = copy.deepcopy(server.store).crash().read(name or self.current().name)
        return found is not None

    def copies(self) -> list[bool]:
        """Whether one, two and three have the current version."""
        return [self.has(server) for server in (self.one, self.two, self.three)]

    def says(self, server: Server, want: Wanted | None = None) -> Held:
        """What a server answers when it is asked for a version (the current one)."""
        cluster = self.volume.contact.cluster
        check = wire.Check(cluster, (want or self.current(),))
        held: Held = self.do(call(Peer(server.address), check)).held[0]
        return held

    def account(self, server: Server) -> Account:
        """What a server is owed."""
        room = self.cluster.meta.room
        assert isinstance(room, Meta)
        with room.ledger.view() as view:
            return view.account(self.slot(server))

    def owed(self) -> list[Server]:
        """Who is owed anything."""
        return [server for server in self.cluster.data if self.account(server).replicas]

    def settled(self, within_s: float = 60.0) -> None:
        """Every debt is collected, and every server has what it should have."""
        self.world.run(lambda: not self.owed(), within_s)
        assert self.copies() == [True] * 3

    def blocked(self) -> set[Slot]:
        """Whom writes wait for, as `zdfs status` says."""
        status = self.do(call(Peer(META), wire.GetStatus()))
        return {one.slot for mount in status.sessions for one in mount.blocked}

    def scarce(self) -> set[Slot]:
        """... of these, by policy quorum."""
        status = self.do(call(Peer(META), wire.GetStatus()))
        return {one.slot for mount in status.sessions for one in mount.blocked if one.quorum}

    def end(self) -> None:
        """Everybody is back: all heals, and fsck finds nothing."""
        self.join()
        self.cluster.restart()
        self.cluster.heal()
        self.world.run(lambda: not self.owed(), 60.0)
        self.cluster.check()
