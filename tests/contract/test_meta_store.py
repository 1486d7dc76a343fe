"""The metaserver's store, the real one and the one in memory, keep the same contract."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from world.stores import MemoryMetaStore

from zdfs import records, schema
from zdfs.copied import CopiedStore
from zdfs.errors import Damaged, Posix, StartError, StoreError
from zdfs.ids import Incarnation
from zdfs.ports import MetaStore
from zdfs.store import LmdbStore

ALL = (b"", b"\xff")
Reopen = Callable[[MetaStore], MetaStore]


def crash(store: MetaStore) -> MetaStore:
    """What the next process finds of a store in memory."""
    if isinstance(store, CopiedStore):
        return CopiedStore(crash(store.inner))
    assert isinstance(store, MemoryMetaStore)
    return store.crash()


@pytest.fixture(params=["lmdb", "memory", "copied"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[MetaStore, Reopen]:
    """A new store, and how to find it again after its process has died."""
    if request.param == "memory":
        return MemoryMetaStore(), crash
    if request.param == "copied":
        return CopiedStore(MemoryMetaStore()), crash

    def reopen(store: MetaStore) -> MetaStore:
        store.close()
        return LmdbStore(tmp_path / "m")

    return LmdbStore(tmp_path / "m"), reopen


@pytest.fixture
def store(kind: tuple[MetaStore, Reopen]) -> Iterator[MetaStore]:
    """A new store."""
    yield kind[0]
    kind[0].close()


def rows(store: MetaStore, reverse: bool = False) -> list[tuple[bytes, bytes]]:
    """All pairs but the store's own."""
    with store.read() as reader:
        return [pair for pair in reader.scan(*ALL, reverse) if pair[0][:1] != schema.OWN]


def put(store: MetaStore, *keys: bytes) -> None:
    """Store keys under themselves."""
    with store.write() as txn:
        for key in keys:
            txn.put(key, key)


def test_a_new_store_is_empty_and_clean(store: MetaStore) -> None:
    assert (store.round, store.synced, store.dirty) == (1, 0, False)
    assert rows(store) == []
    assert store.free_bytes() > 0
    store.end_round()
    assert store.round == 1, "a round without changes is none"


def test_what_was_written_is_read_before_and_after_the_round(store: MetaStore) -> None:
    put(store, b"b", b"a")
    assert store.dirty and store.synced == 0
    assert rows(store) == [(b"a", b"a"), (b"b", b"b")]
    store.end_round()
    assert (store.round, store.synced, store.dirty) == (2, 1, False)
    assert rows(store, reverse=True) == [(b"b", b"b"), (b"a", b"a")]


def test_an_exception_undoes_only_its_own_block(store: MetaStore) -> None:
    put(store, b"a")
    with pytest.raises(Posix), store.write() as txn:
        txn.put(b"b", b"")
        assert txn.delete(b"a")
        raise Posix(2)
    put(store, b"c")
    store.end_round()
    assert rows(store) == [(b"a", b"a"), (b"c", b"c")]


def test_an_exception_alone_leaves_no_round(store: MetaStore) -> None:
    with pytest.raises(Posix), store.write() as txn:
        txn.put(b"b", b"")
        raise Posix(2)
    assert not store.dirty
    store.end_round()
    assert store.synced == 0 and rows(store) == []


def test_scans_have_bounds_and_directions(store: MetaStore) -> None:
    put(store, b"a", b"b", b"ba", b"c")
    with store.read() as reader:
        assert [key for key, _ in reader.scan(b"b", b"c")] == [b"b", b"ba"]
        assert [key for key, _ in reader.scan(b"a", b"bb", True)] == [b"ba", b"b", b"a"]
        assert list(reader.scan(b"d", b"e")) == list(reader.scan(b"d", b"e", True)) == []


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_sees_changes_made_meanwhile(store: MetaStore, reverse: bool) -> None:
    put(store, *(b"k%03d" % n for n in range(300)))
    with store.write() as txn:
        seen = 0
        for key, _ in txn.scan(b"k", b"l", reverse):
            seen += 1
            assert txn.delete(key)
            assert not txn.delete(key)
        assert seen == 300
        assert list(txn.scan(b"k", b"l")) == []


def test_get_delete_replace(store: MetaStore) -> None:
    put(store, b"a")
    with store.write() as txn:
        txn.put(b"a", b"2")
        assert txn.get(b"a") == b"2" and txn.get(b"b") is None
        with store.read() as reader:
            assert reader.get(b"a") == b"2", "a reader inside a write block sees it"


def test_committed_rounds_survive_and_others_do_not(kind: tuple[MetaStore, Reopen]) -> None:
    store, reopen = kind
    put(store, b"a")
    store.end_round()
    put(store, b"b")
    again = reopen(store)
    assert again.synced == 1 and again.round == 2
    assert rows(again) == [(b"a", b"a")]
    again.close()


# --- what only the real one can do -------------------------------------------------------------


def test_one_process_at_a_time(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "m")
    with pytest.raises(StartError, match="in use by process"):
        LmdbStore(tmp_path / "m")
    store.close()
    LmdbStore(tmp_path / "m").close()


def test_refuses_another_role_and_a_newer_format(tmp_path: Path) -> None:
    (tmp_path / "d" / "index").mkdir(parents=True)
    with pytest.raises(StartError, match="dataserver"):
        LmdbStore(tmp_path / "d")
    store = LmdbStore(tmp_path / "m")
    with store.write() as txn:
        newer = schema.Superblock(schema.META_FORMAT + 1, b"u" * 16, Incarnation(1))
        txn.put(schema.SUPERBLOCK, records.pack(newer))
    store.end_round()
    store.close()
    with pytest.raises(StartError, match="newer release"):
        LmdbStore(tmp_path / "m")


@contextmanager
def file_limit(most_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_failed_commit_ends_the_store(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "m")
    put(store, b"a")
    store.end_round()
    with file_limit(30_000):
        with store.write() as txn:
            for number in range(3000):
                txn.put(b"k%d" % number, b"z" * 100)
        with pytest.raises(StoreError):
            store.end_round()
    with pytest.raises(StoreError):
        store.end_round()
    with pytest.raises(StoreError), store.write():
        assert False, "a store whose round failed takes another write"
    store.close()
    store = LmdbStore(tmp_path / "m")
    assert rows(store) == [(b"a", b"a")] and store.synced == 1
    store.close()


def test_deleting_makes_room(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "m")
    with store.write() as txn:
        for number in range(2000):
            txn.put(b"k%d" % number, b"z" * 1000)
    store.end_round()
    full = store.free_bytes()
    with store.write() as txn:
        for key, _ in txn.scan(b"k", b"l"):
            txn.delete(key)
    store.end_round()
    assert store.free_bytes() > full + 1_000_000
    store.close()


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.9])
def test_a_file_cut_short_is_refused_and_kept(tmp_path: Path, part: float) -> None:
    store = LmdbStore(tmp_path / "m")
    with store.write() as txn:
        for number in range(2000):
            txn.put(b"k%d" % number, b"z" * 100)
    store.end_round()
    store.close()
    file = tmp_path / "m" / "meta" / "data.mdb"
    size = int(file.stat().st_size * part)
    with file.open("r+b") as data:
        data.truncate(size)
    with pytest.raises(StartError, match="damaged"):
        LmdbStore(tmp_path / "m")
    assert file.stat().st_size == size


def test_a_damaged_value_is_damaged(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "m")
    put(store, b"i12345678", b"j12345678")
    store.end_round()
    store.close()
    file = tmp_path / "m" / "meta" / "data.mdb"
    data = bytearray(file.read_bytes())
    sealed = schema.seal_value(b"i12345678", b"i12345678")
    at = data.rindex(sealed)
    data[at + len(sealed) - 1] ^= 1
    file.write_bytes(data)
    store = LmdbStore(tmp_path / "m")
    with store.read() as reader:
        with pytest.raises(Damaged):
            reader.get(b"i12345678")
        assert reader.get(b"j12345678") == b"j12345678"
    store.close()


def test_a_damaged_lock_file_and_a_half_made_store_do_no_harm(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "m")
    put(store, b"a")
    store.end_round()
    store.close()
    (tmp_path / "m" / "meta" / "lock.mdb").write_bytes(b"\xa5" * 8192)
    store = LmdbStore(tmp_path / "m")
    assert rows(store) == [(b"a", b"a")]
    store.close()
    (tmp_path / "n" / "meta.new").mkdir(parents=True)
    (tmp_path / "n" / "meta.new" / "data.mdb").write_bytes(b"")
    LmdbStore(tmp_path / "n").close()
