"""The rules against deadlock (docs/CONSISTENCY.md), each with what would stand still without it."""

import os
from collections.abc import Coroutine
from typing import Any

import pytest

from tests.sim.towns import pair
from tests.world.cluster import Cluster
from tests.world.mounts import Mount
from zdfs import limits
from zdfs.errors import Failure

PATIENCE_S = 300.0  # virtual


@pytest.fixture
def cluster(seed: int) -> Cluster:
    return pair(seed)


def all_end(cluster: Cluster, jobs: list[tuple[Mount, Coroutine[Any, Any, Any]]]) -> None:
    """Run them all at once, until the last has ended."""
    left = len(jobs)

    def done(_: object, error: Failure | None) -> None:
        nonlocal left
        assert error is None, error
        left -= 1

    for mount, job in jobs:
        mount.spawn(job, done)
    cluster.world.run(lambda: left == 0, PATIENCE_S)


async def rewrite(mount: Mount, *paths: bytes) -> None:
    """Open all of them, then write them one after the other, then close."""
    volume = mount.volume
    handles = [await volume.create(path, 0o644, 0, 0, os.O_RDWR) for path in paths]
    for handle in handles:
        await volume.write(handle, mount.address.encode() * 10, 0)
    for handle in handles:
        await volume.flush(handle)
        await volume.release(handle)


def test_nobody_pins_a_grant_while_it_waits_for_another(cluster: Cluster) -> None:
    """Each writes what the other has just written, in the other order, again and again."""
    a, b = cluster.mounts

    async def often(mount: Mount, *paths: bytes) -> None:
        for _ in range(20):
            await rewrite(mount, *paths)

    all_end(cluster, [(a, often(a, b"/x", b"/y")), (b, often(b, b"/y", b"/x"))])


def test_a_recall_finds_a_slot_while_hundreds_wait_for_grants(cluster: Cluster) -> None:
    """Each mount holds, with unflushed bytes, what hundreds of writers on the other one wait for:
    were all slots theirs, nobody could commit and give back."""
    a, b = cluster.mounts
    count = limits.SLOTS + 40
    held = {a: [b"/a%d" % n for n in range(count)], b: [b"/b%d" % n for n in range(count)]}
    for mount, paths in held.items():
        all_end(cluster, [(mount, rewrite(mount, path)) for path in paths])
    volumes = {mount: mount.volume for mount in held}

    async def dirty(mount: Mount, path: bytes) -> None:
        handle, _ = await volumes[mount].open(path, os.O_RDWR)
        await volumes[mount].write(handle, b"unflushed", 0)

    for mount, paths in held.items():
        all_end(cluster, [(mount, dirty(mount, path)) for path in paths])
    jobs = [(a, rewrite(a, path)) for path in held[b]] + [(b, rewrite(b, p)) for p in held[a]]
    all_end(cluster, jobs)


def test_a_reader_does_not_wait_for_a_writer_that_can_not_move(cluster: Cluster) -> None:
    """The writer's dataserver is down, so it can't flush: the committed content is read."""
    a, b = cluster.mounts
    all_end(cluster, [(a, rewrite(a, b"/f"))])
    handle, _ = a.do(a.volume.open(b"/f", os.O_RDWR))
    cluster.data[0].crash()
    cluster.world.run(lambda: len(a.volume.contact.down()) == 1, 60)
    a.spawn(a.volume.write(handle, b"blocked", 0))
    handle, _ = b.do(b.volume.open(b"/f", os.O_RDONLY))
    assert bytes(b.do(b.volume.read(handle, 100, 0))) == b"A" * 10
    cluster.restart()


def test_a_metaserver_that_waits_for_a_mount_is_not_called_silent(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Who waits for a grant goes on asking the metaserver for everything else."""
    a, b = cluster.mounts
    all_end(cluster, [(a, rewrite(a, b"/f"))])
    handle, _ = a.do(a.volume.open(b"/f", os.O_RDWR))
    a.do(a.volume.write(handle, b"unflushed", 0))
    for server in cluster.data[2:]:  # one of them at least has a replica
        server.crash()
    caplog.clear()
    waiting = b.spawn(b.volume.open(b"/f", os.O_RDWR))
    for _ in range(40):
        cluster.rest(0.5)
        b.do(b.volume.lookup(b"/f"))
        assert not b.volume.contact.meta_silent
    assert waiting in b.tasks and "waiting for the metaserver" not in caplog.text
    cluster.restart()
    cluster.world.run(lambda: waiting not in b.tasks, 60)
