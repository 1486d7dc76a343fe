"""A small file system on `Memory`, for the tests of namespace, extents and metacheck."""

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

from tests.world.memory import Memory
from zdfs import blockmap, extents, holes, metacheck, namespace
from zdfs.blockmap import Dropped, MapEntry
from zdfs.checksum import Seal
from zdfs.ids import ROOT, BlockNo, Epoch, Ino, PageNo, Slot, Token, Version
from zdfs.namespace import Newborn
from zdfs.tables import Tables, View
from zdfs.wire import Attributes, Commit, Punch

BLOCK = 8


class Tree:
    """Operations by number, each in its own write block; time is a counter."""

    def __init__(self) -> None:
        self.store = Memory()
        self.proven: set[bytes] = set()
        self.now_ns = 1000
        self.inos = count(2)
        self.drops = count(1)
        self.sequences = count(1)
        with self.change() as tables:
            namespace.found(tables, self.now_ns)

    @contextmanager
    def change(self) -> Iterator[Tables]:
        """A write block."""
        self.now_ns += 1
        with self.store.write() as txn:
            yield Tables(txn, self.proven)

    def view(self) -> View:
        """Reading, with no memory of proofs."""
        return View(self.store)

    def next_drop(self) -> int:
        return next(self.drops)

    def make(
        self, parent: Ino, name: bytes, mode: int = stat.S_IFREG | 0o644, **more: object
    ) -> Ino:
        new = Newborn(Ino(next(self.inos)), mode, 7, 8, epoch=Epoch(1), start=Slot(0))
        new = new._replace(**more)  # type: ignore[arg-type]
        with self.change() as tables:
            return namespace.make(tables, self.now_ns, parent, name, new).ino

    def mkdir(self, parent: Ino, name: bytes) -> Ino:
        return self.make(parent, name, stat.S_IFDIR | 0o755)

    def do(self, operation: Callable[..., object], *arguments: object) -> object:
        """An operation of namespace or xattrs that takes the tables and the time."""
        with self.change() as tables:
            return operation(tables, self.now_ns, *arguments)

    def stat(self, ino: Ino) -> Attributes:
        return namespace.stat_inode(self.view(), ino)

    def names(self, ino: Ino = ROOT) -> dict[bytes, Ino]:
        """A directory as it is listed."""
        shown = namespace.listing(self.view(), ino)
        assert shown.end
        return {entry.name: entry.attributes.ino for entry in shown.entries}

    def grant(self, ino: Ino, token: int) -> None:
        with self.change() as tables:
            extents.grant(tables, ino, Token(token))

    def entry(self, token: int, length: int = BLOCK) -> MapEntry:
        """A map entry of a new version."""
        version = Version(Token(token), next(self.sequences))
        return MapEntry(version, length, length, Seal(1, 2))

    def commit(
        self,
        ino: Ino,
        blocks: dict[int, MapEntry],
        size: int = 0,
        abandoned: tuple[Dropped, ...] = (),
        **more: int,
    ) -> list[Dropped]:
        """Commit blocks under the file's token, by its next number."""
        inode = self.view().inode(ino)
        entries = [(BlockNo(block), entry) for block, entry in blocks.items()]
        request = Commit(
            ino, inode.token, inode.number + 1, Epoch(1), 0, blockmap.pack_numbered(entries), (),
            blockmap.pack_dropped(abandoned), size, self.now_ns + 1, False,
        )  # fmt: skip
        request = replace(request, **more)  # type: ignore[arg-type]
        with self.change() as tables:
            return extents.commit(tables, self.now_ns, request, BLOCK, self.next_drop)[1]

    def truncate(self, ino: Ino, size: int) -> list[Dropped]:
        inode = self.view().inode(ino)
        with self.change() as tables:
            return extents.truncate(
                tables, self.now_ns, ino, inode.token, inode.number + 1, size, BLOCK, self.next_drop
            )[1]

    def punch(self, ino: Ino, offset: int, length: int, size: int = 0) -> list[Dropped]:
        inode = self.view().inode(ino)
        request = Punch(ino, inode.token, inode.number + 1, offset, length, size)
        with self.change() as tables:
            return holes.punch(tables, self.now_ns, request, BLOCK, self.next_drop)[1]

    def reap(self, ino: Ino, most_pages: int = 1) -> int:
        """Let go of an orphan: how many slices that took."""
        for slices in count(1):
            with self.change() as tables:
                if extents.reap(tables, ino, most_pages, self.next_drop):
                    return slices
        raise AssertionError

    def visible(self, ino: Ino) -> dict[int, tuple[Version, int]]:
        """The whole map: block -> version and visible length."""
        pages = 1 + self.stat(ino).size // (BLOCK * 64)
        found = {}
        shown = extents.read_pages(self.view(), ino, PageNo(0), pages, BLOCK)
        for page, data in shown.pages:
            for position, entry in enumerate(blockmap.unpack_page(data)):
                if entry is not None:
                    found[page * 64 + position] = (entry.version, entry.visible)
        return found

    def check(self) -> None:
        """Nothing is wrong."""
        assert metacheck.whole(self.store) == []
