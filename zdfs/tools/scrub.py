"""`zdfs scrub`: how far the servers' checks of all they hold are; check all, or one place, now.

    zdfs scrub           each server's pass underway and its newest full one
    zdfs scrub --now     a full pass on every server, at once; wait for its end
    zdfs scrub PATH      every copy of the files at and below a path, on all of their servers

The passes are the servers' own (`scrubbing`); a path is looked after from here, as fsck does it.
"""

import argparse
import json
import os
import secrets
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from zdfs import addresses, findings, fsck, progress, wire
from zdfs.calls import Ask, Peer, call, call_all, now, sleep
from zdfs.errors import Damaged, Failure, Posix, StartError
from zdfs.ids import Ino
from zdfs.link import Link
from zdfs.paths import PathVolume
from zdfs.tools import visiting
from zdfs.tools.admin import find_meta, moment, size
from zdfs.wire import Member, ScrubStatus, State

POLL_S = 0.3
SILENT_S = 15.0  # a server that says nothing for so long is not waited for
STILL_S = 60.0  # nor a pass that stands still for so long
MIB = 1024 * 1024
ABOUT = """Without --now and PATH: how far the servers' own checks are, which go on all the time.
With --now: a full one on every server, at full speed; with PATH: of the files at and below it.

exit status
  0  every copy is as the metadata say
  1  some were not, and all of these are healed
  2  some can't be healed, or not everything could be looked at (which is said)"""


def options(commands: Any) -> None:
    """The arguments."""
    parser = commands.add_parser(
        "scrub", help="read and check every stored copy: how far, or at once", description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--now", action="store_true", help="check everything now, and wait")
    parser.add_argument("path", nargs="?", help="check what is there, now, and wait")
    visiting.common(parser)
    parser.set_defaults(do=visiting.judging(command))


def command(link: Link, chosen: argparse.Namespace) -> int:
    """`zdfs scrub`."""
    if chosen.path is not None:
        return _path(link, chosen)
    meta = visiting.meta_of(chosen)
    if not chosen.now:
        with progress.Shown(chosen.json, "asking the servers"):
            found = link.run(_status(meta))
        print(json.dumps(found, indent=2) if chosen.json else _shown(found))
        return 0
    with progress.Shown(chosen.json, "asking the servers") as tell:
        passes = link.run(everything(meta, tell))
    status = max((one.status for one in passes), default=0)
    servers = [one.facts() for one in passes]
    if chosen.json:
        print(json.dumps({"status": status, "servers": servers}, indent=2))
    else:
        print("\n".join(one.text() for one in passes))
        verdict = ("every copy is as it must be", "all that was found is healed", "not all is well")
        print(verdict[status])
    return status


# --- how far -----------------------------------------------------------------------------------


async def _status(meta: str) -> dict[str, Any]:
    await find_meta(meta, serves=False)
    found = await call(Peer(meta), wire.GetStatus())
    servers = []
    for one in found.servers:
        shown = one.health.scrub
        servers.append(
            {
                "slot": one.member.slot,
                "address": addresses.short(one.member.address),
                "state": one.member.state.name.lower(),
                "scrub": None if shown is None else facts(shown),
            }
        )
    return {"servers": servers}


def facts(shown: ScrubStatus) -> dict[str, Any]:
    """How far a server is, with the keys that scripts rely on."""
    left = max(0, shown.total_bytes - shown.done_bytes)
    underway = shown.began_ns > 0
    return {
        "underway": underway,
        "began_ns": shown.began_ns or None,
        "last_full_pass_ns": shown.ended_ns or None,
        "done_bytes": shown.done_bytes,
        "total_bytes": shown.total_bytes,
        "bytes_per_s": shown.bytes_per_s,
        "eta_s": round(left / shown.bytes_per_s, 1) if underway and shown.bytes_per_s else None,
        "damaged": shown.damaged,
        "missing": shown.missing,
        "excess": shown.excess,
        "healed": shown.healed,
    }


def _shown(found: dict[str, Any]) -> str:
    lines = [f"{'slot':>4}  {'address':<22}{'pass':<34}last full pass"]
    for one in found["servers"]:
        scrub, text, last = one["scrub"], one["state"], "unknown"
        if scrub is not None:
            last = _date(scrub["last_full_pass_ns"])
        if scrub is not None and text != "down":  # else what it last said of its pass is over
            text = "rests"
            if scrub["underway"]:
                part = f"{size(scrub['done_bytes'])} of {size(scrub['total_bytes'])}"
                rate = scrub["bytes_per_s"]
                text = f"{part}, {size(rate)}/s" if rate else f"{part}, at full speed"
        lines.append(f"{one['slot']:>4}  {one['address']:<22}{text:<34}{last}")
        if scrub is not None and scrub["damaged"] + scrub["missing"] + scrub["excess"]:
            lines.append(f"      {_findings(scrub)}")
    return "\n".join(lines)


def _date(at_ns: int | None) -> str:
    return "none yet" if at_ns is None else moment(at_ns)


def _findings(scrub: dict[str, Any]) -> str:
    return (
        f"bad copies {scrub['damaged']}, missing {scrub['missing']}, too many {scrub['excess']}; "
        f"healed {scrub['healed']}"
    )


# --- everything, now ---------------------------------------------------------------------------


@dataclass(slots=True)
class _Pass:
    """One server's pass for this command."""

    member: Member
    shown: ScrubStatus | None = None
    left: int = 0
    finished: bool = False
    why: str = ""  # it is not finished
    moved_at: float = 0.0
    heard_at: float = 0.0

    @property
    def status(self) -> int:
        """Of the command, as far as this server goes."""
        if not self.finished or self.left or self.shown is None:
            return 2
        return 1 if self.shown.damaged + self.shown.missing + self.shown.excess else 0

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "slot": self.member.slot,
            "address": addresses.short(self.member.address),
            "finished": self.finished,
            "why": self.why or None,
            "not_healed": self.left,
            "scrub": None if self.shown is None else facts(self.shown),
        }

    def text(self) -> str:
        """For people."""
        name = f"dataserver {addresses.short(self.member.address)} (slot {self.member.slot})"
        if not self.finished:
            return f"{name}: not finished: {self.why}"
        assert self.shown is not None
        left = f"; NOT healed {self.left}" if self.left else ""
        return f"{name}: {size(self.shown.done_bytes)} read; {_findings(facts(self.shown))}{left}"

    def hear(self, answer: wire.Message | Failure, at: float) -> None:
        """What the server says of its pass."""
        if not isinstance(answer, wire.Scrubbing):
            if at - self.heard_at > SILENT_S:
                self.why = f"it does not answer ({answer})"
            return
        self.heard_at = at
        if answer.scrub != self.shown:
            self.moved_at = at
        self.shown, self.left, self.finished = answer.scrub, answer.left, answer.finished
        if not self.finished and at - self.moved_at > STILL_S:
            self.why = "its pass stands still: it waits for another server, see zdfs status"


async def everything(meta: str, tell: progress.Shown) -> list[_Pass]:
    """A full pass of every server: what each found."""
    await find_meta(meta, serves=False)
    found = await call(Peer(meta), wire.GetStatus())
    if not found.servers:
        raise StartError(f"there is nothing to scrub yet: {found.note}")
    run, at = secrets.token_bytes(16), await now()
    passes = [_Pass(one.member, moved_at=at, heard_at=at) for one in found.servers]
    for one in passes:
        if one.member.state is State.DOWN:
            one.why = "it is down"
    request = wire.Scrub(found.cluster, run)
    while underway := [one for one in passes if not one.finished and not one.why]:
        asks = [Ask(Peer(one.member.address), request) for one in underway]
        answers = await call_all(asks)
        at = await now()
        for one, answer in zip(underway, answers):
            one.hear(answer, at)
        shown = [one.shown for one in passes if one.shown is not None]
        done = sum(one.done_bytes for one in shown) // MIB
        tell("scrub, MiB", done, sum(one.total_bytes for one in shown) // MIB)
        await sleep(POLL_S)
    return passes


# --- one place ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Walk:
    """The files at and below a path."""

    volume: PathVolume
    paths: dict[Ino, bytes] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    async def pages(self, top: bytes) -> AsyncIterator[wire.InventoryPage]:
        """The map pages of all of them, each file once."""
        stack = [(top.rstrip(b"/") or b"/", await self.volume.lookup(top))]
        while stack:
            path, found = stack.pop()
            if found.ino in self.paths:
                continue
            self.paths[found.ino] = path
            try:
                if stat.S_ISDIR(found.mode):
                    stack += await self._entries(path)
                elif stat.S_ISREG(found.mode):
                    attributes, pages = await self.volume.where_ino(found.ino)
                    about = (attributes.ino, attributes.epoch, attributes.start)
                    for page in pages:
                        yield wire.InventoryPage(*about, page.page, page.entries)
            except (Posix, Damaged) as error:  # removed meanwhile, or unreadable
                if not isinstance(error, Posix) or path == top:
                    self.unread.append(f"{os.fsdecode(path)}: {error}")

    async def _entries(self, path: bytes) -> list[tuple[bytes, wire.Attributes]]:
        handle = await self.volume.opendir(path)
        found, offset = [], 0
        while some := await self.volume.readdir(handle, offset):
            for one in some:
                if one.name not in (b".", b"..") and one.attributes is not None:
                    found.append((path.rstrip(b"/") + b"/" + one.name, one.attributes))
            offset = some[-1].next
        await self.volume.releasedir(handle)
        return found


def _path(link: Link, chosen: argparse.Namespace) -> int:
    path, meta = visiting.inside(chosen.path, None)
    meta = visiting.meta_of(chosen, meta)
    words = "looking for its files"
    with progress.Shown(chosen.json, words) as tell, visiting.visit(link, meta) as volume:
        walk = Walk(volume)
        status = link.run(call(Peer(meta), wire.GetStatus()))
        try:
            report = link.run(fsck.replicas(meta, status, walk.pages(path), tell))
        except Posix as error:
            raise StartError(f"{os.fsdecode(path)}: {error}") from error
    for what in walk.unread:
        report.could_not(what)
    for one in report.findings:
        one.path = walk.paths.get(one.ino)
    unhealed = report.counts.total() - report.mended
    done = 2 if report.unfinished or unhealed else 1 if report.mended else 0
    if chosen.json:
        shown = findings.facts(report) | {"status": done, "healed": report.mended}
        print(json.dumps(shown, indent=2))
    else:
        print(findings.text(report))
        if report.counts:
            print(f"healed: {report.mended} of {report.counts.total()}")
    return done
