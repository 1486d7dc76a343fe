"""The dataserver's store, the real one and the one in memory, keep the same contract."""

import dataclasses
import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from world.stores import MemoryBlockStore

from zdfs import checksum
from zdfs.blockstore import LogStore
from zdfs.errors import Damaged, NoSpace, Posix, StartError, StoreError
from zdfs.ids import BlockNo, Epoch, Ino, Name, Slot, Token, Version
from zdfs.ports import BlockStore
from zdfs.wire import Harm

SLOT = Slot(2)
Reopen = Callable[[BlockStore], BlockStore]


def crash(store: BlockStore) -> BlockStore:
    """What the next process finds of a store in memory."""
    assert isinstance(store, MemoryBlockStore)
    return store.crash()


@pytest.fixture(params=["log", "memory"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[BlockStore, Reopen]:
    """A new store, and how to find it again after its process has ended."""
    if request.param == "memory":
        return MemoryBlockStore(SLOT), crash

    def reopen(store: BlockStore) -> BlockStore:
        store.close()
        return LogStore(tmp_path / "d", SLOT)

    return LogStore(tmp_path / "d", SLOT), reopen


@pytest.fixture
def store(kind: tuple[BlockStore, Reopen]) -> Iterator[BlockStore]:
    """A new store."""
    yield kind[0]
    kind[0].close()


def name(ino: int, block: int = 0, token: int = 7, sequence: int = 1) -> Name:
    """A version's name."""
    return Name(Ino(ino), BlockNo(block), Version(Token(token), sequence))


def content(one: Name, size: int = 100) -> bytes:
    """Bytes that no other name has."""
    return (repr(one).encode() * (size // 8 + 1))[:size]


def put(store: BlockStore, *names: Name, size: int = 100) -> None:
    """Append versions."""
    for one in names:
        data = content(one, size)
        store.append(one, checksum.seal(one, data), Epoch(1), Slot(1), data)


def finish(store: BlockStore) -> None:
    """End the round and wait until it is synced."""
    store.end_round()
    deadline = time.monotonic() + 10
    while store.synced < store.round - 1:
        fd = store.fileno()
        assert fd is not None and time.monotonic() < deadline
        select.select([fd], [], [], 1)
        store.woken()


def bytes_of(store: BlockStore, one: Name) -> bytes | None:
    """What a read gives."""
    found = store.read(one)
    return None if found is None else bytes(found[1])


def test_a_new_store(store: BlockStore) -> None:
    assert not store.dirty and store.synced == store.round - 1
    assert store.opened_round == 0 and store.boot == 1
    assert store.state.slot == SLOT and store.state.cluster == b"" and store.state.life == 0
    assert store.find(name(1)) is None and store.read(name(1)) is None
    assert store.scan(None, 10) == []
    before = store.round
    store.end_round()
    assert store.round == before, "a round without changes is none"


def test_appended_blocks_are_read_at_every_stage(store: BlockStore) -> None:
    one, two = name(1), name(1, 1)
    number = store.round
    put(store, one)
    put(store, two, size=0)
    assert store.dirty
    stages: list[Callable[[], None]] = [lambda: None, lambda: finish(store), store.checkpoint]
    for stage in stages:
        stage()
        assert bytes_of(store, one) == content(one)
        assert bytes_of(store, two) == b""
        entry = store.find(one)
        assert entry is not None and (entry.length, entry.epoch, entry.start) == (100, 1, 1)
    assert store.synced == number == store.checkpointed and store.round == number + 1
    assert store.space().blocks == 2


def test_what_is_expected_changes_nothing(store: BlockStore) -> None:
    one = name(1)
    store.expect([one, name(2)])
    put(store, one)
    stages: list[Callable[[], None]] = [lambda: None, lambda: finish(store), store.checkpoint]
    for stage in stages:
        stage()
        store.expect([one, name(2)])
        assert bytes_of(store, one) == content(one) and bytes_of(store, name(2)) is None


def test_scan_is_ordered_and_paged_over_all_stages(store: BlockStore) -> None:
    names = sorted(
        name(ino, block, token) for ino in (1, 300) for block in (0, 9) for token in (1, 2)
    )
    put(store, *names[::3])
    finish(store)
    store.checkpoint()
    put(store, *names[1::3])
    finish(store)
    put(store, *names[2::3])
    assert [one for one, _ in store.scan(None, 100)] == names
    assert [one for one, _ in store.scan(names[2], 3)] == names[3:6]
    store.drop(names[:2])
    assert [one for one, _ in store.scan(None, 2)] == names[2:4]
    assert store.space().blocks == 6


def test_dropped_is_gone_and_stays_gone_after_a_checkpoint(kind: tuple[BlockStore, Reopen]) -> None:
    store, reopen = kind
    one, two = name(1), name(2)
    put(store, one, two)
    finish(store)
    store.drop([one, name(9)])
    assert store.dirty and store.find(one) is None
    number = store.round
    finish(store)
    assert store.checkpointed < number
    store.checkpoint()
    assert store.checkpointed == number
    store = reopen(store)
    assert store.find(one) is None and bytes_of(store, two) == content(two)
    assert store.space().blocks == 1
    store.close()


def test_what_was_synced_survives_and_rounds_and_boots_go_on(
    kind: tuple[BlockStore, Reopen],
) -> None:
    store, reopen = kind
    put(store, name(1))
    finish(store)
    synced = store.synced
    put(store, name(2))
    again = reopen(store)
    assert again.boot == 2 and again.opened_round == synced and again.round > synced
    assert again.synced >= synced and not again.dirty
    assert bytes_of(again, name(1)) == content(name(1))
    assert again.find(name(2)) is None, "its round was never ended"
    again.close()


def test_the_newest_state_counts(kind: tuple[BlockStore, Reopen]) -> None:
    store, reopen = kind
    for life in (1, 2):
        store.set_state(dataclasses.replace(store.state, life=life, cluster=b"c" * 16))
        assert store.dirty and store.state.life == life
        finish(store)
    uuid = store.state.uuid
    store = reopen(store)
    assert (store.state.life, store.state.uuid, store.state.cluster) == (2, uuid, b"c" * 16)
    store.close()


@pytest.mark.parametrize("harm", [Harm.FLIP, Harm.TRUNCATE])
def test_harm_is_noticed_and_append_repairs(store: BlockStore, harm: Harm) -> None:
    one = name(1)
    put(store, one)
    offset, before, after = store.harm(one, harm, 5)
    assert before != after and content(one)[offset : offset + len(before)] == before
    with pytest.raises(Damaged):
        store.read(one)
    assert store.find(one) is not None
    put(store, one)
    assert bytes_of(store, one) == content(one) and store.space().blocks == 1
    finish(store)
    store.checkpoint()
    assert bytes_of(store, one) == content(one)


def test_harm_loses(store: BlockStore) -> None:
    put(store, name(1))
    finish(store)
    store.harm(name(1), Harm.LOSE, 1)
    assert store.find(name(1)) is None
    with pytest.raises(Posix):
        store.harm(name(1), Harm.FLIP, 1)


def test_harm_that_only_the_map_can_tell(store: BlockStore) -> None:
    old, new = name(1, sequence=1), name(1, sequence=2)
    put(store, old, new)
    put(store, name(2, sequence=1))  # another file's
    offset, before, after = store.harm(new, Harm.STALE, 1)
    assert content(new)[offset:].startswith(before) and content(old)[offset:].startswith(after)
    entry = store.find(new)
    assert bytes_of(store, new) == content(old) and entry is not None
    assert (entry.crc16, entry.crc32c) != tuple(checksum.seal(new, content(new)))
    put(store, new)  # as a repair does
    assert bytes_of(store, new) == content(new) and bytes_of(store, old) == content(old)


def test_stale_harm_needs_something_older(store: BlockStore) -> None:
    put(store, name(1, sequence=1), name(1, block=1, sequence=2))
    with pytest.raises(Posix):
        store.harm(name(1, sequence=1), Harm.STALE, 1)
    assert bytes_of(store, name(1, sequence=1)) == content(name(1, sequence=1))


def test_rebuild_index_keeps_everything(store: BlockStore) -> None:
    names = [name(ino) for ino in range(1, 20)]
    put(store, *names)
    finish(store)
    put(store, name(1))
    store.rebuild_index()
    assert [one for one, _ in store.scan(None, 100)] == names
    assert all(bytes_of(store, one) == content(one) for one in names)
    put(store, name(77))
    finish(store)
    store.checkpoint()
    assert store.space().blocks == 20


# --- what only the real one can do -------------------------------------------------------------


def test_one_process_one_slot_one_role(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "d", SLOT)
    with pytest.raises(StartError, match="in use by process"):
        LogStore(tmp_path / "d", SLOT)
    store.close()
    with pytest.raises(StartError, match="dataserver 2, not 1"):
        LogStore(tmp_path / "d", Slot(1))
    LogStore(tmp_path / "d", SLOT).close()
    (tmp_path / "m" / "meta").mkdir(parents=True)
    with pytest.raises(StartError, match="metaserver"):
        LogStore(tmp_path / "m", SLOT)


def test_a_full_disk_is_no_space_before_anything_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LogStore(tmp_path / "d", SLOT)
    real = os.statvfs(tmp_path)

    def nearly_full(path: Path) -> os.statvfs_result:
        return os.statvfs_result((*real[:4], 0, *real[5:]))

    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", nearly_full)
        with pytest.raises(NoSpace):
            put(store, name(1))
        assert not store.dirty and store.find(name(1)) is None
        assert store.space().free_bytes == 0
        store.drop([name(2)])
        finish(store)
    put(store, name(1))
    finish(store)
    store.close()


def test_a_failed_sync_ends_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LogStore(tmp_path / "d", SLOT)

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        put(store, name(1))
        before = store.synced
        with pytest.raises(StoreError, match="sync failed"):
            finish(store)
    assert store.synced == before
    with pytest.raises(StoreError):
        put(store, name(2))
    store.close()
    LogStore(tmp_path / "d", SLOT).close()
