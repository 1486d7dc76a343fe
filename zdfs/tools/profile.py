"""`zdfs profile MNT`: what went through a mount, how long it took, and where the time went.

Looked at twice (`rates`): the mount's own measures, and those of all servers.  What each part is:

    kernel   from a program's call until the mount took it: the kernel's count of requests that it
             has not had answers to, looked at a hundred times a second, less those that the mount
             was working on (its own sum of times over the period).  By Little's law, requests in a
             queue on average, times the period, is the time that was spent in it.  An estimate
    client   the operation's time less what it waited for
    inside   it waited for something of the mount: another operation, a flush underway, a lock.
             A flush waits so for its blocks, which travel beside it: (background) says where
    wire     waiting for an answer, less what the servers took.  An estimate
    server   what the servers took until a reply was made.  An estimate
    disk     ... and then until disks and copies had what it reports.  An estimate

Replies don't say how long they took.  A server's share of a call is that of the same kind of
request, on all servers, in the same period, asked by anybody: the mean of their time by the mean of
the mount's calls of that kind.  With other mounts at work beside this one it is the less exact the
more theirs differ.
"""

import argparse
import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from zdfs import addresses, starting
from zdfs.errors import StartError
from zdfs.link import BESIDE, INSIDE, Link
from zdfs.rates import Between, Look, quantile
from zdfs.tools import gathering, visiting, why
from zdfs.tools.top import took

OVER_S = 10.0
LOOK_S = 0.01  # between two looks at the kernel's queue
PARTS = ("client", "inside", "wire", "server", "disk")
CONNECTIONS = Path("/sys/fs/fuse/connections")


def options(commands: Any) -> None:
    """Its arguments, for argparse."""
    parser = commands.add_parser("profile", help="what went through a mount, and where time went")
    parser.add_argument("mount", metavar="MNT", help="a mount of this machine, or a path on one")
    parser.add_argument(
        "--over", type=visiting.seconds(0.1, 86_400), default=OVER_S, metavar="S",
        help=f"look on for so long ({OVER_S:.0f}); ^C ends it earlier",
    )  # fmt: skip
    visiting.common(parser)
    parser.set_defaults(do=command)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """Look, wait, look again."""
    found = profile(link, chosen.mount, chosen.over, chosen.meta)
    print(json.dumps(found, indent=2) if chosen.json else text(found))
    return 0


# --- looking -----------------------------------------------------------------------------------


class Seen(NamedTuple):
    """One look at everybody."""

    mount: Look
    servers: dict[str, Look]


def profile(link: Link, path: str, over_s: float, meta: str | None = None) -> dict[str, Any]:
    """All of it, as JSON has it.  StartError: there is no such mount, or it says nothing."""
    directory, source = mount_of(path)
    meta = visiting.named(meta, source) or source
    before = _look(link, directory, meta)
    queue = Queue(directory)
    try:
        with suppress(KeyboardInterrupt):  # what was seen until now
            time.sleep(over_s)
    finally:
        queue.stop()
    after = _look(link, directory, meta)
    mount = Between(before.mount, after.mount)
    servers = [
        Between(before.servers[one], seen)
        for one, seen in after.servers.items()
        if one in before.servers
    ]
    return facts(directory, meta, mount, servers, queue.mean())


def mount_of(path: str) -> tuple[str, str]:
    """The directory and the source of the mount that a path is on; nothing on it is touched."""
    known = visiting.sources()
    where = starting.real(path)
    while where not in known:
        above = os.path.dirname(where)
        if above == where:
            raise StartError(f"{path} is on no zdfs mount of this machine")
        where = above
    return where, known[where]


def _look(link: Link, directory: str, meta: str) -> Seen:
    here = gathering.of_mounts([directory]).get(directory)
    if here is None:
        raise StartError(
            f"the mount on {directory} says nothing: its process is gone, or stuck, or of an older "
            "release (zdfs why says more)"
        )
    try:
        status = why.status(link, meta)
    except StartError:  # a confined key: what went through the mount, it tells by itself
        status = None
    ring = [one.member.address for one in status.servers] if status is not None else []
    return Seen(here, gathering.of_servers(link, [meta, *ring]))


class Queue:
    """How many requests of a mount the kernel has no answer to yet, looked at again and again."""

    def __init__(self, directory: str):
        line = starting.mounted_on(Path(directory))
        number = line.device.partition(":")[2] if line else ""
        self._path = CONNECTIONS / number / "waiting"
        self._counts: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        try:
            while not self._ended.wait(LOOK_S):
                self._counts.append(int(self._path.read_text()))
        except (OSError, ValueError):  # another user's, or this place is not mounted
            self._counts.clear()

    def stop(self) -> None:
        """That was it."""
        self._ended.set()
        self._thread.join()

    def mean(self) -> float | None:
        """On average; None: it can't be known."""
        return sum(self._counts) / len(self._counts) if self._counts else None


# --- where the time went -----------------------------------------------------------------------


class Shares(NamedTuple):
    """How the time of a kind of call is divided; together 1."""

    wire: float
    server: float
    disk: float


def shares(mount: Between, servers: list[Between], request: str) -> Shares | None:
    """Of the calls of a mount, by what servers say of requests of that kind; None: they are
    silent."""
    calls = mount.count("zdfs_call_seconds_count", request=request)
    called_s = mount.count("zdfs_call_seconds_sum", request=request)
    answers = sum(one.count("zdfs_request_seconds_count", request=request) for one in servers)
    if not calls or not answers or called_s <= 0:
        return None
    total_s = sum(one.count("zdfs_request_seconds_sum", request=request) for one in servers)
    disk_s = sum(one.count("zdfs_request_disk_seconds_total", request=request) for one in servers)
    each_s = called_s / calls
    served = min(1.0, total_s / answers / each_s)
    disk = served * (disk_s / total_s if total_s else 0.0)
    return Shares(1.0 - served, served - disk, disk)


def facts(
    directory: str, meta: str, mount: Between, servers: list[Between], waiting: float | None
) -> dict[str, Any]:
    """With the keys that scripts rely on.  `waiting`: in the kernel, on average."""
    counts = mount.by("operation", "zdfs_mount_operation_seconds_count")
    sums = mount.by("operation", "zdfs_mount_operation_seconds_sum")
    operations = [
        _operation(mount, servers, name, round(count), sums[name])
        for name, count in counts.items()
        if count
    ]
    spent_s = sum(one["total_s"] for one in operations)
    number = sum(one["count"] for one in operations)
    queue_s = None
    if waiting is not None:
        queue_s = max(0.0, waiting * mount.seconds - spent_s)
    beside = _waits(mount, servers, BESIDE)
    return {
        "mount": directory,
        "metaserver": addresses.short(meta),
        "over_s": round(mount.seconds, 2),
        "servers_that_answer": len(servers),
        "operations": sorted(operations, key=lambda one: -one["total_s"]),
        "total": {
            "count": number,
            "total_s": round(spent_s, 6),
            "kernel_s": None if queue_s is None else round(queue_s, 6),
            "parts_s": {
                part: round(sum(one["parts_s"][part] for one in operations), 6) for part in PARTS
            },
        },
        "background": {part: round(seconds, 6) for part, seconds in beside.items()},
        "calls": _calls(mount, servers),
        "estimated": ["kernel_s", "wire", "server", "disk", "p50_s", "p99_s"],
    }


def _operation(
    mount: Between, servers: list[Between], name: str, count: int, total_s: float
) -> dict[str, Any]:
    buckets = {
        bound: value
        for bound, value in _buckets(mount, "zdfs_mount_operation_seconds", "operation", name)
    }
    parts = _waits(mount, servers, name)
    parts["client"] = max(0.0, total_s - sum(parts.values()))
    errors = mount.by("errno", "zdfs_mount_errors_total", operation=name)
    return {
        "operation": name,
        "count": count,
        "total_s": round(total_s, 6),
        "mean_s": round(total_s / count, 6),
        "p50_s": _rounded(quantile(buckets, 0.5)),
        "p99_s": _rounded(quantile(buckets, 0.99)),
        "errors": {error: round(number) for error, number in errors.items() if number},
        "parts_s": {part: round(parts.get(part, 0.0), 6) for part in PARTS},
    }


def _waits(mount: Between, servers: list[Between], operation: str) -> dict[str, float]:
    """What an operation waited for, by part."""
    found = dict.fromkeys(("inside", "wire", "server", "disk"), 0.0)
    waits = mount.by("request", "zdfs_mount_waits_seconds_total", operation=operation)
    for request, seconds in waits.items():
        if request == INSIDE:
            found["inside"] += seconds
            continue
        divided = shares(mount, servers, request) or Shares(1.0, 0.0, 0.0)
        for part, share in divided._asdict().items():
            found[part] += seconds * share
    return found


def _calls(mount: Between, servers: list[Between]) -> list[dict[str, Any]]:
    """The requests that the mount sent, the longest together first."""
    told = []
    sums = mount.by("request", "zdfs_call_seconds_sum")
    for request, count in mount.by("request", "zdfs_call_seconds_count").items():
        if not count:
            continue
        buckets = dict(_buckets(mount, "zdfs_call_seconds", "request", request))
        divided = shares(mount, servers, request)
        told.append({
            "request": request,
            "count": round(count),
            "total_s": round(sums[request], 6),
            "mean_s": round(sums[request] / count, 6),
            "p50_s": _rounded(quantile(buckets, 0.5)),
            "p99_s": _rounded(quantile(buckets, 0.99)),
            "shares": None if divided is None else {
                part: round(share, 3) for part, share in divided._asdict().items()
            },
        })  # fmt: skip
    return sorted(told, key=lambda one: -one["total_s"])


def _buckets(seen: Between, name: str, label: str, value: str) -> list[tuple[float, float]]:
    found = seen.by("le", f"{name}_bucket", **{label: value})
    return [(float(bound), count) for bound, count in found.items()]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


# --- saying it ---------------------------------------------------------------------------------


def text(found: dict[str, Any]) -> str:
    """For people."""
    total = found["total"]
    lines = [f"{found['mount']}, over {found['over_s']} s: {total['count']} operations"]
    if not found["servers_that_answer"]:
        lines.append("no server says how long it took: all of it is counted as wire")
    if not total["count"]:
        lines.append("nothing but what the kernel answers by itself, from its pages and names")
        return "\n".join(lines)
    lines += ["", f"{'operation':<17}{'count':>8}{'mean':>9}{'p50':>9}{'p99':>9}{'together':>10}"
              + "".join(f"{part:>8}" for part in PARTS)]  # fmt: skip
    for one in found["operations"]:
        lines.append(_line(one["operation"], one))
        errors = [f"{count} x {error}" for error, count in one["errors"].items()]
        if errors:
            lines.append(f"    errors: {', '.join(errors)}")
    both = total["total_s"] + (total["kernel_s"] or 0.0)
    lines += ["", "where the time of the calls went"]
    if total["kernel_s"] is None:
        lines.append(f"  kernel    not known: {CONNECTIONS} shows its queue, where that is mounted")
        lines.append("            (mount -t fusectl), to root and to who mounted this file system")
    else:
        lines.append(f"  kernel  {_share(total['kernel_s'], both)}  waited to be taken *")
    for part, means in MEANINGS.items():
        lines.append(f"  {part:<8}{_share(total['parts_s'][part], both)}  {means}")
        if part == "inside" and any(found["background"].values()):
            lines.append(f"{'':25}where blocks were on their way: {_beside(found['background'])} *")
    lines += ["", "requests that the mount sent (the shares are estimated)"]
    for one in found["calls"]:
        divided = one["shares"]
        said = "" if divided is None else ", ".join(f"{p} {s:.0%}" for p, s in divided.items())
        lines.append(
            f"  {one['request']:<15}{one['count']:>8}{took(one['mean_s']):>9}"
            f"{took(one['p50_s']):>9}{took(one['p99_s']):>9}{took(one['total_s']):>10}  {said}"
        )
    lines += ["", *NOTES]
    return "\n".join(lines)


MEANINGS = {
    "client": "the mount's own code, and waiting for its turn at the processor",
    "inside": "waited for something of the mount: a flush, a lock, another operation",
    "wire": "messages on their way *",
    "server": "handlers of the servers *",
    "disk": "until disks and copies had it *",
}
NOTES = (
    "* estimated: replies don't say how long they took, so a server's share of a call is what such",
    "  requests took there on average in this time, whoever sent them; the kernel's is what its",
    "  count of requests under way exceeds those in the mount by, a hundred times a second.",
    "  p50 and p99 are as exact as the bounds of the histograms (docs/MONITORING.md).",
)


def _line(name: str, one: dict[str, Any]) -> str:
    parts = "".join(f"{_percent(one['parts_s'][p], one['total_s']):>8}" for p in PARTS)
    return (
        f"{name:<17}{one['count']:>8}{took(one['mean_s']):>9}{took(one['p50_s']):>9}"
        f"{took(one['p99_s']):>9}{took(one['total_s']):>10}{parts}"
    )


def _beside(background: dict[str, float]) -> str:
    whole = sum(background.values())
    return ", ".join(f"{part} {_percent(background[part], whole)}" for part in PARTS[2:])


def _percent(part_s: float, whole_s: float) -> str:
    return f"{part_s / whole_s:.0%}" if whole_s else "-"


def _share(part_s: float, whole_s: float) -> str:
    return f"{took(part_s):>9}{_percent(part_s, whole_s):>6}"
