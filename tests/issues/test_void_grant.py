"""A late announcement gave a mount a grant again that it had returned.  A token that it has let go
of it does not take up, and it was given no other: its writes asked for ever."""

import os

from tests.world.cluster import Cluster
from tests.world.world import World


def test_a_grant_that_was_let_go_of_is_returned_and_a_new_one_taken(seed: int) -> None:
    cluster = Cluster(World(seed))
    cluster.mount()
    do, volume = cluster.do, cluster.volume
    handle = do(volume.create(b"/f", 0o644, 0, 0, os.O_RDWR))
    file = volume.handles[handle].file
    file.give_up(file.token)  # and the metaserver does not hear of it
    assert do(volume.write(handle, b"words", 0)) == 5
    do(volume.flush(handle))
    assert file.token > file.void
    do(volume.release(handle))
