"""Locks between mounts, under each kind of fault: never two holders, no lost increment.

Programs on three mounts add to one counter, under a lock of fcntl or flock, and read it under
shared ones.  Who has a lock, and a mount that knows that its session lives, is alone with it.  In
the end nothing is locked, and nobody waits.
"""

import os

import pytest

from tests.sim.processes import Process
from tests.sim.life import Life
from tests.sim.programs import create
from tests.world.mounts import Mount
from tests.world.nemesis import Nemesis
from tests.world.world import told
from zdfs.errors import Failure
from zdfs.locks import END
from zdfs.meta import Meta
from zdfs.ports import Owner
from zdfs.wire import LockKind, Span

COUNTER = b"/counter"
SEEDS = 1


class Counted:
    """What everybody knows of the counter, and who is inside."""

    def __init__(self) -> None:
        self.low = self.high = 0  # what it is at least, and at most
        self.inside: list[tuple[Mount, int, bool]] = []


class Locker(Process):
    """Adds one, or looks, under a lock."""

    rest_s = 0.6

    def __init__(
        self, number: int, mounts: list[Mount], nemesis: Nemesis, counted: Counted, kind: LockKind
    ):
        super().__init__(f"locker{number}", mounts, nemesis)
        self.number, self.counted, self.kind = number, counted, kind
        self.added = False

    def expected(self, error: Failure) -> bool:
        """A session that ended takes its locks along: EIO through that descriptor."""
        gone = type(error) is Failure and "was lost" in error.text
        return super().expected(error) or (gone and self.nemesis.faults.may_end_sessions)

    async def round(self, mount: Mount) -> None:
        """One lock."""
        self.added = False
        handle, _ = await mount.call(mount.volume.open(COUNTER, os.O_RDWR))
        await self.close(mount, handle, self._work(mount, handle))

    async def _work(self, mount: Mount, handle: int) -> None:
        owner = Owner(self.kind, self.number * 1000 + self.rounds, self.number)
        span = Span(0, END, self.random.random() < 0.7)
        self.say(mount, f"wants it {'alone' if span.exclusive else 'too'}")
        await mount.call(mount.volume.lock(handle, owner, span, True))
        self.say(mount, "has it")
        self._enter(mount, handle, span)
        try:
            await self._inside(mount, handle, span)
        finally:
            self.counted.inside.remove((mount, handle, span.exclusive))
        await mount.call(mount.volume.unlock(handle, owner, span))
        await mount.call(mount.volume.fsync(handle))
        self.say(mount, "has given it back")

    def _enter(self, mount: Mount, handle: int, span: Span) -> None:
        for other, held, exclusive in self.counted.inside:
            claims = other.volume.claims
            sure = other.monotonic() <= claims.sure_until and held not in claims.lost
            sure = sure and not other.dead
            both = f"{self.name} on {mount.address} and somebody on {other.address} have it"
            assert not (sure and (span.exclusive or exclusive)), both
        self.counted.inside.append((mount, handle, span.exclusive))

    async def _inside(self, mount: Mount, handle: int, span: Span) -> None:
        low = self.counted.low
        found = int(bytes(await mount.call(mount.volume.read(handle, 20, 0))) or b"0")
        assert low <= found <= self.counted.high, f"{found}, not {low}..{self.counted.high}"
        await self.pause(0.3, 0.4)
        if span.exclusive:
            self.counted.high += 1
            data = b"%d" % (found + 1)
            self.added = True
            assert await mount.call(mount.volume.write(handle, data, 0)) == len(data)

    def ended(self, sure: bool) -> None:
        """What was unlocked and synced counts."""
        self.counted.low += self.added and sure

    def check(self, mount: Mount) -> None:
        """Nothing is left."""
        claims = mount.volume.claims
        assert (claims.owned, claims.of_handle, claims.waiters) == ({}, {}, {})
        handle, _ = mount.do(mount.volume.open(COUNTER, os.O_RDONLY))
        found = int(bytes(mount.do(mount.volume.read(handle, 20, 0))) or b"0")
        mount.do(mount.volume.release(handle))
        assert self.counted.low <= found <= self.counted.high


class LockLife(Life):
    """One run of a kind, with lockers only."""

    def __init__(self, kind: str, seed: int):
        super().__init__(kind, seed)
        self.counted = Counted()

    def cast(self) -> list[Process]:
        """Six of one kind of lock: the two know nothing of one another."""
        create(self.cluster, COUNTER)
        kind = self.world.random.choice(list(LockKind))
        return [
            Locker(number, self.cluster.mounts, self.nemesis, self.counted, kind)
            for number in range(6)
        ]


SHARED = ("calm", "lossy", "powers", "kills", "skips", "mounts", "cuts", "silence", "all")


@pytest.mark.parametrize("number", range(SEEDS))
@pytest.mark.parametrize("kind", SHARED)
def test_never_two_holders(kind: str, number: int, seed: int) -> None:
    life = LockLife(kind, seed + number)
    with told(life.world, f"tests/sim/test_locks.py::test_never_two_holders[{kind}-0]", seed):
        life.run()
        meta = life.cluster.meta.room
        assert isinstance(meta, Meta)
        assert (meta.locking.locks.files, meta.locking.locks.waiters) == ({}, {})
        assert life.counted.low > 5
