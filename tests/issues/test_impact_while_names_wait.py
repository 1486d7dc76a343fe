"""`zdfs impact` (and `zdfs debts`), which count with what reads may, asked for the paths with a
request that is refused while nothing can be changed (`Inspection.list_entries`: may_change): just
when two servers were down they failed after fifteen seconds, though everything could be read."""

from tests.sim.towns import Town
from tests.world.cluster import META
from zdfs.tools import impact


def test_it_tells_paths_while_nothing_can_be_changed(seed: int) -> None:
    town = Town(seed, servers=3)
    town.write(b"/a")
    town.cluster.heal()
    for slot in (0, 1):
        town.cluster.data[slot].crash()
    town.cluster.rest(10.0)
    town.read()
    facts = town.do(impact.impact(META, "2"))
    assert facts["reads"]["named"][0]["path"] == "/a"
