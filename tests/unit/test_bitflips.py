"""Flipped bits, anywhere in a closed store: what is read is right, Damaged or absent; never wrong.

Each flip is tried in a process of its own kind: LMDB may crash on a damaged file, and a test must
say so instead of dying of it.
"""

import json
import logging
import os
import random
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from zdfs import checksum, limits
from zdfs.blockstore import LogStore
from zdfs.errors import Damaged, StartError
from zdfs.ids import BlockNo, Epoch, Ino, Name, Slot, Token, Version
from zdfs.log import segment_numbers, segment_path
from zdfs.store import LmdbStore

FLIPS = 100
SLOT = Slot(0)
BLOCKS = 300
ROOT = Path(__file__).resolve().parents[2]
NAMES = [Name(Ino(n), BlockNo(n % 7), Version(Token(n * 3), n)) for n in range(1, BLOCKS + 1)]


def content(one: Name) -> bytes:
    """Bytes that no other name has."""
    return random.Random(one.ino).randbytes(20 + one.ino % 90)


def block_store(directory: Path) -> Path:
    """A closed store of several segments, with some versions dropped."""
    limits.SEGMENT_BYTES = 16_384
    store = LogStore(directory, SLOT)
    for at in range(0, BLOCKS, 10):
        for one in NAMES[at : at + 10]:
            store.append(one, checksum.seal(one, content(one)), Epoch(1), SLOT, content(one))
        store.end_round()
        store.settle()
        if at % 100 == 0:
            store.checkpoint()
    store.close()
    return directory


def read_blocks(directory: Path) -> Counter[str]:
    """Open, read every version, make the index anew, read again; fails on a wrong byte."""
    counts: Counter[str] = Counter()
    store = LogStore(directory, SLOT)
    _read_all(store, counts, "")
    _walk(store, counts)
    store.rebuild_index()
    _read_all(store, counts, " after rebuild")
    store.close()
    return counts


def _walk(store: LogStore, counts: Counter[str]) -> None:
    try:
        found = {one for one, _ in store.scan(None, 10_000)}
    except Damaged:
        counts["scan damaged"] += 1
    else:
        counts["unknown names"] += len(found - set(NAMES))


def _read_all(store: LogStore, counts: Counter[str], when: str) -> None:
    for one in NAMES:
        try:
            found = store.read(one)
        except Damaged:
            counts["damaged" + when] += 1
            continue
        if found is None:
            counts["absent" + when] += 1
        else:
            assert bytes(found[1]) == content(one), f"WRONG BYTES for {one}"


KEYS = [b"i" + struct.pack(">Q", n) for n in range(400)] + [
    b"e" + struct.pack(">Q", n % 9) + b"name %d" % n for n in range(600)
]


def value(key: bytes) -> bytes:
    """A payload that no other key has; some need pages of their own."""
    dice = random.Random(key)
    return dice.randbytes(dice.choice([10, 150, 150, 150, 900, 5000]))


def meta_store(directory: Path) -> Path:
    """A closed store that has seen changes, so that it has free pages."""
    store = LmdbStore(directory)
    for step in range(4):
        with store.write() as txn:
            for key in KEYS:
                txn.put(key, value(key) if step == 3 else key * 3)
            txn.put(b"z%d" % step, b"")
        store.end_round()
    store.close()
    return directory


def read_meta(directory: Path) -> Counter[str]:
    """Open and read every record, singly and in a scan; fails on a wrong value."""
    counts: Counter[str] = Counter()
    try:
        store = LmdbStore(directory)
    except StartError:
        counts["refused"] += 1
        return counts
    with store.read() as reader:
        for key in KEYS:
            try:
                found = reader.get(key)
            except Damaged:
                counts["damaged"] += 1
                continue
            counts["absent"] += found is None
            assert found in (None, value(key)), f"WRONG VALUE for {key!r}"
        try:
            for key, payload in reader.scan(b"e", b"j"):
                assert key in KEYS and payload == value(key), f"WRONG PAIR for {key!r}"
        except Damaged:
            counts["scan damaged"] += 1
    with store.write() as txn:
        txn.put(b"new", b"1")
    store.end_round()
    store.close()
    return counts


def index_file(directory: Path) -> list[Path]:
    """What "index" flips."""
    return [directory / "index" / "data.mdb"]


def log_files(directory: Path) -> list[Path]:
    """What "log" flips."""
    return [segment_path(directory, number) for number in segment_numbers(directory)]


def both(directory: Path) -> list[Path]:
    """What "both" flips."""
    return log_files(directory) + index_file(directory)


def meta_file(directory: Path) -> list[Path]:
    """What "meta" flips."""
    return [directory / "meta" / "data.mdb"]


Kind = tuple[
    Callable[[Path], Path], Callable[[Path], list[Path]], Callable[[Path], Counter[str]], int
]
KINDS: dict[str, Kind] = {
    "index": (block_store, index_file, read_blocks, 1),
    "log": (block_store, log_files, read_blocks, 1),
    "both": (block_store, both, read_blocks, 40),
    "meta": (meta_store, meta_file, read_meta, 1),
    "meta, many": (meta_store, meta_file, read_meta, 12),
}


def flip(files: list[Path], dice: random.Random, most_bits: int) -> None:
    """Flip 1 to `most_bits` bits."""
    for _ in range(dice.randint(1, most_bits)):
        sizes = [one.stat().st_size for one in files]
        (path,) = dice.choices(files, sizes)
        bit = dice.randrange(path.stat().st_size * 8)
        with path.open("r+b") as file:
            file.seek(bit // 8)
            (byte,) = file.read(1)
            file.seek(bit // 8)
            file.write(bytes([byte ^ 1 << bit % 8]))


def child(kind: str, directory: Path, seed: int, count: int) -> None:
    """Try `count` flips and print what happened."""
    logging.disable()
    make, files, read, most_bits = KINDS[kind]
    closed = make(directory / "closed")
    total: Counter[str] = Counter()
    for at in range(count):
        print(f"flip {at} of seed {seed}", file=sys.stderr, flush=True)
        broken = Path(shutil.copytree(closed, directory / "broken"))
        flip(files(broken), random.Random(f"{seed}.{at}"), most_bits)
        total += read(broken)
        total["tried"] += 1
        shutil.rmtree(broken)
    print(json.dumps(total))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_no_flip_is_ever_believed(kind: str, tmp_path: Path, seed: int) -> None:
    ran = subprocess.run(
        [sys.executable, __file__, kind, str(tmp_path), str(seed), str(FLIPS)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, f"{kind}: {ran.returncode}: {ran.stderr[-3000:]}"
    counts = json.loads(ran.stdout)
    print(kind, counts)
    assert counts["tried"] == FLIPS
    assert counts.get("unknown names", 0) == 0
    if kind == "index":
        assert "absent after rebuild" not in counts and "damaged after rebuild" not in counts


if __name__ == "__main__":
    child(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
