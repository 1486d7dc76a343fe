"""Every case of `make chaos`, as data: what is done, to whom, and what must hold meanwhile.

The tests take their cases from here (`of`), the table in docs/TESTING.md has a row for each.  What
must hold in every case stands in `story`: no wrong byte, no lost name, no call without end, no
traceback, and a whole cluster at the end.
"""

from typing import NamedTuple

READ, WRITE, NAME = "read", "write", "name"
BOTH, IN, OUT = ("in", "out"), ("in",), ("out",)
SERVERS = [f"data-{index}" for index in range(4)]


class Case(NamedTuple):
    """One fault in one place.

    `goes_on`: roles of the load that must get on while the fault lasts.  `errors`: errno names
    that programs may see; any other fails the case.  `soak`: only `make chaos` runs it.
    """

    group: str
    name: str
    fault: str
    place: str
    goes_on: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    soak: bool = False
    more: tuple[object, ...] = ()  # what the group's test wants to know

    @property
    def id(self) -> str:
        return f"{self.group}-{self.name}"


# What the kernel says of a mount that died; ENOENT between its end and the next.
GONE = ("ENOTCONN", "ECONNABORTED", "EIO", "ENOENT")

KILLS = [
    Case("kill", "meta", "kill -9", "metaserver", more=("meta",)),
    Case("kill", "data", "kill -9", "dataserver", (READ, NAME), more=("data",)),
    Case("kill", "two", "kill -9", "two dataservers at once", (READ, NAME), more=("two",)),
    Case("kill", "mount", "kill -9", "mount", (READ,), GONE, more=("mount",)),
    Case("kill", "all", "kill -9", "every server at once", more=("all",)),
    Case("kill", "loop-meta", "kill -9, 25 times", "metaserver", (), (), True, ("meta", 25)),
    Case("kill", "loop-data", "kill -9, 25 times", "dataserver", (), (), True, ("data", 25)),
    Case("kill", "loop-mount", "kill -9, 15 times", "mount", (), GONE, True, ("mount", 15)),
    Case(
        "kill", "loop-all", "kill -9, 10 times", "every server at once", (), (), True, ("all", 10)
    ),
]
STOPS = [
    Case("stop", "meta", "SIGSTOP for 5 s", "metaserver", more=("meta", 5)),
    Case("stop", "data", "SIGSTOP for 6 s", "dataserver", (READ, NAME), more=("data-1", 6)),
    Case("stop", "mount", "SIGSTOP for 5 s", "mount", (READ,), more=("mnt", 5)),
    Case("stop", "data-short", "SIGSTOP for 1 s", "dataserver", (), (), True, ("data-2", 1)),
    Case("stop", "meta-long", "SIGSTOP for 14 s", "metaserver", (), (), True, ("meta", 14)),
    Case(
        "stop", "mount-long", "SIGSTOP for 14 s: its session ends", "mount",
        (READ,), ("EIO",), True, ("mnt", 14),
    ),
    Case(
        "stop", "data-long", "SIGSTOP for 14 s", "dataserver",
        (READ, NAME), (), True, ("data-3", 14),
    ),
]  # fmt: skip

MOUNTS = ["mnt", "other"]
_LINKS = [  # (name, place, whose filter, whom it does not hear or reach, goes on, seconds)
    ("data", "dataserver - everybody", "data-1", [*SERVERS, "meta", *MOUNTS], (READ, NAME), 6),
    ("data-meta", "dataserver - metaserver", "data-1", ["meta"], (READ, NAME), 6),
    ("data-data", "dataserver - its neighbours", "data-1", ["data-0", "data-2"], (READ, NAME), 5),
    ("mount-data", "mount - dataserver", "mnt", ["data-2"], (READ, NAME), 6),
    ("mount-meta", "mount - metaserver", "mnt", ["meta"], (READ,), 5),
    ("meta", "metaserver - everybody", "meta", [*SERVERS, *MOUNTS], (), 6),
    ("meta-data", "metaserver - all dataservers", "meta", SERVERS, (), 6),
]
_FAST_CUTS = {"data", "data-meta-in", "mount-data-out", "meta-in"}
_WAYS = [
    ("", "full partition", BOTH),
    ("-in", "one-way partition (hears nothing)", IN),
    ("-out", "one-way partition (says nothing)", OUT),
]
CUTS = [
    Case(
        "cut", name + suffix, fault, place, goes_on, (), name + suffix not in _FAST_CUTS,
        (who, whom, ways, seconds),
    )
    for name, place, who, whom, goes_on, seconds in _LINKS
    for suffix, fault, ways in _WAYS
] + [
    Case(
        "cut", "mount-long", "full partition for 14 s: its session ends", "mount - metaserver",
        (READ,), ("EIO",), True, ("mnt", ["meta"], BOTH, 14),
    )
]  # fmt: skip

_MOUNT_DATA = ("mount - one dataserver", "mnt", ["data-1"])
_MOUNT_META = ("mount - metaserver", "mnt", ["meta"])
_DATA_META = ("dataserver - metaserver", "data-1", ["meta"])
_DATA_DATA = ("dataserver - its neighbours", "data-1", ["data-0", "data-2"])
_SLOW, _LATE = "every byte 0.3 s late", "every byte 8 s late: later than any reply is waited for"
_HOLD, _CUT = "a black hole for 6 s", "reset in the middle of messages, again and again"
LINKS = [
    Case("link", "slow-data", _SLOW, _MOUNT_DATA[0], (READ, WRITE, NAME), (), False,
         (*_MOUNT_DATA[1:], "delay 0.3", 4)),
    Case("link", "late-data", _LATE, _MOUNT_DATA[0], (READ, NAME), (), False,
         (*_MOUNT_DATA[1:], "delay 8", 7)),
    Case("link", "cut-meta", _CUT, _MOUNT_META[0], (READ,), (), False,
         (*_MOUNT_META[1:], "cut 3000", 5)),
    Case("link", "hold-data-meta", _HOLD, _DATA_META[0], (READ, NAME), (), False,
         (*_DATA_META[1:], "hold", 6)),
    Case("link", "slow-meta", _SLOW, _MOUNT_META[0], (READ, WRITE, NAME), (), True,
         (*_MOUNT_META[1:], "delay 0.3", 8)),
    Case("link", "late-meta", _LATE, _MOUNT_META[0], (READ,), ("EIO",), True,
         (*_MOUNT_META[1:], "delay 8", 7)),
    Case("link", "cut-data", _CUT, _MOUNT_DATA[0], (READ, NAME), (), True,
         (*_MOUNT_DATA[1:], "cut 20000", 8)),
    Case("link", "hold-data", _HOLD, _MOUNT_DATA[0], (READ, NAME), (), True,
         (*_MOUNT_DATA[1:], "hold", 6)),
    Case("link", "hold-meta", _HOLD, _MOUNT_META[0], (READ,), (), True,
         (*_MOUNT_META[1:], "hold", 6)),
    Case("link", "slow-data-meta", _SLOW, _DATA_META[0], (READ, WRITE, NAME), (), True,
         (*_DATA_META[1:], "delay 0.3", 8)),
    Case("link", "cut-data-meta", _CUT, _DATA_META[0], (READ, NAME), (), True,
         (*_DATA_META[1:], "cut 1000", 8)),
    Case("link", "cut-data-data", _CUT, _DATA_DATA[0], (READ, NAME), (), True,
         (*_DATA_DATA[1:], "cut 5000", 8)),
]  # fmt: skip

_SYNC, _RW = "posix/io/sync/", "posix/io/rw/"
_CALLS = [  # (node, name, points of libfiu, what it is, whether it fails while the node works)
    ("data", "fdatasync", (_SYNC + "fdatasync",), "EIO from fdatasync", True),
    ("data", "write", (_RW + "pwrite", _RW + "pwritev"), "EIO from pwrite and pwritev", True),
    ("data", "read", (_RW + "pread", _RW + "preadv"), "EIO from pread and preadv", True),
    ("meta", "fdatasync", (_SYNC + "fdatasync",), "EIO from fdatasync", True),
    ("meta", "write", (_RW + "pwrite", _RW + "pwritev"), "EIO from pwrite and pwritev", True),
    ("data", "fsync", (_SYNC + "fsync",), "EIO from fsync", False),
    ("data", "read", (_RW + "pread", _RW + "preadv"), "EIO from pread and preadv", False),
    ("meta", "fsync", (_SYNC + "fsync",), "EIO from fsync", False),
    ("meta", "read", (_RW + "pread", _RW + "preadv"), "EIO from pread and preadv", False),
]
_NODES = {"data": "dataserver, below LMDB and log", "meta": "metaserver, below LMDB"}
_MEANWHILE = {"data": (READ, NAME), "meta": ()}
DISKS = [
    Case("disk", f"{node}-{name}", fault, _NODES[node], _MEANWHILE[node], (), False,
         (node, points, False))
    for node, name, points, fault, working in _CALLS if working
] + [
    Case("disk", f"{node}-{name}-once", f"{fault}, once", _NODES[node], _MEANWHILE[node], (), True,
         (node, points, True))
    for node, name, points, fault, working in _CALLS if working
]  # fmt: skip
STARTS = [
    Case("disk", f"{node}-{name}-start", f"{fault}, at its start", _NODES[node],
         _MEANWHILE[node], (), True, (node, points))
    for node, name, points, fault, working in _CALLS if not working
]  # fmt: skip

LOG_REGIONS = {
    "segment-header": "segment header",
    "block-header": "header of a block record",
    "block-body": "body of a block record",
    "round-header": "a round record",
    "state-header": "header of a state record",
    "state-body": "body of a state record",
    "last-record": "the very last record",
}
LMDB_REGIONS = {
    "meta-newer": "newer meta page",
    "meta-older": "older meta page",
    "branch": "branch page",
    "leaf-header": "leaf page: header, pointers",
    "leaf-key": "leaf page: a key",
    "leaf-value": "leaf page: a value",
    "overflow": "overflow page",
    "free-list": "page of the free list",
    "unused": "page that nothing uses",
}
FLIPS_LOG = [
    Case("flip", f"log-{name}", "a flipped bit", f"dataserver, log: {what}",
         (), (), False, (name,))
    for name, what in LOG_REGIONS.items()
]  # fmt: skip
FLIPS_INDEX = [
    Case("flip", f"index-{name}", "a flipped bit", f"dataserver, index: {what}",
         (), (), False, (name,))
    for name, what in LMDB_REGIONS.items() if name != "overflow"  # its values are small
]  # fmt: skip
FLIPS_META = [
    Case("flip", f"meta-{name}", "a flipped bit", f"metaserver, LMDB: {what}",
         (), ("EIO",), False, (name,))
    for name, what in LMDB_REGIONS.items()
]  # fmt: skip
FLIPS_MANY = [
    Case("flip", f"many-{where}", f"flipped bits, one at a time, {count} in each region", place,
         (), (), True, (where, count))
    for where, place, count in (
        ("log", "dataserver, log: every region", 4),
        ("index", "dataserver, index: every region", 4),
        ("meta", "metaserver, LMDB: every region", 4),
    )
] + [
    Case("flip", "running-log", "flipped bits under a running server", "dataserver, log",
         (READ, WRITE, NAME), (), True, ("log", 60)),
]  # fmt: skip

STALE = [
    Case("stale", "index", "replaced by an older copy", "dataserver, index alone"),
    Case("stale", "log", "replaced by an older copy", "dataserver, log alone"),
    Case("stale", "meta", "replaced by an older copy", "metaserver, whole store"),
]

CASES = [
    *KILLS, *STOPS, *CUTS, *LINKS, *DISKS, *STARTS,
    *FLIPS_LOG, *FLIPS_INDEX, *FLIPS_META, *FLIPS_MANY, *STALE,
]  # fmt: skip
assert len({case.id for case in CASES}) == len(CASES)
