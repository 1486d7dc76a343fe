"""`zdfs impact --down 0,1` with three servers said "names go on".  They don't: a change of names
needs two of the dataservers that hold copies of the metadata."""

import pytest

from tests.sim.towns import Town
from tests.world.cluster import META
from zdfs.errors import Unavailable
from zdfs.tools import impact


@pytest.mark.parametrize("servers, down", [(3, (0, 1)), (5, (0, 1, 2))])
def test_it_does_not_say_that_names_go_on(seed: int, servers: int, down: tuple[int, ...]) -> None:
    town = Town(seed, servers=servers)
    town.write(b"/a")
    town.cluster.heal()
    said = impact.text(town.do(impact.impact(META, ",".join(map(str, down)))))
    for slot in down:
        town.cluster.data[slot].crash()
    town.cluster.rest(60.0)
    with pytest.raises(Unavailable):
        town.meta.members.may_change()
    assert "names go on" not in said, said
