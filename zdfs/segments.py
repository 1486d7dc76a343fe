"""What stands in a dataserver's log: headers of segments and of records.  A part of `schema`, which
shows all of it; that module says what follows what, and why.
"""

import struct
from typing import NamedTuple

from zdfs import checksum
from zdfs.errors import Damaged, Foreign
from zdfs.ids import BlockNo, Epoch, Ino, Name, Slot, Token, Version

DATA_FORMAT = 4  # since 3: the state's lineage; an older log is gone on with in this one
DATA_FORMAT_MIN = 3  # that this release reads

_U64 = struct.Struct(">Q")

# --- the dataserver's log ----------------------------------------------------------------------

SEGMENT_MAGIC = b"zdfs-log"
RECORD_MAGIC = 0x7A524543  # "zREC"
KIND_BLOCK = 1
KIND_STATE = 2  # body: a packed DataState; the newest counts
KIND_ROUND = 3  # no body: the round before it is complete

# magic, format, store uuid, boot, segment number, first round; then the CRC-32C of all before
_SEGMENT = struct.Struct(">8sI16sIQQ")
SEGMENT_HEADER_BYTES = 64

# magic, kind, boot, round, synced-through round, CRC of the previous record's header, body length,
# name (ino, block, token, sequence), ring epoch, start, seal (crc16, crc32c); then CRC-32C of it
_RECORD = struct.Struct(">IBIQQIIQQQIQIHI")
_CRC = struct.Struct(">I")
RECORD_BYTES = _RECORD.size + _CRC.size


class SegmentHeader(NamedTuple):
    """The first bytes of a segment."""

    uuid: bytes
    boot: int
    number: int
    first_round: int
    format: int = DATA_FORMAT  # stands before all others; each segment has its own


class RecordHeader(NamedTuple):
    """What stands before each body in the log; a STATE record's seal has its body's CRC-32C."""

    kind: int
    boot: int
    round: int
    synced: int
    previous: int
    length: int
    name: Name
    epoch: Epoch
    start: Slot
    seal: checksum.Seal


def pack_segment(header: SegmentHeader) -> bytes:
    """A segment header, padded to SEGMENT_HEADER_BYTES."""
    head = _SEGMENT.pack(SEGMENT_MAGIC, header.format, *header[:4])
    return (head + _CRC.pack(checksum.crc32c(head))).ljust(SEGMENT_HEADER_BYTES, b"\0")


def unpack_segment(data: bytes) -> SegmentHeader:
    """The inverse; Damaged when it is none, Foreign when a newer release wrote it."""
    head = data[: _SEGMENT.size]
    if len(data) < _SEGMENT.size + _CRC.size or head[:8] != SEGMENT_MAGIC:
        raise Damaged("not a segment of a zdfs log")
    if _CRC.unpack_from(data, _SEGMENT.size)[0] != checksum.crc32c(head):
        raise Damaged("a segment header fails its checksum")
    _, version, uuid, boot, number, first = _SEGMENT.unpack(head)
    if not DATA_FORMAT_MIN <= version <= DATA_FORMAT:
        newer = version > DATA_FORMAT
        raise Foreign(
            f"a log of format {version}; this release reads {DATA_FORMAT_MIN} to {DATA_FORMAT}: "
            f"start it with {'the newer' if newer else 'an older'} release"
            + (", or go back as docs/UPGRADING.md says" if newer else " first")
        )
    return SegmentHeader(uuid, boot, number, first, version)


def record_salt(uuid: bytes, segment: int) -> int:
    """What record checksums of this segment start from: a copy of a log that somebody stored as a
    file is never taken for records.  It is also the `previous` of the segment's first record."""
    return checksum.crc32c(uuid + _U64.pack(segment))


def pack_record(header: RecordHeader, salt: int) -> tuple[bytes, int]:
    """A record header and its checksum, which the next record quotes."""
    head = _RECORD.pack(
        RECORD_MAGIC, header.kind, header.boot, header.round, header.synced, header.previous,
        header.length, header.name.ino, header.name.block, *header.name.version,
        header.epoch, header.start, *header.seal,
    )  # fmt: skip
    crc = checksum.crc32c(head, salt)
    return head + _CRC.pack(crc), crc


def unpack_record(data: bytes, salt: int) -> tuple[RecordHeader, int]:
    """A record header and its checksum; Damaged when it is none."""
    if len(data) < RECORD_BYTES:
        raise Damaged("the log ends inside a record header")
    (crc,) = _CRC.unpack_from(data, _RECORD.size)
    head = data[: _RECORD.size]
    if crc != checksum.crc32c(head, salt):
        raise Damaged("a record header fails its checksum")
    (magic, kind, boot, round_, synced, previous, length, ino, block, token, sequence, epoch, start,
     crc16, crc32c) = _RECORD.unpack(head)  # fmt: skip
    if magic != RECORD_MAGIC:
        raise Damaged("not a record of a zdfs log")
    name = Name(Ino(ino), BlockNo(block), Version(Token(token), sequence))
    seal = checksum.Seal(crc16, crc32c)
    return (
        RecordHeader(
            kind, boot, round_, synced, previous, length, name, Epoch(epoch), Slot(start), seal
        ),
        crc,
    )
