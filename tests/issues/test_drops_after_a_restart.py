"""What the metaserver before had queued to be dropped was dropped at once by a new one, also when
what let go of it stood on no disk of the copies yet: a power cut and a lost metaserver's disk would
have brought back a map whose blocks were gone.
"""

from tests.sim.towns import begun


def test_drops_of_the_life_before_wait_for_disks(seed: int) -> None:
    town = begun(seed)
    town.world.sync_s = 0.3
    town.do(town.volume.unlink(b"/a"))
    del town.files[b"/a"]
    town.cluster.meta.kill()
    town.cluster.meta.restart()
    store, members = town.meta.ledger.copied, town.meta.members
    assert store is not None and members.copying is not None
    old, newest = (town.meta.ledger.incarnation << 40) - 1, store.synced
    while members.droppable < old or not members.granted or members.copying.ready():
        town.cluster.rest(0.01)
    assert store.synced_there >= newest, "dropped by the word of a round that a power cut undoes"
    town.all_is_well()
