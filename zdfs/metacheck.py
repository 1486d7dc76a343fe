"""The walk over all metadata: whether what is stored can be what was stored.

A walk goes on in slices while operations change things between them; one slice sees one state.
After a start it runs in the background; `fsck` has one of its own (`inspection`), which may mend on
the way (`mending`); `whole` is for a store that nobody else works on.

    records   every record, in the order of keys.  An inode brings all its children with it: its own
              fields, counts and sums, the map's entries; every name leads to an inode of its type;
              "..", and the way up to the root.  The names that lead to each inode are counted
    names     each inode against that count; what differs is a suspect.  The totals
    debts     counted by slot, against the accounts
    recount   the names of the suspects alone, again
    verdict   a suspect whose change counter stood still all the while has a wrong nlink, or no name

The counts are gathered over many slices, so a rename may have been missed or seen twice: but each
operation on a name moves its inode's change counter, so a recount during which it stood still is
exact.  Suspects that moved are left to the next walk.  So are the totals, when they moved.
A directory or a map larger than a slice is looked at in one go.
"""

import stat
from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from zdfs import blockmap, debts, limits, schema, xattrs
from zdfs.chain import CopySet
from zdfs.errors import Damaged
from zdfs.ids import ROOT, Ino, Slot
from zdfs.namespace import TYPES
from zdfs.ports import Reader
from zdfs.schema import Dirent, Inode, Totals
from zdfs.tables import MASK, View, decode, is_directory, scan_past_damage
from zdfs.wire import Flaw

SUSPECTS = 10_000  # more are left to the next walk
END = b"\xff" * 16  # behind every key
KINDS: dict[bytes, type[Any]] = {
    b"!": schema.Superblock, b"c": schema.Cluster, b"t": schema.Totals, b"d": schema.DropRecord,
    b"r": schema.Ring, b"s": schema.Server, b"n": schema.SessionRecord, b"k": schema.KeptReply,
    b"v": schema.EventRecord, b"o": schema.Orphan, b"a": schema.Account,
    schema.COPY_SET: CopySet,
}  # fmt: skip
CHILDREN = (b"e", b"x", b"m", b"w")


class Finding(NamedTuple):
    """Something that can't be."""

    what: str
    key: bytes  # the record it is about, or the prefix of its siblings
    flaw: Flaw = Flaw.RECORD
    amount: int = 0  # LINKS: the names there are; STORED: the bytes


def whole(read: Reader) -> list[Finding]:
    """A walk in one go: exact, totals included.  For a store that nothing changes meanwhile."""
    return Cursor().step(read, 2**62)


def walk(
    read: Reader, cursor: "Cursor | None", most_records: int
) -> "tuple[list[Finding], Cursor | None]":
    """One slice of a walk: what it found, and where to go on; None to begin, and at the end."""
    at = Cursor() if cursor is None else cursor
    findings = at.step(read, most_records)
    return findings, None if at.done else at


class _Counts:
    """Small counters by inode number, two bytes each."""

    _CHUNK = 4096

    def __init__(self) -> None:
        self._chunks: dict[int, array[int]] = {}

    def add(self, ino: Ino) -> None:
        chunk = self._chunks.get(ino // self._CHUNK)
        if chunk is None:
            chunk = self._chunks[ino // self._CHUNK] = array("H", bytes(2 * self._CHUNK))
        chunk[ino % self._CHUNK] = min(chunk[ino % self._CHUNK] + 1, 0xFFFF)

    def get(self, ino: Ino) -> int:
        chunk = self._chunks.get(ino // self._CHUNK)
        return 0 if chunk is None else chunk[ino % self._CHUNK]


def _names_due(ino: Ino, inode: Inode) -> int:
    """How many entries must name an inode."""
    if ino == ROOT:
        return 0
    return min(inode.nlink, 1) if is_directory(inode) else inode.nlink


def _forsaken(at: "_Slice", ino: Ino, inode: Inode) -> bool:
    """Whether it was removed and nobody is to let go of it."""
    return inode.nlink == 0 and at.read.get(schema.number_key(b"o", ino)) is None


class _Slice:
    """What one slice sees: one state of the store."""

    def __init__(self, read: Reader, most_records: int):
        self.read = read
        self.left = most_records
        self.findings: list[Finding] = []
        self.connected = {ROOT}  # directories whose way up was seen
        self.block_bytes = 0  # 0: not founded, or unknown
        self.slots = range(0)  # likewise
        try:
            payload = read.get(schema.CLUSTER)
            if payload is not None:
                cluster = decode(schema.Cluster, schema.CLUSTER, payload)
                self.block_bytes = cluster.block_bytes
                key = schema.number_key(b"r", cluster.epoch)
                self.slots = range(len(decode(schema.Ring, key, read.get(key) or b"").addresses))
        except Damaged:
            pass  # the walk over the records finds it

    def find(self, what: str, key: bytes, flaw: Flaw = Flaw.RECORD, amount: int = 0) -> None:
        """Something that can't be."""
        self.findings.append(Finding(what, key, flaw, amount))

    def good(self, first: bytes, end: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        """Records of a stretch; damaged ones become findings, and come as None."""
        for key, payload in scan_past_damage(self.read, first, end):
            self.left -= 1
            if isinstance(payload, Damaged):
                self.find(payload.text, payload.key)
                yield key, None
            else:
                yield key, payload

    def decoded(self, kind: type[Any], key: bytes, payload: bytes) -> Any:
        """A record, or None with a finding."""
        try:
            return decode(kind, key, payload)
        except Damaged as error:
            self.find(error.text, key)
            return None

    def peek(self, ino: Ino) -> Inode | None:
        """An inode; Damaged when its record is (which is found at its own place)."""
        return View(self.read).find(ino)


class Cursor:
    """How far a walk has come, and what it has counted.

    `forgotten` says of an orphan that nobody has it open and nobody will let go of it.
    """

    def __init__(self, forgotten: Callable[[Ino], bool] = lambda ino: False) -> None:
        self.done = False
        self.records = 0  # looked at
        self.recounted: Totals | None = None  # what the totals should be, when they are wrong
        self._forgotten = forgotten
        self._phases = iter((self._names, self._debts, self._recount, self._verdict))
        self._phase = self._records
        self._next = b""  # where the phase goes on
        self._counts = _Counts()
        self._suspects: dict[Ino, int] = {}  # -> change
        self._recounted: dict[Ino, int] = {}
        self._seen = Totals(0, 0)
        self._audit = debts.Audit()
        self._ends: tuple[bytes | None, bytes] | None = None  # totals, newest inode
        self._judge_totals = True

    def step(self, read: Reader, most_records: int) -> list[Finding]:
        """Go on over about so many records: what was found."""
        at = _Slice(read, most_records)
        while at.left > 0 and not self.done:
            before = self._next
            try:
                over = self._phase(at)
            except Damaged as error:  # a record that this phase needs, or a page of the store
                at.find(error.text, error.key)
                over = self._next == before
            if over:
                following = next(self._phases, None)
                self.done = following is None
                self._phase, self._next = following or self._phase, b""
        self.records += most_records - at.left
        return at.findings

    def _stretch(
        self, at: _Slice, first: bytes, end: bytes
    ) -> Iterator[tuple[bytes, bytes | None]]:
        """A stretch from where the phase is, as far as the slice goes."""
        for key, payload in at.good(max(first, self._next), end):
            self._next = key + b"\0"
            yield key, payload
            if at.left <= 0:
                return
        self._next = end

    # --- records

    def _records(self, at: _Slice) -> bool:
        """The next record, or the next inode with all its children."""
        pair = next(at.good(self._next, END), None)
        if pair is None:
            return True
        key, payload = pair
        self._next = key + b"\0"
        table = key[:1]
        if table in CHILDREN:
            self._next = _check_stray(at, key)
        elif payload is None or table == schema.OWN:  # what the store looks after itself
            return False
        elif table == b"i":
            check_inode(at, Ino(schema.number_of_key(key)), payload, self._counts)
        elif table not in KINDS:
            at.find("a record of no table", key)
        elif at.decoded(KINDS[table], key, payload) is not None and table == b"o":
            _check_orphan(at, key, self._forgotten)
        return False

    # --- names and totals

    def _names(self, at: _Slice) -> bool:
        """Inodes whose nlink is not the number of names that were counted; sums of them all."""
        self._watch_totals(at)
        for key, payload in self._stretch(at, b"i", b"j"):
            inode = None if payload is None else at.decoded(Inode, key, payload)
            if inode is None:
                self._judge_totals = False
                continue
            ino = Ino(schema.number_of_key(key))
            stored = self._seen.stored_bytes + inode.stored
            self._seen = Totals(self._seen.inodes + 1, stored)
            wrong = self._counts.get(ino) != _names_due(ino, inode) or _forsaken(at, ino, inode)
            if wrong and len(self._suspects) < SUSPECTS:
                self._suspects[ino] = inode.change
        if self._next < b"j":
            return False
        self._verdict_on_totals(at)
        return True

    def _watch_totals(self, at: _Slice) -> None:
        """Whether totals and newest inode are still what they were."""
        newest = next(at.read.scan(b"i", b"j", True), (b"", b""))[0]
        ends = (at.read.get(schema.TOTALS), newest)
        if self._ends is not None and self._ends != ends:
            self._judge_totals = False
        self._ends = ends

    def _verdict_on_totals(self, at: _Slice) -> None:
        payload = at.read.get(schema.TOTALS)
        seen = self._seen if self._judge_totals else None
        if payload is None:
            at.find("the totals are not there", schema.TOTALS, Flaw.TOTALS)
            self.recounted = seen
        if payload is None or seen is None:
            return
        totals = at.decoded(Totals, schema.TOTALS, payload)
        if totals is not None and totals != seen:
            text = (
                f"the totals say {totals.inodes} inodes and {totals.stored_bytes} bytes, the "
                f"inodes {seen.inodes} and {seen.stored_bytes}"
            )
            at.find(text, schema.TOTALS, Flaw.TOTALS)
            self.recounted = seen

    # --- debts

    def _debts(self, at: _Slice) -> bool:
        """What each slot is owed, against its account."""
        view, slots = View(at.read), [Slot(number) for number in at.slots]
        self._audit.begin(view, slots)
        for key, payload in self._stretch(at, b"w", b"x"):
            debt = None if payload is None else at.decoded(schema.Debt, key, payload)
            if debt is not None:
                self._audit.add(debt)
        if self._next < b"x":
            return False
        for what, key in self._audit.verdict(view, slots):
            at.find(what, key, Flaw.DEBTS)
        return True

    # --- suspects

    def _recount(self, at: _Slice) -> bool:
        """The names of the suspects."""
        if not self._suspects:
            return True
        for key, payload in self._stretch(at, b"e", b"f"):
            entry = None if payload is None else at.decoded(Dirent, key, payload)
            if entry is not None and entry.ino in self._suspects:
                self._recounted[entry.ino] = self._recounted.get(entry.ino, 0) + 1
        return self._next >= b"f"

    def _verdict(self, at: _Slice) -> bool:
        """Suspects that stood still, and whose names still aren't as many as they count."""
        for ino, change in self._suspects.items():
            try:
                inode = at.peek(ino)
            except Damaged:
                continue  # since then: the next walk finds it
            if inode is None or inode.change != change:
                continue
            names, due = self._recounted.get(ino, 0), _names_due(ino, inode)
            if names != due:
                what = f"inode {ino} has {names} names where it counts {due}"
                flaw = Flaw.LINKS if names else Flaw.NAMELESS
                at.find(what, schema.inode_key(ino), flaw, names)
            elif _forsaken(at, ino, inode):
                what = f"inode {ino} was removed, and it is no orphan"
                at.find(what, schema.inode_key(ino), Flaw.ORPHAN)
        return True


# --- one record, one inode ---------------------------------------------------------------------


def _check_stray(at: _Slice, key: bytes) -> bytes:
    """A child's inode must be there, and looks after it: where to go on."""
    ino = Ino(schema.number_of_key(key))
    try:
        if at.peek(ino) is None:
            flaw = Flaw.DEBTS if key[:1] == b"w" else Flaw.RECORD
            at.find(f"{schema.describe(key)} belongs to inode {ino}, which is not there", key, flaw)
    except Damaged:
        pass  # found at the inode's own place
    return schema.after(key[:9])


def _check_orphan(at: _Slice, key: bytes, forgotten: Callable[[Ino], bool]) -> None:
    ino = Ino(schema.number_of_key(key))
    try:
        inode = at.peek(ino)
    except Damaged:
        return
    if inode is None or inode.nlink:
        at.find(f"inode {ino} is called an orphan and is none", key, Flaw.ORPHAN)
    elif forgotten(ino):
        what = f"inode {ino} was removed, nobody has it open, and it was not let go of"
        at.find(what, key, Flaw.ORPHAN)


def check_inode(at: _Slice, ino: Ino, payload: bytes, counts: _Counts) -> None:
    """An inode and all its children."""
    key = schema.inode_key(ino)
    inode = at.decoded(Inode, key, payload)
    if inode is None:
        return
    for what in _own_faults(ino, inode):
        at.find(f"inode {ino}: {what}", key, Flaw.INODE)
    _check_entries(at, ino, inode, counts)
    _check_pages(at, ino, inode)
    prefix = schema.xattr_key(ino, b"")
    for child, value in _children(at, prefix, inode.xattrs, inode.xattrs_sum):
        if wrong := xattrs.wrong(inode, child[len(prefix) :], value):
            at.find(f"{schema.describe(child)}: {wrong}", child, Flaw.INODE)
    for what, key in debts.faults(View(at.read), ino, inode, len(at.slots)):
        at.left -= 1
        at.find(what, key, Flaw.DEBTS)
    if is_directory(inode) and inode.nlink:
        _check_way_up(at, ino)


def _own_faults(ino: Ino, inode: Inode) -> Iterator[str]:
    """What is wrong with an inode by itself."""
    kind = stat.S_IFMT(inode.mode)
    directory, regular = kind == stat.S_IFDIR, kind == stat.S_IFREG
    if kind not in TYPES:
        yield "no type"
    if kind == stat.S_IFLNK and inode.size != len(inode.target):
        yield "a symlink's size is not its target's"
    if inode.target and kind != stat.S_IFLNK:
        yield "a target, and no symlink"
    if not directory and inode.entries:
        yield "entries, and no directory"
    if not regular and (inode.pages or inode.stored):
        yield "content, and no regular file"
    if ino == ROOT and (not directory or inode.parent != ROOT or not inode.nlink):
        yield "the root is no root"


def _children(at: _Slice, prefix: bytes, count: int, total: int) -> Iterator[tuple[bytes, bytes]]:
    """Good children of an inode; at the end their count and sum are compared."""
    found = summed = 0
    whole = True
    flaw = Flaw.ENTRIES if prefix[:1] == b"e" else Flaw.CHILDREN
    for key, payload in at.good(prefix, schema.after(prefix)):
        found += 1
        if payload is None:
            whole = False
        else:
            summed += schema.check(key, payload)
            yield key, payload
    if found != count:
        text = f"{found} records where the inode counts {count}"
        at.find(f"{schema.describe(prefix)}: {text}", prefix, flaw)
    elif whole and summed & MASK != total:
        text = "a record is not the one that the inode counted"
        at.find(f"{schema.describe(prefix)}: {text}", prefix, flaw)


def _check_entries(at: _Slice, ino: Ino, inode: Inode, counts: _Counts) -> None:
    """A directory's names, each with the inode it leads to."""
    directories = 0
    children = _children(at, schema.entry_key(ino, b""), inode.entries, inode.entries_sum)
    for key, payload in children:
        entry = at.decoded(Dirent, key, payload)
        if entry is None:
            continue
        counts.add(entry.ino)
        directories += entry.mode == stat.S_IFDIR
        try:
            what = _entry_fault(ino, entry, at.peek(entry.ino))
        except Damaged:
            continue
        if what:
            at.find(f"{schema.describe(key)}: {what[0]}", key, what[1])
    if is_directory(inode) and inode.nlink != (2 + directories if inode.nlink else 0):
        text = f"inode {ino} has nlink {inode.nlink} and {directories} subdirectories"
        at.find(text, schema.inode_key(ino), Flaw.LINKS, 2 + directories)
    if inode.entries and not inode.nlink:
        at.find(f"inode {ino} was removed with entries", schema.inode_key(ino), Flaw.INODE)


def _entry_fault(parent: Ino, entry: Dirent, child: Inode | None) -> tuple[str, Flaw] | None:
    """What is wrong with a name."""
    if child is None:
        return f"it names inode {entry.ino}, which is not there", Flaw.DANGLING
    if stat.S_IFMT(child.mode) != entry.mode:
        return f"it is of another type than inode {entry.ino}", Flaw.DANGLING
    if is_directory(child) and child.parent != parent:
        return f"directory {entry.ino} has another parent, {child.parent}", Flaw.PARENT
    if child.nlink == 0:
        return f"it names inode {entry.ino}, which was removed", Flaw.LINKS
    return None


def _check_pages(at: _Slice, ino: Ino, inode: Inode) -> None:
    """A file's map: every entry within the file, and what they store in all."""
    stored = 0
    for key, payload in _children(at, schema.page_prefix(ino), inode.pages, inode.pages_sum):
        try:
            entries = blockmap.unpack_page(View.as_page(key, payload))
        except Damaged as error:
            at.find(error.text, key)
            continue
        first = schema.page_of_key(key)[1] * limits.PAGE_BLOCKS
        if entries[-1] is None:
            at.find(f"{schema.describe(key)} ends with a hole", key, Flaw.MAP)
        for block, entry in enumerate(entries, first):
            if entry is not None:
                stored += entry.stored
                what = _map_fault(inode, block, entry, at.block_bytes)
                if what:
                    at.find(f"inode {ino}, block {block}: {what}", key, Flaw.MAP)
    if stored != inode.stored:
        text = f"inode {ino} counts {inode.stored} bytes stored, its map {stored}"
        at.find(text, schema.inode_key(ino), Flaw.STORED, stored)


def _map_fault(inode: Inode, block: int, entry: blockmap.MapEntry, block_bytes: int) -> str:
    """What is wrong with an entry of a map."""
    if entry.visible > entry.stored or (block_bytes and entry.stored > block_bytes):
        return "longer than it can be"
    if block * block_bytes + (entry.visible if block_bytes else 0) > inode.size:
        return "beyond the end of the file"
    return "" if entry.version.token <= inode.token else "of a token that was never granted"


def _check_way_up(at: _Slice, ino: Ino) -> None:
    """A directory's parents lead to the root."""
    seen: set[Ino] = set()
    here = ino
    while here not in at.connected:
        key = schema.inode_key(here)
        if here in seen:
            at.find(f"directory {here} stands below itself", key, Flaw.LOOP)
            return
        seen.add(here)
        try:
            inode = at.peek(here)
        except Damaged:
            return
        if inode is None or not is_directory(inode) or not inode.nlink:
            what = f"directory {ino} stands below {here}, which is no directory"
            at.find(what, schema.inode_key(ino), Flaw.LOOP)
            return
        here = inode.parent
    at.connected |= seen
