"""A mount that was unmounted stayed for ever when its metaserver had gone: it went on saying that
it ends."""

import pytest

from tests.sim.towns import pair
from tests.world.cluster import Cluster
from zdfs.meta import Meta


@pytest.fixture
def cluster(seed: int) -> Cluster:
    return pair(seed)


def test_a_mount_ends_without_its_metaserver(cluster: Cluster) -> None:
    a, b = cluster.mounts
    a.put(b"/f", b"one")
    cluster.meta.kill()
    began = cluster.world.now
    a.do(a.volume.stop())
    assert cluster.world.now - began < 30
    cluster.meta.restart()
    a.kill()
    b.put(b"/f", b"two")
    assert b.get(b"/f") == b"two"


def test_a_metaserver_that_comes_back_soon_hears_it(cluster: Cluster) -> None:
    a, _ = cluster.mounts
    session = a.session
    cluster.meta.kill()
    cluster.world.after(2.5, cluster.meta.restart)
    a.do(a.volume.stop())
    meta = cluster.meta.room
    assert isinstance(meta, Meta) and session not in meta.sessions.mounts
