"""The passes that a mount was given by the metaserver, for the dataservers (see `passes`)."""

from collections import OrderedDict

from zdfs import limits, wire
from zdfs.calls import Condition, notify
from zdfs.ids import Ino

GIVING = (wire.SessionOpened, wire.Beaten, wire.MapPages, wire.Opened, wire.Granted)


class Permits:
    """One for all files, or, for a client that is confined, one for each file that it looked at."""

    def __init__(self) -> None:
        self.whole = b""
        self.moved = Condition()  # notified when `whole` was told again
        self._of: OrderedDict[Ino, bytes] = OrderedDict()

    def take(self, reply: wire.Reply) -> None:
        """What a reply brings."""
        if not isinstance(reply, GIVING):
            return
        if isinstance(reply, (wire.SessionOpened, wire.Beaten)):
            if reply.permit:  # else: confined, or no keys, or said in a version that knows none
                self.whole = reply.permit
                notify(self.moved)
            return
        if not reply.permit:
            return
        self.whole = b""  # who has one for each file has none for all, whatever it had before
        ino = reply.attributes.ino
        self._of[ino] = reply.permit
        self._of.move_to_end(ino)
        if len(self._of) > limits.NAMES_CACHED:
            self._of.popitem(last=False)

    def of(self, ino: Ino) -> bytes:
        """What to show for a file's blocks."""
        return self.whole or self._of.get(ino, b"")
