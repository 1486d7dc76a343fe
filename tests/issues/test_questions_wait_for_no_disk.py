"""A question whose reply is also that of a change (what a policy is, an end of waiting for a lock)
waited for the disks of the copies.  With too few copies up it was never answered: `zdfs policy`
stood still, and the mount took the metaserver for silent.
"""

import pytest

from tests.sim.towns import Town
from zdfs import wire
from zdfs.ids import ROOT


@pytest.mark.parametrize("request_", [wire.GetPolicy(ROOT), wire.StopWaiting(1)])
def test_a_question_while_too_few_copies_are_up(seed: int, request_: wire.Message) -> None:
    town = Town(seed, servers=3)
    town.cluster.heal()
    town.do(town.volume.make(b"/d", 0o40755, 0, 0))
    for slot in (0, 1):
        town.cluster.data[slot].crash()
    town.cluster.meta.kill()
    town.cluster.meta.restart()
    town.cluster.rest(10.0)
    town.do(town.volume.lookup(b"/d"))
    town.cluster.mounts[0].do(town.volume.contact.ask(request_), 10.0)
    assert not town.volume.contact.meta_silent
    town.cluster.restart()
    town.all_is_well()
