"""The log: torn tails, damage in the middle, lost indexes, compaction, kills at any point."""

import dataclasses
import logging
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from tests.conftest import until
from zdfs import checksum, limits, log, schema, segments
from zdfs.blockstore import LogStore
from zdfs.errors import Damaged, StartError, StoreError
from zdfs.ids import BlockNo, Epoch, Ino, Name, Round, Slot, Token, Version
from zdfs.log import Found, segment_numbers, segment_path, walk
from zdfs.wire import Harm

SLOT = Slot(0)


def name(ino: int, sequence: int = 1) -> Name:
    """A version's name."""
    return Name(Ino(ino), BlockNo(0), Version(Token(1), sequence))


def content(one: Name, size: int) -> bytes:
    """Bytes that no other name has."""
    return random.Random(repr(one)).randbytes(size)


def put(store: LogStore, *names: Name, size: int = 40) -> None:
    """Append versions."""
    for one in names:
        data = content(one, size)
        store.append(one, checksum.seal(one, data), Epoch(1), SLOT, data)


def finish(store: LogStore) -> None:
    """A synced round."""
    store.end_round()
    store.settle()


def is_right(store: LogStore, one: Name, size: int = 40) -> bool:
    """True: the right bytes; False: absent or damaged; fails on wrong ones."""
    try:
        found = store.read(one)
    except Damaged:
        return False
    assert found is None or bytes(found[1]) == content(one, size)
    return found is not None


def copy(source: Path, target: Path) -> Path:
    """The directory as a kill would leave it."""
    return Path(shutil.copytree(source, target))


def kill(store: LogStore) -> None:
    """End without a checkpoint or a sync of what was not ended."""
    store.abandon()


def test_a_torn_tail_is_cut_at_every_byte(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "d", SLOT)
    put(store, name(1), name(2))
    finish(store)
    path = segment_path(tmp_path / "d", store._log.number)
    before = path.stat().st_size
    synced = store.synced
    put(store, name(3), name(4))
    finish(store)
    kill(store)
    after = path.stat().st_size
    for size in range(before, after + 1):
        torn = copy(tmp_path / "d", tmp_path / "torn")
        os.truncate(torn / path.name, size)
        again = LogStore(torn, SLOT)
        assert again.opened_round == synced + (size == after), size
        assert again.round > synced + 1, "no number is used twice"
        assert again.boot == 2
        assert is_right(again, name(1)) and is_right(again, name(2))
        for one in (name(3), name(4)):
            assert is_right(again, one) or again.find(one) is None
        put(again, name(5))
        finish(again)
        kill(again)
        third = LogStore(torn, SLOT)
        assert third.opened_round == again.synced and is_right(third, name(5))
        third.close()
        shutil.rmtree(torn)


def test_damage_below_synced_is_skipped_and_above_is_cut(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "d", SLOT)
    for ino in range(1, 6):
        put(store, name(ino))
        finish(store)
    entries = {ino: store.find(name(ino)) for ino in range(1, 6)}
    kill(store)
    for victim in range(1, 6):
        for into in (3, schema.RECORD_BYTES + 3):  # the header, the body
            torn = copy(tmp_path / "d", tmp_path / "torn")
            entry = entries[victim]
            assert entry is not None
            path = segment_path(torn, entry.segment)
            data = bytearray(path.read_bytes())
            data[entry.offset + into] ^= 4
            path.write_bytes(data)
            again = LogStore(torn, SLOT)
            assert again.opened_round == store.synced - (victim == 5)
            assert [is_right(again, name(ino)) for ino in range(1, 6)] == [
                ino != victim for ino in range(1, 6)
            ]
            again.close()
            shutil.rmtree(torn)


@pytest.mark.parametrize("how", ["missing", "short", "garbage", "empty"])
def test_an_index_that_cannot_be_trusted_is_kept_and_made_anew(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = LogStore(tmp_path / "d", SLOT)
    put(store, *(name(ino) for ino in range(1, 200)))
    store.set_state(dataclasses.replace(store.state, life=9))
    finish(store)
    state, synced = store.state, store.synced
    store.close()
    file = tmp_path / "d" / "index" / "data.mdb"
    if how == "missing":
        shutil.rmtree(file.parent)
    elif how == "garbage":
        file.write_bytes(random.Random(1).randbytes(50_000))
    else:
        os.truncate(file, 0 if how == "empty" else file.stat().st_size // 2)
    with caplog.at_level(logging.WARNING, "zdfs.store"):
        store = LogStore(tmp_path / "d", SLOT)
    assert "made anew" in caplog.text
    assert (tmp_path / "d" / "index.damaged-1").exists() == (how != "missing")
    assert store.state == state and store.opened_round == synced and store.boot == 2
    assert all(is_right(store, name(ino)) for ino in range(1, 200))
    assert store.space().blocks == 199
    store.close()


def test_a_log_that_is_gone_is_a_lost_disk(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "d", SLOT)
    put(store, name(1))
    finish(store)
    uuid = store.state.uuid
    store.close()
    for number in segment_numbers(tmp_path / "d"):
        segment_path(tmp_path / "d", number).unlink()
    store = LogStore(tmp_path / "d", SLOT)
    assert store.state.uuid != uuid and store.find(name(1)) is None
    assert (tmp_path / "d" / "index.damaged-1").exists()
    store.close()


def test_without_any_state_all_is_set_aside(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "d", SLOT)
    finish(store)
    store.close()
    for path in (tmp_path / "d").glob("segment-*.log"):
        path.write_bytes(b"x" * 1000)
    (tmp_path / "d" / "index" / "data.mdb").write_bytes(b"x" * 1000)
    uuid = store.state.uuid
    store = LogStore(tmp_path / "d", SLOT)
    assert store.state.uuid != uuid and store.boot == 1 and store.opened_round == 0
    kept = [one.name for one in (tmp_path / "d" / "set-aside-1").iterdir()]
    assert any(one.endswith(".log") or ".cut" in one for one in kept)
    put(store, name(1))
    finish(store)
    store.close()
    store = LogStore(tmp_path / "d", SLOT)
    assert is_right(store, name(1))
    store.close()


def test_a_newer_format_is_refused_untouched(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "d", SLOT)
    store.close()
    shutil.rmtree(tmp_path / "d" / "index")
    (number,) = segment_numbers(tmp_path / "d")
    path = segment_path(tmp_path / "d", number)
    data = bytearray(path.read_bytes())
    data[8:12] = (schema.DATA_FORMAT + 1).to_bytes(4, "big")
    head = bytes(data[: segments._SEGMENT.size])
    data[len(head) : len(head) + 4] = checksum.crc32c(head).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(StartError, match="release"):
        LogStore(tmp_path / "d", SLOT)
    assert path.read_bytes() == data


def small_segments(monkeypatch: pytest.MonkeyPatch, size: int = 4096) -> None:
    """Segments of a few records."""
    monkeypatch.setattr(limits, "SEGMENT_BYTES", size)


def test_compaction_keeps_what_lives_and_frees_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_segments(monkeypatch)
    directory = tmp_path / "d"
    store = LogStore(directory, SLOT)
    names = [name(ino) for ino in range(1, 101)]
    for one in names:
        put(store, one, size=400)
        finish(store)
    assert len(segment_numbers(directory)) > 10
    live = names[::5]
    store.drop([one for one in names if one not in live])
    finish(store)
    store.checkpoint()
    steps = 0
    while store.compact(1000):
        assert all(is_right(store, one, 400) for one in live)
        copied = copy(directory, tmp_path / "killed")
        again = LogStore(copied, SLOT)
        assert all(is_right(again, one, 400) for one in live), "killed in the middle"
        assert len(again.scan(None, 1000)) == len(live), "nothing dropped came back"
        again.close()
        shutil.rmtree(copied)
        if steps % 2:
            finish(store)
            store.checkpoint()
        steps += 1
    finish(store)
    store.checkpoint()
    assert steps > 3
    size = sum(segment_path(directory, one).stat().st_size for one in segment_numbers(directory))
    assert size < 3 * 20 * 500, "the dead bytes are gone"
    state = store.state
    store.close()
    shutil.rmtree(directory / "index")
    store = LogStore(directory, SLOT)
    assert store.state == state, "the newest state outlived its segments"
    assert all(is_right(store, one, 400) for one in live)
    store.close()


def test_compaction_does_not_copy_bad_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_segments(monkeypatch)
    store = LogStore(tmp_path / "d", SLOT)
    for ino in range(1, 31):
        put(store, name(ino), size=400)
        finish(store)
    bad = store.find(name(2))
    assert bad is not None
    store.harm(name(2), Harm.FLIP, 3)
    store.drop([name(ino) for ino in range(3, 30)])
    finish(store)
    store.checkpoint()
    while store.compact(1 << 20):
        finish(store)
        store.checkpoint()
    assert store.find(name(2)) == bad and not is_right(store, name(2), 400)
    assert is_right(store, name(1), 400) and is_right(store, name(30), 400)
    assert bad.segment in segment_numbers(tmp_path / "d")
    put(store, name(2), size=400)
    finish(store)
    store.checkpoint()
    assert is_right(store, name(2), 400)
    assert bad.segment not in segment_numbers(tmp_path / "d"), "repaired, so it could go"
    store.close()


def test_a_kill_between_any_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_segments(monkeypatch, 2048)
    dice = random.Random(4)
    store = LogStore(tmp_path / "d", SLOT)
    synced: set[Name] = set()  # and not dropped
    dropped: set[Name] = set()  # and checkpointed
    sizes: dict[Name, int] = {}
    for step in range(60):
        new = [name(step * 10 + one) for one in range(dice.randint(1, 5))]
        size = dice.choice([40, 340])
        sizes.update(dict.fromkeys(new, size))
        put(store, *new, size=size)
        gone = dice.sample(sorted(synced), min(len(synced), dice.randint(0, 4)))
        store.drop(gone)
        finish(store)
        synced |= set(new)
        synced -= set(gone)
        if step % 3 == 0:
            store.checkpoint()
            dropped |= set(gone)
            store.compact(500)
        copied = copy(tmp_path / "d", tmp_path / "killed")
        again = LogStore(copied, SLOT)
        assert again.opened_round == store.synced
        assert again.space().blocks == len(again.scan(None, 10_000))
        assert all(is_right(again, one, sizes[one]) for one in synced)
        assert not any(again.find(one) for one in dropped)
        assert again._index.live == again._index.stored_live
        again.close()
        shutil.rmtree(copied)
    store.close()


def test_bytes_that_look_like_a_log_are_not_one(tmp_path: Path) -> None:
    """Somebody stores a segment of this very server as a file; its enclosing header rots."""
    store = LogStore(tmp_path / "d", SLOT)
    put(store, name(1))
    finish(store)
    kill(store)
    (number,) = segment_numbers(tmp_path / "d")
    segment = segment_path(tmp_path / "d", number).read_bytes()
    store = LogStore(tmp_path / "d", SLOT)
    store.drop([name(1)])
    finish(store)
    store.append(name(2), checksum.seal(name(2), segment), Epoch(1), SLOT, segment)
    finish(store)
    put(store, name(3))
    finish(store)
    put(store, name(4))
    finish(store)
    entry = store.find(name(2))
    assert entry is not None
    kill(store)
    path = segment_path(tmp_path / "d", entry.segment)
    data = bytearray(path.read_bytes())
    data[entry.offset + 8] ^= 1
    path.write_bytes(data)
    salt = schema.record_salt(store.state.uuid, entry.segment)
    fd = os.open(path, os.O_RDONLY)
    found = [
        one.header.name
        for one in walk(fd, salt, schema.SEGMENT_HEADER_BYTES, None)
        if isinstance(one, Found) and one.header.kind == schema.KIND_BLOCK
    ]
    os.close(fd)
    assert found == [name(3), name(4)]


def test_several_rounds_are_covered_by_one_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LogStore(tmp_path / "d", SLOT)
    syncs: list[int] = []
    held = store._log.syncer._changed
    real = os.fdatasync

    def counting(fd: int) -> None:
        syncs.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", counting)
    first = store.round
    with held:  # the thread can't take any
        for ino in range(1, 6):
            put(store, name(ino))
            store.end_round()
        assert store.synced == first - 1
        began = store._log.syncer._jobs[0].since_s
        assert store.oldest_unsynced_s() == pytest.approx(time.monotonic() - began, abs=1)
    store.settle()
    assert store.synced == first + 4 and len(syncs) == 1
    assert store.oldest_unsynced_s() == 0.0
    store.close()


def test_a_round_is_synced_when_somebody_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And when nobody does, a while later, with those that came since."""
    monkeypatch.setattr(log, "LAZY_S", 1e9)
    store = LogStore(tmp_path / "d", SLOT)
    syncs: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (syncs.append(fd), real(fd)))
    for ino in range(1, 4):
        put(store, name(ino))
        store.end_round()
    put(store, name(4))
    store.promise(store.round)  # of the round underway
    store.end_round()
    until(lambda: store.synced == store.round - 1)
    assert len(syncs) == 1
    put(store, name(5))
    store.end_round()
    store.promise(Round(store.round - 1))  # of one that has ended
    until(lambda: store.synced == store.round - 1)
    assert len(syncs) == 2
    monkeypatch.setattr(log, "LAZY_S", 0.05)
    put(store, name(6))
    store.end_round()
    until(lambda: store.synced == store.round - 1)
    store.close()


def test_a_cut_takes_the_segments_behind_it_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_segments(monkeypatch, 300)
    store = LogStore(tmp_path / "d", SLOT)
    put(store, name(1))
    finish(store)
    synced = store.synced
    with store._log.syncer._changed:  # nothing more is synced
        for ino in range(2, 8):
            put(store, name(ino))
            store.end_round()
        torn = copy(tmp_path / "d", tmp_path / "torn")
        entry = store.find(name(3))
    assert entry is not None and len(segment_numbers(torn)) > 3
    path = segment_path(torn, entry.segment)
    data = bytearray(path.read_bytes())
    data[entry.offset + 5] ^= 16
    path.write_bytes(data)
    again = LogStore(torn, SLOT)
    assert (
        again.opened_round == synced + 1 and is_right(again, name(1)) and is_right(again, name(2))
    )
    assert not any(again.find(name(ino)) for ino in range(3, 8))
    assert again.round > store.round - 1
    assert any(".cut-" in one.name for one in torn.iterdir())
    again.close()
    store.close()


def test_a_failed_write_ends_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LogStore(tmp_path / "d", SLOT)
    put(store, name(1))
    finish(store)
    synced = store.synced
    real = os.pwritev

    def full(fd: int, buffers: list[bytes], offset: int) -> int:
        if len(buffers) < 3:
            raise OSError(28, "No space left on device")
        return real(fd, [buffers[0][:50]], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", full)
        put(store, name(2), name(3))
        with pytest.raises(StoreError, match="No space"):
            for _ in range(10):
                store.end_round()
    with pytest.raises(StoreError):
        put(store, name(4))
    store.close()
    store = LogStore(tmp_path / "d", SLOT)
    assert is_right(store, name(1)) and store.find(name(3)) is None
    assert store.opened_round == synced < store.round - 1
    store.close()


def test_short_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(2)
    real = os.pwritev

    def short(fd: int, buffers: list[bytes], offset: int) -> int:
        whole = b"".join(buffers)
        return real(fd, [whole[: dice.randint(1, len(whole))]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    store = LogStore(tmp_path / "d", SLOT)
    names = [name(ino) for ino in range(1, 400)]
    put(store, *names)
    finish(store)
    kill(store)
    store = LogStore(tmp_path / "d", SLOT)
    assert all(is_right(store, one) for one in names)
    store.close()


def test_rounds_never_go_back(tmp_path: Path) -> None:
    newest = Round(0)
    for step in range(5):
        store = LogStore(tmp_path / "d", SLOT)
        assert store.opened_round >= newest and store.boot == step + 1
        store.drop([name(1)])
        finish(store)
        newest = store.synced
        kill(store) if step % 2 else store.close()


def test_a_small_disk_has_small_segments_and_a_small_reserve(tmp_path: Path) -> None:
    real = os.statvfs

    def small(path: Path) -> os.statvfs_result:
        stat = real(tmp_path)
        blocks = 64 * limits.MIB // stat.f_frsize
        return os.statvfs_result((*stat[:2], blocks, blocks, blocks, *stat[5:]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "statvfs", small)
        store = LogStore(tmp_path / "d", SLOT)
        assert store._reserve == 4 * limits.MIB and store._segment_bytes == limits.MIB
        assert 58 * limits.MIB < store.space().free_bytes < 64 * limits.MIB
        store.close()
