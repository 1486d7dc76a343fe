"""Without copies (--meta-copies 0) one bad sector in a kept reply, a session or the record of an
orphan had the metaserver's whole store set aside at its next start (`Meta._remember` raises
Damaged): every name of the cluster was out of reach because of a reply that nobody waited for."""

import pytest

from tests.sim.towns import Town


@pytest.mark.parametrize("table", ["k", "n", "o"])
def test_it_serves_all_the_same(seed: int, table: str) -> None:
    town = Town(seed, meta_copies=0)
    town.write(b"/a", b"/b")
    town.cluster.heal()
    handle, _ = town.do(town.volume.open(b"/b", 0))
    town.do(town.volume.unlink(b"/b"))
    del town.files[b"/b"]
    town.cluster.meta.kill()
    town.damage(town.key(table.encode()), "flipped")
    town.cluster.restart()
    town.cluster.rest(10.0)
    if table == "n":  # whose session is lost starts anew
        town.cluster.mounts[0].kill()
        town.cluster.remount(town.cluster.mounts[0])
        town.do, town.volume = town.cluster.do, town.cluster.volume
    else:
        town.do(town.volume.release(handle))
    town.cluster.rest(200.0)
    town.read()
    keys: list[bytes] = town.cluster.meta.store.records.keys
    assert table != "k" or not [key for key in keys if key[:1] == b"o"]
    town.write(b"/c")
    town.read()
