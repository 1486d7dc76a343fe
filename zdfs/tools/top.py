"""`zdfs top`: how the cluster does, live: servers, their load, mounts here, rebuilds, events.

A frame needs two looks at the same process (`rates`), so the first comes after `--every` seconds.
On a terminal it is drawn again and again, until q or ^C; `--once`, and where there is no terminal,
lines are printed.  A metaserver that is down is said to be so; what was known of the ring, or what
mounts here know of it, is asked on.
"""

import argparse
import contextlib
import json
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from typing import Any

from zdfs import addresses, wire
from zdfs.ids import Slot
from zdfs.link import Link
from zdfs.rates import HOUSEKEEPING, Between, Look, quantile
from zdfs.tools import admin, gathering, visiting, why

EVERY_S = 2.0
EVENTS = 5
STOPPED = 130  # as of a program that SIGINT ended
WIDTH = 100  # where nobody says how wide a line may be
HELP = """How the cluster does, live: q or ^C ends it.

requests   answered in a second, without those that a cluster makes by itself
p50, p99   of them: from a request's arrival to its reply
queue      requests whose handler waits, and replies that wait for a disk"""


def options(commands: Any) -> None:
    """Its arguments, for argparse."""
    parser = commands.add_parser(
        "top", help="servers, load, mounts, rebuilds, events: live; q ends it",
        description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--once", action="store_true", help="one frame, as plain lines")
    parser.add_argument(
        "--every", type=visiting.seconds(0.2, 3600), default=EVERY_S, metavar="S",
        help=f"a frame every so many seconds, and rates over as many ({EVERY_S:g})",
    )  # fmt: skip
    visiting.common(parser)
    parser.set_defaults(do=command)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """Exit status 1: nobody answered."""
    watched = Watched(link, visiting.meta_of(chosen))
    try:
        watched.look()
        if chosen.json or chosen.once or not sys.stdout.isatty():
            return _plainly(watched, chosen)
        _live(watched, chosen.every)
    except KeyboardInterrupt:  # the way to end it, but for who waits for the one frame
        return STOPPED if chosen.json or chosen.once else 0
    return 0


def _plainly(watched: "Watched", chosen: argparse.Namespace) -> int:
    """Without a terminal: lines, frame after frame; one of them if that was asked for."""
    while True:
        time.sleep(chosen.every)
        found = facts(watched)
        if chosen.json:
            print(json.dumps(found, indent=2), flush=True)
        else:
            print("\n".join(lines(found, WIDTH)), flush=True)
        if chosen.json or chosen.once:
            return 0 if found["metaserver"]["answers"] or found["servers"] else 1
        print(flush=True)


# --- looking -----------------------------------------------------------------------------------


class Watched:
    """A cluster, and the newest two looks at everybody in it."""

    def __init__(self, link: Link, meta: str):
        self.link, self.meta = link, meta
        self.status: wire.Status | None = None
        self.ring: dict[str, Slot | None] = {}  # dataservers, by address, as last known
        self.servers: dict[str, tuple[Look | None, Look]] = {}
        self.mounts: dict[str, tuple[Look | None, Look] | None] = {}

    def look(self) -> None:
        """Ask all of them; takes a second or three if somebody is silent."""
        self.status = why.status(self.link, self.meta)
        if self.status is not None:
            self.ring = {o.member.address: o.member.slot for o in self.status.servers}
        elif not self.ring:
            self.ring = dict.fromkeys(self._known_to_mounts())
        found = gathering.of_servers(self.link, [self.meta, *self.ring])
        self.servers = {
            address: (self.servers[address][1] if address in self.servers else None, seen)
            for address, seen in found.items()
        }
        directories = gathering.mounts_of(self.meta)
        here, before = gathering.of_mounts(directories), self.mounts
        self.mounts = {}
        for directory in directories:
            old = before.get(directory)
            seen = here.get(directory)
            self.mounts[directory] = None if seen is None else (old[1] if old else None, seen)

    def _known_to_mounts(self) -> list[str]:
        """The dataservers that mounts of this machine had answers from."""
        said = [one.said for one in why.see({self.meta}) if one.said is not None]
        known = {pace.address for one in said for pace in one.paces}
        return sorted(known - {self.meta})


def facts(watched: Watched) -> dict[str, Any]:
    """A frame, with the keys that scripts rely on."""
    watched.look()
    status = watched.status
    shown = admin.facts(status) if status is not None else None
    states = {one["address"]: one for one in shown["servers"]} if shown else {}
    return {
        "at_ns": time.time_ns(),
        "metaserver": {
            "address": addresses.short(watched.meta),
            "answers": status is not None,
            "note": shown["note"] if shown else "it does not answer",
            **_load(watched.servers.get(watched.meta)),
        },
        "servers": [
            {
                "slot": slot,
                "address": addresses.short(address),
                **_standing(states.get(addresses.short(address))),
                **_load(watched.servers.get(address)),
            }
            for address, slot in watched.ring.items()
        ],
        "mounts": [_mount(directory, seen) for directory, seen in watched.mounts.items()],
        "writes_blocked": shown["writes_blocked"] if shown else [],
        "sessions": shown["mounts"] if shown else [],
        "events": shown["events"][-EVENTS:] if shown else [],
    }


def _standing(server: dict[str, Any] | None) -> dict[str, Any]:
    """What the metaserver says of a dataserver; nothing, while it is down itself."""
    keys = ("state", "free_bytes", "total_bytes", "used_bytes", "rebuild")
    return {key: server[key] if server else None for key in keys}


def _load(seen: tuple[Look | None, Look] | None) -> dict[str, Any]:
    """What a server does, by its own measures; None: it did not answer (twice)."""
    keys = ("requests_per_s", "in_bytes_per_s", "out_bytes_per_s", "p50_s", "p99_s", "queue", "cpu")
    if seen is None or seen[0] is None:
        return dict.fromkeys(keys)
    between = Between(seen[0], seen[1])
    buckets = between.buckets("zdfs_request_seconds", "request", HOUSEKEEPING)
    waiting = [
        seen[1].value(name) or 0 for name in ("zdfs_requests_underway", "zdfs_replies_waiting")
    ]
    values = (
        round(buckets.get(float("inf"), 0.0) / between.seconds, 1),
        round(between.rate("zdfs_received_bytes_total")),
        round(between.rate("zdfs_sent_bytes_total")),
        _rounded(quantile(buckets, 0.5)), _rounded(quantile(buckets, 0.99)),
        round(max(0.0, sum(waiting) - 1)),  # our question
        round(between.rate("process_cpu_seconds_total"), 3),
    )  # fmt: skip
    return dict(zip(keys, values, strict=True))


def _mount(directory: str, seen: tuple[Look | None, Look] | None) -> dict[str, Any]:
    """A mount of this machine."""
    keys = (
        "operations_per_s", "read_bytes_per_s", "written_bytes_per_s", "p50_s", "p99_s",
        "blocked_writers", "dirty_bytes", "metaserver_silent_s",
    )  # fmt: skip
    told: dict[str, Any] = {"directory": directory, "answers": seen is not None}
    if seen is None or seen[0] is None:
        return told | dict.fromkeys(keys)
    between = Between(seen[0], seen[1])
    buckets = between.buckets("zdfs_mount_operation_seconds")
    now = [
        seen[1].value(f"zdfs_mount_{name}") or 0.0
        for name in ("blocked_writers", "dirty_bytes", "metaserver_silent_seconds")
    ]
    values = (
        round(buckets.get(float("inf"), 0.0) / between.seconds, 1),
        round(between.rate("zdfs_mount_read_bytes_total")),
        round(between.rate("zdfs_mount_written_bytes_total")),
        _rounded(quantile(buckets, 0.5)), _rounded(quantile(buckets, 0.99)),
        round(now[0]), round(now[1]), round(now[2], 1),
    )  # fmt: skip
    return told | dict(zip(keys, values, strict=True))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


# --- showing -----------------------------------------------------------------------------------


def lines(found: dict[str, Any], width: int) -> list[str]:
    """A frame for people."""
    meta = found["metaserver"]
    shown = "serves" if meta["answers"] and not meta["note"] else meta["note"]
    at = admin.moment(found["at_ns"])
    out = [f"zdfs top   {at}   metaserver {meta['address']}: {shown}", ""]
    out.append(
        f"{'server':<21}{'state':<11}{'free':>10}{'req/s':>9}{'in/s':>10}{'out/s':>10}"
        f"{'p50':>8}{'p99':>8}{'queue':>7}{'cpu':>6}"
    )
    state = ("serves" if not meta["note"] else "waits") if meta["answers"] else "SILENT"
    out.append(_server_line({**meta, "state": state, "free_bytes": None}, "meta"))
    for one in found["servers"]:
        out.append(_server_line(one, str("?" if one["slot"] is None else one["slot"])))
    if not found["servers"]:
        out.append("which dataservers there are, nobody says")
    out += ["", *_mount_lines(found["mounts"])]
    for one in found["writes_blocked"]:
        out.append(
            f"BLOCKED    writes on {one['mount']} wait for {one['address']} for {one['since_s']} s"
        )
    for one in found["servers"]:
        if one["rebuild"]:
            out.append(f"rebuild    {one['address']}: {_rebuild(one['rebuild'])}")
    if found["events"]:
        out += ["", "newest events"]
    for event in found["events"]:
        out.append(f"  {admin.moment(event['at_ns'])}  {event['kind']}: {event['text']}")
    return [_plain(line)[:width].rstrip() for line in out]


def _plain(line: str) -> str:
    """Without what a terminal would obey: names come from anywhere."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _server_line(one: dict[str, Any], place: str) -> str:
    state = one["state"] or ("answers" if one["queue"] is not None else "silent")
    state = state.upper() if state == "down" else state
    free = "" if one["free_bytes"] is None else admin.size(one["free_bytes"])
    return (
        f"{place + ' ' + one['address']:<21}{state:<11}{free:>10}"
        f"{_number(one['requests_per_s']):>9}{_bytes(one['in_bytes_per_s']):>10}"
        f"{_bytes(one['out_bytes_per_s']):>10}{took(one['p50_s']):>8}{took(one['p99_s']):>8}"
        f"{_number(one['queue']):>7}{_share(one['cpu']):>6}"
    )


def _mount_lines(mounts: list[dict[str, Any]]) -> Iterator[str]:
    if not mounts:
        yield "no mount of this cluster on this machine"
        return
    yield (
        f"{'mount':<43}{'ops/s':>9}{'read/s':>10}{'write/s':>10}{'p50':>8}{'p99':>8}"
        f"{'blocked':>10}"
    )
    for one in mounts:
        if not one["answers"]:
            yield f"{one['directory']:<43}  does not answer"
            continue
        yield (
            f"{one['directory']:<43}{_number(one['operations_per_s']):>9}"
            f"{_bytes(one['read_bytes_per_s']):>10}{_bytes(one['written_bytes_per_s']):>10}"
            f"{took(one['p50_s']):>8}{took(one['p99_s']):>8}{_number(one['blocked_writers']):>10}"
        )


def _rebuild(job: dict[str, Any]) -> str:
    left = "?" if job["eta_s"] is None else f"{job['eta_s']:.0f} s"
    return (
        f"{admin.size(job['done_bytes'])} of {admin.size(job['total_bytes'])}, "
        f"{admin.size(job['bytes_per_s'])}/s, {left} left"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _bytes(value: int | None) -> str:
    return "-" if value is None else admin.size(value)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def took(seconds: float | None) -> str:
    """A time for people."""
    if seconds is None:
        return "-"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.0f} s"


# --- a terminal --------------------------------------------------------------------------------


def _live(watched: Watched, every_s: float) -> None:
    """Draw until q."""
    # Imported here: it takes a tenth of a second, which no node or mount should wait for.
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    def drawn(found: dict[str, Any] | None) -> Text:
        width, height = os.get_terminal_size()
        shown = (
            ["zdfs top: the first look takes a moment"] if found is None else lines(found, width)
        )
        text = Text("\n".join(shown[: max(1, height - 1)]), no_wrap=True, overflow="crop")
        text.highlight_words(("DOWN", "SILENT", "BLOCKED"), "bold red")
        text.highlight_words(("serving", "serves"), "green")
        return text

    with _keys() as pressed, Live(
        drawn(None), console=Console(), screen=True, auto_refresh=False
    ) as live:
        while not pressed(every_s):
            live.update(drawn(facts(watched)), refresh=True)


def _rest(wait_s: float) -> bool:
    time.sleep(wait_s)
    return False


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Something to wait with: whether q was pressed in so many seconds."""
    if not sys.stdin.isatty():
        yield _rest
        return
    before = termios.tcgetattr(sys.stdin)

    def pressed(wait_s: float) -> bool:
        end = time.monotonic() + wait_s
        while (left := end - time.monotonic()) > 0:
            if select.select([sys.stdin], [], [], left)[0]:
                key = os.read(sys.stdin.fileno(), 1)
                if key in (b"q", b"Q", b""):
                    return True
        return False

    try:
        tty.setcbreak(sys.stdin)
        yield pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
