"""The kinds of life: how the network is, which faults strike, who works, what must be true after.

To add one, add a row; `make sim`, `make replay` and tests/sim/test_lives know it then.  A program
is made by `programs.CASTS`; a fault is a field of `Faults`, with its weight.
"""

from dataclasses import dataclass, field, replace

from tests.world.faults import Faults
from zdfs import limits
from zdfs.ids import Policy


@dataclass(frozen=True)
class Kind:
    """A row."""

    faults: Faults = field(default_factory=Faults)
    loss: float = 0.01  # of messages; as many are doubled
    mounts: int = 2
    servers: int = 4
    cast: str = "everybody"  # of `programs.CASTS`
    cache_s: float = limits.CACHE_S  # as --attr-timeout and --entry-timeout
    seconds: float = 15.0  # virtual, under faults
    policy: Policy = Policy.ALL  # of everything, as `zdfs policy /`
    writeback: bool = False  # every mount
    mixed: bool = False  # some know only the oldest protocol, until they are started again


KINDS: dict[str, Kind] = {
    "calm": Kind(loss=0.0),
    "lossy-alone": Kind(loss=0.03, mounts=1),
    "lossy": Kind(loss=0.03),
    "powers-alone": Kind(Faults(powers=1, lost_disks=0.2), mounts=1),
    "powers": Kind(Faults(powers=1, kills=1, lost_disks=0.2)),
    "kills": Kind(Faults(kills=3, mounts=1)),
    "blackouts": Kind(Faults(blackouts=1)),
    "three": Kind(Faults(powers=1, kills=1, lost_disks=0.2), servers=3),
    "old-stores": Kind(Faults(powers=1, old_stores=0.5), mounts=1),
    "copies": Kind(Faults(powers=2, kills=1, lost_metadata=0.5)),
    "copies-lossy": Kind(Faults(powers=1, kills=1, lost_metadata=0.5), loss=0.03, servers=3),
    "skips-alone": Kind(Faults(powers=1, skips=1), mounts=1),
    "skips": Kind(Faults(powers=1, skips=1)),
    "mounts": Kind(Faults(mounts=1), mounts=3),
    "errors": Kind(Faults(errors=1)),
    "rot": Kind(Faults(rot=3, powers=1), servers=5),
    "full": Kind(Faults(full=1)),
    "cuts": Kind(Faults(cuts=1)),
    "clogs": Kind(Faults(clogs=1, slow=1)),
    "silence": Kind(Faults(silence=1)),
    "clocks": Kind(Faults(clocks=2, kills=1, cuts=1)),
    "metarot": Kind(Faults(metarot=1)),
    "all": Kind(
        Faults(
            powers=1, kills=1, mounts=1, lost_disks=0.2, errors=1, full=1, cuts=1, clogs=1, slow=1,
            silence=1, clocks=1, every_s=2.0,
        ),
        loss=0.02,
    ),
}  # fmt: skip

_LINEAR = Kind(cast="linear", cache_s=0.0, mounts=3)

KINDS |= {
    "linear-calm": _LINEAR,
    "linear-lossy": replace(_LINEAR, loss=0.05),
    "linear-powers": replace(_LINEAR, faults=Faults(powers=1, kills=1, blackouts=1, mounts=1)),
    "linear-cuts": replace(_LINEAR, faults=Faults(cuts=1, clogs=1, slow=1, silence=1)),
    "linear-all": replace(
        _LINEAR,
        faults=Faults(
            powers=1, kills=1, mounts=1, errors=1, cuts=1, clogs=1, slow=1, silence=1, clocks=1,
        ),
    ),
}  # fmt: skip

_QUORUM = Kind(cast="quorum", policy=Policy.QUORUM)
_MIXED = replace(_QUORUM, cast="mixed")  # the policy changes all the while

KINDS |= {
    "quorum-calm": replace(_QUORUM, loss=0.0),
    "quorum-lossy": replace(_QUORUM, loss=0.03),
    "quorum-crashes": replace(_QUORUM, faults=Faults(powers=1, kills=1), mounts=1),
    "quorum-three": replace(_QUORUM, faults=Faults(powers=1, kills=1), servers=3),
    "quorum-lost-disks": replace(_QUORUM, faults=Faults(powers=1, lost_disks=0.3)),
    "quorum-old-stores": replace(_QUORUM, faults=Faults(powers=1, old_stores=0.5), mounts=1),
    "quorum-skips": replace(_QUORUM, faults=Faults(powers=1, skips=1), servers=5),
    "quorum-cuts": replace(_QUORUM, faults=Faults(cuts=1)),
    "mixed": replace(_MIXED, faults=Faults(powers=1, kills=1, lost_disks=0.2)),
    "mixed-all": replace(
        _MIXED, faults=Faults(powers=1, kills=1, lost_disks=0.2, cuts=1, silence=1), loss=0.02,
        servers=5,
    ),
}  # fmt: skip

_BEHIND = Kind(writeback=True)

KINDS |= {
    "behind-calm": replace(_BEHIND, loss=0.0),
    "behind-lossy": replace(_BEHIND, loss=0.03),
    "behind-crashes": replace(_BEHIND, faults=Faults(powers=1, kills=2)),
    "behind-mounts": replace(_BEHIND, faults=Faults(mounts=1, cuts=1), mounts=3),
    "behind-all": replace(
        _BEHIND,
        faults=Faults(
            powers=1, kills=1, mounts=1, errors=1, full=1, cuts=1, clogs=1, slow=1, silence=1,
            clocks=1, every_s=2.0,
        ),
    ),
    "behind-quorum": replace(_BEHIND, faults=Faults(powers=1, kills=1), policy=Policy.QUORUM),
}  # fmt: skip

KINDS |= {
    "versions": Kind(Faults(powers=1, kills=2), mixed=True, mounts=3),
    "versions-lossy": Kind(
        Faults(powers=1, kills=1, mounts=1, lost_metadata=0.3, cuts=1), loss=0.03, mixed=True
    ),
}
