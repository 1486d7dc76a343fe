"""Damage a replica on purpose: flip bits of a block where it stands, to see it heal.

The dataserver does it behind its own checksums, and only if it was started with --faults.
"""

import random
from typing import NamedTuple

from zdfs import addresses, blockmap, limits, placement, wire
from zdfs.calls import Peer, call
from zdfs.errors import Posix, StartError
from zdfs.ids import BlockNo, Name, Slot
from zdfs.volume import Volume


class Damage(NamedTuple):
    """What was done."""

    block: BlockNo
    offset: int
    before: bytes
    after: bytes


async def corrupt(
    volume: Volume, server: str, path: bytes, replica: int, harm: wire.Harm, seed: int
) -> Damage:
    """Harm a random block of which `server` (HOST:PORT) holds replica number `replica`.

    Raises StartError in words for people: no such server, file, or block.
    """
    ring = [member.address for member in volume.contact.map.members]
    if server not in ring:
        known = ", ".join(addresses.short(address) for address in ring)
        raise StartError(f"no dataserver has port {addresses.short(server)}; there are {known}")
    if not 0 <= replica < limits.REPLICAS:
        raise StartError(f"replica {replica}: a block has replicas 0 to {limits.REPLICAS - 1}")
    slot = Slot(ring.index(server))
    try:
        attributes, pages = await volume.where(path)
    except Posix as error:
        raise StartError(f"{path.decode(errors='replace')}: {error.text}") from error
    candidates: list[tuple[BlockNo, Name]] = []
    for page in pages:
        for position, entry in enumerate(blockmap.unpack_page(page.entries)):
            block = BlockNo(page.page * limits.PAGE_BLOCKS + position)
            here = placement.replica(attributes.start, block, len(ring), slot)
            if entry is not None and entry.stored and here == replica:
                candidates.append((block, blockmap.name_of(attributes.ino, block, entry)))
    if not candidates:
        raise StartError(
            f"dataserver {addresses.short(server)} holds replica {replica} of no block of "
            f"{path.decode(errors='replace')}"
        )
    block, name = random.Random(seed).choice(candidates)
    harmed = await call(Peer(server), wire.Corrupt(name, harm, seed))
    return Damage(block, harmed.offset, harmed.before, harmed.after)
