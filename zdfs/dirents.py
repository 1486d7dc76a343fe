"""Listings as the kernel reads them: struct fuse_dirent and fuse_direntplus of linux/fuse.h.

libfuse's own fuse_add_direntry and its kin cost a call through ctypes and a struct stat for each
name, which is most of what a listing takes.
"""

import struct

from zdfs.attributes import NS
from zdfs.ids import Ino
from zdfs.wire import Attributes

_DIRENT = struct.Struct("=QQII")  # ino, off, namelen, type; the name follows, padded to 8 bytes
LEAST_BYTES = _DIRENT.size + 8  # of a name
# fuse_entry_out: nodeid, generation, entry_valid, attr_valid, the ns of both; fuse_attr: ino, size,
# blocks, atime, mtime, ctime, the ns of them, mode, nlink, uid, gid, rdev, blksize, flags
_ENTRY = struct.Struct("=QQQQII" + "QQQqqqIIIIIIIIII")
UNKNOWN = bytes(_ENTRY.size)  # nodeid 0: a name that the kernel shall not keep


def dirent(name: bytes, ino: Ino, mode: int, following: int) -> bytes:
    """One name; `following`: the offset behind it."""
    padding = -len(name) % 8
    return _DIRENT.pack(ino, following, len(name), mode >> 12 & 15) + name + bytes(padding)


def entry(
    found: Attributes, block_bytes: int, attribute_life_s: float, name_life_s: float
) -> bytes:
    """What a lookup of a name would say: stands before its dirent."""
    (atime, atime_ns), (mtime, mtime_ns) = divmod(found.atime_ns, NS), divmod(found.mtime_ns, NS)
    ctime, ctime_ns = divmod(found.ctime_ns, NS)
    name_life, attribute_life = int(name_life_s), int(attribute_life_s)
    return _ENTRY.pack(
        found.ino, 0, name_life, attribute_life,
        int((name_life_s - name_life) * NS), int((attribute_life_s - attribute_life) * NS),
        found.ino, found.size, -(-found.stored // 512), atime, mtime, ctime,
        atime_ns, mtime_ns, ctime_ns, found.mode, found.nlink, found.uid, found.gid, found.rdev,
        max(4096, block_bytes), 0,
    )  # fmt: skip
