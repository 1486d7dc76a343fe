"""After a metaserver's restart, until each mount had announced itself (or its session had ended, of
one that was unmounted meanwhile), `zdfs health` warned of mixed releases, where all were the same,
and said to upgrade these mounts: what they speak was not known, and was told as the oldest."""

from tests.sim.towns import pair
from tests.world.cluster import META
from zdfs import wire
from zdfs.calls import Peer, call


def test_a_mount_that_went_while_the_metaserver_was_down_is_not_old(seed: int) -> None:
    cluster = pair(seed, servers=3)
    stays, goes = cluster.mounts
    stays.put(b"/a", b"before")
    goes.kill()
    cluster.meta.crash()
    cluster.meta.restart()
    cluster.rest(2.0)
    status = cluster.do(call(Peer(META), wire.GetStatus()))
    spoken = {one.session: one.protocols for one in status.sessions}
    assert len(spoken) == 2 and set(spoken.values()) == {wire.spoken()}
