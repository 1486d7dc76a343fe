"""A reader was told EIO while a truncate of its own mount waited for an answer that had been lost.

The metaserver had applied it, and the blocks that the mount's map still named were dropped; the
mount held the grant, so it took its map for the newest there is, and the blocks for damaged.
"""

import os
from typing import Any

from tests.world.cluster import META, Cluster
from tests.world.world import World
from zdfs.cache import Blocks
from zdfs.errors import Failure
from zdfs.ids import NOT_JOURNAL


def test_a_read_waits_for_a_change_whose_answer_was_lost(seed: int) -> None:
    cluster = Cluster(World(seed))
    cluster.mount()
    world, volume, mount = cluster.world, cluster.volume, cluster.mounts[0]
    handle = cluster.do(volume.create(b"/f", 0o644, 0, 0, os.O_RDWR))
    cluster.do(volume.write(handle, b"x" * 200, 0))
    cluster.do(volume.fsync(handle))
    volume.reader.blocks = Blocks()
    cluster.heal()
    answers: list[Any] = []

    def done(value: object, error: Failure | None) -> None:
        answers.append(error or value)

    world.cuts.add((META, mount.address))
    mount.spawn(volume.truncate(None, handle, 0), done)
    cluster.rest(3.0)  # the answer to the repeat after two seconds is lost, too
    world.cuts.clear()
    assert not answers and not any(server.store.scan(NOT_JOURNAL, 1) for server in cluster.data)
    mount.spawn(volume.read(handle, 200, 0), done)
    world.run(lambda: len(answers) == 2, 10)
    assert not any(isinstance(answer, Failure) for answer in answers), answers
    assert b"" in answers
