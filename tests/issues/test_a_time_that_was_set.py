"""A file's change time moved by itself, up to a second after its times had been set.

What had been written before `utimensat` was committed after it: that commit said "now", though the
write had been before and setting the times had already moved the change time.
"""

import os
import random

from tests.world.cluster import Cluster
from tests.world.world import World


def test_a_commit_of_earlier_writes_moves_no_time(seed: int) -> None:
    cluster = Cluster(World(seed))
    cluster.mount()
    volume = cluster.volume
    handle = cluster.do(volume.create(b"/f", 0o644, 0, 0, os.O_RDWR))
    cluster.do(volume.write(handle, random.Random(seed).randbytes(200), 0))
    cluster.do(volume.set_attributes(b"/f", None, mtime_ns=5_000_000_000))
    before = cluster.do(volume.stat(handle))
    cluster.rest(0.1)
    cluster.do(volume.fsync(handle))
    after = cluster.do(volume.stat(handle))
    assert (after.mtime_ns, after.ctime_ns) == (5_000_000_000, before.ctime_ns)
    assert after.stored == 200
    cluster.do(volume.write(handle, b"later", 0))
    cluster.do(volume.fsync(handle))
    assert cluster.do(volume.stat(handle)).ctime_ns > before.ctime_ns
