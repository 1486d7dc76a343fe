"""Checksums: the *seal* of a block version and the *check* of a stored record.

A seal is CRC-16/MODBUS (as the seed asks) and CRC-32C beside it, because a 16-bit sum lets one
random damage in 65,536 through.  Both run over the block's name *and* its bytes, so that a block
in another's place fails too.  A check is CRC-64/XZ over a record's key and value.

fastcrc computes all three at tens of GB/s; crcmod gives the same values (0.25 GB/s, or 8 MB/s when
pip silently installed it without its C part, which `engine()` tells).  The only importer of both.
"""

import struct
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from zdfs.ids import Name

Buffer = bytes | bytearray | memoryview
_NAME = struct.Struct(">QQQII")

Crc = Callable[[Any, int], int]


class Seal(NamedTuple):
    """Both checksums of one block version, over its name and its stored bytes."""

    crc16: int
    crc32c: int


def _fast() -> tuple[Crc, Crc, Crc, str]:
    import fastcrc

    return fastcrc.crc16.modbus, fastcrc.crc32.iscsi, fastcrc.crc64.xz, "fastcrc"


def _crcmod() -> tuple[Crc, Crc, Crc, str]:
    import crcmod

    crc16 = crcmod.mkCrcFun(0x18005, initCrc=0xFFFF, rev=True, xorOut=0x0000)
    crc32 = crcmod.mkCrcFun(0x11EDC6F41, initCrc=0, rev=True, xorOut=0xFFFFFFFF)
    crc64 = crcmod.mkCrcFun(0x142F0E1EBA9EA3693, initCrc=0, rev=True, xorOut=2**64 - 1)
    quick = getattr(sys.modules["crcmod.crcmod"], "_usingExtension", False)
    return crc16, crc32, crc64, "crcmod" if quick else "crcmod (pure Python)"


def choose(*makers: Callable[[], tuple[Crc, Crc, Crc, str]]) -> tuple[Crc, Crc, Crc, str]:
    """The first engine that can be imported."""
    for maker in makers[:-1]:
        try:
            return maker()
        except ImportError:
            continue
    return makers[-1]()


_crc16, _crc32c, _crc64, _engine = choose(_fast, _crcmod)


def engine() -> str:
    """Which library computes: "fastcrc", "crcmod", or "crcmod (pure Python)" (slow: warn)."""
    return _engine


def seal(name: Name, data: Buffer) -> Seal:
    """The seal of `data` stored under `name`."""
    ino, block, (token, sequence) = name
    head = _NAME.pack(ino, block, token, sequence, len(data))
    return Seal(_crc16(data, _crc16(head, 0xFFFF)), _crc32c(data, _crc32c(head, 0)))


def crc32c(data: Buffer, initial: int = 0) -> int:
    """Plain CRC-32C, for log headers and the like."""
    return _crc32c(data, initial)


def check(key: Buffer, value: Buffer) -> int:
    """64-bit check of a stored record; sums of these prove that no record is absent."""
    return _crc64(value, _crc64(key, 0))
