"""Members of the journal set that are up and refuse rounds, because their disks are full; nobody
could take over.  The metaserver said that it was waiting for nobody, and not why.
"""

import pytest

from tests.sim.towns import Town
from zdfs.data import Data
from zdfs.errors import NoSpace


def test_the_reason_is_told(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    town = Town(seed, servers=3)
    town.cluster.heal()

    def full(*_: object) -> None:
        raise NoSpace("no room at all")

    mirrors = []
    for slot in town.members[:2]:
        room = town.cluster.data[slot].room
        assert isinstance(room, Data) and room.mirror is not None
        mirrors.append(room.mirror)
        monkeypatch.setattr(room.mirror, "append", full)
    ended: list[object] = []
    making = town.volume.make(b"/d", 0o40755, 0, 0)
    town.cluster.mounts[0].spawn(making, lambda *result: ended.append(result))
    town.cluster.rest(30.0)
    note = town.copying.note
    assert not ended
    assert "waiting for data:0, data:1;" in note and note.count("no room at all") == 1
    monkeypatch.undo()
    town.cluster.rest(10.0)
    assert ended and not town.copying.note
    town.all_is_well()
