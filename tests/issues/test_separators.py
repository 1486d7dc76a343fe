"""A flipped bit in a key of a branch page: every page was in order, and records could not be found.

LMDB's branch pages have keys of their own, which say where to look.  With one of them changed the
file passed every check, the metaserver served, and what stood behind that key was EIO when it was
read, and there twice when it was written.
"""

import random
import shutil
from pathlib import Path

import lmdb
import pytest
from lmdb import verify

from tests.live.chaos import regions
from zdfs import disk
from zdfs.errors import DamagedStore
from zdfs.store import LmdbStore

FLIPS = 60
KEYS = [b"i" + number.to_bytes(8, "big") for number in range(0, 6000, 3)]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store whose tree has branches."""
    directory = tmp_path_factory.mktemp("store")
    store = LmdbStore(directory)
    for key in KEYS:
        with store.write() as txn:
            txn.put(key, key * 9)
    store.end_round()
    store.close()
    return directory


def lost(directory: Path) -> int:
    """How many keys LMDB itself doesn't find; -1 when it says so."""
    with lmdb.open(str(directory / "meta"), readonly=True, lock=False, max_dbs=0) as env:
        with env.begin() as txn:
            return sum(txn.get(key) is None for key in KEYS)


def test_what_cannot_be_found_is_a_fault(good: Path, tmp_path: Path, dice: random.Random) -> None:
    assert disk.find_faults(good / "meta") == []
    places = regions.lmdb_regions(good / "meta" / "data.mdb")["branch"]
    unseen = 0
    for number in range(FLIPS):
        copy = tmp_path / str(number)
        shutil.copytree(good, copy)
        path = copy / "meta" / "data.mdb"
        regions.flip(path, dice.choice(places), dice)
        if verify.verify(str(path), subdir=False) or not lost(copy):
            continue
        unseen += 1
        assert any("is not found" in fault for fault in disk.find_faults(copy / "meta"))
        with pytest.raises(DamagedStore, match="is not found"):
            LmdbStore(copy)
    assert unseen, "no flip changed a key"
