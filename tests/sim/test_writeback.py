"""A mount with --writeback: what it does not wait for, and what may not be seen of that."""

import logging
import os
import stat
from collections import Counter
from errno import ENOENT, ENOSPC
from typing import Any

import pytest

from tests.sim.processes import FAMILY
from tests.sim.towns import pair
from tests.world.cluster import META, Cluster
from tests.world.mounts import Mount
from zdfs import acls, flushing, wire
from zdfs.errors import Failure, Fenced, NoSession, Posix

SOON_S = 2.0  # virtual: what is kept back, and what another mount believes, are older together
LIST = acls.pack(acls.follow(acls.unpack(FAMILY), 0o660))
PLAIN = acls.pack(
    (
        acls.AclEntry(acls.Tag.USER_OBJ, 6),
        acls.AclEntry(acls.Tag.GROUP_OBJ, 4),
        acls.AclEntry(acls.Tag.OTHER, 4),
    )
)


@pytest.fixture
def cluster(seed: int) -> Cluster:
    return pair(seed, writeback=True)


def cut(cluster: Cluster, *mounts: Mount) -> None:
    """These don't reach the dataservers any more, and don't know it yet."""
    for mount in mounts:
        for server in cluster.data:
            there = mount.address, server.address
            cluster.world.cuts.update({there, there[::-1]})


def begun(mount: Mount, path: bytes, data: bytes, mode: int = 0o600) -> tuple[int, int]:
    """A new file with something unflushed: its handle and inode."""
    handle = mount.do(mount.volume.create(path, mode, 0, 0, os.O_RDWR))
    mount.do(mount.volume.write(handle, data, 0))
    return handle, mount.volume.handles[handle].file.ino


def closed(mount: Mount, handle: int) -> None:
    """close(2)."""
    mount.do(mount.volume.flush(handle))
    mount.do(mount.volume.release(handle))


def flushed(cluster: Cluster) -> None:
    """The first mount reaches everybody again, and everything that waited is stored."""
    cluster.world.cuts.clear()
    cluster.world.run(lambda: not cluster.volume.writer.files, 60)


def counted(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Changes that a mount asks the metaserver for, by kind."""
    counts: Counter[str] = Counter()
    change = mount.volume.contact.change

    async def counting(request: Any, *more: Any) -> Any:
        counts[type(request).__name__] += 1
        return await change(request, *more)

    monkeypatch.setattr(mount.volume.contact, "change", counting)
    return counts


# --- content -----------------------------------------------------------------------------------


def test_a_close_does_not_wait_and_is_flushed_when_it_can_be(cluster: Cluster) -> None:
    a, b = cluster.mounts
    handle, _ = begun(a, b"/f", b"one")
    cut(cluster, a)
    before = cluster.world.now
    closed(a, handle)
    assert cluster.world.now == before
    assert a.get(b"/f") == b"one" and b.get(b"/f") == b""  # as long as it can't move
    flushed(cluster)
    assert b.get(b"/f") == b"one"


def test_another_mount_that_opens_it_waits_for_what_was_closed(cluster: Cluster) -> None:
    a, b = cluster.mounts
    for number in range(40):
        closed(a, begun(a, b"/f%d" % number, b"%d" % number)[0])
    assert b.get(b"/f39") == b"39" and b.get(b"/f0") == b"0"


def test_an_fsync_waits(cluster: Cluster) -> None:
    a, b = cluster.mounts
    handle, ino = begun(a, b"/f", b"one")
    a.do(a.volume.set_ino(ino, mtime_ns=5))
    a.do(a.volume.fsync(handle))
    a.kill()
    assert b.get(b"/f") == b"one" and b.do(b.volume.lookup(b"/f")).mtime_ns == 5


def test_so_many_files_and_not_more(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flushing, "CLOSED", 3)
    a = cluster.mounts[0]
    cut(cluster, a)
    for number in range(3):
        closed(a, begun(a, b"/f%d" % number, b"x")[0])
    handle, _ = begun(a, b"/last", b"x")
    ended: list[Any] = []
    a.spawn(a.volume.flush(handle), lambda *result: ended.append(result))
    cluster.rest(1.0)
    assert not ended
    cluster.world.cuts.clear()
    cluster.world.run(lambda: bool(ended), 60)
    assert ended == [(None, None)]


@pytest.mark.parametrize("over", [False, True])
def test_what_gets_another_name_is_stored_before(cluster: Cluster, over: bool) -> None:
    a, b = cluster.mounts
    if over:
        a.put(b"/f", b"old")
        a.do(a.volume.sync_all())
    closed(a, begun(a, b"/new", b"new")[0])
    if over:
        a.do(a.volume.rename(b"/new", b"/f"))
    else:
        a.do(a.volume.link(b"/new", b"/f"))
    a.kill()
    assert b.get(b"/f") == b"new"


def test_what_was_removed_is_not_missed(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    a, b = cluster.mounts
    cut(cluster, a)
    for number, remover in enumerate((a, b)):
        closed(a, begun(a, b"/f%d" % number, b"x")[0])
        remover.do(remover.volume.unlink(b"/f%d" % number))
    cluster.rest(1.0)
    flushed(cluster)
    assert not a.volume.writer.files and not a.volume.writer.dirty_bytes
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []
    cluster.check()


def test_a_removed_file_that_is_open_is_whole(cluster: Cluster) -> None:
    a = cluster.mounts[0]
    handle, _ = begun(a, b"/f", b"one")
    a.do(a.volume.flush(handle))
    a.do(a.volume.unlink(b"/f"))
    assert bytes(a.do(a.volume.read(handle, 9, 0))) == b"one"
    a.do(a.volume.fsync(handle))
    assert bytes(a.do(a.volume.read(handle, 9, 0))) == b"one"
    closed(a, handle)


def test_a_full_disk_is_said_to_who_opens_it_next(cluster: Cluster) -> None:
    a = cluster.mounts[0]
    cluster.rest(2.0)
    handle, _ = begun(a, b"/f", b"one")
    full = cluster.data[a.do(a.volume.lookup(b"/f")).start]
    size, full.store.total_bytes = full.store.total_bytes, 0
    closed(a, handle)
    cluster.world.run(lambda: not a.volume.writer.files, 60)
    full.store.total_bytes = size
    for expected in (ENOSPC, 0):  # once
        again, _ = a.do(a.volume.open(b"/f", os.O_RDWR))
        try:
            a.do(a.volume.fsync(again))
            assert not expected
        except Failure as error:
            assert error.number == expected
        a.do(a.volume.release(again))


def test_so_is_the_end_of_a_session(cluster: Cluster) -> None:
    a, b = cluster.mounts
    handle, ino = begun(a, b"/f", b"one")
    cut(cluster, a)
    a.do(a.volume.set_ino(ino, mtime_ns=5))
    closed(a, handle)
    cluster.world.cuts.update({(a.address, META), (META, a.address)})
    b.put(b"/f", b"two")  # waits for its life to run out
    cluster.world.cuts.clear()
    cluster.rest(10.0)
    again, _ = a.do(a.volume.open(b"/f", os.O_RDWR))
    with pytest.raises((Fenced, NoSession)):
        a.do(a.volume.fsync(again))
    assert a.get(b"/f") == b"two" and a.do(a.volume.lookup(b"/f")).mtime_ns != 5


# --- attributes --------------------------------------------------------------------------------


def test_what_tar_sets_goes_in_one_request(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = cluster.mounts
    counts = counted(a, monkeypatch)
    handle, ino = begun(a, b"/f", b"one")
    a.do(a.volume.set_ino(ino, atime_ns=3, mtime_ns=5))
    a.do(a.volume.set_ino(ino, uid=0, gid=0))
    shown = a.do(a.volume.set_ino(ino, mode=0o644))
    assert (shown.mode, shown.atime_ns, shown.mtime_ns) == (stat.S_IFREG | 0o644, 3, 5)
    assert not counts["SetAttributes"]
    closed(a, handle)
    assert a.do(a.volume.lookup(b"/f")) == shown
    cluster.rest(SOON_S)
    assert counts["SetAttributes"] == 1
    found = b.do(b.volume.lookup(b"/f"))
    assert found == shown._replace(change=found.change), "the time of the change, too"
    assert a.do(a.volume.lookup(b"/f")) == found


def test_a_write_moves_the_time_that_was_set(cluster: Cluster) -> None:
    a, b = cluster.mounts
    handle, ino = begun(a, b"/f", b"one")
    a.do(a.volume.set_ino(ino, mtime_ns=5))
    a.do(a.volume.write(handle, b"x", 3))
    wanted = a.do(a.volume.stat_ino(ino)).mtime_ns
    assert wanted > 5
    closed(a, handle)
    cluster.rest(SOON_S)
    assert b.do(b.volume.lookup(b"/f")).mtime_ns == wanted


def test_a_time_that_was_set_stays_set(cluster: Cluster) -> None:
    """Also if what was written before is committed after it."""
    a, b = cluster.mounts
    handle, ino = begun(a, b"/f", b"one")
    cut(cluster, a)
    a.do(a.volume.flush(handle))
    a.do(a.volume.set_ino(ino, mtime_ns=5))
    cluster.rest(SOON_S)
    assert b.do(b.volume.lookup(b"/f")).mtime_ns == 5, "no dataserver is asked for that"
    flushed(cluster)
    assert b.get(b"/f") == b"one" and b.do(b.volume.lookup(b"/f")).mtime_ns == 5


@pytest.mark.parametrize(
    "wanted",
    [{"mode": 0o400}, {"mode": 0o4700}, {"uid": 7}, {"gid": 7}, {"mode": 0o070}],
    ids=str,
)
def test_what_takes_something_away_is_not_kept(
    cluster: Cluster, wanted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = cluster.mounts
    counts = counted(a, monkeypatch)
    _, ino = begun(a, b"/f", b"one")
    a.do(a.volume.set_ino(ino, mtime_ns=5))
    found = a.do(a.volume.set_ino(ino, **wanted))
    assert counts["SetAttributes"] == 2, "what was kept went before it"
    assert found.mtime_ns == 5
    assert all(getattr(found, key) & 0o7777 == value for key, value in wanted.items())


def test_a_later_mode_is_not_overtaken_by_one_that_was_kept(cluster: Cluster) -> None:
    a, b = cluster.mounts
    handle, ino = begun(a, b"/f", b"one")
    a.do(a.volume.set_ino(ino, mode=0o666))
    a.do(a.volume.set_ino(ino, mode=0o600))
    closed(a, handle)
    cluster.rest(SOON_S)
    assert b.do(b.volume.lookup(b"/f")).mode & 0o777 == 0o600


def test_an_access_list_and_a_kept_mode_are_in_order(cluster: Cluster) -> None:
    a, b = cluster.mounts
    handle, ino = begun(a, b"/f", b"one")
    a.do(a.volume.set_ino(ino, mode=0o644))
    a.do(a.volume.setxattr_ino(ino, acls.ACCESS, LIST))
    closed(a, handle)
    cluster.rest(SOON_S)
    assert b.do(b.volume.lookup(b"/f")).mode & 0o777 == 0o660
    handle, _ = a.do(a.volume.open(b"/f", os.O_RDWR))
    a.do(a.volume.write(handle, b"x", 0))
    a.do(a.volume.set_ino(ino, mode=0o674))
    mask = acls.unpack(a.do(a.volume.getxattr_ino(ino, acls.ACCESS)))[3]
    assert mask == (acls.Tag.MASK, 7, acls.NO_ID)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_list_that_says_what_a_mode_says_is_kept_as_one(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, labelled: bool
) -> None:
    """As `cp -p` sets it.  Where there is something else, it may have to go."""
    a, b = cluster.mounts
    counts = counted(a, monkeypatch)
    handle, ino = begun(a, b"/f", b"one")
    if labelled:
        a.do(a.volume.setxattr_ino(ino, b"user.a", b"x"))
    a.do(a.volume.setxattr_ino(ino, acls.ACCESS, PLAIN))
    assert counts["SetXattr"] == 2 * labelled
    assert a.do(a.volume.stat_ino(ino)).mode & 0o777 == 0o644
    closed(a, handle)
    cluster.rest(SOON_S)
    found = b.do(b.volume.lookup(b"/f"))
    assert found.mode & 0o777 == 0o644 and found.xattrs == labelled
    for mount in (a, b):
        with pytest.raises(Posix):
            mount.do(mount.volume.getxattr_ino(ino, acls.ACCESS))


@pytest.mark.parametrize("value", [b"x", LIST[:-1], PLAIN + PLAIN[4:]])
def test_a_list_that_is_none_is_refused(cluster: Cluster, value: bytes) -> None:
    a, _ = cluster.mounts
    _, ino = begun(a, b"/f", b"one")
    with pytest.raises(Posix):
        a.do(a.volume.setxattr_ino(ino, acls.ACCESS, value))
    assert a.do(a.volume.stat_ino(ino)).mode & 0o777 == 0o600


def test_who_opens_it_elsewhere_has_what_was_set(cluster: Cluster) -> None:
    """Also while the bytes can't be stored."""
    a, b = cluster.mounts
    _, ino = begun(a, b"/f", b"one")
    cut(cluster, a)
    a.do(a.volume.set_ino(ino, mode=0o644, mtime_ns=5))
    handle, _ = b.do(b.volume.open(b"/f", os.O_RDONLY))
    found = b.do(b.volume.stat(handle))
    assert (found.mode & 0o777, found.mtime_ns) == (0o644, 5)


def test_a_metaserver_that_refuses_is_heard_of(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = cluster.mounts
    handle, ino = begun(a, b"/f", b"one")
    change = a.volume.contact.change

    async def refusing(request: Any, *more: Any) -> Any:
        if isinstance(request, wire.SetAttributes):
            raise Posix(ENOENT, "refused")
        return await change(request, *more)

    monkeypatch.setattr(a.volume.contact, "change", refusing)
    a.do(a.volume.set_ino(ino, mtime_ns=5))
    with pytest.raises(Posix, match="refused"):
        a.do(a.volume.fsync(handle))
    a.do(a.volume.fsync(handle))
    assert a.do(a.volume.stat_ino(ino)).mtime_ns != 5


def test_without_it_nothing_is_kept(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, _ = pair(seed).mounts
    counts = counted(a, monkeypatch)
    _, ino = begun(a, b"/f", b"one")
    a.do(a.volume.set_ino(ino, mtime_ns=5))
    a.do(a.volume.set_ino(ino, uid=0))
    assert counts["SetAttributes"] == 2
