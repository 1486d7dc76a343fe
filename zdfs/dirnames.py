"""Names of a directory and what they lead to, packed: what a plain listing is made of.

inode u64, kind u8 (the type bits of its mode, >> 12), length of the name u8, name; and the next
"""

import struct
from collections.abc import Iterable

from zdfs.errors import BadMessage
from zdfs.ids import Ino

_HEAD = struct.Struct(">QBB")
OVERHEAD = _HEAD.size  # bytes that each takes besides its name
Named = tuple[bytes, Ino, int]  # name, inode, type bits


def pack(names: Iterable[Named]) -> bytes:
    """As a message carries them."""
    head = _HEAD.pack
    return b"".join([head(ino, mode >> 12, len(name)) + name for name, ino, mode in names])


def unpack(packed: bytes) -> list[Named]:
    """The inverse; BadMessage for anything else."""
    found: list[Named] = []
    at, end, head = 0, len(packed), _HEAD.unpack_from
    try:
        while at < end:
            ino, kind, length = head(packed, at)
            at += OVERHEAD + length
            found.append((packed[at - length : at], Ino(ino), kind << 12))
    except struct.error as error:
        raise BadMessage(f"names of a directory that end too early: {error}") from error
    if at != end or not all(name for name, _, _ in found):
        raise BadMessage("names of a directory that end too early, or are empty")
    return found
