"""`zdfs impact --down 2,3`: what an outage would cost, before anything is stopped.

The metaserver counts (`forecast`), slice by slice; here the slices are added up, the files that are
named get their paths, and people are told.  Memory is bounded on both sides: counts, and as many
files as are to be named.  A cluster at work moves meanwhile: what is counted is what each slice
found.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from zdfs import addresses, copies, limits, locating, progress, wire
from zdfs.calls import Peer, call
from zdfs.errors import StartError
from zdfs.ids import Ino, Slot
from zdfs.link import Link
from zdfs.tools import visiting
from zdfs.tools.admin import find_meta, size
from zdfs.wire import State

NAMED = 20  # files of each kind that are named


@dataclass(slots=True)
class Loss:
    """Files that lose something, and what of it."""

    files: int = 0
    blocks: int = 0
    bytes: int = 0
    unsure_files: int = 0
    unsure_blocks: int = 0
    named: list[tuple[Ino, int, int]] = field(default_factory=list)  # with blocks, and unsure ones

    def count(self, ino: Ino, counts: tuple[int, int, int], most: int) -> None:
        """A file's blocks, bytes and unsure blocks."""
        blocks, size_bytes, unsure = counts
        self.files += blocks > 0
        self.blocks += blocks
        self.bytes += size_bytes
        self.unsure_files += not blocks and unsure > 0
        self.unsure_blocks += unsure
        if (blocks or unsure) and len(self.named) < most:
            self.named.append((ino, blocks, unsure))


@dataclass(slots=True)
class Sum:
    """The slices added up."""

    most: int = NAMED
    files: int = 0
    waiting: int = 0
    damaged: int = 0
    partial: set[Slot] = field(default_factory=set)
    writes: list[Ino] = field(default_factory=list)
    reads: Loss = field(default_factory=Loss)
    data: Loss = field(default_factory=Loss)
    begun: wire.Hit | None = None  # a file that may go on in the next slice

    def add(self, told: wire.Forecast) -> None:
        """The next slice."""
        self.files, self.waiting = self.files + told.files, self.waiting + told.waiting
        self.damaged += told.damaged
        self.partial |= set(told.partial)
        for hit in told.hits:
            if self.begun is not None and self.begun.ino == hit.ino:
                more = [a + b for a, b in zip(self.begun[3:], hit[3:])]
                self.begun = wire.Hit(*hit[:3], *more)
            else:
                self._close()
                self.begun = hit
        if told.end:
            self._close()

    def _close(self) -> None:
        hit, self.begun = self.begun, None
        if hit is None:
            return
        if hit.waits and len(self.writes) < self.most:
            self.writes.append(hit.ino)
        self.reads.count(hit.ino, (hit.unread, hit.unread_bytes, hit.unread_unsure), self.most)
        self.data.count(hit.ino, (hit.lost, hit.lost_bytes, hit.lost_unsure), self.most)


def options(commands: Any) -> None:
    """Its arguments, for argparse."""
    parser = commands.add_parser(
        "impact", help="what an outage would cost, before anything is stopped"
    )
    parser.add_argument(
        "--down", required=True, metavar="2,3", help="the dataservers, by slot or port"
    )
    parser.add_argument(
        "--limit", type=int, default=NAMED, metavar="N",
        help=f"name so many files of each kind; all are counted ({NAMED})",
    )  # fmt: skip
    visiting.common(parser)
    parser.set_defaults(do=command)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """Ask and show."""
    meta = visiting.meta_of(chosen)
    with progress.Shown(chosen.json, "counting") as tell:
        facts = link.run(impact(meta, chosen.down, max(0, chosen.limit), tell))
    print(json.dumps(facts, indent=2) if chosen.json else text(facts))
    return 0


def slots_of(text: str, ring: Sequence[str]) -> tuple[Slot, ...]:
    """Servers as people name them, `2,3`: by slot, or by port or address.  StartError."""
    found = set()
    known = {addresses.short(address): slot for slot, address in enumerate(ring)}
    known |= {address: slot for slot, address in enumerate(ring)}
    for word in filter(None, text.split(",")):
        slot = int(word) if word.isdecimal() and int(word) < len(ring) else known.get(word)
        if slot is None:
            shown = ", ".join(f"{n} ({addresses.short(a)})" for n, a in enumerate(ring))
            raise StartError(f"there is no dataserver {word}; there are {shown}")
        found.add(Slot(slot))
    if not found:
        raise StartError("name the dataservers that would be down: --down 2,3")
    return tuple(sorted(found))


async def impact(
    meta: str, down: str, most: int = NAMED, tell: progress.Shown = progress.QUIET
) -> dict[str, Any]:
    """What would be lost if the servers in `down` (as `slots_of`) went away.  StartError."""
    await find_meta(meta, serves=False)
    peer = Peer(meta)
    status = await call(peer, wire.GetStatus())
    if not status.servers:
        raise StartError(f"the cluster is not founded yet: {status.note}")
    members = [one.member for one in status.servers]
    slots = slots_of(down, [member.address for member in members])
    silent = tuple(m.slot for m in members if m.state is State.DOWN and m.slot not in slots)
    total, cursor = Sum(most), (Ino(0), -1)
    while True:
        left = min(limits.HITS // 2, most - len(total.writes))
        told = await locating.asking(peer, wire.Foresee(slots, silent, max(0, left), *cursor))
        total.add(told)
        tell("counting files", total.files)
        if told.end:
            break
        cursor = (told.ino, told.page)
    named = {ino for ino in total.writes}
    named |= {one[0] for one in (*total.reads.named, *total.data.named)}
    tell("looking for their names")
    paths = await locating.paths(peer, named) if named else {}
    return _facts(status, slots, silent, total, paths)


def _facts(
    status: wire.Status, slots: Sequence[Slot], silent: Sequence[Slot], total: Sum,
    paths: dict[Ino, bytes],
) -> dict[str, Any]:  # fmt: skip
    """With the keys that scripts rely on."""
    members = [one.member for one in status.servers]

    def shown(which: Sequence[Slot] | set[Slot]) -> list[dict[str, Any]]:
        return [{"slot": s, "address": addresses.short(members[s].address)} for s in sorted(which)]

    def path(ino: Ino) -> str | None:
        return os.fsdecode(paths[ino]) if ino in paths else None

    def loss(of: Loss) -> dict[str, Any]:
        return {
            "files": of.files,
            "blocks": of.blocks,
            "bytes": of.bytes,
            "unsure_files": of.unsure_files,
            "unsure_blocks": of.unsure_blocks,
            "named": [
                {"path": path(ino), "inode": ino, "blocks": blocks, "unsure_blocks": unsure}
                for ino, blocks, unsure in of.named
            ],
        }

    left = len(members) - len({*slots, *silent})
    return {
        "down": shown(slots),
        "already_down": shown(silent),
        "not_whole": shown(total.partial - {*slots, *silent}),
        "files": total.files,
        "writes": {
            "files": total.waiting,
            "named": [{"path": path(ino), "inode": ino} for ino in total.writes],
        },
        "reads": loss(total.reads),
        "data": loss(total.data),
        "metaserver_restart": "serves" if left * 2 > len(members) else "reads only",
        "names": "go on" if _names_go_on(status, {*slots, *silent}) else "wait",
        "damaged_records": total.damaged,
    }


def _names_go_on(status: wire.Status, away: set[Slot]) -> bool:
    """Whether names can be changed: enough members of the journal set are up, or enough servers to
    make and to know another one."""
    needed, servers = status.copies.needed, len(status.servers)
    members = {one.slot for one in status.copies.members}
    left = servers - len(away)
    return len(members - away) >= needed or left >= max(needed, copies.to_know(servers))


def text(facts: dict[str, Any]) -> str:
    """For people."""
    listed = ", ".join(f"{one['slot']} ({one['address']})" for one in facts["down"])
    lines = [f"if dataserver {listed} went down:"]
    for key, words in (
        ("already_down", "down as it is, and counted with it"),
        ("not_whole", "its store is not known to be whole (a rebuild, or commits that skip it)"),
    ):
        for one in facts[key]:
            lines.append(f"        dataserver {one['slot']} ({one['address']}): {words}")
    waiting, files = facts["writes"]["files"], facts["files"]
    names = "names go on" if facts["names"] == "go on" else "changes of names would wait, too"
    if waiting == files and files:
        lines.append(f"writes  would wait, to every file ({files}); {names}")
    else:
        lines.append(f"writes  would wait to {waiting} of {files} files; {names}")
    lines += _named(facts["writes"]["named"], waiting) if waiting != files else []
    lines += _loss("reads ", "would be EIO until one is back", "can be read", facts["reads"], files)
    gone = "would be lost if those disks never came back"
    lines += _loss("data  ", gone, "would be safe without those disks", facts["data"], files)
    if facts["metaserver_restart"] != "serves":
        lines.append("names   a metaserver that starts anew meanwhile would serve reads only")
    if facts["damaged_records"]:
        lines.append(
            f"{facts['damaged_records']} records of the metadata are damaged and not counted: "
            "see zdfs fsck"
        )
    return "\n".join(lines)


def _loss(title: str, bad: str, good: str, loss: dict[str, Any], files: int) -> list[str]:
    if not loss["files"] and not loss["unsure_files"]:
        return [f"{title}  all {files} files {good}"]
    lines = []
    if loss["files"]:
        blocks = f"{loss['blocks']} blocks ({size(loss['bytes'])}) of {loss['files']} files"
        lines.append(f"{title}  {blocks} {bad}")
    else:
        lines.append(f"{title}  all blocks that stand on whole servers {good}")
    if loss["unsure_blocks"]:
        lines.append(
            f"        and perhaps {loss['unsure_blocks']} more blocks, of {loss['unsure_files']} "
            "other files: their only other copy belongs on a server that is not known to be whole"
        )
    return lines + _named(loss["named"], loss["files"] + loss["unsure_files"])


def _named(named: list[dict[str, Any]], count: int) -> list[str]:
    lines = []
    for one in named:
        blocks = f", {one['blocks']} blocks" if one.get("blocks") else ""
        where = one["path"] or f"inode {one['inode']} (no name)"
        lines.append(f"          {where}{blocks}")
    if count > len(named):
        lines.append(f"          ... and {count - len(named)} more (--limit)")
    return lines
