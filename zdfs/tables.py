"""The metaserver's tables, typed: what `namespace` and `extents` read and write.

`View` reads records over a `Reader`; `Tables` changes them over a `Transaction`.  One of them lives
for one write block and no longer: it remembers the inodes it has seen.  Rules:

- A record that does not decode, or that another record promises and that is not there, is Damaged.
- **Absence is proven** before it is believed: by a count of zero, else by summing the children
  (`View.missing`).  What was proven once is remembered by the caller's `proven` set for the life of
  the process: our own changes keep count and sum true, and the walk of `metacheck` looks again.
- Changes to inodes and totals are *staged* and written once, by `save`.  All see the staged inode,
  so a rename whose two parents are one directory needs no special case.  Children (entries, map
  pages, attributes) are written at once, and their parent's count and sum are staged with them.
- An operation that raises leaves its Tables half staged: the write block is undone, Tables is left.
- Debts are children too, but nothing that a reader sees: `set_debt` leaves `change` alone.  A
  debt goes with the version that it is of, in whichever transaction lets go of that.
- `change` grows by one with each operation that touches an inode, and is at least `change_floor`
  (the metaserver's incarnation in the high bits), so that no two lives give the same number.
"""

import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from errno import EINVAL, EISDIR, ENOTDIR, ESTALE
from operator import attrgetter
from typing import Any, TypeVar

from zdfs import blockmap, limits, records, schema
from zdfs.blockmap import Dropped
from zdfs.errors import Damaged, Posix
from zdfs.ids import ROOT, BlockNo, Ino, PageNo, Slot
from zdfs.ports import Reader, Transaction
from zdfs.schema import Account, Debt, Dirent, DropRecord, Inode, Orphan, Totals

MASK = 2**64 - 1
PAGE_BYTES = limits.PAGE_BLOCKS * blockmap.ENTRY_BYTES
DROPPED = limits.PAGE_BLOCKS * 64  # versions in one DropRecord
R = TypeVar("R")


def decode(kind: type[R], key: bytes, payload: bytes) -> R:
    """A record from its payload; Damaged when it is none."""
    try:
        return records.unpack(kind, payload)
    except records.BadRecord as error:
        raise Damaged(f"the record {schema.describe(key)}: {error}", key=key) from error


_FIELDS = [field.name for field in fields(Inode)]
_PLACES = {name: place for place, name in enumerate(_FIELDS)}
_values = attrgetter(*_FIELDS)


def changed(inode: Inode, news: dict[str, Any]) -> Inode:
    """dataclasses.replace in half its time: it is the hottest call here."""
    values = list(_values(inode))
    for name, value in news.items():
        values[_PLACES[name]] = value
    return Inode(*values)


def is_directory(inode: Inode) -> bool:
    """Whether names can stand below it."""
    return stat.S_IFMT(inode.mode) == stat.S_IFDIR


class View:
    """Typed reading.  `proven` holds the prefixes whose children were summed before."""

    def __init__(self, read: Reader, proven: set[bytes] | None = None):
        self.read = read
        self.proven: set[bytes] = set() if proven is None else proven
        self._inodes: dict[Ino, Inode] = {}
        self._proven_maps: set[Ino] = set()

    # --- inodes

    def find(self, ino: Ino) -> Inode | None:
        """An inode, or None: nobody proves that."""
        found = self._inodes.get(ino)
        if found is None:
            key = schema.inode_key(ino)
            payload = self.read.get(key)
            if payload is None:
                return None
            found = self._inodes[ino] = decode(Inode, key, payload)
        return found

    def inode(self, ino: Ino) -> Inode:
        """An inode that some record names: Damaged when it isn't there."""
        found = self.find(ino)
        if found is None:
            raise Damaged(f"inode {ino} is named and not there", key=schema.inode_key(ino))
        return found

    def handle(self, ino: Ino) -> Inode:
        """An inode that a mount names: ESTALE when it isn't there (any more)."""
        found = self.inode(ino) if ino == ROOT else self.find(ino)
        if found is None:
            raise Posix(ESTALE, f"inode {ino} is not there any more")
        return found

    def directory(self, ino: Ino) -> Inode:
        """A directory that a mount names; ENOTDIR."""
        inode = self.handle(ino)
        if not is_directory(inode):
            raise Posix(ENOTDIR)
        return inode

    def regular(self, ino: Ino) -> Inode:
        """A regular file that a mount names; EISDIR, EINVAL."""
        inode = self.handle(ino)
        if not stat.S_ISREG(inode.mode):
            raise Posix(EISDIR if is_directory(inode) else EINVAL)
        return inode

    def totals(self) -> Totals:
        """The running sums; Damaged when they are lost."""
        payload = self.read.get(schema.TOTALS)
        if payload is None:
            raise Damaged("the totals are not there", key=schema.TOTALS)
        return decode(Totals, schema.TOTALS, payload)

    # --- children

    def entry(self, parent: Ino, name: bytes) -> Dirent | None:
        """What `name` is in a directory; None is proven."""
        key = schema.entry_key(parent, name)
        payload = self.read.get(key)
        if payload is None:
            directory = self.inode(parent)
            prefix = schema.entry_key(parent, b"")
            self.missing(prefix, directory.entries, directory.entries_sum, limits.PROOF_ENTRIES)
            return None
        return decode(Dirent, key, payload)

    def entries(self, parent: Ino, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Keys and payloads of the entries behind a name, in order."""
        prefix = schema.entry_key(parent, b"")
        first = schema.entry_key(parent, after) + b"\0" if after else prefix
        return self.read.scan(first, schema.after(prefix))

    def xattr(self, ino: Ino, name: bytes) -> bytes | None:
        """An extended attribute; None is proven."""
        value = self.read.get(schema.xattr_key(ino, name))
        if value is None:
            inode = self.inode(ino)
            prefix = schema.xattr_key(ino, b"")
            self.missing(prefix, inode.xattrs, inode.xattrs_sum, limits.LIST_ITEMS)
        return value

    def page(self, ino: Ino, page: PageNo) -> bytes | None:
        """A packed map page; None is *not* proven: ask `prove_pages`."""
        key = schema.page_key(ino, page)
        payload = self.read.get(key)
        return payload if payload is None else self.as_page(key, payload)

    def debt(self, ino: Ino, block: BlockNo) -> Debt | None:
        """Who is owed a block; None is *not* proven: the server that lacks it is known all the same
        when it is asked."""
        key = schema.debt_key(ino, block)
        payload = self.read.get(key)
        return None if payload is None else decode(Debt, key, payload)

    def account(self, slot: Slot) -> Account:
        """What a slot is owed in all; Damaged when that is lost."""
        key = schema.number_key(b"a", slot)
        payload = self.read.get(key)
        if payload is None:
            raise Damaged(f"the record {schema.describe(key)} is not there", key=key)
        return decode(Account, key, payload)

    @staticmethod
    def as_page(key: bytes, payload: bytes) -> bytes:
        """A map page as it is stored; Damaged when it has a length no page has."""
        if not payload or len(payload) % blockmap.ENTRY_BYTES or len(payload) > PAGE_BYTES:
            raise Damaged(f"the record {schema.describe(key)} is no map page", key=key)
        return payload

    # --- proofs

    def missing(self, prefix: bytes, count: int, total: int, most: int) -> None:
        """A child was not found: prove that none is lost, once; more than `most`: the walk."""
        if (count == 0 and total == 0) or count > most or prefix in self.proven:
            return
        self.prove(prefix, count, total)
        if len(self.proven) >= limits.PROOFS:
            self.proven.clear()
        self.proven.add(prefix)

    def prove(self, prefix: bytes, count: int, total: int) -> None:
        """Damaged unless the children under `prefix` have this count and sum."""
        found = summed = 0
        for key, payload in self.read.scan(prefix, schema.after(prefix)):
            found += 1
            summed += schema.check(key, payload)
        if found != count or summed & MASK != total:
            raise Damaged(
                (
                    f"{schema.describe(prefix)}: {found} records where its inode counts {count}"
                    if found != count
                    else f"{schema.describe(prefix)}: a record is not the one its inode counted"
                ),
                key=prefix,
            )

    def prove_pages(self, ino: Ino, most: int = limits.PROOF_PAGES) -> None:
        """A map page inside the file is missing: prove that it never was there.

        Remembered for this block only: a lost page read as zeros is what must never be.  Maps of
        more than `most` pages: the walk.
        """
        inode = self.inode(ino)
        if 0 < inode.pages <= most and ino not in self._proven_maps:
            self.prove(schema.page_prefix(ino), inode.pages, inode.pages_sum)
            self._proven_maps.add(ino)


class Tables(View):
    """Typed changing; `save` writes what was staged."""

    def __init__(self, txn: Transaction, proven: set[bytes] | None = None, change_floor: int = 0):
        super().__init__(txn, proven)
        self.txn = txn
        self.change_floor = change_floor
        self._staged: set[Ino] = set()
        self.updated: set[Ino] = set()  # what who looked at them must hear of
        self._inodes_delta = self._stored_delta = 0
        self._accounts: dict[Slot, Account] = {}  # staged

    # --- inodes and totals: staged

    def stage(self, ino: Ino, inode: Inode) -> None:
        """An inode as it shall be, its change counter left alone."""
        self._inodes[ino] = inode
        self._staged.add(ino)

    def update(self, ino: Ino, **fields: Any) -> Inode:
        """Fields of an inode as they shall be; its change counter grows, once an operation."""
        inode = self.inode(ino)
        if ino not in self._staged:
            fields["change"] = max(inode.change + 1, self.change_floor)
        inode = changed(inode, fields)
        self.stage(ino, inode)
        self.updated.add(ino)
        return inode

    def add(self, ino: Ino, inode: Inode) -> None:
        """A new inode.  Its number was never used: it is composed from the incarnation."""
        key = schema.inode_key(ino)
        if self.read.get(key) is not None:
            raise Damaged(f"inode number {ino} is given out a second time", key=key)
        self.stage(ino, inode)
        self._inodes_delta += 1

    def remove(self, ino: Ino) -> None:
        """An inode goes; its children are gone."""
        self.txn.delete(schema.inode_key(ino))
        self._inodes.pop(ino, None)
        self._staged.discard(ino)
        self._inodes_delta -= 1

    def count_stored(self, delta_bytes: int) -> None:
        """The running sum of all inodes' `stored`."""
        self._stored_delta += delta_bytes

    def save(self) -> None:
        """Write what was staged.  Every operation's last step."""
        for ino in self._staged:
            self.txn.put(schema.inode_key(ino), records.pack(self._inodes[ino]))
        self._staged.clear()
        for slot, account in self._accounts.items():
            self.txn.put(schema.number_key(b"a", slot), records.pack(account))
        self._accounts.clear()
        if self._inodes_delta or self._stored_delta:
            old = self.totals()
            inodes = old.inodes + self._inodes_delta
            stored = old.stored_bytes + self._stored_delta
            if inodes < 0 or stored < 0:
                raise Damaged("the totals count less than there is", key=schema.TOTALS)
            self.txn.put(schema.TOTALS, records.pack(Totals(inodes, stored)))
            self._inodes_delta = self._stored_delta = 0

    # --- children: written at once, counted in the staged parent

    def _swap(self, key: bytes, old: bytes | None, new: bytes | None) -> tuple[int, int]:
        """Replace a child; how its parent's count and sum move."""
        moved = 0
        if old is not None:
            moved -= schema.check(key, old)
        if new is not None:
            moved += schema.check(key, new)
            self.txn.put(key, new)
        elif old is not None:
            self.txn.delete(key)
        return (new is not None) - (old is not None), moved

    def set_entry(self, parent: Ino, name: bytes, new: Dirent | None, **fields: Any) -> Inode:
        """Replace (or with None remove) a directory entry, with other fields of the directory."""
        key = schema.entry_key(parent, name)
        packed = None if new is None else records.pack(new)
        count, moved = self._swap(key, self.read.get(key), packed)
        inode = self.inode(parent)
        return self.update(
            parent,
            entries=at_least_0(inode.entries + count, key),
            entries_sum=(inode.entries_sum + moved) & MASK,
            **fields,
        )

    def set_xattr(
        self, ino: Ino, name: bytes, old: bytes | None, new: bytes | None, **fields: Any
    ) -> Inode:
        """Replace (or with None remove) an extended attribute."""
        key = schema.xattr_key(ino, name)
        count, moved = self._swap(key, old, new)
        inode = self.inode(ino)
        return self.update(
            ino,
            xattrs=at_least_0(inode.xattrs + count, key),
            xattrs_sum=(inode.xattrs_sum + moved) & MASK,
            **fields,
        )

    def set_page(
        self, ino: Ino, page: PageNo, old: bytes | None, new: bytes | None
    ) -> tuple[int, int]:
        """Replace a map page; none and b"" are holes.  The caller sums up the moves."""
        return self._swap(schema.page_key(ino, page), old or None, new or None)

    def move_pages(self, ino: Ino, count: int, moved: int, stored: int, **fields: Any) -> Inode:
        """Stage the sums of `set_page`'s moves, and the bytes stored more."""
        inode = self.inode(ino)
        key = schema.inode_key(ino)
        self.count_stored(stored)
        return self.update(
            ino,
            pages=at_least_0(inode.pages + count, key),
            pages_sum=(inode.pages_sum + moved) & MASK,
            stored=at_least_0(inode.stored + stored, key),
            **fields,
        )

    # --- debts

    def set_debt(self, ino: Ino, block: BlockNo, new: Debt | None) -> None:
        """Replace (or with None remove) a debt, in the inode's count and the slots' accounts.  An
        operation that changes the inode besides does that first: this is no change."""
        key = schema.debt_key(ino, block)
        payload = self.read.get(key)
        old = None if payload is None else decode(Debt, key, payload)
        count, moved = self._swap(key, payload, None if new is None else records.pack(new))
        inode = self.inode(ino)
        owed = at_least_0(inode.owed + count, key)
        owed_sum = (inode.owed_sum + moved) & MASK
        self.stage(ino, changed(inode, {"owed": owed, "owed_sum": owed_sum}))
        for debt, more in ((old, -1), (new, 1)):
            if debt is not None:
                self._book(debt, more, key)

    def set_account(self, slot: Slot, account: Account) -> None:
        """A slot's sums as they were counted again; `moved` grows as it must."""
        payload = self.read.get(schema.number_key(b"a", slot))
        moved = 0 if payload is None else self.account(slot).moved
        self._accounts[slot] = account._replace(moved=moved + 1)

    def _book(self, debt: Debt, more: int, key: bytes) -> None:
        before = self._accounts.get(debt.slot) or self.account(debt.slot)
        count = at_least_0(before.replicas + more, key)
        stored = at_least_0(before.stored + more * debt.stored, key)
        since = min(before.since_ns or debt.since_ns, debt.since_ns) if count else 0
        self._accounts[debt.slot] = Account(count, stored, since, before.moved + 1)

    # --- orphans and drops

    def orphan(self, ino: Ino, now_ns: int) -> None:
        """Nothing names the inode any more."""
        self.txn.put(schema.number_key(b"o", ino), records.pack(Orphan(now_ns)))

    def queue_drops(
        self, ino: Ino, dropped: Iterable[Dropped], next_number: Callable[[], int]
    ) -> None:
        """Versions that dataservers are to drop once this transaction is synced; nobody is owed
        them any more."""
        items = list(dropped)
        if items and self.inode(ino).owed:
            for block, version in items:
                debt = self.debt(ino, block)
                if debt is not None and debt.version == version:
                    self.set_debt(ino, block, None)
        for first in range(0, len(items), DROPPED):
            versions = blockmap.pack_dropped(items[first : first + DROPPED])
            key = schema.number_key(b"d", next_number())
            self.txn.put(key, records.pack(DropRecord(ino, versions)))


def scan_past_damage(
    read: Reader, first: bytes, end: bytes
) -> Iterator[tuple[bytes, bytes | Damaged]]:
    """Keys and payloads in order; a damaged record comes as its failure, and the next follow."""
    while True:
        try:
            for key, payload in read.scan(first, end):
                first = key + b"\0"
                yield key, payload
            return
        except Damaged as error:
            if error.key < first:
                raise  # it names no record that could be passed by
            first = error.key + b"\0"
            yield error.key, error


def at_least_0(count: int, key: bytes) -> int:
    """A count that a parent keeps; below zero it was never right."""
    if count < 0:
        raise Damaged(f"{schema.describe(key)}: counted below zero", key=key)
    return count
