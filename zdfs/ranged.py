"""FUSE's operations on ranges of a file: the callbacks `fallocate`, `lseek`, `copy_file_range`.

What the kernel has done before it asks:

    fallocate        checked mode, range, limits (RLIMIT_FSIZE) and set-id bits; it knows none of
                     the modes that shift bytes.  After our answer it drops its pages of a hole
    lseek            only SEEK_DATA and SEEK_HOLE come here
    copy_file_range  checked both descriptors, and that the range ends where it knows the source to
                     end.  After our answer it drops its pages of the range.  Between two mounts it
                     copies by itself, and so it would within one: through its pages, 64 KiB at a
                     time, holes as zeros
"""

from typing import Any

from zdfs import kernel
from zdfs.fuse import Fuse, Reply
from zdfs.ids import Ino
from zdfs.ports import Run, Volume


class RangedOperations:
    """The three callbacks.  `file`: a pointer to struct fuse_file_info."""

    _volume: Volume
    _run: Run
    _fuse: Fuse

    def fallocate(self, ino: Ino, mode: int, offset: int, length: int, file: Any) -> None:
        """fallocate(2), by handle."""
        self._run(self._volume.fallocate(file.contents.fh, mode, offset, length))

    def lseek(self, ino: Ino, offset: int, whence: int, file: Any) -> Reply:
        """Where the next data or hole begins."""
        if self._volume.may_be_mapped(file.contents.fh):
            kernel.drop_pages(ino)  # what was written to a mapping comes here by that
        found = self._run(self._volume.lseek(file.contents.fh, offset, whence))
        return Reply(lambda request: self._fuse.reply_lseek(request, found))

    def copy_file_range(
        self, ino: Ino, offset: int, source: Any, into: Ino, at: int, target: Any,
        length: int, flags: int,
    ) -> Reply:  # fmt: skip
        """How many bytes were copied."""
        handles = source.contents.fh, target.contents.fh
        done = self._run(self._volume.copy_file_range(handles[0], offset, handles[1], at, length))
        return Reply(lambda request: self._fuse.reply_write(request, done))
