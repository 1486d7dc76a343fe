"""A file's content as the metaserver knows it: block maps, committed, cut, let go, listed.

Pure functions on the tables, as in `namespace`.  A map page is kept packed (`blockmap`) and changed
by position, so that a commit of one block does not unpack sixty-four.  Rules:

- Only the highest token ever granted changes a map (else Fenced), by commits numbered without gaps;
  a block's version only grows.
- No entry reaches beyond the file's size, so that a page beyond it is known to be missing; one
  *inside* the size is a hole only if the inode's count and sum prove that none is lost.
- A page of only holes is not kept.  `stored` is the sum of the entries' stored bytes.
- The transaction that lets go of versions queues their drops in itself (`next_drop` numbers them).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from errno import EFBIG, EINVAL
from itertools import islice
from typing import NamedTuple

from zdfs import blockmap, limits, placement, schema
from zdfs.blockmap import ENTRY_BYTES, Dropped, MapEntry
from zdfs.errors import BadMessage, Damaged, Fenced, Posix, PutAgain
from zdfs.ids import BlockNo, Epoch, Ino, Name, PageNo, Slot, Token
from zdfs.namespace import attributes
from zdfs.schema import Inode
from zdfs.tables import MASK, Tables, View, changed, scan_past_damage
from zdfs.wire import Attributes, Commit, InventoryPage, MapPage, MapPages, Stock

HOLE = bytes(8)  # a hole's token
Number = Callable[[], int]


class Sums:
    """What an operation moved, over all pages it touched."""

    def __init__(self) -> None:
        self.count = self.moved = self.stored = 0
        self.dropped: list[Dropped] = []

    def page(self, move: tuple[int, int]) -> None:
        """Tables.set_page's answer."""
        self.count += move[0]
        self.moved += move[1]

    def let_go(self, block: BlockNo, entry: MapEntry) -> None:
        """An entry that the map named until now."""
        self.stored -= entry.stored
        self.dropped.append(Dropped(block, entry.version))


def _first_block(page: PageNo) -> BlockNo:
    return BlockNo(page * limits.PAGE_BLOCKS)


def entries_in(page: PageNo, data: bytes, position: int = 0) -> Iterable[tuple[BlockNo, MapEntry]]:
    """The entries of a packed page from a position on, holes left out."""
    first = page * limits.PAGE_BLOCKS + position
    for block, entry in enumerate(blockmap.unpack_page(data[position * ENTRY_BYTES :]), first):
        if entry is not None:
            yield BlockNo(block), entry


# --- the grant ---------------------------------------------------------------------------------


def grant(tables: Tables, ino: Ino, token: Token) -> Inode:
    """Let `token` write the file, and none below it any more: the inode, with its last number.

    Fenced when a higher one was granted; the same one again is a repeat.  Nothing that a reader
    sees changes, so the change counter stays.
    """
    inode = tables.regular(ino)
    if token < inode.token:
        raise Fenced(f"inode {ino}: a later write grant was given")
    if token > inode.token:
        tables.stage(ino, changed(inode, {"token": token}))
        tables.save()
    return tables.inode(ino)


def writer(tables: Tables, ino: Ino, token: Token, number: int) -> Inode:
    """The file, if this token may change it now, by its next number."""
    inode = tables.regular(ino)
    if token != inode.token:
        raise Fenced(f"inode {ino}: token {token} was passed over by {inode.token}")
    if number != inode.number + 1:
        raise BadMessage(f"inode {ino}: change {number} after {inode.number}")
    return inode


# --- reading -----------------------------------------------------------------------------------


def read_pages(view: View, ino: Ino, first: PageNo, count: int, block_bytes: int) -> MapPages:
    """`count` pages of a map; b"" are proven holes.  EISDIR, EINVAL, Damaged."""
    inode = view.regular(ino)
    low, high = schema.page_key(ino, first), schema.page_key(ino, PageNo(first + count))
    found: dict[PageNo, bytes] = {}
    summed = 0
    for key, payload in view.read.scan(low, high):
        found[schema.page_of_key(key)[1]] = view.as_page(key, payload)
        summed += schema.check(key, payload)
    inside = -(-inode.size // (block_bytes * limits.PAGE_BLOCKS)) - first
    if len(found) >= inode.pages:
        if (len(found), summed & MASK) != (inode.pages, inode.pages_sum):
            raise Damaged(
                f"inode {ino}: its map pages are not those that it counted",
                key=schema.inode_key(ino),
            )
    elif len(found) < min(count, inside):
        view.prove_pages(ino)
    pages = [PageNo(first + offset) for offset in range(count)]
    shown = tuple([MapPage(page, found.get(page, b"")) for page in pages])
    return MapPages(attributes(ino, inode), shown)


def named(view: View, name: Name) -> bool:
    """Whether the map of a file that is there names this version.  "No" is proven (Damaged)."""
    page, position = blockmap.page_of(name.block)
    data = view.page(name.ino, page)
    if data is None:
        view.prove_pages(name.ino, limits.FILE_BYTES)  # whatever it costs: garbage is dropped
        return False
    entry = blockmap.entry_at(data, position)
    return entry is not None and entry.version == name.version


# --- committing --------------------------------------------------------------------------------


def commit(
    tables: Tables, now_ns: int, request: Commit, block_bytes: int, next_drop: Number
) -> tuple[Attributes, list[Dropped]]:
    """Make new versions count, with size and mtime; the versions let go are queued as drops.

    The caller has checked the acknowledgements and answered repeats.  Fenced, PutAgain (the file
    was moved to another ring), BadMessage.
    """
    ino = request.ino
    inode = writer(tables, ino, request.token, request.number)
    size = max(inode.size, request.size)
    by_page, abandoned = _parse(request, size, block_bytes)
    if by_page and request.epoch != inode.epoch:
        raise PutAgain(f"inode {ino} stands on ring {inode.epoch}, not {request.epoch}")
    sums = Sums()
    pages = _pages_before(tables, ino, inode, by_page, block_bytes)
    for page, entries in by_page.items():
        old = pages[page]
        _supersede(page, old, entries, sums)
        sums.page(tables.set_page(ino, page, old, blockmap.spliced(old, entries)))
    _check_abandoned(tables, ino, abandoned, request.token)
    sums.dropped += abandoned
    fields: dict[str, int] = {"number": request.number, "size": size}
    if request.mtime_ns is not None:  # a write moves both times at once, and it was then, not now
        fields["mtime_ns"] = request.mtime_ns
        fields["ctime_ns"] = max(inode.ctime_ns, min(request.mtime_ns, now_ns))
    inode = tables.move_pages(ino, sums.count, sums.moved, sums.stored, **fields)
    tables.queue_drops(ino, sums.dropped, next_drop)
    tables.save()
    return attributes(ino, inode), sums.dropped


def entries_of(request: Commit) -> list[tuple[BlockNo, MapEntry]]:
    """What a commit wants the map to say; BadMessage."""
    try:
        return blockmap.unpack_numbered(request.blocks)
    except ValueError as error:
        raise BadMessage(f"a commit of inode {request.ino}: {error}") from error


Updates = dict[PageNo, list[tuple[int, MapEntry | None]]]


def _parse(request: Commit, size: int, block_bytes: int) -> tuple[Updates, list[Dropped]]:
    """A commit's entries by page and position, and what it abandons; BadMessage."""
    entries = entries_of(request)
    try:
        abandoned = blockmap.unpack_dropped(request.abandoned)
    except ValueError as error:
        raise BadMessage(f"a commit of inode {request.ino}: {error}") from error
    by_page: Updates = defaultdict(list)
    blocks = set()
    for block, entry in entries:
        token, sequence = entry.version
        if token != request.token or sequence < request.floor:
            raise BadMessage(f"block {block}: version {entry.version} is not under this grant")
        if entry.stored > block_bytes or block * block_bytes + entry.visible > size:
            raise BadMessage(f"block {block}: longer than a block, or than the file")
        blocks.add(block)
        page, position = blockmap.page_of(block)
        by_page[page].append((position, entry))
    if len(blocks) != len(entries):
        raise BadMessage(f"a commit of inode {request.ino} names a block twice")
    return by_page, abandoned


def _pages_before(
    view: View, ino: Ino, inode: Inode, pages: Iterable[PageNo], block_bytes: int
) -> dict[PageNo, bytes]:
    """Map pages as they are before the first is changed; b"": proven to be holes."""
    found = {page: view.page(ino, page) or b"" for page in pages}
    if inode.pages and any(
        not data and _first_block(page) * block_bytes < inode.size for page, data in found.items()
    ):
        view.prove_pages(ino)
    return found


def _supersede(
    page: PageNo, old: bytes, entries: list[tuple[int, MapEntry | None]], sums: Sums
) -> None:
    """Let go of what stands where the new entries go; versions only grow."""
    for position, new in entries:
        assert new is not None
        block = BlockNo(_first_block(page) + position)
        before = blockmap.entry_at(old, position)
        if before is not None:
            if new.version <= before.version:
                raise BadMessage(f"block {block}: {new.version} does not follow {before.version}")
            sums.let_go(block, before)
        sums.stored += new.stored


def _check_abandoned(view: View, ino: Ino, abandoned: list[Dropped], token: Token) -> None:
    """A writer gives up only what is its own and what no map names."""
    for block, version in abandoned:
        page, position = blockmap.page_of(block)
        data = view.page(ino, page)
        named = None if data is None else blockmap.entry_at(data, position)
        if version.token > token or (named is not None and named.version == version):
            raise BadMessage(f"block {block}: version {version} can't be abandoned")


# --- cutting -----------------------------------------------------------------------------------


def truncate(
    tables: Tables,
    now_ns: int,
    ino: Ino,
    token: Token,
    number: int,
    size: int,
    block_bytes: int,
    next_drop: Number,
) -> tuple[Attributes, list[Dropped]]:
    """Set the size: let go of what lies beyond; the last block shows less.  EFBIG, EISDIR, ..."""
    inode = tables.regular(ino)
    if size < 0:
        raise Posix(EINVAL)
    if size > limits.FILE_BYTES:
        raise Posix(EFBIG)
    inode = writer(tables, ino, token, number)
    sums = Sums()
    if size < inode.size and inode.pages:
        _cut(tables, ino, size, block_bytes, sums)
    if size == 0 and (inode.pages + sums.count, (inode.pages_sum + sums.moved) & MASK) != (0, 0):
        raise Damaged(
            f"inode {ino}: its map pages are not those that it counted", key=schema.inode_key(ino)
        )
    inode = tables.move_pages(
        ino, sums.count, sums.moved, sums.stored,
        number=number, size=size, mtime_ns=now_ns, ctime_ns=now_ns,
    )  # fmt: skip
    tables.queue_drops(ino, sums.dropped, next_drop)
    tables.save()
    return attributes(ino, inode), sums.dropped


def _cut(tables: Tables, ino: Ino, size: int, block_bytes: int, sums: Sums) -> None:
    """Cut the map at `size`."""
    last = BlockNo(size // block_bytes)  # the block that is cut within, if any is
    visible = size % block_bytes
    border, position = blockmap.page_of(last)
    low = schema.page_key(ino, border)
    for key, payload in list(tables.read.scan(low, schema.after(schema.page_prefix(ino)))):
        page = schema.page_of_key(key)[1]
        old = tables.as_page(key, payload)
        new = b""
        if page == border:
            new = _cut_page(page, old, position, visible, sums)
        else:
            for block, entry in entries_in(page, old):
                sums.let_go(block, entry)
        if new != old:
            sums.page(tables.set_page(ino, page, old, new))


def _cut_page(page: PageNo, old: bytes, position: int, visible: int, sums: Sums) -> bytes:
    """A page cut at a position, whose own entry stays when some of it is still visible."""
    changes: list[tuple[int, MapEntry | None]] = []
    for block, entry in entries_in(page, old, position):
        at = block % limits.PAGE_BLOCKS
        if at == position and visible:
            changes.append((at, entry._replace(visible=min(entry.visible, visible))))
        else:
            sums.let_go(block, entry)
            changes.append((at, None))
    return blockmap.spliced(old, changes) if changes else old


# --- letting go --------------------------------------------------------------------------------


def reap(tables: Tables, ino: Ino, most_pages: int, next_drop: Number) -> bool:
    """Let go of an orphan: so many map pages, and after the last the inode; True: it is gone."""
    key = schema.number_key(b"o", ino)
    inode = tables.inode(ino)
    if inode.nlink or tables.read.get(key) is None:
        raise Damaged(f"inode {ino} is no orphan", key=key)
    sums = Sums()
    prefix = schema.page_prefix(ino)
    for page_key, payload in _some(tables, prefix, most_pages):
        page = schema.page_of_key(page_key)[1]
        for block, entry in entries_in(page, tables.as_page(page_key, payload)):
            sums.let_go(block, entry)
        sums.page(tables.set_page(ino, page, payload, None))
    tables.queue_drops(ino, sums.dropped, next_drop)
    inode = tables.inode(ino)
    if sums.count:
        inode = tables.move_pages(ino, sums.count, sums.moved, sums.stored)
    done = not _some(tables, prefix, 1)
    if done:
        _vanish(tables, ino, inode)
        tables.txn.delete(key)
    tables.save()
    return done


def _some(view: View, prefix: bytes, most: int) -> list[tuple[bytes, bytes]]:
    """The first children under a prefix."""
    return list(islice(view.read.scan(prefix, schema.after(prefix)), most))


def _vanish(tables: Tables, ino: Ino, inode: Inode) -> None:
    """The inode goes, with its attributes; Damaged when anything of it was lost before."""
    if inode.entries or inode.pages or inode.pages_sum or inode.stored or inode.owed:
        raise Damaged(f"inode {ino} counts what isn't there", key=schema.inode_key(ino))
    prefix = schema.xattr_key(ino, b"")
    for key, _ in list(tables.read.scan(prefix, schema.after(prefix))):
        tables.txn.delete(key)
    tables.remove(ino)


# --- what a dataserver must hold ---------------------------------------------------------------


class _Home(NamedTuple):
    """Where an inode's blocks stand."""

    epoch: Epoch
    start: Slot
    servers: int


def inventory(
    view: View,
    slot: Slot,
    after_ino: Ino,
    after_page: int,
    servers_of_epoch: Callable[[Epoch], int],
    most_pages: int = limits.INVENTORY_PAGES,
    most_bytes: int = limits.LISTING_BYTES,
    most_examined: int = limits.INVENTORY_EXAMINED,
) -> Stock:
    """Map pages behind (ino, page) with a block on `slot`, in that order, orphans included.

    At most `most_examined` pages are looked at, shown or not: `Stock` says how far it came.
    Damaged pages and inodes are passed by (the walk reports them): they must not stop a rebuild.
    """
    shown: list[InventoryPage] = []
    home: _Home | None = None
    homed, ino, at, size = -1, after_ino, after_page, 0
    examined = 0
    first = schema.page_key(ino, PageNo(at + 1))
    for key, payload in scan_past_damage(view.read, first, schema.after(b"m")):
        ino, at = schema.page_of_key(key)
        if ino != homed:
            home, homed = _home(view, ino, servers_of_epoch), ino
        if home is not None and _stands_on(home, slot, PageNo(at), payload):
            assert isinstance(payload, bytes)
            shown.append(InventoryPage(ino, home.epoch, home.start, PageNo(at), payload))
            size += len(payload) + 40
        examined += 1
        if len(shown) >= most_pages or size >= most_bytes or examined >= most_examined:
            return Stock(tuple(shown), False, ino, at)
    return Stock(tuple(shown), True, ino, at)


def _home(view: View, ino: Ino, servers_of_epoch: Callable[[Epoch], int]) -> _Home | None:
    """Where a file stands; None when its inode can't say."""
    try:
        inode = view.inode(ino)
    except Damaged:
        return None
    return _Home(inode.epoch, inode.start, servers_of_epoch(inode.epoch))


def _stands_on(home: _Home, slot: Slot, page: PageNo, data: bytes | Damaged) -> bool:
    """Whether a page has a block with a replica on `slot`."""
    if isinstance(data, Damaged) or not data or len(data) % ENTRY_BYTES:
        return False
    first = _first_block(page)
    return any(
        placement.replica(home.start, BlockNo(first + position), home.servers, slot) is not None
        and data[position * ENTRY_BYTES : position * ENTRY_BYTES + 8] != HOLE
        for position in range(len(data) // ENTRY_BYTES)
    )
