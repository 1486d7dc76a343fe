"""Which paths inodes have: a walk over all names, for commands that were told of inodes."""

import stat
from collections.abc import Collection
from typing import Any

from zdfs import limits, wire
from zdfs.calls import Peer, call, now, sleep
from zdfs.errors import Failure
from zdfs.ids import ROOT, Ino

ANSWER_S = 15.0  # a server that says nothing for so long is not waited for


async def asking(peer: Peer, request: Any, patience_s: float = ANSWER_S) -> Any:
    """An answer, also from a server that is busy, or starts again.  Raises its Failure."""
    end = await now() + patience_s
    while True:
        try:
            return await call(peer, request, limits.BULK_TIMEOUT_S)
        except Failure as error:
            if error.definite or await now() >= end:
                raise
        await sleep(limits.RETRY_S / 4)


async def paths(meta: Peer, wanted: Collection[Ino]) -> dict[Ino, bytes]:
    """A path of each inode that has one, deepest directories first.  Raises Failure."""
    found: dict[Ino, bytes] = {ROOT: b"/"} if ROOT in wanted else {}
    seen = {ROOT}
    stack = [(ROOT, b"", b"")]  # directory, its path, the name listed last
    while stack and len(found) < len(wanted):
        ino, path, after = stack.pop()
        listing = await asking(meta, wire.ListEntries(ino, after))
        if not listing.end:
            stack.append((ino, path, listing.entries[-1].name))
        for entry in listing.entries:
            below = path + b"/" + entry.name
            if entry.ino in wanted:
                found.setdefault(entry.ino, below)
            if stat.S_ISDIR(entry.mode) and entry.ino not in seen:  # else for ever, perhaps
                seen.add(entry.ino)
                stack.append((entry.ino, below, b""))
    return found
