"""fsspec's transactions: files are written beside their place, and renamed into it at the end.

At the end all of them are stored first, so what has no room or can't be written changes nothing;
then each is renamed, in the order in which they were opened.  Each of these replaces its file in
one step, all of them together don't: who looks meanwhile sees some, and if one fails (its place has
become a directory, nobody answers), those before it are there and those behind it are not.
"""

import errno
import io
import os
import secrets
import stat
from contextlib import suppress
from typing import Any

from fsspec.transaction import Transaction

from zdfs.api.filesystem import FileSystem

LINKS = 40  # symlinks that are followed, as by the kernel
NAME_BYTES = 200  # of a file's name that stand in that of the one beside it


class Deferred:
    """One file of a transaction."""

    def __init__(self, files: FileSystem, path: str, mode: str):
        """FileExistsError and IsADirectoryError as of `open`; nothing is made yet."""
        if "a" in mode or "r" in mode:
            raise io.UnsupportedOperation(
                f"{path}: a file of a transaction is written as a whole (mode 'wb' or 'xb'); "
                f"{mode!r} is for outside of it"
            )
        self._files, self._exclusive = files, "x" in mode
        if self._exclusive and files.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self.path, before = (path, None) if self._exclusive else _followed(files, path)
        if before is not None and stat.S_ISDIR(before.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        above, _, name = self.path.rpartition("/")
        shown = os.fsencode(name)[:NAME_BYTES].decode(errors="ignore")
        self.beside = f"{above}/.{shown}.{secrets.token_hex(8)}"
        # Who may not read what is replaced must not read what replaces it, either.
        self.permissions = 0o666 if before is None else 0o600
        self.file: Any = None  # the one beside, once it is open

    def store(self) -> None:
        """Its content, with the owner and the mode of what it replaces."""
        self.file.close()
        with suppress(FileNotFoundError):
            found = self._files.lstat(self.path)
            if stat.S_ISREG(found.st_mode) and not self._exclusive:
                with suppress(PermissionError):  # only root gives files away
                    self._files.chown(self.beside, found.st_uid, found.st_gid)
                self._files.chmod(self.beside, stat.S_IMODE(found.st_mode))

    def commit(self) -> None:
        """To its place."""
        self.store()
        self.place()

    def place(self) -> None:
        """Once it is stored."""
        self._files.rename(self.beside, self.path, overwrite=not self._exclusive)

    def discard(self) -> None:
        """As if it had never been opened."""
        with suppress(OSError):  # what can't be stored is not wanted
            self.file.close()
        with suppress(FileNotFoundError):
            self._files.remove(self.beside)


def _followed(files: FileSystem, path: str) -> tuple[str, os.stat_result | None]:
    """Where a path leads, and what is there; None: nothing."""
    for _ in range(LINKS):
        try:
            found = files.lstat(path)
        except FileNotFoundError:
            return path, None
        if not stat.S_ISLNK(found.st_mode):
            return path, found
        path = os.path.join(path.rpartition("/")[0] or "/", files.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


class Stored(Transaction):  # type: ignore[misc]
    """A transaction that stores everything before it renames anything."""

    def complete(self, commit: bool = True) -> None:
        """The end of it, whatever fails."""
        left: list[Deferred] = [file.deferred for file in self.files]
        self.files.clear()
        try:
            if commit:
                for one in left:
                    one.store()
                while left:
                    left[0].place()
                    del left[0]
        finally:
            self.fs._intrans, self.fs._transaction = False, None
            self.fs: Any = None
            for one in left:
                with suppress(OSError):  # what brought us here is what is to be told
                    one.discard()
