"""What mounts ask the metaserver about extended attributes, and what they see of one another."""

import os
from collections import Counter
from collections.abc import Callable
from errno import ENODATA

import pytest

from tests.world.cluster import Cluster
from tests.world.mounts import Mount
from tests.world.world import World
from zdfs import acls, limits, wire
from zdfs.calls import Ask
from zdfs.errors import Posix
from zdfs.ids import Session

CAPABILITY = b"security.capability"
PATH = b"/file"


class Counted(World):
    """Counts what is asked, by message."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.asked: Counter[type[wire.Message]] = Counter()

    def ask(
        self, source: str, ask: Ask, session: Session, answer: Callable[[object], None]
    ) -> None:
        self.asked[type(ask.request)] += 1
        super().ask(source, ask, session, answer)


@pytest.fixture
def cluster(seed: int) -> Cluster:
    """With two mounts, and a file."""
    one = Cluster(Counted(seed), mounts=2)
    one.mount()
    volume = one.volume
    handle = one.do(volume.create(PATH, 0o644, 0, 0, os.O_RDWR))
    one.do(volume.flush(handle))
    one.do(volume.release(handle))
    return one


def asked(cluster: Cluster) -> Counter[type[wire.Message]]:
    """What was asked so far."""
    assert isinstance(cluster.world, Counted)
    return cluster.world.asked


def has(mount: Mount, name: bytes, handle: int | None = None) -> bool:
    """Whether a mount sees it."""
    ino = None if handle is None else mount.volume.open_inode(handle)
    known = ino is not None and mount.volume.lacks(ino, name)
    try:
        if ino is None:
            mount.do(mount.volume.getxattr(PATH, name))
        else:
            mount.do(mount.volume.getxattr_ino(ino, name))
    except Posix as error:
        assert error.number == ENODATA
        return False
    assert not known
    return True


def passes(cluster: Cluster, seconds: float) -> None:
    """Let time go by."""
    world = cluster.world
    end = world.now + seconds
    world.after(seconds, lambda: None)
    world.run(lambda: world.now >= end, seconds + 1)


def write(mount: Mount, times: int) -> None:
    """As the kernel does: the capability is asked for before each write."""
    handle, _ = mount.do(mount.volume.open(PATH, os.O_RDWR))
    for number in range(times):
        assert not has(mount, CAPABILITY, handle)
        mount.do(mount.volume.write(handle, b"x" * 7, 7 * number))
    mount.do(mount.volume.flush(handle))
    mount.do(mount.volume.release(handle))


@pytest.mark.parametrize("others", [0, 1])
def test_a_write_asks_for_no_attribute(cluster: Cluster, others: int) -> None:
    mount = cluster.mounts[0]
    if others:
        mount.do(mount.volume.setxattr(PATH, b"user.other", b"", 0))
    before, start = Counter(asked(cluster)), cluster.world.now
    write(mount, 300)
    lives = 1 + (cluster.world.now - start) // (limits.CACHE_S / 2)
    news = asked(cluster) - before
    assert news[wire.GetXattr] <= others * lives and news[wire.GetAttributes] <= 2 * lives


def test_listings_and_stats_answer_for_attributes(cluster: Cluster) -> None:
    mount = cluster.mounts[1]
    listing = mount.do(mount.volume.opendir(b"/"))
    mount.do(mount.volume.readdir(listing, 0))
    before = Counter(asked(cluster))
    assert not has(mount, acls.ACCESS) and not has(mount, b"security.selinux")
    assert mount.do(mount.volume.listxattr(PATH)) == []
    assert asked(cluster) == before


def test_a_mount_knows_at_once_what_it_set_itself(cluster: Cluster) -> None:
    mount = cluster.mounts[0]
    for name in (b"user.a", b"user.b"):
        assert not has(mount, name)
        mount.do(mount.volume.setxattr(PATH, name, b"1", 0))
        assert has(mount, name)
    mount.do(mount.volume.removexattr(PATH, b"user.a"))
    assert not has(mount, b"user.a") and has(mount, b"user.b")


@pytest.mark.parametrize("first", [b"", b"user.other"])
def test_what_another_mount_set_is_seen_soon(cluster: Cluster, first: bytes) -> None:
    near, far = cluster.mounts
    if first:
        far.do(far.volume.setxattr(PATH, first, b"", 0))
        passes(cluster, limits.CACHE_S)
    assert not has(near, CAPABILITY)
    far.do(far.volume.setxattr(PATH, CAPABILITY, b"cap", 0))
    passes(cluster, limits.CACHE_S / 2)
    assert has(near, CAPABILITY)
    far.do(far.volume.removexattr(PATH, CAPABILITY))
    passes(cluster, limits.CACHE_S / 2)
    assert not has(near, CAPABILITY)


def test_also_by_who_writes_the_file(cluster: Cluster) -> None:
    near, far = cluster.mounts
    handle, _ = near.do(near.volume.open(PATH, os.O_RDWR))
    near.do(near.volume.write(handle, b"held", 0))
    assert not has(near, CAPABILITY, handle)
    far.do(far.volume.setxattr(PATH, CAPABILITY, b"cap", 0))
    passes(cluster, limits.CACHE_S / 2)
    near.do(near.volume.write(handle, b"more", 4))
    assert has(near, CAPABILITY, handle)
    near.do(near.volume.release(handle))


def test_an_absence_that_was_asked_for_before_a_set_is_not_remembered_after_it(
    cluster: Cluster,
) -> None:
    """The question for an attribute and its setting cross one another, again and again."""
    mount = cluster.mounts[0]
    mount.do(mount.volume.setxattr(PATH, b"user.other", b"", 0))
    for number in range(100):
        name = b"user.%d" % number

        def ended(value: object, error: object) -> None:
            assert error is None or isinstance(error, Posix)

        mount.spawn(mount.volume.getxattr(PATH, name), ended)
        mount.do(mount.volume.setxattr(PATH, name, b"", 0))
        for _ in range(3):
            assert has(mount, name)
            passes(cluster, 0.002)
        mount.do(mount.volume.removexattr(PATH, name))


def test_while_the_metaserver_is_silent_what_is_open_is_written(cluster: Cluster) -> None:
    mount = cluster.mounts[0]
    handle, _ = mount.do(mount.volume.open(PATH, os.O_RDWR))
    mount.do(mount.volume.write(handle, b"before", 0))
    cluster.meta.crash()
    for number in range(4):
        passes(cluster, 1.0)
        assert not has(mount, CAPABILITY, handle)
        mount.do(mount.volume.write(handle, b"more", 6 + 4 * number))
    cluster.meta.restart()
    mount.do(mount.volume.flush(handle))
    mount.do(mount.volume.release(handle))
