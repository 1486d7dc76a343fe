"""The scrub took the metaserver's rounds in a dataserver's log for blocks of a file.

A damaged one was "block 7 of inode 0 is damaged", for ever: no neighbour has it by placement, so
every pass ended with something that it could not heal.  And what a pass had read was more than
what the files have.
"""

from typing import Any

from tests.world.cluster import META, Cluster
from tests.world.world import World
from zdfs.ids import JOURNAL
from zdfs.tools import scrub
from zdfs.wire import Harm


def test_a_damaged_round_is_no_damaged_block(seed: int) -> None:
    cluster = Cluster(World(seed))
    cluster.mount()
    cluster.do(cluster.volume.make(b"/d", 0o40755, 0, 0))
    cluster.heal()
    cluster.rest(3.0)
    harmed = 0
    for server in cluster.data:
        rounds = [name for name, _ in server.store.scan(None, 1000) if name.ino == JOURNAL]
        for name in rounds[-1:]:
            server.store.harm(name, Harm.FLIP, 1)
            harmed += 1
    assert harmed
    passes: list[Any] = cluster.do(scrub.everything(META, lambda stage, done, total: None))
    assert [one.status for one in passes] == [0] * len(cluster.data)
    assert not any(one.shown.damaged or one.shown.done_bytes for one in passes)
    for server in cluster.data:  # whoever opens the store reads them: the copy is filled anew
        server.kill()
        server.restart()
        cluster.heal()
    cluster.check()
