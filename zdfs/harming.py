"""Damage on purpose to what a dataserver has stored, for trials: what becomes of the bytes.

FLIP, TRUNCATE   other bytes in the record's body: its own seal shows it
LOSE             the index forgets the version
STALE            a lost write: the block's earlier content stands under the newer name, and index
                 and record agree with it, so that only the map's seal tells
"""

import os
import random
from pathlib import Path

from zdfs import schema
from zdfs.ids import Name, Version
from zdfs.log import Bad, read_body, segment_numbers, segment_path, walk
from zdfs.wire import Harm

SHOWN_BYTES = 16  # before and after a harmed place


def shown(before: bytes, after: bytes) -> tuple[int, bytes, bytes]:
    """Where two contents part, and what stands there in each."""
    same = min(len(before), len(after))
    at = next((at for at in range(same) if before[at] != after[at]), same)
    return at, before[at : at + SHOWN_BYTES], after[at : at + SHOWN_BYTES]


def older(directory: Path, uuid: bytes, name: Name, now: bytes) -> bytes | None:
    """The newest whole content that a block had before this version, if it is another one than
    `now`.  Dropped versions stay in the log until their segment is compacted.  Reads all headers.
    """
    best: tuple[Version, bytes] | None = None
    for number in segment_numbers(directory):
        fd = os.open(segment_path(directory, number), os.O_RDONLY | os.O_CLOEXEC)
        try:
            for found in walk(
                fd, schema.record_salt(uuid, number), schema.SEGMENT_HEADER_BYTES, None
            ):
                if isinstance(found, Bad) or found.header.kind != schema.KIND_BLOCK:
                    continue
                other = found.header.name
                newer = other.version >= name.version or (best and other.version < best[0])
                if other[:2] != name[:2] or newer:
                    continue
                body = read_body(fd, found)
                if body is not None and body != now:
                    best = (other.version, body)
        finally:
            os.close(fd)
    return best and best[1]


def damage(before: bytes, harm: Harm, seed: int) -> bytes:
    """FLIP: 1 to 8 bits within 16 bytes; TRUNCATE: the second half zeroed (or all ones, where that
    would change nothing)."""
    after = bytearray(before)
    if harm == Harm.TRUNCATE:
        half = len(before) // 2
        after[half:] = bytes(len(before) - half)
        if after == before:
            after[half:] = b"\xff" * (len(before) - half)
        return bytes(after)
    dice = random.Random(seed)
    first = dice.randrange(len(before)) * 8
    bits = range(first, min(first + SHOWN_BYTES * 8, len(before) * 8))
    for bit in dice.sample(bits, min(len(bits), dice.randint(1, 8))):
        after[bit // 8] ^= 1 << bit % 8
    return bytes(after)
