"""Which segment of a dataserver's log is to be emptied: a pure decision.

Moving a segment's live records to the end of the log costs their bytes and wins the rest.  With
room to spare only what is mostly dead is worth that.  When the disk fills up, emptier or not, the
emptiest is: or a store that is overwritten for long would be full of what nobody needs.
"""

from collections.abc import Mapping, Set

MOSTLY_DEAD = 0.5  # the largest live share that is worth being moved while there is room
HARDLY_DEAD = 0.9  # ... and when there is none: ten bytes written for one that is won
AMPLE = 0.2  # so much of a disk free is room


def worth(free_share: float) -> float:
    """The largest live share of a segment that is worth being moved, when so much of the disk is
    free (0.0 to 1.0)."""
    scarcity = 1.0 - min(1.0, max(0.0, free_share) / AMPLE)
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
