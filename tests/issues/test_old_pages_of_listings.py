"""A listing with attributes showed a file as it was when the page was fetched, however long ago:
smaller than what had been written, closed and committed since, and the kernel read no further."""

import os

import pytest

from tests.sim.towns import pair
from tests.world.cluster import META, Cluster
from zdfs import limits
from zdfs.ports import Listed


@pytest.fixture
def cluster(seed: int) -> Cluster:
    return pair(seed)


def begun(cluster: Cluster, data: bytes) -> tuple[int, int, int]:
    """A directory of three files, listed up to the first; the second has something unflushed on
    the mount that lists: handles of the listing and of the file, and the offset to go on at."""
    a, _ = cluster.mounts
    a.do(a.volume.make(b"/d", 0o40755, 0, 0))
    for name in (b"/d/1", b"/d/3"):
        a.put(name, b"x")
    handle = a.do(a.volume.create(b"/d/2", 0o644, 0, 0, os.O_RDWR))
    a.do(a.volume.write(handle, data, 0))
    listing = a.do(a.volume.opendir(b"/d"))
    first = a.do(a.volume.readdir(listing, 2, True, 1))
    assert first[0].name == b"1"
    return listing, handle, first[0].next


def second(cluster: Cluster, listing: int, offset: int) -> Listed:
    """The entry of the file."""
    a, _ = cluster.mounts
    found: Listed = a.do(a.volume.readdir(listing, offset, True, 1))[0]
    assert found.name == b"2"
    return found


def test_what_was_flushed_since(cluster: Cluster) -> None:
    a, _ = cluster.mounts
    listing, handle, offset = begun(cluster, b"written")
    a.do(a.volume.fsync(handle))
    found = second(cluster, listing, offset).attributes
    assert found is not None and found.size == 7


def test_what_others_changed_since(cluster: Cluster) -> None:
    """They said so, and it is not said again."""
    a, b = cluster.mounts
    listing, handle, offset = begun(cluster, b"written")
    a.do(a.volume.fsync(handle))
    b.do(b.volume.set_attributes(b"/d/2", None, mode=0o600))
    cluster.rest(0.1)
    found = second(cluster, listing, offset).attributes
    assert found is None or found.mode & 0o777 == 0o600


def test_what_nobody_vouches_for_any_more(cluster: Cluster) -> None:
    a, b = cluster.mounts
    listing, handle, offset = begun(cluster, b"written")
    a.do(a.volume.fsync(handle))
    cluster.world.cuts.add((META, a.address))
    b.do(b.volume.set_attributes(b"/d/2", None, mode=0o600))
    cluster.rest(limits.CACHE_S)
    found = second(cluster, listing, offset).attributes
    assert found is None or found.mode & 0o777 == 0o600
