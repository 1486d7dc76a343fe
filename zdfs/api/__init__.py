"""zdfs without a mount: `fs = zdfs.connect("host:2222")`, then what `os`, `open`, `shutil` have.

    connection   a session: threads, time limits, ^C, fork, errors
    operations   what is asked, by path: permissions (identity), the way (places), the volume
    files        open files: io.RawIOBase and Python's own buffers
    filesystem   FileSystem: everything under the names that `os` has for it; entries: scandir
    trees        walk, glob, rmtree, copies with many files in flight; sides: their two ends

docs/API.md tells it to users.
"""

from zdfs.api.entries import Entry
from zdfs.api.files import RawFile
from zdfs.api.filesystem import FileSystem, connect
from zdfs.api.identity import Who
from zdfs.api.trees import Copied

__all__ = ["Copied", "Entry", "FileSystem", "RawFile", "Who", "connect"]
