"""`zdfs why` said that writes to every file wait (policy all) for a server that is down,
whatever the policy was: under quorum none did. (`reasons._servers`; the status tells the
policy.)"""

from tests.sim.towns import Town
from tests.world.cluster import META
from zdfs import wire
from zdfs.calls import Peer, call
from zdfs.ids import ROOT, Policy
from zdfs.reasons import Facts, reasons


def test_a_server_that_is_down_is_in_nobodys_way_under_quorum(seed: int) -> None:
    town = Town(seed)
    town.cluster.heal()
    town.do(town.volume.contact.change(wire.SetPolicy(ROOT, Policy.QUORUM)))
    town.cluster.data[3].kill()
    town.cluster.rest(10.0)
    town.write(*(b"/f%d" % number for number in range(8)))  # none waits
    status = town.do(call(Peer(META), wire.GetStatus()))
    assert status.policy is Policy.QUORUM
    said = [one.what for one in reasons(Facts(META, status))]
    assert not any("writes to every file wait" in what for what in said), said
