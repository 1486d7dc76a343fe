"""Stores of the format before, made by its own release, are upgraded: whatever interrupts that.

`stores-4.tar.xz` holds the stores of a cluster of three that spoke protocol 4, in format 3 of both
kinds: every process was killed while a mount was there, so logs are to be replayed and replies were
kept.  What its files hold stands in `tests/live/test_upgrade.py`.
"""

import gc
import logging
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.world.platter import Disks, Platter, PowerCut

from zdfs import disk, metacheck, records, schema, upgrading, wire
from zdfs.blockstore import LogStore
from zdfs.copied import CopiedStore
from zdfs.errors import StartError
from zdfs.ids import Incarnation, Name, Session, Slot
from zdfs.ledger import Ledger, revive
from zdfs.lineage import WRITERS, Writer, signed
from zdfs.log import segment_numbers, segment_path
from zdfs.meta import Meta
from zdfs.schema import KeptReply
from zdfs.store import LmdbStore

STORES = Path(__file__).with_name("stores-4.tar.xz")
BLOCK_BYTES = 4096
EARLIER = ("earlier", 4, 3, 0)


def unpack(folder: Path) -> Path:
    """The stores, as they were left."""
    with tarfile.open(STORES) as tar:
        tar.extractall(folder)  # of our own making: "filter" is younger than some Pythons
    return folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return unpack(tmp_path)


def blocks(store: LogStore) -> dict[Name, bytes]:
    """All that it has, each verified as it is read."""
    found = {}
    for name, _ in store.scan(None, 10_000):
        read = store.read(name)
        assert read is not None
        found[name] = bytes(read[1])
    return found


def formats(directory: Path) -> list[int]:
    """Of the segments, in their order."""
    found = []
    for number in segment_numbers(directory):
        head = segment_path(directory, number).read_bytes()[: schema.SEGMENT_HEADER_BYTES]
        found.append(schema.unpack_segment(head).format)
    return found


@pytest.fixture
def disks() -> Iterator[Disks]:
    made = Disks()
    with made.spinning():
        yield made
    for platter in made.platters:
        platter.forget()


# --- a dataserver's ----------------------------------------------------------------------------


def test_a_dataservers_store_is_read_and_upgraded(old: Path) -> None:
    directory = old / "data-1"
    before = set(formats(directory))
    store = LogStore(directory, Slot(1), thread=False)
    there = blocks(store)
    assert before == {3} and formats(directory)[-1] == 4 == store.state.format
    assert store.state.lineage == (Writer(*EARLIER),) and len(there) > 20
    assert disk.find_faults(directory / "index.format-3") == []
    kept = (directory / "index.format-3" / disk.DATA_FILE).read_bytes()
    store.close()
    again = LogStore(directory, Slot(1), thread=False)
    assert blocks(again) == there and again.state.lineage == store.state.lineage
    assert (directory / "index.format-3" / disk.DATA_FILE).read_bytes() == kept
    again.close()


def test_an_index_of_both_formats_is_made_anew(old: Path) -> None:
    directory = old / "data-2"
    store = LogStore(directory, Slot(2), thread=False)
    there = blocks(store)
    store.rebuild_index()  # what was dropped may come back
    assert there.items() <= blocks(store).items() and store.state.format == 4
    store.close()


def test_a_dataserver_without_an_index_has_nothing_to_keep(old: Path) -> None:
    directory = old / "data-0"
    (directory / "index").rename(directory / "away")
    store = LogStore(directory, Slot(0), thread=False)
    assert store.state.format == 4 and not (directory / "index.format-3").exists()
    store.close()


@pytest.mark.parametrize("fatal", range(1, 8))
def test_the_power_goes_while_a_dataserver_is_upgraded(
    tmp_path: Path, disks: Disks, seed: int, fatal: int
) -> None:
    """At each sync: what is found is the old store, or the new one."""
    there, platter = _spinning(tmp_path, disks, "data-1")
    platter.fatal = platter.syncs + fatal
    with pytest.raises(PowerCut):
        LogStore(there, Slot(1), thread=False).close()
    gc.collect()
    found = _found(there, platter, seed)
    store = LogStore(found, Slot(1), thread=False)
    fresh = LogStore(unpack(tmp_path / "fresh") / "data-1", Slot(1), thread=False)
    assert blocks(store) == blocks(fresh)
    assert store.state.format == 4 and store.state.lineage == (Writer(*EARLIER),)
    assert disk.find_faults(found / "index.format-3") == []
    store.close()
    fresh.close()


def _spinning(folder: Path, disks: Disks, name: str) -> tuple[Path, Platter]:
    """A store on a disk that has been on for long."""
    there = folder / "disk" / name
    platter = disks.platter(there)
    there.rmdir()
    (unpack(folder / "unpacked") / name).rename(there)
    platter._settle()
    return there, platter


def _found(there: Path, platter: Platter, seed: int) -> Path:
    """What the next boot finds, by a name that LMDB has not open in this process."""
    platter.fatal = 0
    platter.cut(random.Random(seed))
    return there.rename(there.with_name("found"))


# --- the metaserver's --------------------------------------------------------------------------


def opened(directory: Path) -> tuple[LmdbStore, Ledger]:
    lmdb = LmdbStore(directory)
    upgrading.keep_meta(directory, lmdb)
    return lmdb, Ledger(CopiedStore(lmdb), bytes(16))


def test_the_metadata_waits_until_all_can_read_it(old: Path) -> None:
    lmdb, ledger = opened(old / "meta")
    kept = old / "meta" / "meta.format-3"
    assert disk.find_faults(kept) == [] and ledger.format == 3
    ledger.begin()
    assert not ledger.sign(5, everywhere=False)
    ledger.store.end_round()
    lmdb.close()

    lmdb, ledger = opened(old / "meta")  # as if nothing had been
    assert ledger.format == 3 == upgrading.meta_format(lmdb)
    ledger.begin()
    assert ledger.sign(7, everywhere=True)
    ledger.store.end_round()
    assert ledger.format == 4 and ledger.lineage[0] == Writer(*EARLIER)
    assert ledger.lineage[1][1:] == (wire.PROTOCOL, 4, 7)
    assert [one.kind for one in ledger.events(1)] == ["upgraded"]
    with lmdb.read() as read:
        assert metacheck.whole(read) == []
    before = (kept / disk.DATA_FILE).read_bytes()
    lmdb.close()

    lmdb, ledger = opened(old / "meta")
    ledger.begin()
    assert ledger.format == 4 and ledger.sign(9, everywhere=False)
    assert ledger.lineage[1].since_ns == 7, "the same release goes on"
    assert (kept / disk.DATA_FILE).read_bytes() == before
    lmdb.close()


def test_replies_that_were_kept_before_are_known(old: Path) -> None:
    """A mount that repeats its last change across the upgrade gets the answer of then."""
    lmdb, ledger = opened(old / "meta")
    meta = Meta(ledger, BLOCK_BYTES)
    kept = [kept.reply for one in meta.sessions.mounts.values() for kept in one.slots.values()]
    assert kept and all(isinstance(one, wire.Reply) for one in kept)
    lmdb.close()


def test_what_is_kept_before_the_step_is_as_the_old_release_knows_it(old: Path) -> None:
    lmdb, ledger = opened(old / "meta")
    reply = wire.Announced(wire.spoken())
    assert ledger.pack_reply(reply) == b"\x90"
    ledger.begin()
    ledger.sign(1, everywhere=True)
    assert ledger.pack_reply(reply) == b"\x91\x92\x04\x05"
    lmdb.close()


def test_it_goes_back_as_the_old_release_knows_it(old: Path) -> None:
    lmdb, ledger = opened(old / "meta")
    ledger.begin()
    ledger.sign(1, everywhere=True)
    reply = wire.Announced(wire.spoken())
    with ledger.raw() as txn:
        body = ledger.pack_reply(reply)
        txn.put(schema.kept_key(Session(7), 1), records.pack(KeptReply(1, reply.operation, body)))
    ledger.store.end_round()
    assert ledger.format == 4
    lmdb.close()

    lmdb = LmdbStore(old / "meta")
    ledger = Ledger(CopiedStore(lmdb), bytes(16))
    ledger.most_format = 3
    ledger.begin()
    assert ledger.sign(9, everywhere=True) and ledger.format == 3 and not ledger.lineage
    assert [one.kind for one in ledger.events(1)] == ["put back"]
    ledger.store.end_round()
    with lmdb.read() as read:
        assert metacheck.whole(read) == []
        fields = records.loads(read.get(schema.SUPERBLOCK) or b"")
        assert len(fields) == 3 and fields[0] == 3
        kept = [records.unpack(KeptReply, one) for _, one in read.scan(b"k", b"l")]
    assert len(kept) > 1 and b"\x90" in [one.body for one in kept]
    for one in kept:
        replied = revive(one)
        assert replied is not None and one.body == records.pack(replied, wire.PROTOCOL_MIN)
    assert ledger.sign(10, everywhere=True) and ledger.format == 3, "it stays there"
    lmdb.close()


@pytest.mark.parametrize("fatal", range(1, 4))
def test_the_power_goes_while_the_metadata_is_kept(
    tmp_path: Path, disks: Disks, seed: int, fatal: int
) -> None:
    there, platter = _spinning(tmp_path, disks, "meta")
    platter.fatal = platter.syncs + fatal
    lmdb = LmdbStore(there)
    with pytest.raises(PowerCut):
        upgrading.keep_meta(there, lmdb)
    lmdb.close()
    lmdb, ledger = opened(_found(there, platter, seed))
    assert ledger.format == 3 and disk.find_faults(there.with_name("found") / "meta.format-3") == []
    with lmdb.read() as read:
        assert metacheck.whole(read) == []
    lmdb.close()


def test_a_copy_of_an_earlier_start_gives_way(old: Path) -> None:
    lmdb, ledger = opened(old / "meta")
    kept = old / "meta" / "meta.format-3" / disk.DATA_FILE
    before = kept.read_bytes()
    ledger.begin()
    ledger.store.end_round()
    lmdb.close()
    opened(old / "meta")[0].close()
    assert kept.read_bytes() != before
    assert not kept.parent.with_name("meta.format-3.new").exists()


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["meta", "data-0"])
def test_without_room_nothing_is_touched(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = unpack(tmp_path) / name
    before = {path: path.read_bytes() for path in directory.rglob("*.mdb")}
    monkeypatch.setattr("zdfs.disk.disk_free", lambda path: 4096)
    with pytest.raises(StartError, match=r"format 3 is copied.*make room there, or start the rel"):
        if name == "meta":
            opened(directory)
        else:
            LogStore(directory, Slot(0), thread=False)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in before} == before
    assert not list(directory.glob("*.format-*"))


def test_a_bad_record_is_told_before(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    lmdb = LmdbStore(old / "meta")
    with lmdb.write() as txn:
        txn._txn.put(b"i" + bytes(8), b"not sealed")  # type: ignore[attr-defined]
    lmdb.end_round()
    with caplog.at_level(logging.INFO):
        upgrading.keep_meta(old / "meta", lmdb)
    assert "1 are not" in caplog.text and "inode 0 fails its checksum" in caplog.text
    lmdb.close()


def test_a_newer_store_is_refused_with_the_way_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LogStore(tmp_path / "data", Slot(0), thread=False).close()
    lmdb, ledger = opened(tmp_path / "meta")
    ledger.begin()
    ledger.sign(1, everywhere=True)
    ledger.store.end_round()
    lmdb.close()
    monkeypatch.setattr("zdfs.segments.DATA_FORMAT", 3)
    monkeypatch.setattr("zdfs.schema.DATA_FORMAT", 3)
    monkeypatch.setattr("zdfs.schema.META_FORMAT", 3)
    with pytest.raises(StartError, match="newer release, or go back as docs/UPGRADING.md says"):
        LogStore(tmp_path / "data", Slot(0), thread=False)
    with pytest.raises(StartError, match="newer release, or go back as docs/UPGRADING.md says"):
        LmdbStore(tmp_path / "meta")


def test_a_copy_brings_back_a_newer_format_and_is_refused(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old metaserver that replays what copies of newer metadata have."""
    lmdb, ledger = opened(old / "meta")
    ledger.begin()
    ledger.sign(1, everywhere=True)
    ledger.store.end_round()
    monkeypatch.setattr("zdfs.schema.META_FORMAT", 3)
    with pytest.raises(StartError, match="the metadata is in format 4; this release reads 3 to 3"):
        Ledger(CopiedStore(lmdb), bytes(16), Incarnation(9))
    lmdb.close()


def test_the_first_and_the_newest_writers_are_kept() -> None:
    lineage: tuple[Writer, ...] = ()
    for number in range(40):
        lineage = signed(lineage, Writer(f"0.{number}", 5, 4, number))
    assert len(lineage) == WRITERS and lineage[0].release == "0.0"
    assert lineage[-1].release == "0.39" and signed(lineage, lineage[-1]._replace(since_ns=9)) == (
        lineage
    )
