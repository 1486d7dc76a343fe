"""What was removed last stayed on the dataservers until somebody else called fsync.

A drop waits until the round that queued it is synced by the copies of the metadata, which they do
when a reply waits for it.  Nobody waits for what the metaserver lets go of by itself: on a file
system at rest the last drops never became due, and fsck said that a server does not drop.
"""

from tests.sim.scene import FILE, NEW, Scene, Write
from tests.world.cluster import META
from zdfs import fsck
from zdfs.ids import NOT_JOURNAL, Policy


def test_what_was_removed_last_is_dropped(seed: int) -> None:
    scene = Scene(seed, Policy.QUORUM)
    scene.kill(scene.three)
    Write(scene, NEW).done()
    scene.do(scene.volume.unlink(FILE))
    scene.world.run(lambda: not scene.owed(), 10.0)
    scene.cluster.restart()
    scene.cluster.heal()
    report = scene.do(fsck.check(META))
    assert not report.unfinished
    scene.rest(5.0)
    assert not any(server.store.scan(NOT_JOURNAL, 1) for server in scene.cluster.data)
