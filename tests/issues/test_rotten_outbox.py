"""One bad sector in a round that the metaserver kept for copies that lag (NUL out <round>) had its
whole store set aside at the next start (`CopiedStore._open` raises Damaged), though nobody needs
these rounds but copies, which can be filled.  Without copies (--meta-copies 0), where the newest
1024 rounds stand in each store, that was the end of all names."""

import pytest

from tests.sim.towns import Town
from zdfs import schema


@pytest.mark.parametrize("place", [0, -2, -1])
@pytest.mark.parametrize("copies", [0, 2])
def test_a_bad_round_in_the_outbox(seed: int, copies: int, place: int) -> None:
    town = Town(seed, meta_copies=copies)
    town.cluster.heal()
    away = town.cluster.data[town.members[0]] if copies else None
    if away is not None:  # else nobody lacks any round
        away.kill()
    town.cluster.mounts[0].do(town.volume.make(b"/d", 0o40755, 0, 0))
    town.cluster.mounts[0].do(town.volume.make(b"/e", 0o40755, 0, 0))
    town.cluster.meta.kill()
    after = schema.after(schema.OUTBOX)
    keys = [key for key in town.cluster.meta.store.records.keys if schema.OUTBOX <= key < after]
    town.damage(keys[place], "flipped")
    town.cluster.restart()
    town.cluster.heal()
    assert town.do(town.volume.lookup(b"/e")).mode == 0o40755
    town.all_is_well()
