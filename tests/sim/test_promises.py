"""What a call that returned has done, and what a mount knows that was away."""

import os

import pytest

from tests.sim.towns import pair
from tests.world.cluster import META, Cluster
from tests.world.mounts import Mount
from zdfs import limits
from zdfs.errors import Failure
from zdfs.ids import Ino
from zdfs.meta import Meta


@pytest.fixture
def cluster(seed: int) -> Cluster:
    return pair(seed)


def opened(mount: Mount, path: bytes) -> int:
    handle: int = mount.do(mount.volume.open(path, os.O_RDWR))[0]
    return handle


def committed(cluster: Cluster, ino: Ino) -> int:
    """The size that survives whatever happens to the mount."""
    assert isinstance(cluster.meta.room, Meta)
    with cluster.meta.room.ledger.view() as view:
        return view.inode(ino).size


@pytest.mark.parametrize("call", ["flush", "fsync"])
def test_a_close_or_fsync_that_returned_is_committed(cluster: Cluster, call: str) -> None:
    mount = cluster.mounts[0]
    handle = mount.do(mount.volume.create(b"/f", 0o644, 0, 0, os.O_RDWR))
    ino = mount.do(mount.volume.lookup(b"/f")).ino
    for size in (10, 100, 1000):
        mount.do(mount.volume.write(handle, b"x" * size, 0))
        mount.do(getattr(mount.volume, call)(handle))
        assert committed(cluster, ino) == size


def test_a_grant_is_given_back_with_everything_flushed(cluster: Cluster) -> None:
    a, b = cluster.mounts
    a.put(b"/f", b"0123456789")
    one, other = opened(a, b"/f"), opened(b, b"/f")
    a.do(a.volume.write(one, b"AA", 0))
    b.do(b.volume.write(other, b"BB", 8))
    for mount, handle in ((a, one), (b, other)):
        mount.do(mount.volume.fsync(handle))
    for mount in (a, b):
        assert bytes(mount.do(mount.volume.read(opened(mount, b"/f"), 100, 0))) == b"AA234567BB"


def test_a_mount_that_was_away_reads_what_others_wrote(cluster: Cluster) -> None:
    """Its grant ended with its session: neither bytes nor map that it knew say anything now."""
    a, b = cluster.mounts
    a.put(b"/f", b"one")
    handle = opened(a, b"/f")
    assert bytes(a.do(a.volume.read(handle, 100, 0))) == b"one"
    ends = {(META, a.address), (a.address, META)}
    cluster.world.cuts.update(ends)
    b.put(b"/f", b"three")  # once the session of the first is over
    cluster.world.cuts.difference_update(ends)
    cluster.rest(2 * limits.BEAT_S + limits.CACHE_S)
    assert bytes(a.do(a.volume.read(handle, 100, 0))) == b"three"
    a.do(a.volume.write(handle, b"f", 0))
    a.do(a.volume.fsync(handle))
    assert bytes(b.do(b.volume.read(opened(b, b"/f"), 100, 0))) == b"fhree"


def test_bytes_that_a_mount_had_not_flushed_when_its_session_ended_are_an_error(
    cluster: Cluster,
) -> None:
    a, b = cluster.mounts
    a.put(b"/f", b"one")
    handle = opened(a, b"/f")
    ends = {(META, a.address), (a.address, META)}
    cluster.world.cuts.update(ends)
    a.do(a.volume.write(handle, b"LOST", 0))
    b.put(b"/f", b"three")
    cluster.world.cuts.difference_update(ends)
    cluster.rest(2 * limits.BEAT_S + limits.CACHE_S)
    with pytest.raises(Failure):
        a.do(a.volume.fsync(handle))
    assert bytes(a.do(a.volume.read(handle, 100, 0))) == b"three"
    a.do(a.volume.fsync(handle))
