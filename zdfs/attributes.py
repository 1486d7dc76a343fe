"""What becomes of attributes where the kernel leaves it to the file system.  Pure."""

import stat

from zdfs import limits

NS = 1_000_000_000
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2  # sys/stat.h, in place of nanoseconds


def given_ns(seconds: int, nanoseconds: int) -> int | None:
    """The time that utimensat gives, in ns since 1970, or the nearest one that is kept, as Linux
    takes the nearest one of every file system; None: UTIME_NOW or UTIME_OMIT."""
    if nanoseconds in (UTIME_NOW, UTIME_OMIT):
        return None
    return min(max(seconds * NS + nanoseconds, limits.FIRST_NS), limits.LAST_NS)


def without_set_ids(mode: int) -> int:
    """A file's mode after somebody without privileges changed its content: as the kernel ends the
    bits for write and truncate (fuse_setattr of fs/fuse/dir.c).  It sends nothing for O_TRUNC."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode
