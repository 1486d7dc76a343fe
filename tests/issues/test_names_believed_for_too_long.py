"""What a mount knew of names and attributes for long was wrong: listings with a gap taken for whole
ones, inodes that nobody looked after, changes whose caller died, old attributes learnt as new."""

import os
from errno import ESTALE
from typing import Any

import pytest

from tests.sim.test_consistency import grown, look
from tests.sim.towns import pair
from tests.world.cluster import META, Cluster
from tests.world.mounts import Mount
from zdfs import limits, volume, wire
from zdfs.errors import Failure, Interrupted, Posix
from zdfs.ids import Ino
from zdfs.knowledge import Names
from zdfs.meta import Meta

D = Ino(7)


@pytest.fixture
def cluster(seed: int) -> Cluster:
    return pair(seed)


def hundred(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, page: int) -> int:
    """A directory of a hundred names that the other mount made, listed in pages; a handle to it."""
    a, b = cluster.mounts
    b.do(b.volume.make(b"/d", 0o40755, 0, 0))
    for number in range(100):
        b.do(b.volume.make(b"/d/%04d" % number, 0o40755, 0, 0))
    cluster.rest(2.0)
    monkeypatch.setattr(limits, "LISTING_ENTRIES", page)
    handle: int = a.do(a.volume.opendir(b"/d"))
    return handle


def all_there(a: Mount, cluster: Cluster) -> None:
    """Whatever it believes for a while."""
    for number in range(30):
        assert not look(a, b"/d/zz")
        cluster.rest(0.2)
        assert look(a, b"/d/%04d" % number)


def lost(cluster: Cluster, a: Mount) -> None:
    """A push that never comes."""
    room = cluster.meta.room
    assert isinstance(room, Meta)
    room.sessions.mount(a.session).told += 1


def test_a_directory_of_more_names_than_are_kept() -> None:
    names, at = Names(), 1.0
    names.promises.confirmed(0, 0.0, 0.0, 0.5)
    every = [b"%08d" % number for number in range(limits.NAMES_CACHED + 5000)]
    for first in range(0, len(every), 512):
        at += 0.001
        page = {name: Ino(100) for name in every[first : first + 512]}
        after, end = (every[first - 1] if first else b""), first + 512 >= len(every)
        names.listed(D, 3, at, page, after, end)
    names.promises.confirmed(0, at, at, 0.5)
    assert not names.absent(D, every[0], at + 0.1)


def test_what_was_forgotten_between_two_pages(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = cluster.mounts
    handle, offset = hundred(cluster, monkeypatch, 20), 0
    monkeypatch.setattr(limits, "NAMES_CACHED", 60)
    while page := a.do(a.volume.readdir(handle, offset)):
        offset = page[-1].next
    all_there(a, cluster)


@pytest.mark.parametrize("plus", [True, False])
def test_news_that_were_lost_between_two_pages(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, plus: bool
) -> None:
    a, _ = cluster.mounts
    handle = hundred(cluster, monkeypatch, 60)
    monkeypatch.setattr(limits, "LISTING_BYTES", 1000)
    first = a.do(a.volume.readdir(handle, 0, plus))
    lost(cluster, a)
    cluster.rest(1.5)
    a.do(a.volume.readdir(handle, first[-1].next, plus))
    all_there(a, cluster)


def test_news_that_overtook_the_first_page(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = cluster.mounts
    handle = hundred(cluster, monkeypatch, 60)
    ino, ask = a.do(a.volume.lookup(b"/d")).ino, a.volume.contact.ask

    async def late(request: Any) -> Any:
        reply = await ask(request)
        a.volume.contact.ask = ask  # type: ignore[method-assign]
        lost(cluster, a)
        a.hear(wire.Changed(a.volume.names.promises.told + 1, (ino,)))
        return reply

    a.volume.contact.ask = late  # type: ignore[method-assign, assignment]
    first = a.do(a.volume.readdir(handle, 0))
    cluster.rest(0.01)
    rest = a.do(a.volume.readdir(handle, first[-1].next))
    assert len(first) + len(rest) == 102
    all_there(a, cluster)


def test_what_a_rename_moved_is_looked_after(cluster: Cluster) -> None:
    a, b = cluster.mounts
    grown(a, cluster)
    b.put(b"/d/x", b"one")
    cluster.rest(2.0)
    a.do(a.volume.rename(b"/d/x", b"/d/y"))
    for _ in range(5):
        assert look(a, b"/d/y")
        cluster.rest(0.2)
    b.do(b.volume.set_attributes(b"/d/y", None, mode=0o600))
    cluster.rest(limits.CACHE_S)
    assert a.do(a.volume.lookup(b"/d/y")).mode & 0o777 == 0o600


def test_what_is_shown_while_the_metaserver_is_silent_is_no_news(cluster: Cluster) -> None:
    a, b = cluster.mounts
    grown(a, cluster)
    handle, _ = a.do(a.volume.open(b"/d/f", os.O_RDONLY))
    cluster.world.cuts.add((a.address, META))
    b.do(b.volume.set_attributes(b"/d/f", None, mode=0o600))
    cluster.rest(0.1)
    a.do(a.volume.stat(handle))
    cluster.world.cuts.clear()
    for _ in range(25):
        cluster.rest(0.2)
        found = a.do(a.volume.stat(handle))
    assert found.mode & 0o777 == 0o600


@pytest.mark.parametrize("what", ["mkdir", "unlink", "chmod", "create", "rename"])
def test_a_caller_that_was_killed_in_its_change(cluster: Cluster, what: str) -> None:
    """It was made all the same."""
    a, _ = cluster.mounts
    grown(a, cluster)
    change = a.volume.contact.change

    async def killed(request: Any) -> Any:
        await change(request)
        a.volume.contact.change = change  # type: ignore[method-assign]
        raise Interrupted()

    a.volume.contact.change = killed  # type: ignore[method-assign, assignment]
    ways = {
        "mkdir": lambda: a.volume.make(b"/d/n", 0o40755, 0, 0),
        "unlink": lambda: a.volume.unlink(b"/d/f"),
        "chmod": lambda: a.volume.set_attributes(b"/d/f", None, mode=0o600),
        "create": lambda: a.volume.create(b"/d/n", 0o644, 0, 0, os.O_RDWR),
        "rename": lambda: a.volume.rename(b"/d/f", b"/d/n"),
    }
    with pytest.raises(Failure):
        a.do(ways[what]())
    for _ in range(20):
        cluster.rest(0.2)
        look(a, b"/d/f")
    assert look(a, b"/d/n") == (what in ("mkdir", "create", "rename"))
    assert look(a, b"/d/f") == (what not in ("unlink", "rename"))
    if what == "chmod":
        assert a.do(a.volume.lookup(b"/d/f")).mode & 0o777 == 0o600


def test_what_an_open_emptied_and_nobody_remembers(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = cluster.mounts
    grown(a, cluster)
    a.put(b"/d/t", b"hello")
    assert look(a, b"/d/t")
    monkeypatch.setattr(volume, "IDLE_FILES", 2)
    handle, _ = a.do(a.volume.open(b"/d/t", os.O_WRONLY | os.O_TRUNC))
    a.do(a.volume.flush(handle))
    a.do(a.volume.release(handle))
    for number in range(5):
        a.put(b"/d/o%d" % number, b"x")
    for _ in range(20):
        cluster.rest(0.2)
        assert a.do(a.volume.lookup(b"/d/t")).size == 0


def test_a_rename_between_two_names_of_one_file(cluster: Cluster) -> None:
    """It does nothing, after something that was done to the directory itself."""
    a, _ = cluster.mounts
    grown(a, cluster)
    a.do(a.volume.link(b"/d/f", b"/d/l"))
    a.do(a.volume.set_attributes(b"/d", None, mode=0o700))
    a.do(a.volume.rename(b"/d/f", b"/d/l"))
    for _ in range(10):
        cluster.rest(0.2)
        assert look(a, b"/d/f")


def test_a_directory_that_was_changed_itself_is_known_as_before(cluster: Cluster) -> None:
    a, _ = cluster.mounts
    grown(a, cluster)
    a.do(a.volume.set_attributes(b"/d", None, mode=0o700))
    a.do(a.volume.setxattr(b"/d", b"user.a", b"1", 0))
    a.put(b"/d/g", b"two")
    ino = a.do(a.volume.lookup(b"/d")).ino
    assert not a.volume.names._folders[ino].overtaken


def test_a_second_look_after_a_stale_open(cluster: Cluster) -> None:
    """As the kernel has it: look up, open, and both once more; the news are late, and so is the
    answer to the heartbeat that would tell of them."""
    a, b = cluster.mounts
    grown(a, cluster)
    parent, hear = a.do(a.volume.lookup(b"/d")).ino, a.volume.heard
    a.volume.heard = lambda message: (  # type: ignore[method-assign]
        [] if isinstance(message, wire.Changed | wire.Beaten) else hear(message)
    )
    assert look(a, b"/d/f")
    a.volume.names.promises.until = float("inf")
    b.put(b"/x", b"two")
    b.do(b.volume.rename(b"/x", b"/d/f"))
    with pytest.raises(Posix) as stale:
        a.do(a.volume.open_ino(a.do(a.volume.lookup_at(parent, b"f")).ino, os.O_RDONLY))
    assert stale.value.number == ESTALE
    a.do(a.volume.open_ino(a.do(a.volume.lookup_at(parent, b"f")).ino, os.O_RDONLY))


def test_names_are_bounded_also_when_they_are_only_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NAMES_CACHED", 100)
    names, at = Names(), 0.0
    for directory in range(1000):
        at += 0.1
        names.promises.confirmed(0, at, at, 0.5)
        made = {b"%d" % number: Ino(1000 * directory + number + 10) for number in range(50)}
        names.listed(Ino(10**6 + directory), 1, at, made, b"", True)
        for name in made:
            assert names.find(Ino(10**6 + directory), name, at)
    assert len(names._names) <= 100 and len(names._places) <= 100
    assert sum(map(len, names._inside.values())) <= 100


def test_the_way_up_from_a_directory_that_was_moved(cluster: Cluster) -> None:
    a, _ = cluster.mounts
    grown(a, cluster)
    a.do(a.volume.make(b"/e", 0o40755, 0, 0))
    a.do(a.volume.make(b"/d/s", 0o40755, 0, 0))
    moved = a.do(a.volume.lookup(b"/d/s")).ino
    assert a.do(a.volume.lookup_at(moved, b"..")).ino == a.do(a.volume.lookup(b"/d")).ino
    a.do(a.volume.rename(b"/d/s", b"/e/s"))
    assert a.do(a.volume.lookup_at(moved, b"..")).ino == a.do(a.volume.lookup(b"/e")).ino
