"""What the simulated world does to its stores, it may do: the real ones keep the same word.

kill -9, a power cut, an I/O error at a sync or commit, a full disk; the real stores on a platter
whose power can be cut.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from world.platter import Disks, Platter
from world.stores import MemoryBlockStore, MemoryMetaStore

from zdfs import checksum
from zdfs.blockstore import LogStore
from zdfs.errors import NoSpace, StoreError
from zdfs.ids import BlockNo, Epoch, Ino, Name, Slot, Token, Version
from zdfs.store import LmdbStore

SLOT = Slot(2)


def name(number: int) -> Name:
    return Name(Ino(number), BlockNo(0), Version(Token(1), 1))


class Rig:
    """A store, and what the world does to it.  In memory: as the world does."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def kill(self) -> None:
        self.store = self.store.kill()

    def cut(self, dice: random.Random) -> None:
        self.store = self.store.crash(dice)

    def fail(self) -> None:
        self.store.fail()

    def fill(self, full: bool) -> None:
        self.store.total_bytes = 0 if full else 1 << 40

    def put(self, *numbers: int) -> None:
        for number in numbers:
            data = b"%d" % number
            seal = checksum.seal(name(number), data)
            self.store.append(name(number), seal, Epoch(1), SLOT, data)

    def there(self) -> set[int]:
        found = {one.ino for one, _ in self.store.scan(None, 1000)}
        for number in found:
            entry, data = self.store.read(name(number))
            assert bytes(data) == b"%d" % number
        return found


class RealRig(Rig):
    """On a platter."""

    def __init__(self, platter: Platter) -> None:
        self.platter = platter
        super().__init__(self.open())

    def open(self) -> Any:
        return LogStore(self.platter.path, SLOT, thread=False)

    def kill(self) -> None:
        self.store.abandon()
        self.platter.broken = False
        self.store = self.open()

    def cut(self, dice: random.Random) -> None:
        self.store.abandon()
        self.platter.broken = False
        self.platter.cut(dice)
        self.store = self.open()

    def fail(self) -> None:
        self.platter.broken = True

    def fill(self, full: bool) -> None:
        self.platter.full = full


@pytest.fixture(params=["log", "memory"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """A dataserver's store."""
    if request.param == "memory":
        yield Rig(MemoryBlockStore(SLOT, lazy_sync=True))
        return
    disks = Disks()
    with disks.spinning():
        made = RealRig(disks.platter(tmp_path / "d"))
        yield made
        made.store.abandon()
        made.platter.forget()


def end(rig: Rig, sync: bool) -> None:
    rig.store.end_round()
    if sync:
        rig.store.sync()


def test_a_kill_loses_no_round_that_was_ended(rig: Rig) -> None:
    rig.put(1)
    end(rig, sync=True)
    rig.put(2)
    end(rig, sync=False)
    opened = rig.store.round - 1
    rig.put(3)
    before = rig.store.round, rig.store.boot
    rig.kill()
    assert {1, 2} <= rig.there() and 3 not in rig.there()
    assert rig.store.opened_round >= opened
    assert rig.store.round > before[0] and rig.store.boot == before[1] + 1


def test_a_drop_is_durable_when_it_is_checkpointed(rig: Rig) -> None:
    rig.put(1, 2)
    end(rig, sync=True)
    rig.store.checkpoint()
    rig.store.drop([name(1)])
    end(rig, sync=True)
    assert rig.store.checkpointed < rig.store.synced
    rig.store.checkpoint()
    rig.kill()
    assert rig.there() == {2}


@pytest.mark.parametrize("number", range(12))
def test_a_power_cut_loses_a_suffix_of_what_was_not_synced(
    rig: Rig, number: int, dice: random.Random
) -> None:
    rig.put(1)
    end(rig, sync=True)
    rounds = [{1}]
    for first in (10, 20, 30):
        rig.put(first, first + 1, first + 2)
        rounds.append({first, first + 1, first + 2})
        end(rig, sync=False)
    synced = rig.store.synced
    rig.cut(dice)
    found = rig.there()
    assert rig.store.synced >= synced and rig.store.round > rig.store.opened_round >= synced
    whole = [wanted for wanted in rounds if wanted <= found]
    assert whole == rounds[: len(whole)] and whole, "a later round survived an earlier one"
    rest = found - set().union(*whole)
    assert rest <= set().union(*rounds[len(whole) : len(whole) + 1]), "more than one torn round"
    torn = 1  # the last of them may lack its end mark
    assert rig.store.opened_round >= synced + len(whole) - 1 - torn


def test_a_sync_that_fails_ends_the_store_and_acknowledges_nothing(rig: Rig) -> None:
    rig.put(1)
    end(rig, sync=True)
    synced = rig.store.synced
    rig.put(2)
    with pytest.raises(StoreError):
        rig.store.end_round()
        rig.fail()
        rig.store.sync()
        rig.store.woken()
    assert rig.store.synced == synced
    with pytest.raises(StoreError):
        rig.put(3)
    rig.kill()
    assert 1 in rig.there() and 3 not in rig.there()


def test_a_full_disk_refuses_before_anything_is_stored_and_drops_go_on(rig: Rig) -> None:
    rig.put(1)
    end(rig, sync=True)
    rig.fill(True)
    with pytest.raises(NoSpace):
        rig.put(2)
    assert not rig.store.dirty and rig.there() == {1} and rig.store.space().free_bytes == 0
    rig.store.drop([name(1)])
    end(rig, sync=True)
    rig.store.checkpoint()
    rig.fill(False)
    rig.put(2)
    end(rig, sync=True)
    assert rig.there() == {2}


# --- the metaserver's --------------------------------------------------------------------------


def meta(path: Path, kind: str) -> Any:
    return LmdbStore(path / "m") if kind == "lmdb" else MemoryMetaStore()


def keys(store: Any) -> list[bytes]:
    with store.read() as read:
        return [key for key, _ in read.scan(b"k", b"l")]


def put(store: Any, key: bytes) -> None:
    with store.write() as txn:
        txn.put(key, key)


@pytest.mark.parametrize("kind", ["lmdb", "memory"])
def test_the_metaserver_loses_only_the_open_round(kind: str, tmp_path: Path) -> None:
    store = meta(tmp_path, kind)
    put(store, b"k1")
    store.end_round()
    put(store, b"k2")
    if kind == "lmdb":
        store.close()
        store = meta(tmp_path, kind)
    else:
        store = store.kill()
    assert keys(store) == [b"k1"] and (store.synced, store.round) == (1, 2)
    store.close()


@pytest.mark.parametrize("kind", ["lmdb", "memory"])
def test_a_full_metaserver_says_so_and_deletes(kind: str, tmp_path: Path) -> None:
    disks = Disks()
    platter = disks.platter(tmp_path / "disk")
    with disks.spinning():
        store = meta(platter.path, kind)
        put(store, b"k1")
        store.end_round()
        assert store.free_bytes() > 0
        platter.full = True
        if kind == "memory":
            store.total_bytes = 0
        assert store.free_bytes() <= 0
        with store.write() as txn:
            assert txn.delete(b"k1")
        store.end_round()
        platter.full = False
        if kind == "memory":
            store.total_bytes = 1 << 40
        assert store.free_bytes() > 0 and keys(store) == []
        store.close()
        platter.forget()


@pytest.mark.parametrize("lands", [False, True])
def test_a_commit_that_fails_may_stand_on_the_disk(lands: bool) -> None:
    """As the port says; of the real one, only that it fails can be shown (test_meta_store)."""
    store = MemoryMetaStore()
    put(store, b"k1")
    store.fail(lands)
    with pytest.raises(StoreError):
        store.end_round()
    with pytest.raises(StoreError):
        put(store, b"k2")
    assert keys(store.kill()) == ([b"k1"] if lands else [])
