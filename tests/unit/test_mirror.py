"""A dataserver's copy of the metadata, alone: late messages, torn rounds, full disks."""

import contextlib
from typing import Any

import pytest

from tests.world.stores import MemoryBlockStore, MemoryMetaStore
from zdfs import chain, limits, schema, wire
from zdfs.copied import CopiedStore, Tally
from zdfs.errors import NoSpace
from zdfs.ids import JOURNAL, Incarnation, Slot
from zdfs.mirror import Mirror

UUID = bytes(16)
PAYLOAD = bytes(65536)


def sending(store: CopiedStore, after: int = 0) -> tuple[list[int], list[bytes]]:
    """The rounds behind one, as an Append carries them."""
    parts, frames = [], []
    for one in store.outbox:
        if one.head.round > after:
            cut = chain.cut(one.packed)
            parts.append(len(cut))
            frames += cut
    return parts, frames


def fill_of(store: CopiedStore) -> wire.Fill:
    """All records in one page."""
    with store.read() as read:
        changes = list(read.scan(b"\1", b"\xff"))
    return wire.Fill(
        UUID,
        Incarnation(1),
        store.head,
        chain.GENESIS,
        False,
        b"",
        True,
        (chain.pack_changes(changes),),
    )


def change(store: CopiedStore, *keys: bytes, payload: bytes = b"1") -> None:
    """A round."""
    with store.write() as txn:
        for key in keys:
            txn.put(key, payload)
    store.end_round()


def large(count: int) -> list[bytes]:
    """Keys, for a round of so many times 64 KiB."""
    return [b"x%d" % number for number in range(count)]


def made() -> tuple[CopiedStore, MemoryBlockStore, Mirror]:
    """A metaserver's store with one record; a dataserver's, and the copy in it."""
    meta = CopiedStore(MemoryMetaStore())
    meta.incarnation = Incarnation(1)
    change(meta, b"a")
    blocks = MemoryBlockStore(Slot(0), lazy_sync=True)
    mirror = Mirror(blocks, blocks.copy)
    return meta, blocks, mirror


def test_a_late_fill_takes_a_whole_copy_back() -> None:
    meta, blocks, mirror = made()
    late = fill_of(meta)
    mirror.fill(late)
    assert mirror.whole
    change(meta, b"b", payload=b"acknowledged")
    mirror.append(*sending(meta, 1))
    assert mirror.head == meta.head
    blocks.end_round()
    blocks.sync()
    mirror.fill(late)  # doubled by the network, or from a socket that was given up
    assert not mirror.whole or mirror.head.round >= meta.head.round


def test_a_torn_large_round_breaks_what_was_synced() -> None:
    meta, blocks, mirror = made()
    mirror.fill(fill_of(meta))
    change(meta, b"b", payload=b"acknowledged, synced")
    mirror.append(*sending(meta, 1))
    blocks.end_round()
    blocks.sync()
    synced = mirror.head
    change(meta, *large(40), payload=PAYLOAD)  # 2.5 MiB: three frames
    mirror.append(*sending(meta, 2))
    blocks.end_round()  # not synced: the power goes
    # the log is cut behind the first frame
    layer = blocks._layers[-1][1]
    names = [n for n in layer if n.ino == JOURNAL]
    assert len(names) == 3
    for name in names[1:]:
        del layer[name]
    found = blocks.kill()
    again = Mirror(found, found.copy)
    assert again.whole and again.head.round >= synced.round


def test_a_disk_that_is_full_in_the_middle_of_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    meta, blocks, mirror = made()
    mirror.fill(fill_of(meta))
    change(meta, *large(40), payload=PAYLOAD)
    real, count = blocks.append, [0]

    def append(*args: Any, **kw: Any) -> None:
        count[0] += 1
        if count[0] > 1:
            raise NoSpace("full")
        real(*args, **kw)

    monkeypatch.setattr(blocks, "append", append)
    with pytest.raises(NoSpace):
        mirror.append(*sending(meta, 1))
    blocks.end_round()
    blocks.sync()
    found = blocks.kill()
    assert Mirror(found, found.copy).whole


def test_nospace_while_it_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """apply() fails half way while the mirror is proven: it must not be called broken."""
    meta, blocks, mirror = made()
    mirror.fill(fill_of(meta))
    mirror._checked = Tally()
    changes, last = mirror._page(mirror._checked.cursor, b"\xff")
    mirror._checked.page(changes, b"\xff")
    change(meta, b"b")
    mirror.append(*sending(meta, 1))
    inner = blocks.copy.records.put

    def put(key: bytes, payload: bytes) -> None:
        if key == schema.HEAD:
            raise NoSpace("full")
        inner(key, payload)

    with monkeypatch.context() as patch:
        patch.setattr(blocks.copy.records, "put", put)
        with contextlib.suppress(NoSpace):
            mirror.apply()
    mirror.apply()
    assert mirror._checked is None or mirror._checked.proves(mirror.applied)


def test_bytes_of_rounds_kept_in_memory() -> None:
    meta, blocks, mirror = made()
    mirror.fill(fill_of(meta))
    for n in range(60):
        after = meta.head.round
        change(meta, *large(32), payload=PAYLOAD)
        mirror.append(*sending(meta, after))
        mirror.apply()
        blocks.end_round()
        blocks.sync()
    kept = sum(len(one.packed) for one in mirror.rounds)  # and once more, unpacked
    assert kept <= limits.OUTBOX_BYTES, f"{kept >> 20} MiB after 60 rounds; 512 are kept"


def test_a_full_disk_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log takes rounds, the mirror can't: at some point the copy refuses more, and takes them
    when there is room again."""
    meta, blocks, mirror = made()
    mirror.fill(fill_of(meta))
    with monkeypatch.context() as patch:
        patch.setattr(blocks.copy, "free_bytes", lambda: 0)
        with pytest.raises(NoSpace):
            for _ in range(60):
                change(meta, *large(32), payload=PAYLOAD)
                mirror.append(*sending(meta, mirror.head.round))
                mirror.apply()
        assert mirror.waiting_bytes < limits.OUTBOX_BYTES + 2 * limits.BATCH_BYTES
    mirror.apply()
    mirror.append(*sending(meta, mirror.head.round))
    assert mirror.whole and mirror.head == meta.head
