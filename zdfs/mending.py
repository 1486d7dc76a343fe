"""Mending metadata: what can be put right without loss and without a guess.

Each function is a part of one write block, in the state that the finding was made in; it says what
it did, or "" when that would be a guess.  What is mended, by whose word:

    a name that leads nowhere     goes; the inode it named was lost before
    a wrong nlink                 is what the names say, which were counted while nothing moved
    an inode without a name       gets one in /lost+found
    a directory named twice       keeps the name where it says it stands
    counts and sums               a directory's, of stored bytes, of the totals: what is there
    orphans                       are told to whoever lets go of them
    debts                         that can't be right go: servers look for what they lack anyway

Never mended: a record that fails its check, a block map, attributes.  Counting a map anew when a
page of it is lost would make zeros of its blocks.
"""

import stat
from collections.abc import Callable

from zdfs import debts, namespace, records, schema
from zdfs.ids import ROOT, Ino
from zdfs.metacheck import Finding
from zdfs.namespace import Newborn
from zdfs.schema import Dirent, Inode, Totals
from zdfs.tables import MASK, Tables, decode, is_directory
from zdfs.wire import Flaw

LOST = b"lost+found"


def mend(
    tables: Tables,
    now_ns: int,
    finding: Finding,
    recounted: Totals | None,
    newborn: Callable[[], Newborn],
) -> str:
    """Put one finding right, and save: what was done.  `newborn` makes /lost+found.  Damaged."""
    key, about = finding.key, Ino(schema.number_of_key(finding.key)) if finding.key[8:] else ROOT
    done = ""
    if key[:1] == b"e" and key[9:] and finding.flaw in (Flaw.DANGLING, Flaw.PARENT):
        done = _mend_name(tables, now_ns, about, key)
    elif finding.flaw is Flaw.ENTRIES:
        done = _recount_entries(tables, about)
    elif finding.flaw is Flaw.LINKS and key[:1] == b"i":
        done = _mend_links(tables, now_ns, about, finding.amount)
    elif finding.flaw is Flaw.NAMELESS:
        done = _name(tables, now_ns, about, newborn)
    elif finding.flaw is Flaw.ORPHAN:
        done = _mend_orphan(tables, now_ns, about)
    elif finding.flaw is Flaw.DEBTS:
        done = debts.mend(tables, key)
    elif finding.flaw is Flaw.STORED:
        done = _recount_stored(tables, about, finding.amount)
    elif finding.flaw is Flaw.TOTALS and recounted is not None:
        tables.txn.put(schema.TOTALS, records.pack(recounted))
        done = "counted again"
    tables.save()
    return done


# --- names -------------------------------------------------------------------------------------


def _mend_name(tables: Tables, now_ns: int, parent: Ino, key: bytes) -> str:
    """A name that leads to no inode, to one of another type, or to a directory elsewhere."""
    payload = tables.read.get(key)
    if payload is None:
        return ""
    entry, name = decode(Dirent, key, payload), key[9:]
    child = tables.find(entry.ino)
    if child is None:
        _set(tables, now_ns, parent, name, entry, None)
        return "the name was removed"
    if stat.S_IFMT(child.mode) != entry.mode:
        _set(tables, now_ns, parent, name, entry, Dirent(entry.ino, stat.S_IFMT(child.mode)))
        return "the name has the inode's type now"
    if not is_directory(child) or child.parent == parent:
        return ""
    if _names_child(tables, child.parent, entry.ino):
        _set(tables, now_ns, parent, name, entry, None)
        return f"the name was removed: the directory stands in directory {child.parent}"
    if namespace.inside(tables, parent, entry.ino):
        return ""
    tables.update(entry.ino, parent=parent, ctime_ns=now_ns)
    return "the directory stands where it is named now"


def _set(
    tables: Tables, now_ns: int, parent: Ino, name: bytes, old: Dirent, new: Dirent | None
) -> None:
    """Replace a directory's entry, and keep its nlink in step."""
    more = (new is not None and new.mode == stat.S_IFDIR) - (old.mode == stat.S_IFDIR)
    nlink = max(2, tables.inode(parent).nlink + more)
    tables.set_entry(parent, name, new, nlink=nlink, mtime_ns=now_ns, ctime_ns=now_ns)


def _names_child(tables: Tables, parent: Ino, child: Ino) -> bool:
    """Whether a directory that is there has an entry for an inode."""
    inode = tables.find(parent)
    if inode is None or not is_directory(inode) or not inode.nlink:
        return False
    return any(decode(Dirent, key, data).ino == child for key, data in tables.entries(parent))


def _recount_entries(tables: Tables, ino: Ino) -> str:
    """A directory counts what is there; an inode whose name was lost will be without one."""
    prefix = schema.entry_key(ino, b"")
    found = summed = 0
    for key, payload in tables.read.scan(prefix, schema.after(prefix)):
        found += 1
        summed += schema.check(key, payload)
    if not is_directory(tables.inode(ino)):
        return ""
    tables.update(ino, entries=found, entries_sum=summed & MASK)
    return "the directory counts the names that are there; what else it held goes to /lost+found"


# --- links -------------------------------------------------------------------------------------


def _subdirectories(tables: Tables, ino: Ino) -> int:
    return sum(
        decode(Dirent, key, payload).mode == stat.S_IFDIR for key, payload in tables.entries(ino)
    )


def _mend_links(tables: Tables, now_ns: int, ino: Ino, names: int) -> str:
    """nlink as it should be; what has a name is no orphan."""
    inode = tables.inode(ino)
    nlink = 2 + _subdirectories(tables, ino) if is_directory(inode) else names
    if nlink == inode.nlink:
        return ""
    tables.update(ino, nlink=nlink, ctime_ns=now_ns)
    tables.txn.delete(schema.number_key(b"o", ino))
    return f"nlink is {nlink} now"


def _name(tables: Tables, now_ns: int, ino: Ino, newborn: Callable[[], Newborn]) -> str:
    """A name in /lost+found, which is made when it is not there."""
    inode = tables.inode(ino)
    there = tables.entry(ROOT, LOST)
    lost = namespace.make(tables, now_ns, ROOT, LOST, newborn()).ino if not there else there.ino
    if not is_directory(tables.inode(lost)) or ino == lost or namespace.inside(tables, lost, ino):
        return ""
    name = b"#%d" % ino
    if tables.entry(lost, name) is not None:
        return ""
    entry = Dirent(ino, stat.S_IFMT(inode.mode))
    _add(tables, now_ns, lost, name, entry, inode)
    return f"it is /lost+found/{name.decode()} now"


def _add(
    tables: Tables, now_ns: int, parent: Ino, name: bytes, entry: Dirent, inode: Inode
) -> None:
    """A name for an inode that has none."""
    _set(tables, now_ns, parent, name, Dirent(entry.ino, 0), entry)
    if is_directory(inode):
        nlink = 2 + _subdirectories(tables, entry.ino)
        tables.update(entry.ino, parent=parent, nlink=nlink, ctime_ns=now_ns)
    else:
        tables.update(entry.ino, parent=parent, nlink=1, ctime_ns=now_ns)


def _mend_orphan(tables: Tables, now_ns: int, ino: Ino) -> str:
    """Orphans are those that were removed: no less, no more."""
    inode = tables.find(ino)
    if inode is None or inode.nlink:
        tables.txn.delete(schema.number_key(b"o", ino))
        return "it is called an orphan no more"
    tables.orphan(ino, now_ns)
    return "it is let go of"


# --- sums --------------------------------------------------------------------------------------


def _recount_stored(tables: Tables, ino: Ino, stored: int) -> str:
    """The sum of a map that is whole."""
    inode = tables.inode(ino)
    tables.prove(schema.page_prefix(ino), inode.pages, inode.pages_sum)
    tables.count_stored(stored - inode.stored)
    tables.update(ino, stored=stored)
    return "counted again"
