"""Which slots of a ring hold a block: a pure function (DESIGN 3).

start = BLAKE2b-64(path at creation) mod N, kept in the inode
replica r of block b stands on slot (start + b + r) mod N
"""

import hashlib
from collections.abc import Collection, Iterable

from zdfs import limits
from zdfs.ids import BlockNo, Slot


def start(path: bytes, servers: int) -> Slot:
    """Where the first replica of the first block of a file made at `path` goes."""
    digest = hashlib.blake2b(path, digest_size=8).digest()
    return Slot(int.from_bytes(digest, "big") % servers)


def slots(first: Slot, block: BlockNo, servers: int) -> tuple[Slot, ...]:
    """The slots of replicas 0, 1 and 2 of `block`, in that order."""
    return tuple(Slot((first + block + r) % servers) for r in range(limits.REPLICAS))


def replica(first: Slot, block: BlockNo, servers: int, slot: Slot) -> int | None:
    """Which replica of `block` stands on `slot`; None when none does."""
    number = (slot - first - block) % servers
    return number if number < limits.REPLICAS else None


def lacking(
    first: Slot, blocks: Iterable[BlockNo], servers: int, gone: Collection[Slot]
) -> frozenset[Slot]:
    """Of the slots that are gone, those of a block that has fewer than a quorum left."""
    found: set[Slot] = set()
    for block in blocks:
        away = [slot for slot in slots(first, block, servers) if slot in gone]
        if limits.REPLICAS - len(away) < limits.QUORUM:
            found.update(away)
    return frozenset(found)


def readable(servers: int, dead: Collection[Slot]) -> bool:
    """Whether every block has a live replica: no three cyclic neighbours are dead together."""
    return not any(
        all((slot + r) % servers in dead for r in range(limits.REPLICAS)) for slot in range(servers)
    )
