"""What a mount does otherwise than a local file system, and who decides that.

A case that shows one is marked `@differs("name")`: it must hold locally and must fail on the mount;
the day it holds there too, it is a failure, and the entry goes.
"""

from typing import NamedTuple

import pytest


class Difference(NamedTuple):
    """One line of what users are told."""

    call: str
    what: str
    why: str  # who decides it, and where that stands


NOATIME = "the kernel leaves access times to the file system (fs/fuse/inode.c: S_NOATIME)"

DIFFERENCES: dict[str, Difference] = {
    "access times": Difference("read", "moves no atime, as with noatime", NOATIME),
    "access times of directories": Difference(
        "getdents", "moves no atime, as with noatime", NOATIME
    ),
    "access times of symlinks": Difference("readlink", "moves no atime, as with noatime", NOATIME),
    "setgid without x": Difference(
        "write, truncate",
        "leave setgid where the group may not execute, whoever writes",
        "the kernel ends it with the group's x only (fs/fuse/dir.c, fuse_setattr)",
    ),
    "mappings that append": Difference(
        "mmap",
        "ENODEV for a shared mapping by a descriptor that was opened with O_APPEND",
        "such files are opened with direct_io, or the kernel would cut appended records at pages; "
        "it maps those from 6.6 on only if asked (fs/fuse/file.c, fuse_file_mmap), by libfuse 3.17",
    ),
    "set-id programs": Difference(
        "execve",
        "a set-id program runs as its caller",
        "a FUSE mount is nosuid unless root mounts it with -o suid (libfuse lib/mount.c)",
    ),
    "device nodes": Difference(
        "open",
        "EACCES for a device node",
        "a FUSE mount is nodev unless root mounts it with -o dev (libfuse lib/mount.c)",
    ),
}


def differs(name: str) -> pytest.MarkDecorator:
    """Mark a case that doesn't hold on a mount."""
    assert name in DIFFERENCES, f"{name} is not explained in DIFFERENCES"
    return pytest.mark.differs(name)
