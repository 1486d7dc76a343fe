"""A mount that remembered a name opened the file that another mount had removed there, as long as
somebody still had that open: SQLite's journal went to a file without a name."""

import os
from errno import ENOENT, ESTALE

import pytest

from tests.world.cluster import Cluster
from tests.world.world import World
from zdfs.errors import Posix


def test_open_opens_what_has_the_name_now(seed: int) -> None:
    cluster = Cluster(World(seed), mounts=2)
    cluster.mount()
    one, two = cluster.mounts
    old = one.do(one.volume.create(b"/f", 0o644, 0, 0, os.O_RDWR))  # stays open
    first = two.do(two.volume.lookup(b"/f")).ino
    one.do(one.volume.unlink(b"/f"))
    new = one.do(one.volume.create(b"/f", 0o644, 0, 0, os.O_RDWR))
    handle, _ = two.do(two.volume.open(b"/f", os.O_RDWR))
    assert two.volume.open_inode(handle) == one.volume.open_inode(new) != first
    one.do(one.volume.unlink(b"/f"))
    for flags in (os.O_RDONLY, os.O_RDWR):
        with pytest.raises(Posix) as caught:
            two.do(two.volume.open(b"/f", flags))
        assert caught.value.number in (ESTALE, ENOENT)
    one.do(one.volume.release(old))
