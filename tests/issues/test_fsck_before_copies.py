"""`zdfs fsck --repair` mended what was damaged in the metaserver's records by what was left (a name
went to lost+found, a flipped attribute was let go of), although every copy had the record: nobody
asked them (`Inspection.examine` mends findings; only failing requests and the walk after a start
heal)."""

import pytest

from tests.sim.towns import begun
from tests.world.cluster import META
from zdfs import fsck, metacheck


@pytest.mark.parametrize("how", ["flipped", "gone"])
@pytest.mark.parametrize("table", ["e", "x", "i", "m"])
def test_what_copies_have_is_not_mended_by_what_is_left(seed: int, table: str, how: str) -> None:
    town = begun(seed)
    town.write(b"/b", b"/c")
    town.do(town.volume.setxattr(b"/a", b"user.x", b"value", 0))
    town.cluster.rest(5.0)
    town.damage(town.key(table.encode(), 1 if table == "i" else 0), how)
    town.do(fsck.check(META, repair=True))
    town.cluster.mounts[0].kill()
    town.cluster.remount(town.cluster.mounts[0])
    town.do, town.volume = town.cluster.do, town.cluster.volume
    town.cluster.rest(20.0)
    town.read()
    assert town.do(town.volume.getxattr(b"/a", b"user.x")) == b"value"


def test_a_record_that_was_mended_does_not_come_back(seed: int) -> None:
    """Ten minutes later the proof brought the lost name back into a directory that counted it no
    more: the file had two names and a count of one, and / could not be listed."""
    town = begun(seed)
    town.write(b"/b", b"/c")
    town.cluster.rest(5.0)
    town.damage(town.key(b"e"), "gone")
    town.do(fsck.check(META, repair=True))
    town.cluster.rest(1300.0)
    with town.cluster.meta.store.read() as read:
        assert metacheck.whole(read) == []
