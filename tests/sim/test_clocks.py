"""Somebody sets the clock, by an hour or by a year, forth or back: nobody is taken for dead.

Leases, silence and caches are measured by the time that goes by; the wall clock only stamps files
and events.
"""

import os
from collections.abc import Coroutine
from typing import Any

import pytest

from tests.world.cluster import Cluster
from tests.world.world import Task, World
from zdfs.calls import Now, Trap
from zdfs.errors import Failure
from zdfs.meta import Meta

JUMPS_S = (3600.0, -3600.0, -86_400.0, 366 * 86_400.0, 0.0)


class Clocked:
    """A coroutine that is told another wall clock."""

    def __init__(self, coroutine: Coroutine[Trap, Any, Any], world: "Jumpy"):
        self.coroutine, self.world = coroutine, world

    def send(self, value: Any) -> Any:
        return self._on(self.coroutine.send(value))

    def throw(self, error: Failure) -> Any:
        return self._on(self.coroutine.throw(error))

    def close(self) -> None:
        self.coroutine.close()

    def _on(self, trap: Any) -> Any:
        while isinstance(trap, Now) and trap.wall:
            trap = self.coroutine.send(int((self.world.now + self.world.ahead_s) * 1e9))
        return trap


class Jumpy(World):
    """A world whose wall clocks are ahead by so much."""

    ahead_s = 0.0

    def step(self, task: Task, value: Any, error: Failure | None) -> None:
        if not isinstance(task.coroutine, Clocked):
            task.coroutine = Clocked(task.coroutine, self)  # type: ignore[assignment]
        super().step(task, value, error)


@pytest.fixture
def cluster(seed: int) -> Cluster:
    made = Cluster(Jumpy(seed), mounts=2)
    made.mount()
    made.world.run(made.whole, 60)
    return made


def jumps(cluster: Cluster) -> list[tuple[int, list[int]]]:
    """Version of the cluster map and the sessions that live, after each jump."""
    seen = []
    for ahead_s in JUMPS_S:
        assert isinstance(cluster.world, Jumpy)
        cluster.world.ahead_s = ahead_s
        cluster.rest(5.0)
        assert isinstance(cluster.meta.room, Meta)
        members, sessions = cluster.meta.room.members, cluster.meta.room.sessions
        seen.append((members.map.version, sorted(sessions.mounts)))
    return seen


def test_sessions_live_through_a_jump_of_the_clock(cluster: Cluster) -> None:
    handle = cluster.do(cluster.volume.create(b"/f", 0o644, 0, 0, os.O_RDWR))
    before = sorted(mount.session for mount in cluster.mounts)
    for _, sessions in jumps(cluster):
        assert sessions == before
        assert cluster.do(cluster.volume.write(handle, b"still", 0)) == 5
        cluster.do(cluster.volume.fsync(handle))


def test_servers_stay_up_through_a_jump_of_the_clock(cluster: Cluster) -> None:
    assert isinstance(cluster.meta.room, Meta)
    before = cluster.meta.room.members.map.version
    assert {version for version, _ in jumps(cluster)} == {before}
    cluster.check()
