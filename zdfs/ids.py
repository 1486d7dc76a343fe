"""Distinct types for numbers, so that mypy refuses an inode where a block number belongs.

Inode numbers and tokens are unique across crashes without a stored counter: the metaserver's
*incarnation* (synced before it serves, larger at each start) stands in their high bits.
"""

import enum
from typing import NamedTuple, NewType

Ino = NewType("Ino", int)
BlockNo = NewType("BlockNo", int)  # 0 is the file's first block
PageNo = NewType("PageNo", int)  # block number // limits.PAGE_BLOCKS
Slot = NewType("Slot", int)  # a place on the ring
Epoch = NewType("Epoch", int)  # a version of the ring
Token = NewType("Token", int)  # a write grant's fencing token: only grows
Session = NewType("Session", int)
Incarnation = NewType("Incarnation", int)
Round = NewType("Round", int)  # a store's group commit

ROOT = Ino(1)
EPOCH = Epoch(1)  # of the only ring that this release makes
JOURNAL = Ino(0)  # the rounds of the metaserver in a dataserver's store: block = round
COUNTER_BITS = 40  # 2^40 inodes or tokens per incarnation, 2^24 incarnations
INCARNATIONS = 1 << (64 - COUNTER_BITS)


class Policy(enum.IntEnum):
    """What a write does while a server of its ring is down."""

    INHERIT = 0  # as the directory above; the root's: ALL
    ALL = 1  # it waits until all three replicas are stored
    QUORUM = 2  # two of a block's three replicas suffice, the third is owed


class Version(NamedTuple):
    """One content of one block, for ever; larger is newer within a file."""

    token: Token
    sequence: int


class Name(NamedTuple):
    """What a block version is called everywhere: (inode, block, version)."""

    ino: Ino
    block: BlockNo
    version: Version


NOTHING = Name(Ino(0), BlockNo(0), Version(Token(0), 0))
"""A version that nobody has: to ask for it is to ask whether a server serves."""
NOT_JOURNAL = Name(JOURNAL, BlockNo(2**64 - 1), Version(Token(2**64 - 1), 2**32 - 1))
"""All versions behind this name are of files."""


def compose(incarnation: Incarnation, counter: int) -> int:
    """A number that no other incarnation can make.  `counter` starts at 1."""
    assert 0 < counter < 1 << COUNTER_BITS and 0 <= incarnation < INCARNATIONS
    return incarnation << COUNTER_BITS | counter


def incarnation_of(number: int) -> Incarnation:
    """Which incarnation composed this inode number or token."""
    return Incarnation(number >> COUNTER_BITS)
