"""Messages of fsck: what only a check of the whole file system asks."""

import enum
from typing import Annotated as A
from typing import NamedTuple

from zdfs import limits
from zdfs.ids import Epoch, Ino, Name, Slot
from zdfs.records import U16, U32, U64, Length
from zdfs.wire.base import Flag, NameBytes, Reply, Request, Text, Uuid, message
from zdfs.wire.parts import Done

# --- anybody to the metaserver -----------------------------------------------------------------


class Flaw(enum.IntEnum):
    """What can be wrong with metadata."""

    RECORD = 1  # a record fails its check, does not decode, or belongs to nothing
    INODE = 2  # an inode's own fields can't all be true
    ENTRIES = 3  # a directory's entries are not those that it counted
    CHILDREN = 4  # likewise an inode's map pages or extended attributes
    MAP = 5  # an entry of a block map that can't be
    DANGLING = 6  # a name that leads to no inode, or to one of another type
    PARENT = 7  # a directory is named where it does not stand
    LOOP = 8  # a directory has no way up to the root
    LINKS = 9  # nlink is not the number of names
    NAMELESS = 10  # no name leads to an inode that was not removed
    ORPHAN = 11  # a removed inode that nobody has open and nobody lets go of
    STORED = 12  # the bytes stored are not the sum of the map
    TOTALS = 13  # the running sums of all inodes are wrong
    DEBTS = 14  # what servers are owed is miscounted, or can't be


class Fault(NamedTuple):
    """Something wrong with metadata."""

    flaw: Flaw
    ino: Ino  # whom it is about; the directory where `name` is given; 0: the store
    name: A[bytes, Length(0, limits.NAME_BYTES)]
    text: Text
    mended: Text  # what was done about it; empty: nothing


@message(67)
class Examined(Reply):
    """A slice of the walk over all metadata."""

    step: A[int, U64]
    faults: A[tuple[Fault, ...], Length(0, limits.FAULTS)]
    records: A[int, U64]  # looked at so far
    end: Flag


@message(68)
class Examine(Request[Examined]):
    """Go on with a walk of the asker's own: `run` names it, steps count from 1.  A step that is
    asked for again is answered again.  `mend`: mend on the way what can be mended without loss."""

    run: Uuid
    step: A[int, U64]
    mend: Flag


class Entry1(NamedTuple):
    """A directory entry as its record says, whatever became of its inode."""

    name: NameBytes
    ino: Ino
    mode: A[int, U32]  # only the type bits


@message(69)
class Entries(Reply):
    """A stretch of a directory, ordered by name, damaged entries left out."""

    entries: A[tuple[Entry1, ...], Length(0, limits.LISTING_ENTRIES)]
    end: Flag


@message(99)
class ListEntries(Request[Entries]):
    """For the paths of findings: entries behind a name, also of a directory that can't be listed
    because something in it is damaged."""

    ino: Ino
    after: A[bytes, Length(0, limits.NAME_BYTES)]


# --- anybody to dataservers --------------------------------------------------------------------


class Version1(NamedTuple):
    """A version that a dataserver's index names."""

    name: Name
    crc16: A[int, U16]
    crc32c: A[int, U32]
    length: A[int, U32]
    epoch: Epoch
    start: Slot  # of its file: with the block it says where the version belongs


@message(96)
class Versions(Reply):
    """A stretch of everything that a dataserver holds, in the order of names."""

    items: A[tuple[Version1, ...], Length(0, limits.VERSIONS)]
    end: Flag
    dropped: A[int, U64]  # the metaserver's drop queue is done up to here


@message(97)
class ListVersions(Request[Versions]):
    """The next `limits.VERSIONS` behind a name (None: from the first)."""

    cluster: Uuid
    after: Name | None


@message(98)
class Discard(Request[Done]):
    """Drop those of these versions that the metaserver judges garbage, or, with `surplus`, that
    belong on other slots.  The others stay."""

    cluster: Uuid
    names: A[tuple[Name, ...], Length(1, limits.VERSIONS)]
    surplus: Flag
