"""A name was `EIO` for a second after a start: its record was damaged, and the metaserver, which
has to ask before it knows whose copies are whole, took that for having no copy at all.
"""

from tests.sim.towns import Town
from tests.world.cluster import META
from zdfs import schema
from zdfs.calls import Ask, Peer
from zdfs.ids import ROOT, Session
from zdfs.wire import Found, GetAttributes


def test_damage_met_before_any_copy_was_heard_of(seed: int) -> None:
    town = Town(seed)
    town.cluster.heal()
    town.cluster.rest(5.0)
    town.cluster.meta.kill()
    town.damage(schema.inode_key(ROOT), "flipped")
    town.cluster.meta.restart()
    town.world.run(lambda: town.meta.members.granted, 30.0)
    assert not [one for one in town.copying.followers.values() if one.whole]
    said: list[object] = []
    ask = Ask(Peer(META), GetAttributes(ROOT), 10.0)
    town.world.ask("somebody", ask, Session(0), said.append)
    town.world.run(lambda: bool(said), 20.0)
    assert isinstance(said[0], Found), said
    town.cluster.heal()
    town.cluster.check()
