"""Messages about copies of the metadata: the metaserver's rounds on dataservers."""

from typing import Annotated as A
from typing import NamedTuple

from zdfs import limits
from zdfs.chain import GENESIS, NO_COPIES, CopySet, Head
from zdfs.ids import Incarnation, Round, Slot
from zdfs.records import U32, U64, Length
from zdfs.wire.base import Bulk, Durability, Flag, Reply, Request, Uuid, message

Key = A[bytes, Length(0, 511)]


class CopyReport(NamedTuple):
    """What a dataserver says of its copy, each second."""

    copies: CopySet  # the newest that it was told, synced
    head: Head  # how far its copy reaches
    whole: Flag  # everything up to there is here
    force: CopySet = NO_COPIES  # the set in force, as of that head
    agrees: Flag = True  # with the newest round about how many records there are


class CopyStatus(NamedTuple):
    """A member of the journal set, for people."""

    slot: Slot
    whole: Flag
    lag: A[int, U64]  # rounds that it has yet to answer for


class Copies(NamedTuple):
    """All of them, and how many must have a round before its replies leave; 0: there are none."""

    needed: A[int, U32]
    members: A[tuple[CopyStatus, ...], Length(0, 2 * limits.COPIES)]


NO_COPY = CopyReport(NO_COPIES, GENESIS, False)


@message(120)
class CopyState(Reply):
    """How far the copy reaches; survives kill -9."""

    head: Head
    whole: Flag
    cursor: Key  # while it is being filled: the first key that is missing; empty: it isn't


@message(121, Durability.SYNCED)
class CopySynced(Reply):
    """The same, synced to disk."""

    head: Head
    whole: Flag
    cursor: Key  # while it is being filled: the first key that is missing; empty: it isn't


@message(122)
class Append(Request[CopyState]):
    """Rounds of the metaserver, in order; none: how far are you?

    What does not follow the copy's newest round is left out, and a round of an older incarnation
    that stands where another one belongs gives way.  Refused unless `incarnation` is the one that
    the dataserver is promised to.
    """

    cluster: Uuid
    incarnation: Incarnation
    parts: A[tuple[A[int, U32], ...], Length(0, limits.COPY_ROUNDS)]  # frames of each round
    data: Bulk


@message(123)
class AppendSynced(Request[CopySynced]):
    """The same; answered when they are synced."""

    cluster: Uuid
    incarnation: Incarnation
    parts: A[tuple[A[int, U32], ...], Length(0, limits.COPY_ROUNDS)]
    data: Bulk


@message(133)
class AppendPiece(Request[CopyState]):
    """Frames of one round that is too large for a message; the last completes it."""

    cluster: Uuid
    incarnation: Incarnation
    round: Round
    at: A[int, U32]  # the first of these frames
    frames: A[int, U32]  # of the whole round
    data: Bulk


@message(124)
class Fill(Request[CopyState]):
    """All records of the metaserver, page by page, in the order of keys; between the pages come
    rounds.  The first page makes what stood in the copy void."""

    cluster: Uuid
    incarnation: Incarnation
    head: Head  # with which the page was read: must be the copy's own, but for the first page
    over: Head  # of the copy that the first page is to replace ...
    whole: Flag  # ... and whether it called itself whole: a late repeat must not undo a copy
    first: Key  # where the page begins; empty: the first page
    end: Flag  # nothing stands behind these: the copy proves itself whole
    data: Bulk  # one frame: changes as in a round


@message(125)
class CopyPage(Reply):
    """Records of a copy, in the order of keys."""

    head: Head
    following: Key  # where to go on
    end: Flag
    data: Bulk  # one frame: changes as in a round


@message(130)
class ReadCopy(Request[CopyPage]):
    """Records from a key on (empty: from the first), up to `until` (exclusive; empty: all)."""

    cluster: Uuid
    first: Key
    until: Key


@message(131)
class CopyRounds(Reply):
    """Rounds in order; empty: the copy does not keep the one that was asked for any more."""

    head: Head
    parts: A[tuple[A[int, U32], ...], Length(0, limits.COPY_ROUNDS)]
    data: Bulk


@message(132)
class ReadRounds(Request[CopyRounds]):
    """The rounds behind one."""

    cluster: Uuid
    after: Round
