"""What every process counts and times, and in what form others get it.

`CATALOGUE` is the one list of all metrics: docs/MONITORING.md shows it, and a test sees to it that
a process exports what stands there and nothing else.  A `Meter` holds those of one process.

    live    what happens is counted as it happens, in a few places on the way of each request:
            `broker`, `link`, `mount`, and where a store commits
    lazy    what is so anyway (queues, space, states) is read when somebody asks: a *source* yields
            readings, and the way of a request stays as it was

They leave by two doors: as Prometheus' text over HTTP (`exporter`), and as `wire.Measures` over our
own wire, for `zdfs top` and the web page.  Names follow Prometheus' conventions: base units, and
`_total` where a number only grows, until the process ends.

prometheus-client does the arithmetic; the children of labels are looked up once and kept.
"""

import collections
import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, NamedTuple

import prometheus_client
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from zdfs import __version__, checksum, limits, wire
from zdfs.calls import clock, now
from zdfs.errors import Failure
from zdfs.ports import Caller, Reading

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # nobody asks when


class Role(enum.Enum):
    """Whose process it is."""

    META = "meta"
    DATA = "data"
    MOUNT = "mount"


SERVERS = frozenset({Role.META, Role.DATA})
ALL = frozenset(Role)
META, DATA, MOUNT = (frozenset({role}) for role in Role)

# Bounds of the histograms.  A request takes 0.3 ms or so, a disk's sync 1 to 100 ms; from a second
# on something is wrong, and how long a blocked write waits is told elsewhere.
SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
)  # fmt: skip
BYTES = tuple(float(limits.KIB << shift) for shift in range(0, 15, 2))  # 1 KiB to 16 MiB


class Kind(enum.Enum):
    """Prometheus' types, as far as we use them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Defined(NamedTuple):
    """A metric: what it is called, and what it says."""

    name: str
    kind: Kind
    roles: frozenset[Role]
    labels: tuple[str, ...]
    help: str
    live: bool = False
    bounds: Sequence[float] = SECONDS


Source = Callable[[], Iterable[Reading]]

_WHO = ("slot", "server")
_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM
CATALOGUE = (
    # every process
    Defined("zdfs_build_info", _G, ALL, ("release", "role", "checksums"), "1; what runs here."),
    Defined("zdfs_clock_seconds", _G, ALL, (), "This machine's time, to be compared with others."),
    Defined(
        "zdfs_call_seconds", _H, ALL, ("request",),
        "Requests that this process sent: until the answer, or until it was given up.", True,
    ),
    Defined(
        "zdfs_call_failures_total", _C, ALL, ("request", "failure"),
        "Of these, those answered with a failure (its name), or not at all (unreachable).", True,
    ),
    # servers
    Defined(
        "zdfs_request_seconds", _H, SERVERS, ("request",),
        "Requests answered here: from their arrival until the reply left.", True,
    ),
    Defined(
        "zdfs_request_disk_seconds_total", _C, SERVERS, ("request",),
        "The part of it after the handler: until disks and copies had what the reply reports.",
        True,
    ),
    Defined(
        "zdfs_request_failures_total", _C, SERVERS, ("request", "failure"),
        "Requests answered with a failure, by its name.", True,
    ),
    Defined(
        "zdfs_request_repeats_total", _C, SERVERS, (),
        "Requests that came again while their first was underway, or after it was answered.", True,
    ),
    Defined(
        "zdfs_commit_seconds", _H, SERVERS, ("store",),
        "Syncs of the dataserver's log (blocks), commits of LMDB (names; copy: on a dataserver).",
        True,
    ),
    Defined(
        "zdfs_commit_bytes", _H, SERVERS, ("store",), "Bytes of each round of a store.", True, BYTES
    ),
    Defined("zdfs_received_bytes_total", _C, SERVERS, (), "Bytes of requests.", True),
    Defined("zdfs_sent_bytes_total", _C, SERVERS, (), "Bytes of replies and pushes.", True),
    Defined(
        "zdfs_requests_underway", _G, SERVERS, (),
        "Requests whose handler has not ended; over our own wire, with the question itself.",
    ),
    Defined("zdfs_replies_waiting", _G, SERVERS, (), "Replies that wait for disks or copies."),
    Defined(
        "zdfs_messages_refused_total", _C, SERVERS, (),
        "Messages and connections that were not ours, or not for this server.",
    ),
    Defined(
        "zdfs_connections_dropped_total", _C, SERVERS, (),
        "Times that all connections were dropped, because somebody hoarded memory.",
    ),
    Defined(
        "zdfs_late_replies_total", _C, SERVERS, (),
        "Answers of other servers that came after they were given up.",
    ),
    Defined(
        "zdfs_replies_unsent_total", _C, SERVERS, (),
        "Replies that had nobody to take them: gone, or too slow.",
    ),
    # the metaserver
    Defined("zdfs_serving", _G, META, (), "1: names can be changed; 0: zdfs status says why not."),
    Defined("zdfs_incarnation", _G, META, (), "Counts the metaserver's starts."),
    Defined(
        "zdfs_metadata_free_bytes", _G, META, (),
        "What the metaserver's disk still takes; 0: nothing new can be made.",
    ),
    Defined("zdfs_events_total", _C, META, ("kind",), "Events, as zdfs watch shows them."),
    Defined("zdfs_server_up", _G, META, _WHO, "1: the dataserver reports; 0: it is down."),
    Defined("zdfs_server_state", _G, META, (*_WHO, "state"), "1 for the state that it is in."),
    Defined(
        "zdfs_metadata_copies_needed", _G, META, (),
        "Copies that must have each change of names before it is answered.",
    ),
    Defined("zdfs_metadata_copy_whole", _G, META, _WHO, "1: this copy has all metadata."),
    Defined(
        "zdfs_metadata_copy_lag_rounds", _G, META, _WHO, "Rounds that this copy has yet to get."
    ),
    Defined("zdfs_sessions", _G, META, (), "Mounts, and commands underway."),
    Defined("zdfs_open_files", _G, META, (), "Files that mounts have open, once for each mount."),
    Defined("zdfs_write_grants", _G, META, (), "Files that some mount may write."),
    Defined("zdfs_sessions_blocked", _G, META, (), "Mounts whose writes wait for a server."),
    Defined("zdfs_blocked_writers", _G, META, _WHO, "Programs that wait for this server."),
    Defined(
        "zdfs_blocked_seconds", _G, META, _WHO, "For how long somebody has waited for this server."
    ),
    Defined("zdfs_locks_held", _G, META, (), "Locked ranges."),
    Defined("zdfs_lock_waiters", _G, META, (), "Who waits for a lock."),
    # dataservers
    Defined("zdfs_state", _G, DATA, ("state",), "1 for the state that the server is in."),
    Defined("zdfs_disk_bytes", _G, DATA, (), "Size of the disk that the store is on."),
    Defined("zdfs_disk_free_bytes", _G, DATA, (), "What may still be stored; 0: full."),
    Defined("zdfs_stored_bytes", _G, DATA, (), "Content of files, with superseded versions."),
    Defined("zdfs_stored_blocks", _G, DATA, (), "Block versions."),
    Defined(
        "zdfs_unsynced_seconds", _G, DATA, (),
        "How long the oldest round has waited for its sync; much: the disk is stuck.",
    ),
    Defined(
        "zdfs_damaged_blocks_total", _C, DATA, (), "Damages found since the store was made."
    ),
    Defined("zdfs_repaired_blocks_total", _C, DATA, (), "Of these, those that were repaired."),
    Defined("zdfs_lost_blocks", _G, DATA, (), "Blocks that belong here and nobody has."),
    Defined("zdfs_repairs_waiting", _G, DATA, (), "Blocks that are to be repaired."),
    Defined(
        "zdfs_owed_blocks", _G, DATA, (),
        "Blocks that this server is owed (policy quorum), by the metaserver's word.",
    ),
    Defined("zdfs_copy_whole", _G, DATA, (), "1: a whole copy of the metadata stands here."),
    Defined("zdfs_rebuilding", _G, DATA, (), "1: a rebuild is underway."),
    Defined("zdfs_rebuild_blocks", _G, DATA, (), "Blocks that it gets back."),
    Defined("zdfs_rebuild_done_blocks", _G, DATA, (), "Of these, those that are back."),
    Defined("zdfs_rebuild_bytes", _G, DATA, (), "Bytes that it gets back."),
    Defined("zdfs_rebuild_done_bytes", _G, DATA, (), "Of these, those that are back."),
    Defined("zdfs_scrub_running", _G, DATA, (), "1: a scrub reads; 0: it rests."),
    Defined("zdfs_scrub_bytes", _G, DATA, (), "Bytes that this pass reads."),
    Defined("zdfs_scrub_done_bytes", _G, DATA, (), "Of these, those that were read."),
    Defined(
        "zdfs_scrub_finished_timestamp_seconds", _G, DATA, (),
        "When the newest full pass ended; 0: none has.",
    ),
    Defined(
        "zdfs_scrub_found_blocks", _G, DATA, ("what",),
        "What the pass underway, or else the newest, found: damaged, missing, excess, healed.",
    ),
    # mounts
    Defined(
        "zdfs_mount_operation_seconds", _H, MOUNT, ("operation",),
        "What the kernel asked for, from when the mount read it until it was answered.  What the "
        "kernel does by itself, from its pages or names, never gets here.", True,
    ),
    Defined(
        "zdfs_mount_errors_total", _C, MOUNT, ("operation", "errno"),
        "Of these, those answered with an error.", True,
    ),
    Defined(
        "zdfs_mount_waits_seconds_total", _C, MOUNT, ("operation", "request"),
        "Their time that was spent waiting for answers to a request, or for something inside the "
        "mount; (background): what no program waits for.", True,
    ),
    Defined("zdfs_mount_read_bytes_total", _C, MOUNT, (), "Bytes that the kernel read.", True),
    Defined("zdfs_mount_written_bytes_total", _C, MOUNT, (), "Bytes that it wrote.", True),
    Defined(
        "zdfs_mount_cache_hits_total", _C, MOUNT, ("cache",),
        "Blocks, names and attributes that were known when they were asked for.",
    ),
    Defined(
        "zdfs_mount_cache_misses_total", _C, MOUNT, ("cache",), "Those that a server was asked for."
    ),
    Defined(
        "zdfs_mount_retries_total", _C, MOUNT, ("request",),
        "Requests sent again, because nobody answered or could.",
    ),
    Defined("zdfs_mount_cached_bytes", _G, MOUNT, (), "Clean blocks in memory."),
    Defined("zdfs_mount_dirty_bytes", _G, MOUNT, (), "Written bytes that are not flushed."),
    Defined("zdfs_mount_blocked_writers", _G, MOUNT, (), "Calls that wait for a dataserver."),
    Defined(
        "zdfs_mount_metaserver_silent_seconds", _G, MOUNT, (),
        "For how long the metaserver has not answered; 0: it does.",
    ),
)  # fmt: skip
BY_NAME = {one.name: one for one in CATALOGUE}


class Commits:
    """What a store tells of its commits."""

    def __init__(self, meter: "Meter", store: str):
        self._took = meter.child("zdfs_commit_seconds", store)
        self._wrote = meter.child("zdfs_commit_bytes", store)

    def took(self, seconds: float) -> None:
        """Something was brought to the disk."""
        self._took.observe(seconds)

    def wrote(self, size: int) -> None:
        """A round has so many bytes."""
        self._wrote.observe(size)


class Meter(Collector):
    """The metrics of one process."""

    def __init__(self, role: Role):
        self.role = role
        self.sources: dict[str, Source] = {"build": self._build}
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._live: dict[str, Any] = {}
        for one in CATALOGUE:
            if one.live and role in one.roles:
                self._live[one.name] = self._made(one)
        self._children: dict[tuple[Any, ...], Any] = {}

    def _made(self, one: Defined) -> Any:
        if one.kind is Kind.HISTOGRAM:
            return prometheus_client.Histogram(
                one.name, one.help, one.labels, registry=self.registry, buckets=one.bounds
            )
        assert one.kind is Kind.COUNTER, one
        return prometheus_client.Counter(one.name, one.help, one.labels, registry=self.registry)

    def child(self, name: str, *labels: str) -> Any:
        """A live metric under its labels' values."""
        key = (name, *labels)
        found = self._children.get(key)
        if found is None:
            metric = self._live[name]
            found = self._children[key] = metric.labels(*labels) if labels else metric
        return found

    # --- live ----------------------------------------------------------------------------------

    def replied(self, kind: type[wire.Message], took_s: float, disk_s: float) -> None:
        """A server: a reply has left, so long after the request came, and after it was made."""
        name = kind.__name__
        self.child("zdfs_request_seconds", name).observe(took_s)
        self.child("zdfs_request_disk_seconds_total", name).inc(disk_s)

    def failed(self, kind: type[wire.Message], reply: wire.Reply) -> None:
        """A server: what was made for a request, which may be a failure."""
        if isinstance(reply, wire.Failed):
            failure = type(reply.failure()).__name__
            self.child("zdfs_request_failures_total", kind.__name__, failure).inc()

    def called(self, kind: type[wire.Message], took_s: float, answer: object) -> None:
        """A call of ours has an answer, or was given up."""
        self.child("zdfs_call_seconds", kind.__name__).observe(took_s)
        if isinstance(answer, Failure):
            failure = type(answer).__name__
            self.child("zdfs_call_failures_total", kind.__name__, failure).inc()

    def waited(self, operation: str, spent: Mapping[str, float]) -> None:
        """A mount: what an operation waited for: seconds, by request."""
        for what, seconds in spent.items():
            self.child("zdfs_mount_waits_seconds_total", operation, what).inc(seconds)

    def answered(self, operation: str, took_s: float, error: str) -> None:
        """A mount: an operation of the kernel's has its answer; `error`: errno's name, if any."""
        self.child("zdfs_mount_operation_seconds", operation).observe(took_s)
        if error:
            self.child("zdfs_mount_errors_total", operation, error).inc()

    def count(self, name: str, amount: float = 1) -> None:
        """Count on a metric without labels."""
        self.child(name).inc(amount)

    # --- lazy ----------------------------------------------------------------------------------

    def _build(self) -> Iterator[Reading]:
        yield Reading("zdfs_build_info", 1, (__version__, self.role.value, checksum.engine()))

    def collect(self) -> Iterator[Metric]:
        """What the sources say, as prometheus-client wants it."""
        found = {
            one.name: Metric(one.name.removesuffix("_total"), one.help, one.kind.value)
            for one in CATALOGUE
            if not one.live and self.role in one.roles
        }
        for source in list(self.sources.values()):
            for name, value, labels in source():
                told = dict(zip(BY_NAME[name].labels, labels, strict=True))
                found[name].add_sample(name, told, value)
        yield from found.values()

    # --- over our wire -------------------------------------------------------------------------

    async def tell(self, request: wire.GetMeasures, caller: Caller) -> wire.Measures:
        """A page of them."""
        at, at_ns = await now(), await clock()
        return self.page(request.names, request.after, at, at_ns)

    def page(self, names: Sequence[str], after: str, at: float, at_ns: int) -> wire.Measures:
        """Whole metrics, in the order of their names, behind the name `after`."""
        families = {one.name: one for one in self.registry.collect()}
        wanted = sorted(name for name in families if not names or name in names)
        page: list[wire.Sample] = []
        size, last = 0, ""
        for name in [name for name in wanted if name > after]:
            samples = _fitting(_sample(one) for one in families[name].samples)
            size += sum(map(_size, samples))
            if page and size > limits.MEASURES_BYTES:
                return wire.Measures(self.role.value, int(at * 1000), at_ns, tuple(page), last)
            page += samples
            last = name
        return wire.Measures(self.role.value, int(at * 1000), at_ns, tuple(page), "")


def queues(underway: Sized, waiting: Sized, counts: collections.Counter[str]) -> Iterator[Reading]:
    """What is underway in a server, and what its broker counted."""
    yield Reading("zdfs_requests_underway", len(underway))
    yield Reading("zdfs_replies_waiting", len(waiting))
    yield Reading("zdfs_messages_refused_total", counts["refused"])
    yield Reading("zdfs_connections_dropped_total", counts["connections dropped"])
    yield Reading("zdfs_late_replies_total", counts["late replies"])
    unsent = [count for what, count in list(counts.items()) if what.startswith("unsent")]
    yield Reading("zdfs_replies_unsent_total", sum(unsent))


def _sample(one: Any) -> wire.Sample:
    labels = sorted(one.labels.items())
    return wire.Sample(one.name, tuple([wire.Label(*pair) for pair in labels]), float(one.value))


def _fitting(samples: Iterable[wire.Sample]) -> list[wire.Sample]:
    """As many as one page takes; a ring of a thousand servers may have more."""
    found: list[wire.Sample] = []
    left = limits.MEASURES_BYTES
    for one in samples:
        left -= _size(one)
        if left < 0:
            break
        found.append(one)
    return found


def _size(one: wire.Sample) -> int:
    return 12 + len(one.name) + sum(len(a) + len(b) + 4 for a, b in one.labels)


def table() -> list[str]:
    """The catalogue as docs/MONITORING.md has it."""
    lines = ["| metric | type | labels | of | meaning |", "|---|---|---|---|---|"]
    for one in CATALOGUE:
        of = "all" if one.roles == ALL else ", ".join(sorted(role.value for role in one.roles))
        labels = " ".join(f"`{label}`" for label in one.labels)
        lines.append(f"| `{one.name}` | {one.kind.value} | {labels} | {of} | {one.help} |")
    return lines
