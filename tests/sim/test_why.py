"""What the metaserver says of disputes and of outages, in a simulated cluster."""

import os
from typing import Any

from tests.world.cluster import META, Cluster
from tests.world.world import World
from zdfs import wire
from zdfs.calls import Peer, call
from zdfs.ids import Ino
from zdfs.ports import Owner
from zdfs.wire import LockKind, Span


def asked(cluster: Cluster, request: wire.Message) -> Any:
    """An answer of the metaserver."""
    return cluster.do(call(Peer(META), request))  # type: ignore[arg-type]


def test_a_grant_that_another_mount_wants(seed: int) -> None:
    world = World(seed)
    cluster = Cluster(world, mounts=2)
    cluster.mount()
    first, second = cluster.mounts
    handle = first.do(first.volume.create(b"/f", 0o644, 0, 0, os.O_RDWR))
    ino = first.volume.open_inode(handle)
    (grant,) = asked(cluster, wire.Dispute(ino)).grants
    assert grant.ino == ino and grant.holder.mount == "/A" and not grant.wanted
    assert not asked(cluster, wire.Dispute(Ino(0))).grants  # nobody waits
    world.cuts.update({(first.address, META), (META, first.address)})
    second.spawn(second.volume.open(b"/f", os.O_RDWR))
    cluster.rest(3.0)
    told = second.do(call(Peer(META), wire.Dispute(Ino(0))))
    (grant,) = told.grants
    assert [one.mount for one in grant.wanted] == ["/B"] and grant.wanted[0].since_ms > 2000
    assert grant.holder.since_ms > 2000  # it has not been heard for as long
    world.cuts.clear()
    cluster.rest(5.0)
    assert not asked(cluster, wire.Dispute(Ino(0))).grants
    cluster.check()


def test_a_lock_that_another_mount_wants(seed: int) -> None:
    cluster = Cluster(World(seed), mounts=2)
    cluster.mount()
    first, second = cluster.mounts
    mine = first.do(first.volume.create(b"/f", 0o644, 0, 0, os.O_RDWR))
    theirs, _ = second.do(second.volume.open(b"/f", os.O_RDWR))
    span = Span(0, 9, True)
    first.do(first.volume.lock(mine, Owner(LockKind.POSIX, 1, 11), span, True))
    assert not asked(cluster, wire.Dispute(Ino(0))).locks  # nobody waits for it
    second.spawn(second.volume.lock(theirs, Owner(LockKind.POSIX, 2, 22), span, True))
    cluster.rest(2.0)
    told = asked(cluster, wire.Dispute(Ino(0)))
    assert [(one.party.mount, one.lock.pid) for one in told.locks] == [("/A", 11)]
    assert [(one.party.mount, one.lock.pid) for one in told.waiters] == [("/B", 22)]
    first.do(first.volume.unlock(mine, Owner(LockKind.POSIX, 1, 11), span))
    cluster.rest(2.0)
    assert not asked(cluster, wire.Dispute(Ino(0))).waiters
    cluster.check()


def test_a_lost_disk_is_not_counted_as_a_copy(seed: int) -> None:
    world = World(seed)
    cluster = Cluster(world)
    cluster.mount()
    volume = cluster.volume
    handle = cluster.do(volume.create(b"/f", 0o644, 0, 0, os.O_RDWR))
    cluster.do(volume.write(handle, memoryview(bytes(64 * 4)), 0))
    cluster.do(volume.flush(handle))
    cluster.do(volume.release(handle))
    cluster.rest(3.0)
    request = wire.Foresee((0, 1), (), 0, Ino(0), -1)  # type: ignore[arg-type]
    told = asked(cluster, request)
    assert told.end and told.waiting == told.files == 1 and not told.hits and not told.partial
    server = cluster.data[2]
    server.crash()
    server.store = type(server.store)(server.store._slot, lazy_sync=True, uuid=b"n" * 16)
    for other in (0, 1, 3):  # nobody gives it anything
        world.cuts.update({(server.address, cluster.data[other].address)})
    server.restart()
    cluster.rest(5.0)
    told = asked(cluster, request)
    assert told.partial == (2,)
    (hit,) = told.hits
    assert hit.unread == hit.lost == 0 and hit.unread_unsure == hit.lost_unsure == 1
    world.cuts.clear()
    cluster.heal()
    assert not asked(cluster, request).partial
    cluster.check()
