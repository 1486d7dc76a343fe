"""A file's blocks on the ring, as the page draws them: pure.

The ring is cut into a sector for each server.  Blocks are taken in groups of as many as there are
servers: then each sector has exactly one replica `a`, one `b` and one `c` of each group, and a
block is three cells that go up a stair to the right.  So a page of the file is some whole groups.

What would become of a block if servers went down is what `forecast` says, of those replicas that
may be good: a copy that was found missing or damaged saves nobody.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from zdfs import forecast, limits
from zdfs.forecast import Outage
from zdfs.ids import BlockNo, Policy, Slot

GROUPS = 6  # of blocks on a page
BLOCKS_MIN, BLOCKS_MAX = 12, 64  # on a page
READ_BYTES = 12 * limits.MIB  # what servers read, to check a page of whole blocks, is about that
LETTERS = "abc"
GOOD = ("ok", "down")  # a server that doesn't answer may have a good copy


class Replica(NamedTuple):
    """One copy, and what its server says of it: ok, missing, damaged, owed; down: nothing."""

    slot: Slot
    state: str


class Block(NamedTuple):
    """One block of the page."""

    number: BlockNo
    version: str
    length: int
    replicas: tuple[Replica, ...]


def page_blocks(servers: int, block_bytes: int) -> int:
    """How many blocks a page shows: whole groups, as many as may be read again and again."""
    affordable = READ_BYTES // (limits.REPLICAS * block_bytes)
    wanted = min(GROUPS * servers, BLOCKS_MAX, max(BLOCKS_MIN, affordable))
    return max(wanted // servers * servers, min(servers, BLOCKS_MAX))


def outage(down: Collection[Slot], silent: Collection[Slot]) -> Outage:
    """Servers that would be stopped; servers that are silent as it is."""
    return Outage(frozenset(down), frozenset(silent) - frozenset(down))


def fate(block: Block, away: Outage) -> str:
    """`lost`, `unread` (EIO until a server is back), or `fine`."""
    silent = {one.slot for one in block.replicas if one.state == "down"} - away.down
    may = [one.slot for one in block.replicas if one.state in GOOD]
    became = forecast.fate(away._replace(silent=away.silent | silent), may)
    return "lost" if became.lost else "unread" if became.unread else "fine"


def drawn(
    blocks: Sequence[Block], away: Outage, policy: Policy, servers: int
) -> dict[str, Any]:  # fmt: skip
    """Blocks with their fates, and what it means for the file."""
    fates = [fate(block, away) for block in blocks]
    return {
        "policy": policy.name.lower(),
        "writes_wait": forecast.writes_wait(policy, away, servers),
        "counts": {each: fates.count(each) for each in ("fine", "unread", "lost")},
        "blocks": [
            {
                "block": block.number,
                "version": block.version,
                "length": block.length,
                "fate": became,
                "replicas": [
                    {"replica": LETTERS[place], "slot": one.slot, "state": one.state}
                    for place, one in enumerate(block.replicas)
                ],
            }
            for block, became in zip(blocks, fates)
        ],
    }
