"""The chain of the metaserver's rounds, as dataservers keep copies of it.

A round is packed as

    magic, cluster, hash of the round before, incarnation, number, records, sum, number of changes;
    each change: key length u16, payload length u32 (2^32-1: deleted), key, payload

`records` is how many there are after the round, `sum` that of their checks (mod 2^64):
whoever has applied every round to a store can prove by them that nothing is missing in it.
"""

import hashlib
import struct
from collections.abc import Iterable
from typing import Annotated as A
from typing import NamedTuple

from zdfs import limits
from zdfs.errors import Damaged
from zdfs.ids import Incarnation, Round, Slot
from zdfs.records import U64, Between, Length

HASH_BYTES = 16
Change = tuple[bytes, bytes | None]  # key and payload; None: deleted


class Head(NamedTuple):
    """The newest round in a store: whose, its number and hash; and what it left: how many records,
    and the sum of their checks (mod 2^64)."""

    incarnation: Incarnation
    round: Round
    hash: A[bytes, Length(HASH_BYTES, HASH_BYTES)]
    records: A[int, U64]
    sum: A[int, U64]


class CopySet(NamedTuple):
    """Which slots hold copies, and how many must have a round before its replies leave."""

    number: A[int, U64]  # grows with each change; 0: none
    slots: A[tuple[Slot, ...], Length(0, 2 * limits.COPIES)]
    needed: A[int, Between(0, limits.COPIES)]


class RoundRecord(NamedTuple):
    """A round of the metaserver, as copied."""

    cluster: bytes  # 16; zeros before the founding
    previous: bytes  # hash of the round before
    incarnation: Incarnation
    round: Round
    records: int
    sum: int
    changes: tuple[Change, ...]


GENESIS = Head(Incarnation(0), Round(0), bytes(HASH_BYTES), 0, 0)
NO_COPIES = CopySet(0, (), 0)
_ROUND_MAGIC = b"zRND"
_ROUND = struct.Struct(">4s16s16sQQQQI")
_CHANGE = struct.Struct(">HI")
_DELETED = 2**32 - 1


def pack_changes(changes: Iterable[Change]) -> bytes:
    """Changes, one behind the other."""
    parts = []
    for key, payload in changes:
        length = _DELETED if payload is None else len(payload)
        parts += [_CHANGE.pack(len(key), length), key, payload or b""]
    return b"".join(parts)


def unpack_changes(data: bytes, at: int = 0) -> list[Change]:
    """The inverse, from an offset to the end; Damaged when they are none."""
    changes: list[Change] = []
    while at < len(data):
        try:
            key_bytes, length = _CHANGE.unpack_from(data, at)
        except struct.error as error:
            raise Damaged(f"not changes of metadata: {error}") from error
        key_at = at + _CHANGE.size
        at = key_at + key_bytes + (0 if length == _DELETED else length)
        payload = None if length == _DELETED else data[key_at + key_bytes : at]
        changes.append((data[key_at : key_at + key_bytes], payload))
    if at != len(data):
        raise Damaged("changes of metadata that end too early")
    return changes


def pack_round(record: RoundRecord) -> bytes:
    """A round as it is copied."""
    head = _ROUND.pack(_ROUND_MAGIC, *record[:6], len(record.changes))
    return head + pack_changes(record.changes)


def unpack_round(data: bytes) -> RoundRecord:
    """The inverse; Damaged when it is none."""
    try:
        magic, cluster, previous, incarnation, number, count, total, length = _ROUND.unpack_from(
            data
        )
    except struct.error as error:
        raise Damaged(f"not a round of the metaserver: {error}") from error
    changes = tuple(unpack_changes(data, _ROUND.size)) if magic == _ROUND_MAGIC else ()
    if magic != _ROUND_MAGIC or len(changes) != length:
        raise Damaged("not a round of the metaserver")
    return RoundRecord(
        cluster, previous, Incarnation(incarnation), Round(number), count, total, changes
    )


def head_of(record: RoundRecord, packed: bytes) -> Head:
    """What a store has come to with this round."""
    digest = hashlib.blake2b(packed, digest_size=HASH_BYTES).digest()
    return Head(record.incarnation, record.round, digest, record.records, record.sum)


def batch(rounds: Iterable[bytes]) -> tuple[list[int], list[bytes]]:
    """As many packed rounds as one message carries: how many frames each has, and these."""
    parts: list[int] = []
    frames: list[bytes] = []
    size = 0
    for packed in rounds:
        size += len(packed)
        if parts and (size > limits.BATCH_BYTES or len(parts) == limits.COPY_ROUNDS):
            break
        some = cut(packed)
        parts.append(len(some))
        frames += some
    return parts, frames


def cut(packed: bytes) -> list[bytes]:
    """A packed round in frames."""
    size = limits.FRAME_BYTES
    return [packed[at : at + size] for at in range(0, len(packed), size)]
