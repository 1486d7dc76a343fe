"""A range is cleared while somebody else changes the file: each byte is one's or the other's.

On one mount or on two, at the same moment; the seed draws who comes first where.  The kernel lets
only one of a mount's programs change a file at a time, but not under two names of it.
"""

import os
import random
from typing import Any

import pytest

from tests.world.cluster import Cluster
from tests.world.mounts import Mount
from tests.world.world import World, told
from zdfs.errors import Failure
from zdfs.ranges import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE

SEEDS = 3
ROUNDS = 60
OLD, NEW = 7, 9


class Race:
    """A file, what clears a range of it, and what else happens to it at once."""

    def __init__(self, cluster: Cluster, dice: random.Random, path: bytes):
        self.cluster, self.path = cluster, path
        self.size = dice.randint(1, 300)
        low = dice.randrange(self.size)
        self.cleared = range(low, low + dice.randint(1, 200))
        low = dice.randrange(self.size + 60)
        self.written = range(low, low + dice.randint(1, 200))
        self.cut = dice.choice([None, dice.randrange(300)])
        self.mode = dice.choice([PUNCH_HOLE, ZERO_RANGE]) | KEEP_SIZE
        self.flushed = dice.random() < 0.7
        self.delays = [dice.choice([0.0, dice.uniform(0, 0.02)]) for _ in range(2)]
        self.mounts = dice.choices(cluster.mounts, k=2)
        self.ended = 0

    def run(self) -> None:
        """Both, and then the check on each mount."""
        one, two = self.mounts
        handle = one.do(one.volume.create(self.path, 0o644, 0, 0, os.O_RDWR))
        one.do(one.volume.write(handle, bytes([OLD]) * self.size, 0))
        if self.flushed or one is not two:
            one.do(one.volume.fsync(handle))
        other, _ = two.do(two.volume.open(self.path, os.O_RDWR))
        low, length = self.cleared.start, len(self.cleared)
        self._start(one, one.volume.fallocate(handle, self.mode, low, length), self.delays[0])
        self._start(two, self._other(two, other), self.delays[1])
        self.cluster.world.run(lambda: self.ended == 2, 60)
        for mount, opened in ((one, handle), (two, other)):
            mount.do(mount.volume.flush(opened))
            mount.do(mount.volume.release(opened))
        for mount in self.cluster.mounts:
            self._check(mount)

    def _other(self, mount: Mount, handle: int) -> Any:
        if self.cut is not None:
            return mount.volume.truncate(None, handle, self.cut)
        return mount.volume.write(handle, bytes([NEW]) * len(self.written), self.written.start)

    def _start(self, mount: Mount, coroutine: Any, delay_s: float) -> None:
        def done(_: object, error: Failure | None) -> None:
            assert error is None, error
            self.ended += 1

        def start() -> None:
            mount.spawn(coroutine, done)

        self.cluster.world.after(delay_s, start)

    def _may(self, at: int) -> set[int]:
        """What a byte may be."""
        before = OLD if at < self.size else 0
        if self.cut is not None:
            return {0 if at in self.cleared else before}
        if at in self.written:
            return {NEW, 0} if at in self.cleared else {NEW}
        return {0 if at in self.cleared else before}

    def _check(self, mount: Mount) -> None:
        handle, _ = mount.do(mount.volume.open(self.path, os.O_RDONLY))
        found = bytes(mount.do(mount.volume.read(handle, 1000, 0)))
        mount.do(mount.volume.release(handle))
        about = f"{vars(self)} on {mount.address}: {found!r}"
        assert len(found) == (max(self.size, self.written.stop) if self.cut is None else self.cut)
        for at, byte in enumerate(found):
            assert byte in self._may(at), f"byte {at} is {byte}: {about}"


@pytest.mark.parametrize("number", range(SEEDS))
def test_races(number: int, seed: int) -> None:
    world = World(seed + number)
    with told(world, "tests/sim/test_ranges.py::test_races[0]", seed + number):
        cluster = Cluster(world, mounts=2)
        cluster.mount()
        dice = random.Random(seed + number)
        for count in range(ROUNDS):
            Race(cluster, dice, b"/%d" % count).run()
        cluster.heal()
        cluster.check()
