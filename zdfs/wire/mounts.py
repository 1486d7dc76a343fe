"""Messages between mounts and the metaserver: names and content."""

from typing import Annotated as A

from zdfs import limits
from zdfs.ids import Epoch, Ino, PageNo, Slot, Token
from zdfs.records import TIME, U16, U32, U64, Between, Length, Since
from zdfs.wire.base import (
    NameBytes,
    XattrName,
    XattrValue,
    Size,
    Umask,
    Flag,
    Permit,
    Durability,
    Reply,
    Request,
    message,
)
from zdfs.wire.parts import Attributes, Entry, MapPage, Ack, Done

# --- mounts to the metaserver: names -----------------------------------------------------------


@message(20, Durability.LOGGED)
class Found(Reply):
    """One inode's attributes, and those of the directory whose names were changed."""

    attributes: Attributes
    directory: Attributes | None = None


@message(21)
class Walked(Reply):
    """Attributes of each name walked; errno of the first that could not be (0: all)."""

    steps: A[tuple[Attributes, ...], Length(0, limits.WALK_NAMES)]
    number: A[int, U16]
    version: A[int, U64]  # the change counter of the directory that it began in; 0: there is none


@message(22)
class Lookup(Request[Walked]):
    """Walk names, one below the other, from a directory."""

    parent: Ino
    names: A[tuple[NameBytes, ...], Length(1, limits.WALK_NAMES)]


@message(23)
class GetAttributes(Request[Found]):
    """stat by inode."""

    ino: Ino


@message(24)
class SetAttributes(Request[Found]):
    """chmod, chown, utimens: None leaves a field as it is; ctime moves."""

    ino: Ino
    mode: A[int, U32] | None
    uid: A[int, U32] | None
    gid: A[int, U32] | None
    atime_ns: A[int, TIME] | None
    mtime_ns: A[int, TIME] | None
    atime_now: Flag  # UTIME_NOW: the metaserver's clock, whatever is given
    mtime_now: Flag
    ctime_ns: A[A[int, TIME] | None, Since(5)] = None  # when it was; None: now
    was_mode: A[A[int, U32] | None, Since(5)] = None  # what `mode` replaces; None: whatever it is

    def times(self, now_ns: int) -> tuple[int | None, int | None]:
        """atime and mtime, if that is now; None leaves one as it is."""
        atime = now_ns if self.atime_now else self.atime_ns
        return atime, now_ns if self.mtime_now else self.mtime_ns


@message(25)
class Make(Request[Found]):
    """mkdir, mknod, symlink: mode has the type bits; target only for a symlink."""

    parent: Ino
    name: NameBytes
    path: A[bytes, Length(1, limits.PATH_BYTES)]  # placement hashes it
    mode: A[int, U32]
    uid: A[int, U32]
    gid: A[int, U32]
    rdev: A[int, U64]
    target: A[bytes, Length(0, limits.SYMLINK_BYTES)]
    umask: Umask


@message(26, Durability.LOGGED)
class Opened(Reply):
    """An open file: attributes, the first map page, and the write grant if asked for."""

    attributes: Attributes
    page: MapPage
    token: Token  # 0: no grant
    number: A[int, U64]  # of the inode's last commit
    created: Flag
    directory: Attributes | None = None  # that a name came into
    permit: Permit = b""


@message(27)
class Create(Request[Opened]):
    """open(O_CREAT): make a regular file (unless it is there and not exclusive) and open it."""

    parent: Ino
    name: NameBytes
    path: A[bytes, Length(1, limits.PATH_BYTES)]
    mode: A[int, U32]
    uid: A[int, U32]
    gid: A[int, U32]
    exclusive: Flag
    opening: A[int, U64]
    umask: Umask


@message(28)
class Open(Request[Opened]):
    """open: with `write` the grant too (a change: it needs a slot); `truncate`: O_TRUNC.  ESTALE
    when the name leads elsewhere by now."""

    ino: Ino
    opening: A[int, U64]
    write: Flag
    truncate: Flag
    parent: Ino
    name: A[bytes, Length(0, limits.NAME_BYTES)]  # empty: whatever it is called


@message(29)
class Unlink(Request[Found]):
    """Remove a name that is no directory: what it led to, afterwards."""

    parent: Ino
    name: NameBytes


@message(30)
class RemoveDirectory(Request[Found]):
    """Remove an empty directory: what it is now."""

    parent: Ino
    name: NameBytes


@message(45, Durability.LOGGED)
class Renamed(Reply):
    """What was moved, and what stood at the new name, both as they are now; and the directories
    that it left and came into."""

    moved: Attributes
    replaced: Attributes | None
    left: Attributes
    entered: Attributes


@message(31)
class Rename(Request[Renamed]):
    """rename, with renameat2's flags (1 NOREPLACE, 2 EXCHANGE)."""

    parent: Ino
    name: NameBytes
    new_parent: Ino
    new_name: NameBytes
    flags: A[int, U32]


@message(32)
class Link(Request[Found]):
    """Another name for an inode."""

    ino: Ino
    parent: Ino
    name: NameBytes


@message(33)
class Target(Reply):
    """Where a symlink points."""

    target: A[bytes, Length(0, limits.SYMLINK_BYTES)]


@message(34)
class ReadLink(Request[Target]):
    """readlink."""

    ino: Ino


@message(35)
class Listing(Reply):
    """A page of a directory, ordered by name."""

    entries: A[tuple[Entry, ...], Length(0, limits.LISTING_ENTRIES)]
    end: Flag
    parent: Ino  # what ".." is
    version: A[int, U64]  # the directory's change counter


@message(36)
class ReadDirectory(Request[Listing]):
    """Entries after a name (b"": from the start), as many as fit a page and are wanted."""

    ino: Ino
    after: A[bytes, Length(0, limits.NAME_BYTES)]
    most: A[int, Between(1, limits.LISTING_ENTRIES)]


@message(49)
class NameList(Reply):
    """A page of a directory's names, as `dirnames.pack` puts them, ordered."""

    names: A[bytes, Length(0, limits.LISTING_BYTES)]
    end: Flag
    parent: Ino  # what ".." is
    version: A[int, U64]  # the directory's change counter


@message(100)
class ListNames(Request[NameList]):
    """Names after a name, as many as fit, and what they lead to: for who asks for no more."""

    ino: Ino
    after: A[bytes, Length(0, limits.NAME_BYTES)]


@message(37)
class Value(Reply):
    """An extended attribute."""

    value: XattrValue


@message(38)
class GetXattr(Request[Value]):
    """getxattr; ENODATA when there is none."""

    ino: Ino
    name: XattrName


@message(39)
class Names(Reply):
    """The names of an inode's extended attributes."""

    names: A[tuple[XattrName, ...], Length(0, limits.LIST_ITEMS)]


@message(40)
class ListXattr(Request[Names]):
    """listxattr."""

    ino: Ino


@message(41)
class SetXattr(Request[Found]):
    """setxattr; flags 1 XATTR_CREATE, 2 XATTR_REPLACE.  An access control list moves the mode."""

    ino: Ino
    name: XattrName
    value: XattrValue
    flags: A[int, Between(0, 3)]
    ends_sgid: Flag  # an access list given by somebody outside of the file's group


@message(42)
class RemoveXattr(Request[Found]):
    """removexattr."""

    ino: Ino
    name: XattrName


@message(43)
class Space(Reply):
    """statfs: what can still be stored (the fullest server decides)."""

    total_bytes: A[int, U64]
    free_bytes: A[int, U64]
    inodes: A[int, U64]
    free_inodes: A[int, U64]


@message(44)
class StatFs(Request[Space]):
    """statfs."""


# --- mounts to the metaserver: content ---------------------------------------------------------


@message(46, Durability.SYNCED)
class Synced(Reply):
    """Every change that was answered before."""


@message(47)
class Sync(Request[Synced]):
    """fsync, where nothing is left to be committed: of a directory, say."""


@message(50, Durability.LOGGED)
class Granted(Reply):
    """A write grant."""

    token: Token
    number: A[int, U64]
    attributes: Attributes
    permit: Permit = b""


@message(51)
class Grant(Request[Granted]):
    """Let me write this file; waits until its holder gave it back or died."""

    ino: Ino


@message(52)
class ReturnGrant(Request[Done]):
    """Everything written under this token is committed; let the next one have it."""

    ino: Ino
    token: Token


@message(53)
class MapPages(Reply):
    """Pages of a block map; a different change counter means: start again."""

    attributes: Attributes
    pages: A[tuple[MapPage, ...], Length(0, 64)]
    permit: Permit = b""


@message(54)
class ReadMap(Request[MapPages]):
    """`count` pages from `first`; pages that are only holes come empty."""

    ino: Ino
    first: A[PageNo, Between(0, limits.PAGES)]
    count: A[int, Between(1, 64)]


@message(55, Durability.LOGGED)
class Committed(Reply):
    """The blocks count from now on."""

    attributes: Attributes


@message(48, Durability.SYNCED)
class CommittedSynced(Committed):
    """Likewise, and nothing takes it back: the answer to an fsync."""


@message(56)
class Commit(Request[Committed]):
    """Make new block versions count, with size and mtime: one transaction (DESIGN 6).  Answered
    with CommittedSynced if it is to be `synced`."""

    ino: Ino
    token: Token
    number: A[int, U64]  # one more than the last
    epoch: Epoch  # of the ring that the acknowledgements are from
    floor: A[int, U32]  # no sequence below will ever be committed
    blocks: A[bytes, Length(0, limits.HEAD_BYTES // 2)]  # blockmap.pack_numbered
    acks: A[tuple[Ack, ...], Length(0, limits.LIST_ITEMS)]
    abandoned: A[bytes, Length(0, limits.HEAD_BYTES // 4)]  # blockmap.pack_dropped
    size: Size  # at least so large afterwards
    mtime_ns: int | None  # of the newest write; None: its times were set since
    synced: Flag  # fsync class
    owed: A[tuple[Slot, ...], Length(0, limits.SERVERS)] = ()  # goes without these: policy quorum


@message(57)
class Truncate(Request[Committed]):
    """Cut or grow a file under the grant, numbered like a commit."""

    ino: Ino
    token: Token
    number: A[int, U64]
    size: Size


@message(58)
class Punch(Request[Committed]):
    """fallocate, under the grant, numbered like a commit: whole blocks within the range become
    holes, and the last one that the file reaches into.  The ragged ends are the writer's."""

    ino: Ino
    token: Token
    number: A[int, U64]
    offset: Size
    length: Size  # 0: nothing becomes a hole
    size: Size  # at least so large afterwards


@message(59)
class Seek(Request[MapPages]):
    """lseek.  `data`: the first page at or behind `page` that isn't only holes (no page: there is
    none).  Else one with a hole, or, after a while, the last that was looked at: it is full."""

    ino: Ino
    page: A[PageNo, Between(0, limits.PAGES)]
    data: Flag
