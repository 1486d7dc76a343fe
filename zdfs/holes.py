"""Holes of a file's map: punched, and looked for.

Pure functions on the tables, beside `extents` and by its rules.  A hole is an entry that is not
there, and a page of only holes is a record that is not there: so big empty stretches cost nothing
here, and what says "nothing but holes" proves that no page was lost.
"""

from errno import EFBIG

from zdfs import blockmap, limits, schema
from zdfs.blockmap import ENTRY_BYTES, MapEntry
from zdfs.errors import Posix
from zdfs.extents import HOLE, Number, Sums, entries_in, writer
from zdfs.ids import BlockNo, Ino, PageNo
from zdfs.namespace import attributes
from zdfs.tables import PAGE_BYTES, Tables, View
from zdfs.wire import Attributes, MapPage, MapPages, Punch

EXAMINED = limits.INVENTORY_EXAMINED  # pages that one search for a hole looks at


def punch(
    tables: Tables, now_ns: int, request: Punch, block_bytes: int, next_drop: Number
) -> tuple[Attributes, list[blockmap.Dropped]]:
    """Whole blocks become holes, the file at least so large; times move as on a write.

    Fenced, BadMessage, EFBIG, EISDIR, EINVAL.
    """
    ino, end = request.ino, request.offset + request.length
    inode = writer(tables, ino, request.token, request.number)
    if end > limits.FILE_BYTES:
        raise Posix(EFBIG)
    sums = Sums()
    first, stop = blockmap.whole(request.offset, end, inode.size, block_bytes)
    if request.length and first < stop and inode.pages:
        _let_go(tables, ino, first, stop, sums)
    inode = tables.move_pages(
        ino, sums.count, sums.moved, sums.stored, number=request.number,
        size=max(inode.size, request.size), mtime_ns=now_ns, ctime_ns=now_ns,
    )  # fmt: skip
    tables.queue_drops(ino, sums.dropped, next_drop)
    tables.save()
    return attributes(ino, inode), sums.dropped


def _let_go(tables: Tables, ino: Ino, first: BlockNo, stop: BlockNo, sums: Sums) -> None:
    """Every entry of first..stop; the pages between that aren't there are let alone."""
    low = schema.page_key(ino, blockmap.page_of(first)[0])
    high = schema.page_key(ino, PageNo(blockmap.page_of(BlockNo(stop - 1))[0] + 1))
    for key, payload in list(tables.read.scan(low, high)):
        page = schema.page_of_key(key)[1]
        old = tables.as_page(key, payload)
        changes: list[tuple[int, MapEntry | None]] = []
        for block, entry in entries_in(page, old):
            if first <= block < stop:
                sums.let_go(block, entry)
                changes.append((blockmap.page_of(block)[1], None))
        if changes:
            sums.page(tables.set_page(ino, page, old, blockmap.spliced(old, changes)))


def next_data(view: View, ino: Ino, page: PageNo, block_bytes: int) -> MapPages:
    """The first page at or behind `page` that isn't only holes; no page: proven to be none.

    EISDIR, EINVAL, Damaged.
    """
    inode = view.regular(ino)
    shown: tuple[MapPage, ...] = ()
    end = schema.after(schema.page_prefix(ino))
    for key, payload in view.read.scan(schema.page_key(ino, page), end):
        shown = (MapPage(schema.page_of_key(key)[1], view.as_page(key, payload)),)
        break
    inside = page * limits.PAGE_BLOCKS * block_bytes < inode.size
    if inside and not (shown and shown[0].page == page):
        view.prove_pages(ino)  # those passed over, each of them, are holes
    return MapPages(attributes(ino, inode), shown)


def next_hole(
    view: View, ino: Ino, page: PageNo, block_bytes: int, examined: int = EXAMINED
) -> MapPages:
    """The first page at or behind `page` with a hole, or the last of so many full ones.

    EISDIR, EINVAL, Damaged.
    """
    inode = view.regular(ino)
    found = MapPage(page, b"")
    low, high = schema.page_key(ino, page), schema.page_key(ino, PageNo(page + examined))
    for key, payload in view.read.scan(low, high):
        at = schema.page_of_key(key)[1]
        if at != found.page + bool(found.entries):
            break  # those between are not there
        found = MapPage(at, view.as_page(key, payload))
        if not _full(found.entries):
            break
    if found.entries and _full(found.entries) and found.page < page + examined - 1:
        found = MapPage(PageNo(found.page + 1), b"")
    if not found.entries and found.page * limits.PAGE_BLOCKS * block_bytes < inode.size:
        view.prove_pages(ino)
    return MapPages(attributes(ino, inode), (found,))


def _full(page: bytes) -> bool:
    """Whether a packed page has no hole."""
    return len(page) == PAGE_BYTES and all(
        page[start : start + len(HOLE)] != HOLE for start in range(0, PAGE_BYTES, ENTRY_BYTES)
    )
