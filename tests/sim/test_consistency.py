"""What one mount did, as another sees it: who is told, and who need not wait for ever."""

import os
from collections import Counter
from errno import ENOENT
from typing import Any

import pytest

from tests.sim.towns import pair
from tests.world.cluster import META, Cluster
from tests.world.mounts import Mount
from zdfs import limits, wire
from zdfs.errors import Failure, Posix
from zdfs.meta import Meta


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
    a.volume.heard(wire.Beaten(first.number, None, (), False, 0))
    third = a.volume.heartbeat()
    assert [one.ino for one in third.closed] == [ino]
    a.volume.heard(wire.Beaten(third.number, None, (), False, 0))
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


# --- what is remembered for long -----------------------------------------------------------------


def asked(cluster: Cluster) -> Counter[str]:
    """Counts from now on the questions about names that the metaserver is asked."""
    heard: Counter[str] = Counter()
    room = cluster.meta.room
    assert room is not None

    def counting(kind: type[wire.Message], handler: Any) -> Any:
        def handle(request: Any, caller: Any) -> Any:
            heard[kind.__name__] += 1
            return handler(request, caller)

        return handle

    kinds = (wire.Lookup, wire.GetAttributes, wire.ReadDirectory)
    room.handlers = {  # type: ignore[misc]
        **room.handlers, **{kind: counting(kind, room.handlers[kind]) for kind in kinds}
    }  # fmt: skip
    return heard


def look(mount: Mount, path: bytes) -> bool:
    """Whether there is such a name."""
    try:
        mount.do(mount.volume.lookup(path))
    except Posix as error:
        assert error.number == ENOENT
        return False
    return True


def grown(mount: Mount, cluster: Cluster) -> None:
    """A directory of this mount with a file in it, which it keeps looking at for a while."""
    mount.do(mount.volume.make(b"/d", 0o40755, 0, 0))
    mount.put(b"/d/f", b"one")
    for _ in range(20):
        assert look(mount, b"/d/f") and not look(mount, b"/d/g")
        cluster.rest(0.2)


def test_who_knows_a_directory_asks_nobody(cluster: Cluster) -> None:
    a, _ = cluster.mounts
    grown(a, cluster)
    heard = asked(cluster)
    for number in range(30):
        assert look(a, b"/d/f") and not look(a, b"/d/g")
        assert not look(a, b"/d/n%d" % number)
        a.do(a.volume.make(b"/d/n%d" % number, 0o40755, 0, 0))
        cluster.rest(0.2)
    assert a.do(a.volume.stat_ino(a.do(a.volume.lookup(b"/d")).ino)).nlink == 32
    assert not heard, "nobody else has changed anything"


def test_a_directory_that_was_listed_is_known(cluster: Cluster) -> None:
    a, b = cluster.mounts
    grown(b, cluster)
    handle = a.do(a.volume.opendir(b"/d"))
    assert [one.name for one in a.do(a.volume.readdir(handle, 2))] == [b"f"]
    heard = asked(cluster)
    for _ in range(20):
        assert look(a, b"/d/f") and not look(a, b"/d/g")
        cluster.rest(0.2)
    assert heard["Lookup"] + heard["GetAttributes"] <= 2, heard


@pytest.mark.parametrize("plus", [True, False])
def test_a_kernel_that_takes_few_names_at_once_is_given_few(cluster: Cluster, plus: bool) -> None:
    a, b = cluster.mounts
    b.do(b.volume.make(b"/d", 0o40755, 0, 0))
    for number in range(20):
        b.do(b.volume.make(b"/d/%02d" % number, 0o40755, 0, 0))
    handle, offset, names = a.do(a.volume.opendir(b"/d")), 2, []
    while page := a.do(a.volume.readdir(handle, offset, plus, 3)):
        assert len(page) <= 3
        names += [one.name for one in page]
        offset = page[-1].next
    assert names == [b"%02d" % number for number in range(20)]


def test_neighbours_are_learnt_from_who_looks_up_one_after_the_other(cluster: Cluster) -> None:
    a, b = cluster.mounts
    b.do(b.volume.make(b"/d", 0o40755, 0, 0))
    names = [b"/d/%03d" % number for number in range(100)]
    for name in names:
        b.do(b.volume.make(name, 0o40755, 0, 0))
    heard = asked(cluster)
    assert all(look(a, name) for name in names)
    assert heard["Lookup"] < 20 and heard["ReadDirectory"] < 6, heard


@pytest.mark.parametrize("what", ["made", "removed", "replaced", "chmod"])
@pytest.mark.parametrize("how", ["told", "not told", "a new metaserver", "a new session"])
def test_what_is_remembered_for_long_ends_when_others_change_it(
    cluster: Cluster, what: str, how: str
) -> None:
    a, b = cluster.mounts
    grown(a, cluster)
    if how == "a new metaserver":
        cluster.meta.kill()  # and what it had shown, it has forgotten
        cluster.meta.restart()
    if how == "a new session":
        cluster.world.cuts.update({(META, a.address), (a.address, META)})
        cluster.rest(limits.SESSION_S + 5)
        cluster.world.cuts.clear()
        cluster.heal()
        cluster.rest(3.0)
    if how == "not told":
        a.volume.heard = lambda message, hear=a.volume.heard: (  # type: ignore[method-assign]
            [] if isinstance(message, wire.Changed) else hear(message)
        )
    if how != "a new metaserver":
        assert look(a, b"/d/f")
    if what == "made":
        b.put(b"/d/g", b"two")
    elif what == "removed":
        b.do(b.volume.unlink(b"/d/f"))
    elif what == "replaced":
        b.put(b"/x", b"two")
        b.do(b.volume.rename(b"/x", b"/d/f"))
    else:
        b.do(b.volume.set_attributes(b"/d/f", None, mode=0o600))
    cluster.rest(SOON_S if how == "told" else limits.CACHE_S)
    assert look(a, b"/d/g") == (what == "made") and look(a, b"/d/f") == (what != "removed")
    if what == "replaced":
        assert a.get(b"/d/f") == b"two"
    if what == "chmod":
        assert a.do(a.volume.lookup(b"/d/f")).mode & 0o777 == 0o600


def test_what_the_metaserver_stops_looking_after_is_asked_for(cluster: Cluster) -> None:
    a, b = cluster.mounts
    grown(a, cluster)
    room = cluster.meta.room
    assert isinstance(room, Meta)
    room.sessions.interests.most = 3
    for number in range(5):
        a.do(a.volume.make(b"/n%d" % number, 0o40755, 0, 0))
    room.sessions.interests.most = 1000
    b.put(b"/d/g", b"two")
    cluster.rest(SOON_S)
    assert look(a, b"/d/g")


def test_names_made_beside_one_another_on_one_mount_are_seen_at_once(cluster: Cluster) -> None:
    """Their answers may come in any order."""
    a, _ = cluster.mounts
    grown(a, cluster)
    ended: list[bytes] = []
    for number in range(20):
        name = b"/d/n%d" % number
        a.spawn(a.volume.make(name, 0o40755, 0, 0), lambda *_, name=name: ended.append(name))
    seen = 0
    while seen < 20:
        cluster.rest(0.001)
        assert all(look(a, name) for name in ended[seen:])
        seen = len(ended)
    assert not look(a, b"/d/g")
