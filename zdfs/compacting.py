"""Which segment of a dataserver's log is to be emptied: a pure decision.

Moving a segment's live records to the end of the log costs their bytes and wins the rest.  With
room to spare only what is mostly dead is worth that.  When the disk fills up, emptier or not, the
emptiest is: or a store that is overwritten for long would be full of what nobody needs.

What is overwritten at random dies everywhere alike, so a segment costs the less the longer it is
left alone.  A store of which the share `u` of all segments' bytes lives, and that empties the
emptiest, finds `s` of that alive, where u = (1 - s) / -ln(s), and writes 1 / (1 - s) bytes for each
that comes: 2.7 at u = 0.8, 5.2 at 0.9.  Whatever is kept free makes `u` larger: while somebody is
at work, little is.
"""

from collections.abc import Mapping, Set

from zdfs import limits
from zdfs.ports import Press

MOSTLY_DEAD = 0.5  # the largest live share that is worth being moved while there is room
HARDLY_DEAD = 0.9  # ... and when there is none: ten bytes written for one that is won
SEGMENTS = 128  # of a small disk, at least so many if it is full
AMPLE = {  # so much of a disk free is room
    Press.IDLE: 0.2,  # nobody pays for what is moved now
    Press.BUSY: 0.04,  # a few segments, however small the disk: what is being emptied wants room
    Press.SHORT: 0.0,
}


def segment_bytes(disk_bytes: int, kept_bytes: int) -> int:
    """How large segments are.  What is being emptied or is not full yet takes room and wins none,
    so that the smaller a disk is, the smaller are they; but not so small that each message to
    a server begins one, nor larger than what is kept for moving them."""
    return min(limits.SEGMENT_BYTES, kept_bytes, max(limits.BATCH_BYTES, disk_bytes // SEGMENTS))


def spare(
    reserve_bytes: int, sealed: Mapping[int, int], live: Mapping[int, int], stuck: Set[int]
) -> int:
    """What of the reserve for segments that are moved may be stored in: as much as is dead, for
    that comes back when it is wanted; but not what the largest segment needs to be moved.

    So the reserve holds some of what is dead, which else stood in the way of what is stored, and
    made emptying dearer.  Once all lives, it is free."""
    dead = sum(size - live[number] for number, size in sealed.items() if number not in stuck)
    return max(0, min(dead, reserve_bytes - max(sealed.values(), default=0)))


def winnable(sealed: Mapping[int, int], live: Mapping[int, int], stuck: Set[int]) -> int:
    """Bytes of what is dead that would be won back if they were wanted."""
    return sum(
        size - live[number]
        for number, size in sealed.items()
        if number not in stuck and live[number] < HARDLY_DEAD * size
    )


def worth(free_share: float, press: Press) -> float:
    """The largest live share of a segment that is worth being moved, when so much of the disk is
    free (0.0 to 1.0), or about to be."""
    ample = AMPLE[press]
    scarcity = 1.0 - min(1.0, max(0.0, free_share) / ample) if ample else 1.0
    return MOSTLY_DEAD + (HARDLY_DEAD - MOSTLY_DEAD) * scarcity


def victim(
    sealed: Mapping[int, int],
    live: Mapping[int, int],
    stuck: Set[int],
    most: float,
    room_bytes: int,
) -> int | None:
    """The emptiest segment of a live share below `most` that has something to move, and that there
    is room to move: it is deleted only then; None: there is none.

    `sealed`: number -> bytes; `live`: number -> live bytes; `stuck`: can't be emptied.
    """
    found = [
        (live[number] / size, number)
        for number, size in sealed.items()
        if number not in stuck and 0 < live[number] < min(most * size, room_bytes)
    ]
    return min(found)[1] if found else None
