"""The fault model: what may happen in the simulated world, how often, and what is promised then.

`MODEL` is the table (docs/TESTING.md shows it, and a test compares the two); `Faults` is what one
kind of life has of it, as numbers: each field is a row of the table, 0 is "never".  The nemesis
strikes one of them every `every_s` seconds in the mean, the more often the higher its number.
"""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

from zdfs import limits

# The rules of fairness: without them no system with three copies could keep its word.
#   - A disk is lost, or replaced by an older copy, only while the cluster is whole.
#   - Blocks rot on one dataserver of a life, and no disk is lost in that life.
#   - The metaserver's disk is lost when dataservers have synced what stands in their logs: what was
#     answered, and no fsync asked for, need not outlive it and their power within milliseconds.
#   - Metadata rots in the metaserver's own store, not in the copies at the same time.

ALL_IS_THERE = "nothing acknowledged is lost, nothing is applied twice; it heals by itself"


class Fault(NamedTuple):
    """A row of the table."""

    name: str  # a field of `Faults`, or of the life's network
    what: str
    how_often: str
    promise: str


MODEL = (
    Fault(
        "loss",
        "a message, request or reply, never arrives",
        "1 to 3 % of all",
        "nothing is applied twice, nothing is lost",
    ),
    Fault(
        "doubling",
        "a message arrives twice, the second time up to seconds later; any two may change places",
        "as loss",
        "the same: what comes late or again changes nothing",
    ),
    Fault(
        "powers",
        "a server's power goes, now or at one of its next awaits: of what was not synced nothing, "
        "a first part, or that and a torn record's neighbours survive",
        "every few seconds; back within 5 s",
        ALL_IS_THERE,
    ),
    Fault(
        "kills",
        "kill -9 of a server, now or at one of its next awaits",
        "as powers",
        ALL_IS_THERE + "; nothing that was written is lost",
    ),
    Fault(
        "blackouts",
        "the power of all servers goes at the same moment, or all of them are killed",
        "as powers",
        ALL_IS_THERE + "; what an fsync or close acknowledged stood on disk, not in some memory",
    ),
    Fault(
        "mounts",
        "kill -9 of a mount, without a word; a new one at its place",
        "every few seconds, one at a time",
        "what was closed or synced is there; of the rest, each byte is old or new; nobody waits "
        "for longer than a session lives",
    ),
    Fault(
        "lost_disks",
        "a dataserver comes back with an empty store",
        "so many of the crashes, while all else is whole",
        "the same; it is filled again",
    ),
    Fault(
        "old_stores",
        "a dataserver comes back with the store of an earlier day",
        "as lost disks",
        "old bytes are never served; it is brought up to date",
    ),
    Fault(
        "lost_metadata",
        "the metaserver comes back with an empty store, or with that of an earlier day",
        "so many of its crashes, while all else is whole",
        "the same; everything comes back from the copies on dataservers",
    ),
    Fault(
        "errors",
        "EIO: a store's next write, sync or commit fails; it may stand on the disk all the same",
        "every few seconds",
        "the server says so and stops, nothing leaves it; started again, as after a crash",
    ),
    Fault(
        "rot",
        "a stored block's bits flip, half of it turns to zeros, or the index loses it",
        "some blocks of one dataserver, every few seconds",
        "never wrong bytes: another replica serves, this one is repaired",
    ),
    Fault(
        "metarot",
        "a bit flips in a value of the metaserver's store",
        "every few seconds",
        "nobody sees it, not even as EIO: what is asked for comes back from a copy first; the rest "
        "within a quarter of an hour",
    ),
    Fault(
        "full",
        "a dataserver's disk, or the metaserver's, has no room; later it has again",
        "every few seconds, for up to 8 s",
        "ENOSPC, nothing half stored under an acknowledgement; goes on without a restart",
    ),
    Fault(
        "cuts",
        "one node does not hear another, or each of two groups hears nothing of the other",
        "every few seconds, for up to 6 s",
        "nothing is lost; writes wait; reads go on where a replica and the map are reached",
    ),
    Fault(
        "clogs",
        "a link holds everything back, then delivers it at once",
        "every few seconds, for up to 6 s",
        "the same: late answers are answers to what was asked then",
    ),
    Fault(
        "slow",
        "everything to and from one node takes up to 1.5 s longer",
        "every few seconds, for up to 8 s",
        "the same",
    ),
    Fault(
        "silence",
        f"a mount and the metaserver don't hear one another, for up to {2 * limits.SESSION_S:g} s",
        "every 25 s",
        "the session may end: what was not committed is an error at the next call, not applied",
    ),
    Fault(
        "clocks",
        "each node's clock runs up to 1 % fast or slow, from its own zero, and changes its rate; "
        "wall clocks jump by up to a day",
        "every few seconds",
        "only times that people read are off",
    ),
    Fault(
        "skips",
        "commits go ahead without one dataserver (`zdfs faults skip`)",
        "one at a time, from a whole cluster",
        "it never serves what it missed, and catches up",
    ),
)


@dataclass(frozen=True)
class Faults:
    """Which of them, by the names of the model; loss and doubling are the network's own."""

    powers: float = 0.0
    kills: float = 0.0
    blackouts: float = 0.0
    mounts: float = 0.0
    lost_disks: float = 0.0  # of the crashes of a dataserver
    old_stores: float = 0.0  # of the crashes of a dataserver
    lost_metadata: float = 0.0  # of the crashes of the metaserver
    errors: float = 0.0
    rot: float = 0.0
    metarot: float = 0.0
    full: float = 0.0
    cuts: float = 0.0
    clogs: float = 0.0
    slow: float = 0.0
    silence: float = 0.0
    clocks: float = 0.0
    skips: float = 0.0
    every_s: float = 3.0

    def __post_init__(self) -> None:
        assert not (self.rot and (self.lost_disks or self.old_stores)), "see the rules of fairness"

    @property
    def may_end_sessions(self) -> bool:
        """Whether a mount may lose its session, and a call its sense."""
        return bool(self.cuts or self.silence or self.clogs or self.slow)

    @property
    def crashes(self) -> bool:
        """Whether servers die or stand still."""
        return bool(self.powers or self.kills or self.blackouts or self.errors or self.slow)


def rows() -> list[str]:
    """The table, as docs/TESTING.md has it."""
    found = ["| fault | what happens | how often | what is promised |", "|---|---|---|---|"]
    found += [f"| {one.name} | {one.what} | {one.how_often} | {one.promise} |" for one in MODEL]
    return found


_OF_THE_NETWORK = {"loss", "doubling"}
assert {one.name for one in MODEL} == _OF_THE_NETWORK | {
    field.name for field in dataclasses.fields(Faults) if field.name != "every_s"
}, "each fault stands in the model, and each row can be had"
