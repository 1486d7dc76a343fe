"""Damage that a *task* of the metaserver meets, not a request, ended that task for the rest of the
metaserver's life: nobody heals for it.  A kept reply of a mount that died: no mount was ever buried
again, so files that dead mounts had a grant of could never be written.  A record of an event, met
while old events are let go (each 64th event): `watch` ended, so that no drop ever ripened."""

import itertools
import os

from tests.sim.towns import Town, pair


def _town(seed: int) -> Town:
    town = Town.__new__(Town)
    town.cluster = pair(seed)
    town.world = town.cluster.world
    town.do, town.volume, town.files = town.cluster.do, town.cluster.volume, {}
    return town


def test_a_dead_mount_is_buried_although_a_kept_reply_is_damaged(seed: int) -> None:
    town = _town(seed)
    first, second = town.cluster.mounts
    first.put(b"/a", b"words")
    handle, _ = first.do(first.volume.open(b"/a", os.O_RDWR))
    first.do(first.volume.write(handle, b"more", 0))
    first.do(first.volume.flush(handle))
    session = first.session
    town.cluster.rest(3.0)
    keys = [k for k in town.cluster.meta.store.records.keys if k[:1] == b"k"]
    mine = [k for k in keys if k[1:9] == session.to_bytes(8, "big")]
    assert mine
    town.damage(mine[0], "flipped")
    first.kill()
    town.cluster.rest(60.0)
    assert session not in town.meta.sessions.mounts, "dead for a minute, and never buried"
    handle, _ = second.do(second.volume.open(b"/a", os.O_RDWR))
    second.do(second.volume.write(handle, b"mine", 0))
    second.do(second.volume.flush(handle))


def test_a_damaged_event_ends_no_task(seed: int) -> None:
    town = _town(seed)
    town.cluster.rest(5.0)
    town.damage(town.key(b"v"), "flipped")
    town.meta.ledger._events = itertools.count(65)  # the next one lets the oldest go
    town.cluster.data[3].kill()
    town.cluster.rest(10.0)
    town.cluster.data[3].restart()
    town.cluster.heal()
    town.cluster.rest(30.0)
    before = town.meta.members.droppable
    town.cluster.mounts[0].put(b"/b", b"words")
    town.do(town.volume.unlink(b"/b"))
    town.cluster.rest(30.0)
    assert town.meta.members.droppable > before, "nothing is dropped any more"
