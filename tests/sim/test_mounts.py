"""A dozen processes on one or two mounts of a simulated cluster, under each kind of fault.

They share the blocks of one file, append to one log, empty and rewrite a file that others read,
and change names.  What a close acknowledged must be there, on every mount; every call must end once
the faults have stopped, and every replica be in its place.  A failing seed prints the end of its
story and the command that plays it again; `make sim` tries many.
"""

import os

import pytest

from tests.sim.processes import (
    LOG,
    ROWS,
    SHARED,
    Appender,
    Namer,
    Owner,
    Process,
    Rewriter,
    Watcher,
)
from tests.world.cluster import Cluster
from tests.world.faults import Faults, Nemesis
from tests.world.world import World, told
from zdfs.errors import Failure

SEEDS = 2
SECONDS = 40.0

# loss and doubling of messages, mounts, faults
KINDS: dict[str, tuple[float, int, Faults]] = {
    "calm": (0.0, 2, Faults()),
    "lossy-alone": (0.03, 1, Faults()),
    "lossy": (0.03, 2, Faults()),
    "crashes-alone": (0.01, 1, Faults(crashes=True, lost_disks=0.2)),
    "crashes": (0.01, 2, Faults(crashes=True, lost_disks=0.2)),
    "old-stores": (0.01, 1, Faults(crashes=True, old_stores=0.5)),
    "skips-alone": (0.01, 1, Faults(crashes=True, skips=True)),
    "skips": (0.01, 2, Faults(crashes=True, skips=True)),
    "cuts": (0.01, 2, Faults(cuts=True)),
    "silence": (0.01, 2, Faults(silence=True)),
    "all": (0.02, 2, Faults(crashes=True, lost_disks=0.2, cuts=True, silence=True)),
}


class Life:
    """One run of a kind."""

    def __init__(self, kind: str, seed: int):
        loss, mounts, faults = KINDS[kind]
        self.world = World(seed, loss=loss, doubling=loss)
        self.cluster = Cluster(self.world, mounts=mounts)
        self.nemesis = Nemesis(self.cluster, faults, seed + 1)
        self.running: set[Process] = set()
        self.processes: list[Process] = []

    def run(self) -> None:
        """From the mounting to the last check."""
        self.cluster.mount()
        for path in (SHARED, LOG, ROWS):
            self._create(path)
        self._start()
        self.nemesis.start()
        self._pass(SECONDS)
        self.nemesis.stop()
        self.world.run(lambda: not self.running, 400)
        self._pass(30.0)
        self.cluster.heal()
        for mount in self.cluster.mounts:
            for process in self.processes:
                process.check(mount)
        self.cluster.check()

    def _create(self, path: bytes) -> None:
        do, volume = self.cluster.do, self.cluster.volume
        handle = do(volume.create(path, 0o644, 0, 0, os.O_RDWR))
        do(volume.flush(handle))
        do(volume.release(handle))

    def _start(self) -> None:
        mounts, nemesis = self.cluster.mounts, self.nemesis
        self.processes += [Owner(number, mounts, nemesis) for number in range(5)]
        self.processes += [Appender(number, mounts, nemesis) for number in range(3)]
        self.processes += [Rewriter(mounts, nemesis)]
        self.processes += [Watcher(f"watcher{number}", mounts, nemesis) for number in range(2)]
        self.processes += [Namer(f"namer{number}", mounts, nemesis) for number in range(2)]
        for process in self.processes:
            self._launch(process)

    def _launch(self, process: Process) -> None:
        def done(_: object, error: Failure | None) -> None:
            assert error is None, f"{process.name} ended: {error!r}"
            self.running.remove(process)

        self.running.add(process)
        self.cluster.mounts[0].spawn(process.run(), done)

    def _pass(self, seconds: float) -> None:
        end = self.world.now + seconds
        self.world.after(seconds, lambda: None)
        self.world.run(lambda: self.world.now >= end, seconds + 1)


@pytest.mark.parametrize("number", range(SEEDS))
@pytest.mark.parametrize("kind", KINDS)
def test_a_life(kind: str, number: int, seed: int) -> None:
    play(kind, seed + number)


def play(kind: str, seed: int) -> None:
    """One run; a failing one prints the end of its story and its command."""
    life = Life(kind, seed)
    with told(life.world, f"tests/sim/test_mounts.py::test_a_life[{kind}-0]", seed):
        life.run()
