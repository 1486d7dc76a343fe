"""`zdfs where` and `zdfs-corrupt` never came to the end of a file that is nearly all hole.

They asked for every page of its map, sixty-four at a time: some years for the largest.
"""

import os

from tests.world.cluster import Cluster
from tests.world.world import World
from zdfs import limits
from zdfs.blockmap import unpack_page


def test_where_the_blocks_of_a_sparse_file_are(seed: int) -> None:
    cluster = Cluster(World(seed))
    cluster.mount()
    do, volume = cluster.do, cluster.volume
    handle = do(volume.create(b"/sparse", 0o644, 0, 0, os.O_RDWR))
    page = volume.block_bytes * limits.PAGE_BLOCKS
    for offset in (0, 70 * page, 2**60):
        do(volume.write(handle, b"x", offset))
    do(volume.truncate(None, handle, limits.FILE_BYTES))
    attributes, pages = do(volume.where(b"/sparse"))
    assert attributes.size == limits.FILE_BYTES
    found = [one.page for one in pages if any(unpack_page(one.entries))]
    assert found == [0, 70, 2**60 // page]
