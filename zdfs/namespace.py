"""The POSIX meaning of names: directories, links, attributes, as functions on the tables.

Pure: no clock (`now_ns` is given), no I/O, no permissions (the kernel checks those: mounts run with
default_permissions).  Each function is one operation; it raises Posix as Linux would, or Damaged
where an answer can't be proven, and then its write block is undone as a whole.  Names are walked as
(parent inode, name), never as joined paths.  Invariants kept here, and looked after by `metacheck`:

- every entry names an inode, with the inode's type bits;
- nlink: files: how many entries name it; directories: 2 + subdirectories; 0 <=> an Orphan stands
  beside it, which `extents.reap` lets go of when no mount has the inode open;
- a directory is named once, by an entry of its `parent`; parents lead to the root, its own parent;
- a removed directory (nlink 0) is empty and takes no names.

ctime moves when anything about an inode does; a directory's mtime and ctime when its entries do.
"""

import stat
from errno import EBUSY, EEXIST, EINVAL, EISDIR, EMLINK, ENAMETOOLONG, ENOENT, ENOTDIR, ENOTEMPTY
from errno import EPERM, ESTALE
from typing import NamedTuple

from zdfs import dirnames, limits, records, schema, xattrs
from zdfs.errors import Damaged, Posix
from zdfs.ids import ROOT, Epoch, Ino, Policy, Slot, Token
from zdfs.schema import Dirent, Inode, Totals
from zdfs.tables import Tables, View, decode, is_directory
from zdfs.wire import Attributes, Entry, Listing, NameList

NOREPLACE = 1
EXCHANGE = 2
PERMISSIONS = 0o7777
DEVICES = (stat.S_IFCHR, stat.S_IFBLK)
TYPES = (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, *DEVICES)
ENTRY_OVERHEAD = 120  # bytes of a listing's entry beside its name, about


class Newborn(NamedTuple):
    """What a new inode is made of.  `mode` has the type bits; `rdev` counts for devices only."""

    ino: Ino
    mode: int
    uid: int
    gid: int
    rdev: int = 0
    target: bytes = b""
    epoch: Epoch = Epoch(0)
    start: Slot = Slot(0)
    umask: int = 0


def _inode(new: Newborn, parent: Ino, now_ns: int, change: int) -> Inode:
    kind = stat.S_IFMT(new.mode)
    directory = kind == stat.S_IFDIR
    return Inode(
        mode=new.mode, uid=new.uid, gid=new.gid, nlink=2 if directory else 1,
        size=len(new.target), stored=0, atime_ns=now_ns, mtime_ns=now_ns, ctime_ns=now_ns,
        rdev=new.rdev if kind in DEVICES else 0, change=max(1, change),
        parent=parent,
        target=new.target, epoch=new.epoch, start=new.start, token=Token(0), number=0,
        entries=0, entries_sum=0, pages=0, pages_sum=0, xattrs=0, xattrs_sum=0,
        owed=0, owed_sum=0, policy=Policy.INHERIT,
    )  # fmt: skip


def found(tables: Tables, now_ns: int, uid: int = 0, gid: int = 0) -> None:
    """An empty file system: the root directory and the totals."""
    assert tables.find(ROOT) is None, "the root is founded once"
    tables.txn.put(schema.TOTALS, records.pack(Totals(0, 0)))
    root = Newborn(ROOT, stat.S_IFDIR | 0o755, uid, gid)
    tables.add(ROOT, _inode(root, ROOT, now_ns, tables.change_floor))
    tables.save()


# --- reading -----------------------------------------------------------------------------------


def attributes(ino: Ino, inode: Inode) -> Attributes:
    """What stat shows of an inode."""
    return Attributes(
        ino, inode.mode, inode.nlink, inode.uid, inode.gid, inode.rdev, inode.size, inode.stored,
        inode.atime_ns, inode.mtime_ns, inode.ctime_ns, inode.change, inode.epoch, inode.start,
        inode.xattrs,
    )  # fmt: skip


def stat_inode(view: View, ino: Ino) -> Attributes:
    """Attributes of an inode that a mount names; ESTALE."""
    return attributes(ino, view.handle(ino))


def walk(
    view: View, parent: Ino, names: tuple[bytes, ...] | list[bytes]
) -> tuple[list[Attributes], int, int]:
    """Walk names, each below the one before: what was reached, the errno that stopped it, and the
    change counter of the directory that it began in (0: there is none)."""
    steps: list[Attributes] = []
    ino = parent
    directory = view.inode(ROOT) if ino == ROOT else view.find(ino)
    if directory is None:
        return steps, ESTALE, 0
    version = directory.change
    for name in names:
        if not is_directory(directory):
            return steps, ENOTDIR, version
        if len(name) > limits.NAME_BYTES:
            return steps, ENAMETOOLONG, version
        if name == b"..":
            ino = directory.parent
        elif name != b".":
            entry = view.entry(ino, name)
            if entry is None:
                return steps, ENOENT, version
            ino = entry.ino
        directory = view.inode(ino)
        steps.append(attributes(ino, directory))
    return steps, 0, version


def lookup(
    view: View, parent: Ino, names: tuple[bytes, ...] | list[bytes]
) -> tuple[list[Attributes], int]:
    """What a walk reached, and the errno that stopped it."""
    steps, number, _ = walk(view, parent, names)
    return steps, number


def read_link(view: View, ino: Ino) -> bytes:
    """Where a symlink points; EINVAL."""
    inode = view.handle(ino)
    if not stat.S_ISLNK(inode.mode):
        raise Posix(EINVAL)
    return inode.target


def listing(
    view: View,
    ino: Ino,
    after: bytes = b"",
    most_entries: int = limits.LISTING_ENTRIES,
    most_bytes: int = limits.LISTING_BYTES,
) -> Listing:
    """Entries behind a name, as many as fit, with their attributes."""
    directory, found, end = _page(view, ino, after, most_entries, most_bytes, ENTRY_OVERHEAD)
    entries = tuple(
        Entry(name, attributes(child.ino, view.inode(child.ino))) for name, child in found
    )
    return Listing(entries, end, directory.parent, directory.change)


def name_list(
    view: View, ino: Ino, after: bytes = b"", most_bytes: int = limits.LISTING_BYTES
) -> NameList:
    """Names behind a name, as many as fit, and what they lead to."""
    directory, found, end = _page(view, ino, after, most_bytes, most_bytes, dirnames.OVERHEAD)
    packed = dirnames.pack((name, child.ino, child.mode) for name, child in found)
    return NameList(packed, end, directory.parent, directory.change)


def _page(
    view: View, ino: Ino, after: bytes, most_entries: int, most_bytes: int, overhead: int
) -> tuple[Inode, list[tuple[bytes, Dirent]], bool]:
    """Entries behind a name, each of so many bytes more than its name, and whether no more follow;
    the directory's sum is proven from its first page."""
    directory = view.directory(ino)
    entries: list[tuple[bytes, Dirent]] = []
    size = summed = 0
    end = True
    for key, payload in view.entries(ino, after):
        name = key[9:]
        size += len(name) + overhead
        if entries and (size > most_bytes or len(entries) >= most_entries):
            end = False
            break
        if not after:
            summed += schema.check(key, payload)
        entries.append((name, decode(Dirent, key, payload)))
    if not after and end:
        if (len(entries), summed % 2**64) != (directory.entries, directory.entries_sum):
            raise Damaged(
                f"directory {ino}: its entries are not those that it counted",
                key=schema.inode_key(ino),
            )
    elif not after:
        prefix = schema.entry_key(ino, b"")
        view.missing(prefix, directory.entries, directory.entries_sum, limits.PROOF_ENTRIES)
    return directory, entries, end


# --- names that come ---------------------------------------------------------------------------


def _check_name(name: bytes, dots: int) -> None:
    """Names that no directory holds; the kernel sends none of these."""
    if name in (b".", b".."):
        raise Posix(dots)
    if len(name) > limits.NAME_BYTES:
        raise Posix(ENAMETOOLONG)
    if not name or b"/" in name or b"\0" in name:
        raise Posix(EINVAL)


def _growing(view: View, parent: Ino) -> Inode:
    """A directory that takes names: not a removed one."""
    directory = view.directory(parent)
    if directory.nlink == 0:
        raise Posix(ENOENT, "the directory was removed")
    return directory


def _present(view: View, parent: Ino, name: bytes) -> tuple[Dirent, Inode]:
    """An entry that must be there, and its inode; ENOENT."""
    entry = view.entry(parent, name)
    if entry is None:
        raise Posix(ENOENT)
    return entry, view.inode(entry.ino)


def make(tables: Tables, now_ns: int, parent: Ino, name: bytes, new: Newborn) -> Attributes:
    """mkdir, mknod, symlink, creat.  A setgid directory passes its group on, and one with a default
    access list that list, which then takes the umask's place."""
    _check_name(name, EEXIST)
    directory = _growing(tables, parent)
    kind = stat.S_IFMT(new.mode)
    if kind not in TYPES or (kind != stat.S_IFLNK and new.target):
        raise Posix(EINVAL)
    if tables.entry(parent, name) is not None:
        raise Posix(EEXIST)
    if kind == stat.S_IFLNK and not new.target:
        raise Posix(ENOENT, "an empty symlink target")
    if kind == stat.S_IFLNK and len(new.target) > limits.SYMLINK_BYTES:
        raise Posix(ENAMETOOLONG)
    nlink = directory.nlink
    if kind == stat.S_IFDIR:
        nlink = _one_more(nlink)
    mode, lists = kind | new.mode & PERMISSIONS, dict[bytes, bytes]()
    if kind != stat.S_IFLNK:
        mode, lists = xattrs.inherited(tables, parent, mode, new.umask)
    gid = new.gid
    if directory.mode & stat.S_ISGID:
        gid = directory.gid
        mode |= stat.S_ISGID if kind == stat.S_IFDIR else 0
    new = new._replace(mode=mode, gid=gid)
    tables.add(new.ino, _inode(new, parent, now_ns, tables.change_floor))
    for attribute, value in lists.items():
        tables.set_xattr(new.ino, attribute, None, value)
    entry = Dirent(new.ino, kind)
    tables.set_entry(parent, name, entry, nlink=nlink, mtime_ns=now_ns, ctime_ns=now_ns)
    tables.save()
    return attributes(new.ino, tables.inode(new.ino))


def link(tables: Tables, now_ns: int, ino: Ino, parent: Ino, name: bytes) -> Attributes:
    """Another name for an inode that is no directory."""
    _check_name(name, EEXIST)
    _growing(tables, parent)
    inode = tables.handle(ino)
    if tables.entry(parent, name) is not None:
        raise Posix(EEXIST)
    if is_directory(inode):
        raise Posix(EPERM)
    if inode.nlink == 0:
        raise Posix(ENOENT, "its last name was removed")
    tables.update(ino, nlink=_one_more(inode.nlink), ctime_ns=now_ns)
    entry = Dirent(ino, stat.S_IFMT(inode.mode))
    tables.set_entry(parent, name, entry, mtime_ns=now_ns, ctime_ns=now_ns)
    tables.save()
    return attributes(ino, tables.inode(ino))


def _one_more(nlink: int) -> int:
    if nlink >= limits.LINKS:
        raise Posix(EMLINK)
    return nlink + 1


# --- names that go -----------------------------------------------------------------------------


def _unname(tables: Tables, ino: Ino, now_ns: int) -> bool:
    """One name less; whether it was the last.  A directory has only one."""
    inode = tables.inode(ino)
    nlink = 0 if is_directory(inode) else inode.nlink - 1
    if inode.nlink == 0:
        raise Damaged(f"inode {ino} has a name and counts none", key=schema.inode_key(ino))
    tables.update(ino, nlink=nlink, ctime_ns=now_ns)
    if nlink == 0:
        tables.orphan(ino, now_ns)
    return nlink == 0


def _parted(inode: Inode) -> int:
    """A directory's nlink with one subdirectory less."""
    if inode.nlink <= 2:
        raise Damaged("a directory counts fewer subdirectories than it has")
    return inode.nlink - 1


def unlink(tables: Tables, now_ns: int, parent: Ino, name: bytes) -> tuple[Ino, bool]:
    """Remove a name that is no directory: its inode, and whether that is an orphan now."""
    _check_name(name, EISDIR)
    tables.directory(parent)
    entry, inode = _present(tables, parent, name)
    if is_directory(inode):
        raise Posix(EISDIR)
    tables.set_entry(parent, name, None, mtime_ns=now_ns, ctime_ns=now_ns)
    orphaned = _unname(tables, entry.ino, now_ns)
    tables.save()
    return entry.ino, orphaned


def rmdir(tables: Tables, now_ns: int, parent: Ino, name: bytes) -> Ino:
    """Remove an empty directory; it is an orphan now."""
    _check_name(name, EINVAL if name == b"." else ENOTEMPTY)
    directory = tables.directory(parent)
    entry, inode = _present(tables, parent, name)
    if not is_directory(inode):
        raise Posix(ENOTDIR)
    if inode.entries:
        raise Posix(ENOTEMPTY)
    nlink = _parted(directory)
    tables.set_entry(parent, name, None, nlink=nlink, mtime_ns=now_ns, ctime_ns=now_ns)
    _unname(tables, entry.ino, now_ns)
    tables.save()
    return entry.ino


# --- names that move ---------------------------------------------------------------------------


class _Place(NamedTuple):
    """A name, with what stands there."""

    parent: Ino
    name: bytes
    entry: Dirent

    @property
    def directory(self) -> bool:
        return self.entry.mode == stat.S_IFDIR


def rename(
    tables: Tables, now_ns: int, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes,
    flags: int = 0,
) -> Ino | None:  # fmt: skip
    """rename(2), with renameat2's NOREPLACE or EXCHANGE: the inode that is an orphan now."""
    if flags not in (0, NOREPLACE, EXCHANGE):
        raise Posix(EINVAL)
    _check_name(name, EBUSY)
    _check_name(new_name, EEXIST if flags == NOREPLACE else EBUSY)
    tables.directory(parent)
    _growing(tables, new_parent)
    source = _Place(parent, name, _present(tables, parent, name)[0])
    there = tables.entry(new_parent, new_name)
    target = None if there is None else _Place(new_parent, new_name, there)
    if target is None and flags == EXCHANGE:
        raise Posix(ENOENT)
    if target is not None and flags == NOREPLACE:
        raise Posix(EEXIST)
    if source.directory and parent != new_parent and inside(tables, new_parent, source.entry.ino):
        raise Posix(EINVAL, "a directory can't move below itself")
    if target is not None and target.entry.ino == source.entry.ino:
        return None
    if flags == EXCHANGE:
        assert target is not None
        _exchange(tables, now_ns, source, target)
        orphan = None
    else:
        orphan = _replace(tables, now_ns, source, target, new_parent, new_name)
    tables.save()
    return orphan


def inside(view: View, ino: Ino, ancestor: Ino) -> bool:
    """Whether a directory is `ancestor` or stands below it."""
    seen = set()
    while ino != ancestor:
        if ino in seen:
            raise Damaged(f"directory {ino} stands below itself", key=schema.inode_key(ino))
        if ino == ROOT:
            return False
        seen.add(ino)
        ino = view.inode(ino).parent
    return True


def _replace(
    tables: Tables, now_ns: int, source: _Place, target: _Place | None, parent: Ino, name: bytes
) -> Ino | None:
    """Move `source` to a name, over what stands there: the inode that is an orphan now."""
    orphan = None
    if target is not None:
        _check_over(tables, source, target)
    if source.directory:
        _count_directories(tables, source.parent, -1)
        _count_directories(tables, parent, 1 if target is None else 0)
    if target is not None and _unname(tables, target.entry.ino, now_ns):
        orphan = target.entry.ino
    tables.set_entry(source.parent, source.name, None, mtime_ns=now_ns, ctime_ns=now_ns)
    tables.set_entry(parent, name, source.entry, mtime_ns=now_ns, ctime_ns=now_ns)
    _moved(tables, now_ns, source, parent)
    return orphan


def _check_over(tables: Tables, source: _Place, target: _Place) -> None:
    """Whether one may take the other's place: a file a file's, a directory an empty one's."""
    if source.directory and not target.directory:
        raise Posix(ENOTDIR)
    if target.directory and not source.directory:
        raise Posix(EISDIR)
    if target.directory and tables.inode(target.entry.ino).entries:
        raise Posix(ENOTEMPTY)


def _count_directories(tables: Tables, ino: Ino, more: int) -> None:
    """A directory has so many subdirectories more."""
    if more:
        inode = tables.inode(ino)
        tables.update(ino, nlink=_one_more(inode.nlink) if more > 0 else _parted(inode))


def _moved(tables: Tables, now_ns: int, source: _Place, parent: Ino) -> None:
    """The inode stands below `parent` now."""
    tables.update(source.entry.ino, ctime_ns=now_ns, parent=parent)


def _exchange(tables: Tables, now_ns: int, source: _Place, target: _Place) -> None:
    """Each takes the other's name, whatever they are."""
    crossing = source.parent != target.parent
    if target.directory and crossing and inside(tables, source.parent, target.entry.ino):
        raise Posix(EINVAL, "a directory can't move below itself")
    if crossing:
        _count_directories(tables, source.parent, target.directory - source.directory)
        _count_directories(tables, target.parent, source.directory - target.directory)
    for place, entry in ((source, target.entry), (target, source.entry)):
        tables.set_entry(place.parent, place.name, entry, mtime_ns=now_ns, ctime_ns=now_ns)
    _moved(tables, now_ns, source, target.parent)
    _moved(tables, now_ns, target, source.parent)


# --- attributes --------------------------------------------------------------------------------


def set_attributes(
    tables: Tables,
    now_ns: int,
    ino: Ino,
    mode: int | None = None,
    uid: int | None = None,
    gid: int | None = None,
    atime_ns: int | None = None,
    mtime_ns: int | None = None,
    was_ns: int | None = None,
    was_mode: int | None = None,
) -> Attributes:
    """chmod, chown, utimens: None leaves a field; ctime moves.  A new owner ends suid and sgid.

    What was kept back for a while came about at `was_ns`; then `mode` replaces `was_mode` only, or
    it would undo what somebody has set since.
    """
    inode = tables.handle(ino)
    if was_ns is not None:
        now_ns = max(inode.ctime_ns, min(now_ns, was_ns))
    if was_mode not in (None, inode.mode & PERMISSIONS):
        mode = None
    if mode is not None:
        bits = mode & PERMISSIONS
        xattrs.follow(tables, ino, bits)
        inode = tables.inode(ino)
    else:
        bits = inode.mode & PERMISSIONS
        if (uid is not None or gid is not None) and not is_directory(inode):
            bits &= ~stat.S_ISUID
            bits &= ~stat.S_ISGID if bits & stat.S_IXGRP else PERMISSIONS
    inode = tables.update(
        ino,
        mode=stat.S_IFMT(inode.mode) | bits,
        uid=inode.uid if uid is None else uid,
        gid=inode.gid if gid is None else gid,
        atime_ns=inode.atime_ns if atime_ns is None else atime_ns,
        mtime_ns=inode.mtime_ns if mtime_ns is None else mtime_ns,
        ctime_ns=now_ns,
    )
    tables.save()
    return attributes(ino, inode)
