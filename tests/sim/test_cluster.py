"""Random file operations on a simulated cluster, against a dictionary, under crashes and bad luck.

A failing seed prints its story; `pytest --seed N` draws the same ones again.
"""

import os
import random

import pytest

from tests.world.stores import MemoryBlockStore
from tests.world.world import Cluster, Node, World
from zdfs import metacheck
from zdfs.cache import Blocks
from zdfs.data import Data
from zdfs.errors import Posix
from zdfs.ids import Slot
from zdfs.meta import Meta
from zdfs.wire import State

SEEDS = 12
STEPS = 80


class Life:
    """One run: operations, a model of what they did, crashes in between."""

    def __init__(self, seed: int, loss: float, crashes: bool):
        self.world = World(seed, loss=loss, doubling=loss)
        self.random = random.Random(seed + 1)
        self.cluster = Cluster(self.world)
        self.cluster.mount()
        self.files: dict[bytes, bytes] = {}
        self.peace = False
        if crashes:
            self._nemesis()

    def _nemesis(self) -> None:
        """From time to time a server dies and comes back."""

        def strike() -> None:
            if self.peace:
                return
            victim = self.random.choice([self.cluster.meta, *self.cluster.data])
            whole = self.whole()
            if victim.room is not None:
                victim.crash()
                if whole and victim is not self.cluster.meta and self.random.random() < 0.3:
                    self.world.say(f"{victim.address} loses its disk")
                    slot = Slot(self.cluster.data.index(victim))
                    uuid = self.random.randbytes(16)
                    victim.store = MemoryBlockStore(slot, lazy_sync=True, uuid=uuid)
                self.world.after(self.random.uniform(0.01, 5), victim.restart)
            self.world.after(self.random.expovariate(1 / 4), strike)

        self.world.after(2.0, strike)

    def whole(self) -> bool:
        """Whether every server serves, with nothing missing."""
        meta = self.cluster.meta.room
        if not isinstance(meta, Meta) or not all(map(_serves, self.cluster.data)):
            return False
        return all(m.state is State.SERVING for m in meta.members.map.members) and all(
            one.reconciled == one.reconcile for one in meta.ledger.servers.values()
        )

    def step(self) -> None:
        """One operation."""
        names = [b"/a", b"/b", b"/c", b"/d"]
        name = self.random.choice(names)
        doing = self.random.choice(
            [self.write, self.write, self.read, self.cut, self.go, self.move]
        )
        self.world.say(f"{doing.__name__} {name.decode()}")
        doing(name)
        if self.random.random() < 0.3:
            self.pause(self.random.uniform(0, 2))

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        end = self.world.now + seconds
        self.world.after(seconds, lambda: None)
        self.world.run(lambda: self.world.now >= end, seconds + 1)

    def write(self, name: bytes) -> None:
        """Write a stretch somewhere, then close."""
        do, volume = self.cluster.do, self.cluster.volume
        old = self.files.get(name)
        if old is None:
            handle = do(volume.create(name, 0o644, 0, 0, os.O_RDWR))
        else:
            handle, _ = do(volume.open(name, os.O_RDWR))
        content = bytearray(old or b"")
        for _ in range(self.random.randint(1, 4)):
            offset = self.random.randint(0, len(content) + 50)
            data = self.random.randbytes(self.random.randint(1, 200))
            assert do(volume.write(handle, data, offset)) == len(data)
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data
            if self.random.random() < 0.3:  # long enough for what was written to take off
                self.pause(self.random.uniform(0.2, 1))
            if self.random.random() < 0.3:
                assert bytes(do(volume.read(handle, len(content) + 9, 0))) == content
        do(volume.flush(handle))
        do(volume.release(handle))
        self.files[name] = bytes(content)

    def read(self, name: bytes) -> None:
        """Read all of it."""
        do, volume = self.cluster.do, self.cluster.volume
        if name not in self.files:
            with pytest.raises(Posix):
                do(volume.lookup(name))
            return
        handle, _ = do(volume.open(name, os.O_RDONLY))
        assert bytes(do(volume.read(handle, 1 << 20, 0))) == self.files[name]
        do(volume.release(handle))

    def cut(self, name: bytes) -> None:
        """Truncate, shorter or longer."""
        if name in self.files:
            size = self.random.randint(0, len(self.files[name]) + 100)
            self.cluster.do(self.cluster.volume.truncate(name, None, size))
            self.files[name] = self.files[name][:size].ljust(size, b"\0")

    def go(self, name: bytes) -> None:
        """unlink: done exactly once, whatever was lost on the way."""
        if name in self.files:
            self.cluster.do(self.cluster.volume.unlink(name))
            del self.files[name]

    def move(self, name: bytes) -> None:
        """rename over another: done exactly once."""
        if name in self.files:
            target = self.random.choice([b"/a", b"/b", b"/c", b"/e"])
            self.cluster.do(self.cluster.volume.rename(name, target))
            self.files[target] = self.files.pop(name)

    def end(self) -> None:
        """Faults stop; everything must heal by itself and be right."""
        world, cluster = self.world, self.cluster
        self.peace = True
        world.loss = world.doubling = 0.0
        for node in (cluster.meta, *cluster.data):
            node.restart()

        world.run(self.whole, 300)
        cluster.volume.reader.blocks = Blocks()
        for name in list(self.files):
            self.read(name)
        self._replicas()

    def _replicas(self) -> None:
        """Every block stands intact on its three servers; the metadata is whole."""
        store = self.cluster.meta.store
        with store.read() as read:
            assert metacheck.whole(read) == []
        for node in self.cluster.data:
            self._complete(node)

    def _complete(self, node: Node) -> None:
        assert isinstance(node.room, Data)
        survey = node.room.healer._survey()
        ended: list[int] = []
        task = self.world.start(survey, None, lambda value, error: ended.append(value))
        self.world.run(lambda: bool(ended), 60)
        assert ended == [0] and task, f"{node.address} misses {ended[0]} blocks"


def _serves(node: Node) -> bool:
    """As the server itself knows: what the metaserver heard last may be of its life before."""
    return isinstance(node.room, Data) and node.room.healer.state is State.SERVING


@pytest.mark.parametrize("number", range(SEEDS))
@pytest.mark.parametrize("kind", ["calm", "lossy", "crashing"])
def test_a_life(kind: str, number: int, seed: int) -> None:
    life = Life(seed + number, loss=0.0 if kind == "calm" else 0.03, crashes=kind == "crashing")
    try:
        for _ in range(STEPS):
            life.step()
        life.end()
    except BaseException:
        print(f"seed {seed + number}, {kind}:", *life.world.story[-80:], sep="\n")
        raise
