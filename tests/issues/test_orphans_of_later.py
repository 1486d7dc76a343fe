"""The reaper waits while a damaged record comes back from a copy.  A repair that let go of another
orphan meanwhile ended the reaper for ever; and an orphan that can't be let go for now was reported
as one that nobody lets go of.
"""

import os

import pytest

from tests.sim.towns import Town
from zdfs.ids import ROOT, Ino


def orphans(town: Town, *names: bytes) -> list[Ino]:
    """Files without a name, which are open nowhere from now on."""
    found, handles = [], []
    for name in names:
        handle = town.do(town.volume.create(name, 0o644, 0, 0, os.O_RDWR))
        town.do(town.volume.write(handle, bytes(200), 0))
        town.do(town.volume.flush(handle))
        found.append(town.do(town.volume.lookup(name)).ino)
        town.do(town.volume.unlink(name))
        handles.append(handle)
    for handle in handles:
        town.do(town.volume.release(handle))
    return found


def test_an_orphan_that_is_mended_away_while_another_is_healed(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = Town(seed)
    town.cluster.heal()
    first, second = orphans(town, b"/a", b"/b")
    key = b"m" + first.to_bytes(8, "big") + bytes(8)
    good = town.cluster.meta.store.records.values[key]
    town.damage(key, "flipped")
    waiting = town.meta.contents.orphans
    asked: list[bytes] = []

    async def in_vain(key: bytes) -> int:
        asked.append(key)
        waiting.discard(second)  # as a repair does
        return 0

    monkeypatch.setattr(town.copying, "heal", in_vain)
    town.cluster.rest(30.0)
    assert asked
    town.cluster.meta.store.records.values[key] = good
    waiting.add(second, ROOT)
    town.cluster.rest(120.0)
    assert not any(key[:1] == b"o" for key in town.cluster.meta.store.records.keys)


def test_an_orphan_that_is_tried_again_later_is_not_forgotten(seed: int) -> None:
    """There is no copy of the metadata that it could come back from."""
    town = Town(seed, meta_copies=0)
    town.cluster.heal()
    (first,) = orphans(town, b"/a")
    key = b"m" + first.to_bytes(8, "big") + bytes(8)
    good = town.cluster.meta.store.records.values[key]
    town.damage(key, "flipped")
    town.cluster.rest(30.0)
    assert not town.meta.inspection._forgotten(first)
    town.cluster.meta.store.records.values[key] = good
    town.cluster.rest(120.0)
    assert town.meta.inspection._forgotten(first), "it is still kept"
