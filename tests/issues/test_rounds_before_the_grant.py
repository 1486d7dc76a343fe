"""A metaserver that nobody has granted yet kept the reply to a soft change (a grant given back)
as a record: a round.  By that its store was newer than the copies, which had a round that the
metaserver before it had sent and not committed: they took one another's for passed over, and all of
them began anew, at the moment when a damaged record of the store could only come from them.
"""

import os

from tests.sim.towns import Town
from zdfs import wire
from zdfs.ids import Incarnation, Token


def test_a_soft_change_is_no_round(seed: int) -> None:
    town = Town(seed)
    town.cluster.heal()
    handle = town.do(town.volume.create(b"/a", 0o644, 0, 0, os.O_RDWR))
    ino = town.do(town.volume.lookup(b"/a")).ino
    meta, mount = town.cluster.meta, town.cluster.mounts[0]
    meta.kill()
    town.cluster.restart()
    before = town.meta.ledger.copied.head
    cuts = {(server.address, meta.address) for server in town.cluster.data}
    town.world.cuts.update(cuts)  # nobody votes
    slots = town.meta.sessions.mounts[mount.session].slots
    kept = dict(slots)
    mount.spawn(town.volume.contact.change(wire.ReturnGrant(ino, Token(1))))
    town.cluster.rest(3.0)
    assert not town.meta.members.granted
    assert slots != kept, "it was asked, and is remembered"
    town.meta.keep(wire.RequestHead(mount.session, 60_000, 1, 1000, Incarnation(0)), wire.Done())
    assert town.meta.ledger.copied.head == before, "a round of a metaserver that nobody granted"
    town.world.cuts.difference_update(cuts)
    town.do(town.volume.release(handle))
    town.all_is_well()
