"""Damage a replica on purpose where it stands, to see it heal (`harming` says in which ways).

The dataserver does it behind its own checksums, and only if it was started with --faults.
"""

import random
from errno import ENOENT
from typing import NamedTuple

from zdfs import addresses, blockmap, limits, placement, wire
from zdfs.calls import Peer, call
from zdfs.errors import Posix, StartError
from zdfs.ids import BlockNo, Name, Slot
from zdfs.paths import PathVolume


class Damage(NamedTuple):
    """What was done."""

    block: BlockNo
    offset: int
    before: bytes
    after: bytes


async def corrupt(
    volume: PathVolume, server: str, path: bytes, replica: int, harm: wire.Harm, seed: int
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
    candidates = await _candidates(volume, Slot(ring.index(server)), path, replica)
    if not candidates:
        raise StartError(
            f"dataserver {addresses.short(server)} holds replica {replica} of no block of "
            f"{path.decode(errors='replace')}: 'zdfs where' says what it holds"
        )
    refusal: Posix | None = None
    for block, name in random.Random(seed).sample(candidates, len(candidates)):
        try:
            harmed = await call(Peer(server), wire.Corrupt(name, harm, seed))
        except Posix as error:  # STALE: a block that was never written over has nothing older
            if error.number != ENOENT or harm is not wire.Harm.STALE:
                raise
            refusal = error
            continue
        return Damage(block, harmed.offset, harmed.before, harmed.after)
    raise StartError(f"{path.decode(errors='replace')}: {refusal}")


async def _candidates(
    volume: PathVolume, slot: Slot, path: bytes, replica: int
) -> list[tuple[BlockNo, Name]]:
    """The blocks of a file of which a slot holds this replica, and their versions."""
    try:
        attributes, pages = await volume.where(path)
    except Posix as error:
        raise StartError(f"{path.decode(errors='replace')}: {error.text}") from error
    found: list[tuple[BlockNo, Name]] = []
    for page in pages:
        for position, entry in enumerate(blockmap.unpack_page(page.entries)):
            block = BlockNo(page.page * limits.PAGE_BLOCKS + position)
            here = placement.replica(attributes.start, block, volume.contact.servers, slot)
            if entry is not None and entry.stored and here == replica:
                found.append((block, blockmap.name_of(attributes.ino, block, entry)))
    return found
