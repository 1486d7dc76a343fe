"""What goes on beside a mount with --writeback, and at the same time: readers, other mounts, opens,
a removal, the end of a session, a server that is away."""

import os
from typing import Any

import pytest

from tests.sim.test_writeback import LIST, SOON_S, begun, closed, counted, cut
from tests.sim.towns import pair
from tests.world.cluster import META, Cluster
from tests.world.mounts import Mount
from zdfs import acls, wire
from zdfs.calls import Sleep
from zdfs.errors import Fenced, NoSession, NoSpace, PutAgain
from zdfs.ids import Policy


@pytest.fixture
def cluster(seed: int) -> Cluster:
    return pair(seed, writeback=True)


def test_an_fsync_has_what_was_set_on_all_disks(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only on the metaserver's own, as what a commit that was synced says of the bytes."""
    a = cluster.mounts[0]
    handle, ino = begun(a, b"/f", b"one")
    a.do(a.volume.set_ino(ino, mtime_ns=5))
    asked = []
    ask = a.volume.contact.ask

    async def noting(request: Any) -> Any:
        asked.append(type(request))
        return await ask(request)

    monkeypatch.setattr(a.volume.contact, "ask", noting)
    a.do(a.volume.fsync(handle))
    assert asked[-1:] == [wire.Sync]


@pytest.mark.parametrize("reader", ["before", "between", "itself"])
def test_a_full_disk_is_not_said_to_readers_alone(cluster: Cluster, reader: str) -> None:
    a = cluster.mounts[0]
    cluster.rest(2.0)
    handle, _ = begun(a, b"/f", b"one")
    if reader == "before":
        a.do(a.volume.open(b"/f", os.O_RDONLY))
    full = cluster.data[a.do(a.volume.lookup(b"/f")).start]
    size, full.store.total_bytes = full.store.total_bytes, 0
    a.do(a.volume.flush(handle))
    if reader != "itself":  # else the kernel releases it when all is over
        a.do(a.volume.release(handle))
    cluster.world.run(lambda: not a.volume.writer.files, 60)
    if reader == "itself":
        a.do(a.volume.release(handle))
    full.store.total_bytes = size
    if reader == "between":
        a.get(b"/f")
    again, _ = a.do(a.volume.open(b"/f", os.O_RDWR))
    with pytest.raises(NoSpace):
        a.do(a.volume.fsync(again))
    a.do(a.volume.fsync(again))


def test_nothing_is_set_on_what_was_removed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does its unlink wait for that."""
    a = cluster.mounts[0]
    handle, ino = begun(a, b"/f", b"one")
    a.do(a.volume.set_ino(ino, mtime_ns=5))
    cut(cluster, a)
    closed(a, handle)
    counts = counted(a, monkeypatch)
    a.do(a.volume.unlink(b"/f"))
    cluster.rest(SOON_S)
    assert counts["SetAttributes"] == 0
    assert not a.volume.writer.files and not a.volume.writer.dirty_bytes


def late(mount: Mount, monkeypatch: pytest.MonkeyPatch, kind: type, seconds: float) -> None:
    """Answers to such questions take so long to be looked at."""
    ask = mount.volume.contact.ask

    async def asking(request: Any) -> Any:
        answer = await ask(request)
        if isinstance(request, kind):
            await Sleep(seconds)
        return answer

    monkeypatch.setattr(mount.volume.contact, "ask", asking)


def test_who_opens_a_file_while_it_is_removed_has_all_of_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = cluster.mounts[0]
    closed(a, begun(a, b"/f", b"one")[0])
    cluster.rest(SOON_S)
    handle, _ = a.do(a.volume.open(b"/f", os.O_RDWR))
    a.do(a.volume.write(handle, b"two", 0))
    cut(cluster, a)
    closed(a, handle)
    late(a, monkeypatch, wire.Open, 0.5)
    opened: list[Any] = []
    a.spawn(a.volume.open(b"/f", os.O_RDONLY), lambda *result: opened.append(result))
    cluster.rest(0.2)
    a.do(a.volume.unlink(b"/f"))
    cluster.world.run(lambda: bool(opened), 60)
    (handle, _), error = opened[0]
    assert error is None
    assert bytes(a.do(a.volume.read(handle, 9, 0))) == b"two"


@pytest.mark.parametrize("who", ["fsync", "elsewhere"])
def test_nobody_waits_for_all_that_is_set_meanwhile(cluster: Cluster, who: str) -> None:
    a, b = cluster.mounts
    handle, ino = begun(a, b"/f", b"one")

    async def busy() -> None:
        for number in range(15_000):
            await a.volume.write(handle, b"x", 0)
            await a.volume.set_ino(ino, mtime_ns=number)
            await Sleep(0.0002)

    a.spawn(busy())
    began = cluster.world.now
    if who == "fsync":
        a.do(a.volume.fsync(handle), 60)
    else:
        b.do(b.volume.open(b"/f", os.O_RDWR), 60)
    assert cluster.world.now - began < SOON_S


def test_what_a_mount_has_set_does_not_outlive_its_session(cluster: Cluster) -> None:
    a, b = cluster.mounts
    handle, ino = begun(a, b"/f", b"one")
    a.do(a.volume.fsync(handle))
    everybody = [META, *(server.address for server in cluster.data)]
    for address in everybody:
        cluster.world.cuts.update({(a.address, address), (address, a.address)})
    b.put(b"/f", b"two")  # waits for its life to run out
    a.do(a.volume.write(handle, b"x", 0))
    a.do(a.volume.set_ino(ino, mtime_ns=5))
    cluster.world.cuts.clear()
    a.do(a.volume.set_ino(ino, mode=0o400))  # sends that first
    cluster.rest(SOON_S)
    with pytest.raises((Fenced, NoSession)):
        a.do(a.volume.fsync(handle))
    found = b.do(b.volume.lookup(b"/f"))
    assert found.mtime_ns != 5 and found.mode & 0o777 == 0o400


@pytest.mark.parametrize("later", ["chmod", "list"])
def test_a_mode_that_was_kept_does_not_undo_a_later_one_of_another_mount(
    cluster: Cluster, later: str
) -> None:
    a, b = cluster.mounts
    handle, ino = begun(a, b"/f", b"one")
    a.do(a.volume.set_ino(ino, mode=0o666, mtime_ns=5))
    if later == "chmod":
        b.do(b.volume.set_ino(ino, mode=0o400))
    else:
        b.do(b.volume.setxattr_ino(ino, acls.ACCESS, LIST))
    closed(a, handle)
    cluster.rest(SOON_S)
    for mount in (a, b):
        found = mount.do(mount.volume.lookup(b"/f"))
        assert (found.mode & 0o777, found.mtime_ns) == (0o400 if later == "chmod" else 0o660, 5)
    if later == "list":
        assert acls.unpack(b.do(b.volume.getxattr_ino(ino, acls.ACCESS))) == acls.unpack(LIST)


def test_a_mode_that_was_kept_stays_when_others_set_times(cluster: Cluster) -> None:
    a, b = cluster.mounts
    handle, ino = begun(a, b"/f", b"one")
    a.do(a.volume.set_ino(ino, mode=0o666))
    b.do(b.volume.set_ino(ino, atime_ns=7, uid=3))
    closed(a, handle)
    cluster.rest(SOON_S)
    found = b.do(b.volume.lookup(b"/f"))
    assert (found.mode & 0o777, found.atime_ns, found.uid) == (0o666, 7, 3)


@pytest.mark.parametrize("looked", [False, True])
def test_a_mode_that_is_set_after_another_mount_s_stays(cluster: Cluster, looked: bool) -> None:
    a, b = cluster.mounts
    handle, ino = begun(a, b"/f", b"one")
    a.do(a.volume.set_ino(ino, mtime_ns=5))
    b.do(b.volume.set_ino(ino, mode=0o640))
    cluster.rest(0.1)
    if looked:
        a.do(a.volume.stat(handle))
    a.do(a.volume.set_ino(ino, mode=0o644))
    a.do(a.volume.set_ino(ino, mode=0o664))
    closed(a, handle)
    cluster.rest(SOON_S)
    for mount in (a, b):
        found = mount.do(mount.volume.lookup(b"/f"))
        assert (found.mode & 0o777, found.mtime_ns) == (0o664, 5)


def test_closed_files_with_nothing_to_store_are_not_queued(cluster: Cluster) -> None:
    a = cluster.mounts[0]
    for number in range(12):
        a.put(b"/f%d" % number, b"x")
    cluster.rest(SOON_S)
    cut(cluster, a)
    for number in range(8):
        closed(a, begun(a, b"/g%d" % number, b"x")[0])
    queued = len(a.volume.flusher.closed)
    for number in range(12):
        closed(a, a.do(a.volume.open(b"/f%d" % number, os.O_RDWR))[0])
    assert len(a.volume.flusher.closed) <= queued


def test_what_was_set_is_sent_while_blocks_are_put_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that had acknowledged them is gone, with what it had."""
    a, b = cluster.mounts
    handle, ino = begun(a, b"/f", b"one")
    gone = cluster.data[a.do(a.volume.lookup(b"/f")).start]
    change = a.volume.contact.change

    async def again(request: Any, *more: Any) -> Any:
        if isinstance(request, wire.Commit):
            gone.crash()
            monkeypatch.setattr(a.volume.contact, "change", change)
            raise PutAgain("its store has changed", (cluster.data.index(gone),))
        return await change(request, *more)

    monkeypatch.setattr(a.volume.contact, "change", again)
    a.do(a.volume.flush(handle))
    a.do(a.volume.set_ino(ino, mode=0o644, mtime_ns=5))
    cluster.rest(SOON_S)
    found = b.do(b.volume.stat_ino(ino))
    assert (found.mode & 0o777, found.mtime_ns, found.size) == (0o644, 5, 0)
    a.do(a.volume.set_ino(ino, mode=0o400), 5.0)
    gone.restart()
    a.do(a.volume.fsync(handle))
    assert b.get(b"/f") == b"one"


def test_files_that_wait_for_a_server_do_not_keep_others(cluster: Cluster) -> None:
    """Those below a policy that does not wait for it are stored soon, as ever."""
    a, b = cluster.mounts
    a.do(a.volume.make(b"/quorum", 0o40755, 0, 0))
    quorum = a.do(a.volume.lookup(b"/quorum")).ino
    a.do(a.volume.contact.change(wire.SetPolicy(quorum, Policy.QUORUM)))
    cluster.rest(SOON_S)
    cluster.data[0].crash()
    for number in range(20):
        closed(a, begun(a, b"/f%d" % number, b"x")[0])
    closed(a, begun(a, b"/quorum/f", b"one")[0])
    cluster.rest(10.0)
    assert b.do(b.volume.lookup(b"/quorum/f")).size == 3
    assert sum(b.do(b.volume.lookup(b"/f%d" % number)).size == 0 for number in range(20)) > 6


def test_a_name_that_another_mount_gave_it_is_heeded(cluster: Cluster) -> None:
    """A file is stored before a rename also where this mount knew the name as another's."""
    a, b = cluster.mounts
    b.put(b"/name", b"old")
    a.do(a.volume.lookup(b"/name"))
    begun(a, b"/other", b"new")
    b.do(b.volume.rename(b"/other", b"/name"))
    cluster.rest(0.1)
    a.do(a.volume.rename(b"/name", b"/final"))
    a.kill()
    assert b.get(b"/final") == b"new"
