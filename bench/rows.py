"""The rows of the race: what is done, in which order, and what each needs.

Rows run from top to bottom; one that reads or changes what another made names it in `needs`, and
what is needed is done too, even if it was not asked for.  A hidden row is only ever needed.  Every
figure is a rate: more is better.
"""

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str  # on the command line
    work: str  # of bench.works
    what: str
    unit: str
    streams: int = 1
    cold: bool = False  # after a new mount, and after the kernel dropped its caches
    needs: tuple[str, ...] = ()
    hidden: bool = False


ROWS = [
    Row("write-1", "write", "sequential write, fsync, 1 stream", "MB/s"),
    Row("write-4", "write", "sequential write, fsync, 4 streams", "MB/s", 4),
    Row("read-cold-1", "read", "sequential read, cold, 1 stream", "MB/s", 1, True, ("write-1",)),
    Row("read-cold-4", "read", "sequential read, cold, 4 streams", "MB/s", 4, True, ("write-4",)),
    Row("read-warm-1", "read_again", "sequential read, warm, 1 stream", "MB/s", needs=("write-1",)),
    Row(
        "read-warm-4",
        "read_again",
        "sequential read, warm, 4 streams",
        "MB/s",
        4,
        needs=("write-4",),
    ),
    Row(
        "page-read-1",
        "read_pages",
        "random 4 KiB read, cold, 1 thread",
        "reads/s",
        1,
        True,
        ("write-1",),
    ),
    Row(
        "page-read-16",
        "read_pages",
        "random 4 KiB read, cold, 16 threads",
        "reads/s",
        16,
        True,
        ("write-1",),
    ),
    Row(
        "overwrite",
        "overwrite",
        "random 4 KiB overwrite, one fsync",
        "writes/s",
        needs=("write-1",),
    ),
    Row(
        "overwrite-sync",
        "overwrite_synced",
        "random 4 KiB overwrite, fsync each",
        "writes/s",
        needs=("write-1",),
    ),
    Row("create-1", "create", "create, write 4 KiB, close", "files/s"),
    Row("create-8", "create", "create, write 4 KiB, close, 8 processes", "files/s", 8),
    Row("stat", "stat", "stat of small files, cold", "files/s", 1, True, ("create-1",)),
    Row("ls", "long_list", "ls -l of small files, cold", "entries/s", 1, True, ("create-1",)),
    Row("read-small", "read_small", "read small files, cold", "files/s", 1, True, ("create-1",)),
    Row("fill", "fill", "create empty files, 8 processes", "files/s", 8, hidden=True),
    Row("readdir", "list_names", "readdir, big directory, cold", "entries/s", 1, True, ("fill",)),
    Row("rename", "rename", "rename in a big directory", "files/s", needs=("fill",)),
    Row("unlink", "unlink", "unlink in a big directory", "files/s", needs=("fill",)),
    Row("mkdir", "mkdir", "mkdir in a big directory", "entries/s"),
    Row("untar", "untar", "tar -x of a source tree", "entries/s"),
    Row("clone", "clone", "git clone of a source tree", "entries/s"),
    Row("status", "status", "git status of a source tree", "entries/s", needs=("clone",)),
    Row("grep", "grep", "grep -r in a source tree, cold", "entries/s", 1, True, ("untar",)),
    Row("remove", "remove", "rm -rf of a source tree", "entries/s", needs=("untar",)),
    Row("compile", "build", "make -j2 of a C program", "files/s"),
]
BY_NAME = {row.name: row for row in ROWS}


def plan(only: Iterable[str]) -> list[Row]:
    """The rows to run, in order; all if none is named."""
    wanted = set(only) or set(BY_NAME)
    asked: set[str] = set()
    while wanted - asked:
        asked |= wanted
        wanted = {need for name in asked for need in BY_NAME[name].needs}
    return [row for row in ROWS if row.name in asked]
