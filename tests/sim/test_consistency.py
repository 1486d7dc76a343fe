"""What one mount did, as another sees it: who is told, and who need not wait for ever."""

import os

import pytest

from tests.sim.towns import pair
from tests.world.cluster import META, Cluster
from tests.world.mounts import Mount
from zdfs import limits, wire
from zdfs.errors import Failure


@pytest.fixture
def cluster(seed: int) -> Cluster:
    return pair(seed)


def unclosed(mount: Mount, path: bytes, data: bytes) -> int:
    """A new file that was written and not flushed; a handle to it."""
    handle: int = mount.do(mount.volume.create(path, 0o644, 0, 0, os.O_RDWR))
    mount.do(mount.volume.write(handle, data, 0))
    return handle


SOON_S = 0.1  # virtual: some messages, and far less than what a cache may be old


def test_what_was_looked_at_is_told_when_it_changes(cluster: Cluster) -> None:
    a, b = cluster.mounts
    a.put(b"/f", b"one")
    assert a.do(a.volume.lookup(b"/f")).mode & 0o777 == 0o644
    b.do(b.volume.set_attributes(b"/f", None, mode=0o600))
    cluster.rest(SOON_S)
    assert a.do(a.volume.lookup(b"/f")).mode & 0o777 == 0o600
    b.do(b.volume.rename(b"/f", b"/g"))
    cluster.rest(SOON_S)
    with pytest.raises(Failure):
        a.do(a.volume.lookup(b"/f"))


def test_nobody_is_told_what_it_did_itself_or_twice(cluster: Cluster) -> None:
    a, b = cluster.mounts
    told: list[int] = []
    a.volume.on_change = lambda ino, known: told.append(ino)
    a.put(b"/f", b"one")
    ino = a.do(a.volume.lookup(b"/f")).ino
    a.do(a.volume.set_attributes(b"/f", None, mode=0o600))
    cluster.rest(SOON_S)
    assert ino not in told
    for mode in (0o601, 0o602, 0o603):
        b.do(b.volume.set_attributes(b"/f", None, mode=mode))
    cluster.rest(SOON_S)
    assert told.count(ino) == 1
    assert a.do(a.volume.lookup(b"/f")).mode & 0o777 == 0o603
    b.do(b.volume.set_attributes(b"/f", None, mode=0o604))
    cluster.rest(SOON_S)
    assert told.count(ino) == 2


def test_an_open_file_is_read_fresh_after_a_commit_elsewhere(cluster: Cluster) -> None:
    a, b = cluster.mounts
    a.put(b"/f", b"one")
    handle, _ = b.do(b.volume.open(b"/f", os.O_RDONLY))
    assert bytes(b.do(b.volume.read(handle, 100, 0))) == b"one"
    a.put(b"/f", b"two")
    cluster.rest(SOON_S)
    assert bytes(b.do(b.volume.read(handle, 100, 0))) == b"two"


def test_a_mount_that_can_not_hear_does_not_keep_others_waiting(cluster: Cluster) -> None:
    """Its heartbeats arrived, so its session lived; the recall never reached it."""
    a, b = cluster.mounts
    a.put(b"/f", b"one")
    cluster.world.cuts.add((META, a.address))
    b.put(b"/f", b"two")  # within the deadline of `do`
    assert b.get(b"/f") == b"two"
    cluster.world.cuts.clear()
    cluster.rest(10)
    assert a.get(b"/f") == b"two"


def test_what_was_closed_in_a_heartbeat_that_was_lost_is_told_again(cluster: Cluster) -> None:
    """The answer to the heartbeat before is not taken for this one's: else the orphan stays."""
    a, _ = cluster.mounts
    handle = unclosed(a, b"/f", b"one")
    ino = a.do(a.volume.lookup(b"/f")).ino
    a.do(a.volume.flush(handle))
    first = a.volume.heartbeat()
    a.do(a.volume.release(handle))
    second = a.volume.heartbeat()
    assert [one.ino for one in second.closed] == [ino] and not first.closed
    a.volume.heard(wire.Beaten(first.number, None, (), False))
    third = a.volume.heartbeat()
    assert [one.ino for one in third.closed] == [ino]
    a.volume.heard(wire.Beaten(third.number, None, (), False))
    assert not a.volume.heartbeat().closed


def test_sessions_live_as_long_as_the_metaserver_was_told(seed: int) -> None:
    made = pair(seed, session_s=limits.SESSION_MIN_S)
    a, b = made.mounts
    handle = unclosed(a, b"/f", b"one")
    made.world.cuts.update({(META, a.address), (a.address, META)})
    before = made.world.now
    b.put(b"/f", b"two")
    assert made.world.now - before < limits.SESSION_S
    made.world.cuts.clear()
    made.rest(5)
    with pytest.raises(Failure):
        a.do(a.volume.fsync(handle))
    assert a.get(b"/f") == b"two"
