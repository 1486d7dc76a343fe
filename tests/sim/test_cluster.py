"""Random file operations on a simulated cluster, against a dictionary, under crashes and bad luck.

A failing seed prints its story; `pytest --seed N` draws the same ones again.
"""

import os
import random
from errno import ENXIO

import pytest

from tests.world.cluster import Cluster
from tests.world.faults import Faults
from tests.world.nemesis import Nemesis
from tests.world.world import World, told
from zdfs.errors import Posix
from zdfs.ranges import KEEP_SIZE, MODES

SEEDS = 6
STEPS = 80
KINDS = ("calm", "lossy", "crashing")


class Life:
    """One run: operations, a model of what they did, crashes in between."""

    def __init__(self, kind: str, seed: int):
        loss = 0.0 if kind == "calm" else 0.03
        self.world = World(seed, loss=loss, doubling=loss)
        self.random = random.Random(seed + 1)
        self.cluster = Cluster(self.world)
        self.cluster.mount()
        self.files: dict[bytes, bytes] = {}
        faults = Faults(powers=kind == "crashing", lost_disks=0.3, every_s=4.0)
        self.nemesis = Nemesis(self.cluster, faults, seed + 2)
        self.nemesis.start()

    def run(self) -> None:
        """Every step, and the end."""
        for _ in range(STEPS):
            self.step()
        self.end()

    def step(self) -> None:
        """One operation."""
        names = [b"/a", b"/b", b"/c", b"/d"]
        name = self.random.choice(names)
        doing = self.random.choice(
            [self.write, self.write, self.read, self.cut, self.go, self.move, self.clear, self.copy]
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

    def clear(self, name: bytes) -> None:
        """fallocate: punched, zeroed or longer, over what is not flushed yet; then the holes."""
        if name not in self.files:
            return
        do, volume = self.cluster.do, self.cluster.volume
        handle, _ = do(volume.open(name, os.O_RDWR))
        content = bytearray(self.files[name])
        if self.random.random() < 0.7:
            at, data = self.random.randint(0, len(content)), self.random.randbytes(150)
            assert do(volume.write(handle, data, at)) == len(data)
            content[at : at + len(data)] = data
        mode = self.random.choice(MODES)
        low, length = self.random.randint(0, len(content) + 20), self.random.randint(1, 300)
        do(volume.fallocate(handle, mode, low, length))
        if not mode & KEEP_SIZE:
            content.extend(bytes(max(0, low + length - len(content))))
        if mode & ~KEEP_SIZE:
            high = min(low + length, len(content))
            content[low:high] = bytes(max(0, high - low))
        assert bytes(do(volume.read(handle, len(content) + 9, 0))) == content
        self._look_for_holes(handle, content)
        do(volume.flush(handle))
        do(volume.release(handle))
        self.files[name] = bytes(content)

    def _look_for_holes(self, handle: int, content: bytearray) -> None:
        """What isn't zero is data; data and holes follow one another up to the end."""
        do, volume = self.cluster.do, self.cluster.volume
        at = 0
        while at < len(content):
            try:
                data = do(volume.lseek(handle, at, os.SEEK_DATA))
            except Posix as error:
                assert error.number == ENXIO
                data = len(content)
            assert not any(content[at:data]), "bytes in what is said to be a hole"
            at = data
            if at < len(content):
                at = do(volume.lseek(handle, data, os.SEEK_HOLE))
                assert data < at <= len(content)

    def copy(self, name: bytes) -> None:
        """copy_file_range onto another file, over what is there."""
        source = self.random.choice(sorted(self.files) or [b""])
        if name not in self.files or source == name:
            return
        do, volume = self.cluster.do, self.cluster.volume
        old, content = self.files[source], bytearray(self.files[name])
        low, at = self.random.randint(0, len(old) + 5), self.random.randint(0, len(content) + 50)
        length = self.random.randint(0, 300)
        into, _ = do(volume.open(name, os.O_WRONLY))
        of, _ = do(volume.open(source, os.O_RDONLY))
        piece = old[low : low + length]
        assert do(volume.copy_file_range(of, low, into, at, length)) == len(piece)
        if piece:
            content.extend(bytes(max(0, at - len(content))))
            content[at : at + len(piece)] = piece
        do(volume.flush(into))
        for handle in (of, into):
            do(volume.release(handle))
        self.files[name] = bytes(content)

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
        self.nemesis.stop()
        self.cluster.heal()
        for name in list(self.files):
            self.read(name)
        self.cluster.check()


@pytest.mark.parametrize("number", range(SEEDS))
@pytest.mark.parametrize("kind", KINDS)
def test_a_life(kind: str, number: int, seed: int) -> None:
    play(kind, seed + number)


def play(kind: str, seed: int) -> None:
    """One run; a failing one prints the end of its story and its command."""
    life = Life(kind, seed)
    with told(life.world, f"tests/sim/test_cluster.py::test_a_life[{kind}-0]", seed):
        life.run()
