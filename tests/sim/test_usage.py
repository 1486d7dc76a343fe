"""What the metaserver adds up for `zdfs du`, and whom it names for `zdfs find-open`."""

import os

import pytest

from tests.world.cluster import META, Cluster
from tests.world.world import World
from zdfs import limits, progress, schema, wire
from zdfs.calls import Peer, call
from zdfs.errors import StartError
from zdfs.holders import Found, described, mapped
from zdfs.ids import Ino, Session
from zdfs.ports import Owner
from zdfs.processes import Mounted
from zdfs.tools import du, findopen
from zdfs.wire import LockKind, Span

QUIET = progress.Shown(quiet=True)


def cluster_of(seed: int, mounts: int = 1) -> Cluster:
    made = Cluster(World(seed), mounts=mounts)
    made.mount()
    return made


def make_directory(cluster: Cluster, path: bytes) -> None:
    cluster.do(cluster.volume.make(path, 0o40755, 0, 0))


def measured(cluster: Cluster, path: bytes, depth: int = 0) -> list[du.Node]:
    nodes, unread = cluster.do(du.measure(cluster.volume, path, depth, QUIET))
    assert not unread
    found: list[du.Node] = nodes
    return found


# --- du ----------------------------------------------------------------------------------------


def test_a_tree_is_added_up_by_depth(seed: int) -> None:
    cluster = cluster_of(seed)
    for path in (b"/a", b"/a/b", b"/a/b/c", b"/d"):
        make_directory(cluster, path)
    for number, path in enumerate((b"/f", b"/a/f", b"/a/b/f", b"/a/b/c/f", b"/d/f"), 1):
        cluster.mounts[0].put(path, bytes(100 * number))
    cluster.do(cluster.volume.make(b"/d/link", 0o120777, 0, 0, 0, b"target"))
    (whole,) = measured(cluster, b"/")
    assert (whole.names, whole.files, whole.directories) == (10, 5, 4)
    assert whole.size_bytes == 1500 + len("target") and whole.stored_bytes == 1500
    nodes = {one.path: one for one in measured(cluster, b"/", 1)}
    assert set(nodes) == {b"/", b"/a", b"/d"}
    assert nodes[b"/a"].size_bytes == 200 + 300 + 400 and nodes[b"/a"].names == 5
    assert nodes[b"/"].size_bytes == whole.size_bytes
    deep = {one.path: one.size_bytes for one in measured(cluster, b"/a", 9)}
    assert deep == {b"/a": 900, b"/a/b": 700, b"/a/b/c": 400}
    (file,) = measured(cluster, b"/a/f")
    assert (file.files, file.size_bytes) == (1, 200)
    with pytest.raises(StartError, match="/nothing"):
        measured(cluster, b"/nothing")
    cluster.check()


def test_what_has_two_names_counts_once_and_a_hole_is_not_stored(seed: int) -> None:
    cluster = cluster_of(seed)
    make_directory(cluster, b"/a")
    cluster.mounts[0].put(b"/f", bytes(640))
    for name in (b"/a/g", b"/a/h"):
        cluster.do(cluster.volume.link(b"/f", name))
    cluster.mounts[0].put(b"/sparse", b"x")
    cluster.do(cluster.volume.truncate(b"/sparse", None, 1 << 40))
    whole, below = measured(cluster, b"/", 1)
    assert (whole.names, whole.files) == (5, 2)
    assert whole.size_bytes == 640 + (1 << 40) and whole.stored_bytes < 640 + 65
    assert below.size_bytes in (0, 640)  # where it was met first
    (alone,) = measured(cluster, b"/a")
    assert (alone.files, alone.size_bytes) == (1, 640)
    cluster.check()


def test_large_directories_come_in_slices(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SUMMED", 3)
    cluster = cluster_of(seed)
    for number in range(11):
        cluster.mounts[0].put(b"/f%d" % number, bytes(number))
        make_directory(cluster, b"/d%d" % number)
    root = cluster.do(cluster.volume.lookup(b"/"))
    slice1 = cluster.do(call(Peer(META), wire.SumDirectory(root.ino, b"")))
    assert slice1.names == 3 and not slice1.end and slice1.after == b"d10"
    (whole,) = measured(cluster, b"/")
    assert (whole.names, whole.files, whole.directories) == (22, 11, 11)
    assert whole.size_bytes == sum(range(11))
    cluster.check()


def test_what_cannot_be_read_is_counted_as_that(seed: int) -> None:
    cluster = Cluster(World(seed), meta_copies=0)
    cluster.mount()
    cluster.mounts[0].put(b"/good", bytes(10))
    cluster.mounts[0].put(b"/rotten", bytes(10))
    ino = cluster.do(cluster.volume.lookup(b"/rotten")).ino
    records = cluster.meta.store.records
    key = schema.inode_key(ino)
    records.values[key] = records.values[key][:-1] + b"!"
    (whole,) = measured(cluster, b"/")
    assert (whole.files, whole.damaged) == (1, 1)
    facts = du._facts([whole], ["/gone: why"])
    assert not facts["complete"] and "damaged: see zdfs fsck" in du.text(facts)
    assert "not counted: /gone: why" in du.text(facts)


# --- find-open ---------------------------------------------------------------------------------


def found(cluster: Cluster, path: bytes) -> findopen.Open:
    opened: findopen.Open = cluster.do(findopen.find(cluster.volume, path, QUIET))
    return opened


def named(one: findopen.Open) -> set[tuple[bytes | None, str]]:
    """Paths, and on which mounts they are open."""
    return {(one.names.get(f.ino), one.mounts[f.session].mount) for f in one.files}


def test_who_has_what_open(seed: int) -> None:
    cluster = cluster_of(seed, mounts=2)
    first, second = cluster.mounts
    for path in (b"/a", b"/a/b", b"/c"):
        make_directory(cluster, path)
    first.put(b"/a/b/f", b"x")
    second.put(b"/c/g", b"y")
    cluster.rest(3.0)  # what is closed has been told
    assert not found(cluster, b"/").files
    handle, _ = second.do(second.volume.open(b"/a/b/f", os.O_RDWR))
    reader, _ = first.do(first.volume.open(b"/c/g", os.O_RDONLY))
    assert named(found(cluster, b"/")) == {(b"/a/b/f", "/B"), (b"/c/g", "/A")}
    assert named(found(cluster, b"/a")) == named(found(cluster, b"/a/b/f")) == {(b"/a/b/f", "/B")}
    assert not found(cluster, b"/a/b/f").files[0].locks
    span = Span(0, 9, True)
    second.do(second.volume.lock(handle, Owner(LockKind.POSIX, 1, 4711), span, True))
    (one,) = found(cluster, b"/a").files
    assert one.writes and (one.locks, one.lockers) == (1, (4711,))
    assert not found(cluster, b"/c").files[0].writes
    cluster.do(cluster.volume.rename(b"/a/b", b"/c/moved"))
    assert not found(cluster, b"/a").files
    assert named(found(cluster, b"/c")) == {(b"/c/moved/f", "/B"), (b"/c/g", "/A")}
    cluster.do(cluster.volume.unlink(b"/c/g"))
    gone = found(cluster, b"/c")
    assert (None, "/A") in named(gone) and {one.names for one in gone.files} == {0, 1}
    second.do(second.volume.release(handle))
    first.do(first.volume.release(reader))
    cluster.rest(3.0)
    assert not found(cluster, b"/").files
    cluster.check()


def test_a_file_is_found_below_each_of_its_names(seed: int) -> None:
    cluster = cluster_of(seed)
    for path in (b"/a", b"/b", b"/b/deep", b"/c"):
        make_directory(cluster, path)
    cluster.mounts[0].put(b"/a/f", b"x")
    cluster.do(cluster.volume.link(b"/a/f", b"/b/deep/g"))
    handle, _ = cluster.do(cluster.volume.open(b"/a/f", os.O_RDONLY))
    assert named(found(cluster, b"/a")) == {(b"/a/f", "/A")}
    assert named(found(cluster, b"/b")) == {(b"/b/deep/g", "/A")}
    assert not found(cluster, b"/c").files
    cluster.do(cluster.volume.release(handle))
    cluster.check()


def test_much_that_is_open_comes_in_slices(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OPEN_TOLD", 2)
    monkeypatch.setattr(limits, "OPEN_EXAMINED", 3)
    cluster = cluster_of(seed, mounts=2)
    handles = []
    for number in range(7):
        cluster.mounts[0].put(b"/%d" % number, b"x")
    for mount in cluster.mounts:
        for number in range(7):
            path = b"/%d" % number
            handles.append((mount, mount.do(mount.volume.open(path, os.O_RDONLY))[0]))
    told = cluster.do(call(Peer(META), wire.FindOpen(Ino(1), Session(0), Ino(0))))
    assert len(told.files) == 2 and not told.end
    assert named(found(cluster, b"/")) == {
        (b"/%d" % number, mount) for number in range(7) for mount in ("/A", "/B")
    }
    for mount, handle in handles:
        mount.do(mount.volume.release(handle))
    cluster.check()


# --- what the kernel says ----------------------------------------------------------------------


def test_descriptors_and_maps_are_read() -> None:
    mounts = {91: Mounted("/mnt", "127.0.0.1:2222", "0:53"), 7: Mounted("/m", "x:1", "0:9")}
    info = "pos:\t0\nflags:\t0100002\nmnt_id:\t91\nino:\t17\n"
    assert described(info, mounts) == (mounts[91], 17, 0o100002)
    assert described(info.replace("91", "92"), mounts)[0] is None
    assert described("pos:\t0\nflags:\t02\nmnt_id:\t91\n", mounts)[1] is None  # before Linux 5.14
    maps = (
        "7f00-7f10 r--s 00000000 00:35 17    /mnt/a file (deleted)\n"
        "7f10-7f20 r-xp 00000000 fd:01 99    /usr/lib/libc.so\n7f20-7f30 rw-p 0 00:00 0\n"
    )
    assert list(mapped(maps, mounts)) == [(mounts[91], 17, "/mnt/a file")]


def test_it_is_said_what_was_found() -> None:
    file = wire.OpenFile(Session(1), Ino(17), Ino(1), True, 1, True, 2, 3, (4711,))
    there = wire.Opener(Session(1), "far", "/data", 5000)
    one = findopen.Open(Ino(1), b"/", True, [file], {Session(1): there}, {Ino(17): b"/f"}, False)
    shown = findopen.text(findopen._facts(one, Found([], 4), "near"))
    for words in ("/f\n", "far:/data  has the write grant, which 2 other mounts wait for, locks: 3",
                  "(process 4711), silent for 5 s", "on far are, zdfs find-open says there",
                  "let us look at: 4", "has just restarted"):  # fmt: skip
        assert words in shown
    nothing = findopen.Open(Ino(1), b"/x", False)
    assert findopen.text(findopen._facts(nothing, Found([], 0), "near")).startswith("nobody has /x")
