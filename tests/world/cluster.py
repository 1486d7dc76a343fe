"""A cluster of the simulated world: a metaserver, dataservers, mounts; and whether all is well."""

import itertools
from collections.abc import Coroutine
from typing import Any

from tests.world.mounts import Mount
from tests.world.servers import Server
from tests.world.stores import MemoryDisks
from tests.world.world import World
from zdfs import fsck, limits, metacheck, scrubbing
from zdfs.cache import Blocks
from zdfs.calls import Trap
from zdfs.copied import CopiedStore
from zdfs.data import Data
from zdfs.errors import Failure
from zdfs.findings import GARBAGE, text
from zdfs.ids import Slot
from zdfs.ledger import Ledger
from zdfs.meta import Meta
from zdfs.ports import Room, RoundStore
from zdfs.succession import succeed
from zdfs.tools import scrub
from zdfs.wire import State

META = "meta:1"
# Virtual: each server has scrubbed what it holds, and swept.  A pass waits twice, before and after
# it has looked, for repairs that wait for others, and longer as long as there are fewer of them.
SWEPT_S = 5 * scrubbing.PATIENCE_S + 60.0


class Cluster:
    """A metaserver, dataservers and mounts in a world."""

    def __init__(
        self, world: World, servers: int = 4, block_bytes: int = 64, mounts: int = 1,
        session_s: float = limits.SESSION_S, meta_copies: int = limits.META_COPIES,
        disks: Any = None, cache_s: float = limits.CACHE_S, writeback: bool = False,
    ):  # fmt: skip
        """`disks` makes the stores: in memory, unless told otherwise.  `cache_s`: how old names and
        attributes may be that a mount shows."""
        self.world, self.disks = world, disks or MemoryDisks()
        ring = tuple(f"data:{index}" for index in range(servers))
        uuids = itertools.count(1)

        def found(ledger: Ledger) -> Meta:
            return Meta(ledger, block_bytes, True, session_s, meta_copies)

        def meta(store: Any, last: Room | None) -> tuple[Room, RoundStore]:
            live = CopiedStore(store) if last is None else self.meta.live
            assert isinstance(live, CopiedStore)
            return succeed(live, next(uuids).to_bytes(16, "big"), last, found), live

        self.meta = Server(world, META, self.disks.meta_store(), meta)
        self.data = [self._dataserver(Slot(slot), ring) for slot in range(servers)]
        self.mounts = [Mount(world, name, META, cache_s, writeback) for name in "ABCDEF"[:mounts]]

    def _dataserver(self, slot: Slot, ring: tuple[str, ...]) -> Server:
        def data(store: Any, last: Room | None) -> tuple[Room, RoundStore]:
            return Data(store, slot, ring, META, faults=True, copy=store.copy), store

        return Server(self.world, ring[slot], self.disks.block_store(slot), data)

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

    def remount(self, gone: Mount) -> None:
        """A new mount where one was killed; it is ready when its session is open."""
        new = Mount(self.world, gone.address, META, gone.cache_s, gone.writeback)
        new.clock = gone.clock
        self.mounts[self.mounts.index(gone)] = new
        self.world.say(f"{new.address} mounts again")

        def done(_: object, error: Failure | None) -> None:
            if error and not new.dead:  # as the command would: it says why, and ends
                self.world.say(f"{new.address} can't mount: {error}")
                new.kill()
                self.world.after(1.0, lambda: self.remount(new))

        new.spawn(new.start(), done)

    def restart(self) -> None:
        """Whatever was killed comes back."""
        for server in (self.meta, *self.data):
            server.restart()

    def whole(self) -> bool:
        """Whether every server serves, with nothing missing."""
        meta = self.meta.room
        if not isinstance(meta, Meta) or not all(map(_serves, self.data)):
            return False
        copying = meta.members.copying
        return (
            all(m.state is State.SERVING for m in meta.members.map.members)
            and all(one.reconciled == one.reconcile for one in meta.ledger.servers.values())
            and (copying is None or copying.complete())
        )

    def rest(self, seconds: float) -> None:
        """Let time pass."""
        end = self.world.now + seconds
        self.world.after(seconds, lambda: None)
        self.world.run(lambda: self.world.now >= end, seconds + 1)

    def heal(self) -> None:
        """Wait until all is well: within five minutes, or it fails.  What mounts read from now on
        comes from the servers."""
        self.world.run(lambda: self.whole() and all(one.ready for one in self.mounts), 300)
        for one in self.mounts:
            one.volume.reader.blocks = Blocks()

    def check(self, rotten: bool = False) -> None:
        """The metadata is whole; every block stands intact on its three servers, and nothing else
        does, as soon as each of them has looked through what it holds.  `rotten`: bits of blocks
        were flipped, or an index lost some, and the first scrub after it may still find them."""
        passing = GARBAGE | {"damaged", "missing"} if rotten else GARBAGE
        with self.meta.store.read() as read:
            assert metacheck.whole(read) == []
        if rotten:  # the next pass of its own may be minutes away
            self.mounts[0].do(scrub.everything(META, lambda stage, done, total: None))
        end = self.world.now + SWEPT_S
        report = self.mounts[0].do(fsck.check(META))
        while report.status and self.world.now < end:  # also when a message of it was lost
            assert not set(report.counts) - passing, text(report)
            self.rest(5.0)
            report = self.mounts[0].do(fsck.check(META))
        assert report.status == 0, text(report)
        for server in self.data:
            assert isinstance(server.room, Data)
            missing = server.do(server.room.healer._survey(), 60)
            assert missing.blocks == 0, f"{server.address} misses {missing.blocks} blocks"


def _serves(server: Server) -> bool:
    """As the server itself knows: what the metaserver heard last may be of its life before."""
    return isinstance(server.room, Data) and server.room.healer.state is State.SERVING
