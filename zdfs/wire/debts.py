"""Messages about policies and about replicas that are owed."""

from typing import Annotated as A
from typing import NamedTuple

from zdfs import limits
from zdfs.ids import BlockNo, Ino, Name, Policy, Slot
from zdfs.records import Length
from zdfs.wire.base import Durability, Flag, Reply, Request, message
from zdfs.wire.parts import Ack, Done, Wanted

# --- policies: anybody to the metaserver -------------------------------------------------------


@message(78, Durability.LOGGED)
class PolicyFound(Reply):
    """Which policy an inode follows."""

    policy: Policy  # that holds: never INHERIT
    given: Policy  # to the inode itself
    origin: Ino  # to whom that which holds was given; 0: to nobody on the way up


@message(79)
class GetPolicy(Request[PolicyFound]):
    """What does a write to this do while a server is down?"""

    ino: Ino


@message(80)
class SetPolicy(Request[PolicyFound]):
    """Give a directory or a regular file a policy; INHERIT takes it away.  Holds at once for
    everything below that has none of its own."""

    ino: Ino
    policy: Policy


# --- debts -------------------------------------------------------------------------------------


class Owed(NamedTuple):
    """A replica that a commit went without."""

    slot: Slot
    want: Wanted
    since_ns: int


@message(81)
class Debts(Reply):
    """A stretch of debts, in the order of (ino, block); go on at the place that is named."""

    items: A[tuple[Owed, ...], Length(0, limits.VERSIONS)]
    end: Flag
    ino: Ino
    block: BlockNo


@message(82)
class ListDebts(Request[Debts]):
    """Debts from (ino, block) on; to one slot, or to all."""

    slot: Slot | None
    ino: Ino
    block: BlockNo


@message(83)
class Settle(Request[Done]):
    """From a dataserver: it has these versions, synced; what it was owed of them ends.  The
    acknowledgement says which store, as a commit's do: Unavailable when it has changed since."""

    ack: Ack
    names: A[tuple[Name, ...], Length(1, limits.VERSIONS)]


assert limits.VERSIONS * 120 <= limits.HEAD_BYTES
