"""Which versions of the protocol an end speaks, and how it learns which the other one does.

Each end speaks all versions of a range, `PROTOCOL_MIN` to `PROTOCOL`; any two use the newest that
both know.  A request says in its head which version it is in, and is answered in that one; pushes
come in the version of the session's newest heartbeat.  Messages and fields say since when they
exist (`message`, `records.Since`): what is said in an older version goes without the younger ones,
and who hears it takes their defaults.

    who asks -> Identify, in PROTOCOL_MIN -> the range of who answers -> everything else

Version 4 has no field for the range in an Identity: whoever speaks more says so behind the name of
its release.  A version that an end can't speak is answered with Failed all the same, whose form
never changes, in the version of the question; the answer says who is to be upgraded.
"""

import re
from typing import TYPE_CHECKING
from typing import Annotated as A
from typing import NamedTuple

from zdfs import __version__
from zdfs.errors import StartError
from zdfs.records import U16

if TYPE_CHECKING:
    from zdfs.wire.parts import Identity

PROTOCOL = 5
PROTOCOL_MIN = 4
FIRST = frozenset([*range(1, 5), *range(10, 101), *range(110, 128), *range(130, 134)])  # of 4
ORDER = "first every dataserver, then the metaserver, then mounts and commands"


class Protocols(NamedTuple):
    """The versions that an end speaks, both included."""

    oldest: A[int, U16]
    newest: A[int, U16]

    def common(self, other: "Protocols") -> int | None:
        """The newest that both speak; None: there is none."""
        newest = min(self.newest, other.newest)
        return newest if newest >= max(self.oldest, other.oldest) else None

    def shown(self) -> str:
        """For people."""
        if self.oldest == self.newest:
            return f"protocol {self.newest}"
        return f"protocols {self.oldest} to {self.newest}"


ONLY_FIRST = Protocols(4, 4)  # before there was a range
_ours = [Protocols(PROTOCOL_MIN, PROTOCOL)]
_SPEAKS = re.compile(r"speaks (\d{1,4}) to (\d{1,4})")


def spoken() -> Protocols:
    """What this process speaks."""
    return _ours[0]


def speak(newest: int | None) -> None:
    """Do as a process that knows nothing newer; for trials of mixed clusters.  None: as ever.
    StartError: there is no such version."""
    newest = PROTOCOL if newest is None else newest
    if not PROTOCOL_MIN <= newest <= PROTOCOL:
        raise StartError(f"--speak {newest}: {PROTOCOL_MIN} to {PROTOCOL}")
    _ours[0] = Protocols(PROTOCOL_MIN, newest)


def released(version: int) -> str:
    """This release, as an Identity of that version names it."""
    ours = spoken()
    if version > ONLY_FIRST.newest or ours == ONLY_FIRST:
        return __version__
    return f"{__version__} (speaks {ours.oldest} to {ours.newest})"


def protocols_of(identity: "Identity") -> Protocols:
    """What a server speaks."""
    found = _SPEAKS.search(identity.release)
    if identity.protocols == ONLY_FIRST and found:
        return Protocols(int(found[1]), int(found[2]))
    return identity.protocols


def cant_speak(here: str, theirs: int) -> str:
    """What a server says to a version that it doesn't speak."""
    ours = spoken()
    them = f"the server at {here} is zdfs {__version__} and speaks {ours.shown()}, not {theirs}"
    if theirs > ours.newest:
        return f"{them}: it is the older end, upgrade it ({ORDER})"
    return f"{them}: who asks is the older end, upgrade that"


def cant_meet(peer: str, theirs: Protocols) -> str:
    """What a client says of a server with which it has no version in common."""
    ours = spoken()
    what = f"{peer} speaks {theirs.shown()}, this is zdfs {__version__} and speaks {ours.shown()}"
    if theirs.newest < ours.oldest:
        return f"{what}: {peer} is the older end, upgrade it ({ORDER})"
    return f"{what}: this is the older end, upgrade it"


def unknown_here(here: str, operation: int) -> str:
    """What a server says to an operation that it never heard of."""
    return (
        f"the server at {here} is zdfs {__version__}, speaks {spoken().shown()} and does not know "
        f"operation {operation}: it is the older end, upgrade it ({ORDER})"
    )
