"""Which mount was told of which inodes, so that it can be told when they change.

A promise like AFS's callbacks: whoever was shown an inode is told once of its next change by
somebody else, and then no more until it looks again.  So a mount that never looks twice costs one
message, and a busy file that nobody looks at costs none.  Soft and bounded: a mount is also told of
what is no longer looked after; what is lost on its way, and with a metaserver that ends, mounts
find out with their heartbeats (`knowledge`).
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from zdfs import limits, wire
from zdfs.ids import Ino, Session

NAMING = (wire.Lookup, wire.Make, wire.Create, wire.Link, wire.Unlink, wire.RemoveDirectory)


class Interests:
    """What each mount looked at since it was last told."""

    def __init__(self, most: int = limits.LOOKED_AT):
        self.most = most
        self._looked: dict[Session, dict[Ino, None]] = {}

    def looked(self, session: Session, inos: Iterable[Ino]) -> list[Ino]:
        """A mount is being told of these; what it looked at longest ago is forgotten: which."""
        known = self._looked.setdefault(session, {})
        for ino in inos:
            known[ino] = None
        forgotten = list(islice(known, max(0, len(known) - self.most)))
        for ino in forgotten:
            del known[ino]
        return forgotten

    def changed(self, inos: Iterable[Ino], by: Session) -> dict[Session, list[Ino]]:
        """Whom to tell of what; asked for once, it is forgotten."""
        news: dict[Session, list[Ino]] = {}
        for session, known in self._looked.items():
            if session != by and (told := [ino for ino in inos if ino in known]):
                news[session] = told
                for ino in told:
                    del known[ino]
        return news

    def died(self, session: Session) -> None:
        """A mount has ended."""
        self._looked.pop(session, None)


def shown(request: wire.Message, reply: wire.Message) -> Iterator[Ino]:
    """The inodes that a mount knows something of once it has this reply, directories too whose
    entries it has learnt."""
    if isinstance(request, NAMING):
        yield request.parent
    if isinstance(request, wire.Rename):
        yield from (request.parent, request.new_parent)
    if isinstance(reply, wire.Renamed):
        yield from (one.ino for one in (reply.moved, reply.replaced) if one is not None)
    if isinstance(reply, wire.Walked):
        yield from (attributes.ino for attributes in reply.steps)
    elif isinstance(reply, wire.Listing):
        assert isinstance(request, wire.ReadDirectory)
        yield request.ino
        yield from (entry.attributes.ino for entry in reply.entries)
    elif isinstance(request, wire.ListNames):
        yield request.ino
    elif isinstance(reply, (wire.Found, wire.Opened, wire.Granted, wire.Committed, wire.MapPages)):
        yield reply.attributes.ino
