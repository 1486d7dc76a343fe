"""`zdfs find-open PATH`: who has it open, or anything below it, before an umount or a delete.

The metaserver knows which mounts have a file open, who may write it, and who has locks (`usage`).
Which processes these are only the machine knows where the mount is: of mounts here, proc says it
(`holders`), also of who keeps a mount busy without an open file.  Of mounts elsewhere: ask there.
"""

import argparse
import json
import os
import socket
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from zdfs import addresses, dirnames, locating, processes, progress, wire
from zdfs.amounts import printable
from zdfs.errors import Failure, Posix, StartError
from zdfs.holders import Found, Holder, holders
from zdfs.ids import ROOT, Ino, Session
from zdfs.link import Link
from zdfs.paths import PathVolume
from zdfs.tools import visiting

ABOUT = """Which mounts have a file open, or anything below a directory; who may write it, who has
it locked; and which processes of this machine that are.  A file that was closed a second ago may
still be named.

exit status
  0  nobody has anything of it
  1  somebody has
  2  nobody knows: the metaserver can't be asked, or there is no such path"""


@dataclass(slots=True)
class Open:
    """What the metaserver says of one path."""

    top: Ino
    path: bytes
    directory: bool
    files: list[wire.OpenFile] = field(default_factory=list)
    mounts: dict[Session, wire.Opener] = field(default_factory=dict)
    names: dict[Ino, bytes] = field(default_factory=dict)  # paths; not of what has none
    settled: bool = True


def options(commands: Any) -> None:
    """Its arguments, for argparse."""
    parser = commands.add_parser(
        "find-open", help="which mounts and processes have it open, or something below it",
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("path", help="a path inside the file system, or on a mount of this machine")
    visiting.common(parser)
    parser.set_defaults(do=visiting.judging(command))


def command(link: Link, chosen: argparse.Namespace) -> int:
    """Ask the metaserver and this machine, and say it."""
    path, source = visiting.inside(chosen.path, None)
    meta = visiting.meta_of(chosen, source)
    with progress.Shown(chosen.json, "asking the metaserver") as tell:
        with visiting.visit(link, meta) as volume:
            found = link.run(find(volume, path, tell))
    facts = _facts(found, _here(meta), socket.gethostname())
    print(json.dumps(facts, indent=2) if chosen.json else text(facts))
    return 1 if facts["open"] or facts["processes"] else 0


def _here(meta: str) -> Found:
    """The processes of this machine that keep mounts of this file system busy."""
    ours = {
        number: one
        for number, one in processes.mounts().items()
        if addresses.parse(one.source) == meta
    }
    return holders(ours) if ours else Found([], 0)


# --- asking ------------------------------------------------------------------------------------


async def find(volume: PathVolume, path: bytes, tell: progress.Shown) -> Open:
    """What mounts have open at and below a path.  StartError: no such path."""
    try:
        about = await volume.lookup(path)
    except Posix as error:
        raise StartError(f"{os.fsdecode(path)}: {error}") from error
    found = Open(about.ino, path, stat.S_ISDIR(about.mode))
    cursor, end = (Session(0), Ino(0)), False
    while not end:
        request = wire.FindOpen(found.top, *cursor)
        told: wire.OpenFiles = await locating.asking(volume.contact.meta, request)
        found.files += told.files
        found.mounts |= {one.session: one for one in told.mounts}
        found.settled &= told.settled
        cursor, end = (told.session, told.ino), told.end
        tell("open files", len(found.files))
    found.names[found.top] = path
    if found.directory:
        await _other_names(volume, found, tell)
        await Names(volume, found.names).look({(one.ino, one.parent) for one in found.files})
    return found


async def _other_names(volume: PathVolume, found: Open, tell: progress.Shown) -> None:
    """Files that may stand below by another of their names: only a walk over the names shows."""
    unsure = {one.ino for one in found.files if not one.below}
    sure: set[Ino] = set()
    todo, seen = [(found.top, found.path.rstrip(b"/"), b"")] if unsure else [], 0
    while todo and unsure:
        ino, path, after = todo.pop()
        try:
            listing = await locating.asking(volume.contact.meta, wire.ListEntries(ino, after))
        except Posix:  # removed meanwhile
            continue
        if not listing.end:
            todo.append((ino, path, listing.entries[-1].name))
        for entry in listing.entries:
            if entry.ino in unsure:
                unsure.discard(entry.ino)
                sure.add(entry.ino)
                found.names[entry.ino] = path + b"/" + entry.name
            elif stat.S_ISDIR(entry.mode):
                todo.append((entry.ino, path + b"/" + entry.name, b""))
        seen += len(listing.entries)
        tell("names", seen)
    found.files = [one for one in found.files if one.below or one.ino in sure]


class Names:
    """Finds what inodes are called, from their directories up to one whose path is known."""

    def __init__(self, volume: PathVolume, known: dict[Ino, bytes]):
        self._volume, self._known = volume, known
        self._listed: dict[Ino, tuple[Ino, dict[Ino, bytes]]] = {}  # parent, and names

    async def look(self, wanted: Collection[tuple[Ino, Ino]]) -> None:
        """The paths of these inodes, each with its directory, into what is known."""
        for ino, parent in sorted(wanted):
            if ino not in self._known and parent:
                above = await self._directory(parent)
                name = (await self._list(parent))[1].get(ino)
                if above is not None and name is not None:
                    self._known[ino] = above.rstrip(b"/") + b"/" + name

    async def _directory(self, ino: Ino) -> bytes | None:
        """A directory's path; None: it is removed."""
        way: list[Ino] = []
        while ino not in self._known:
            if ino in way or ino == ROOT:
                return b"/" if ino == ROOT else None
            way.append(ino)
            ino = (await self._list(ino))[0]
            if not ino:
                return None
        for below in reversed(way):
            name = (await self._list(ino))[1].get(below)
            if name is None:
                return None
            self._known[below] = self._known[ino].rstrip(b"/") + b"/" + name
            ino = below
        return self._known[ino]

    async def _list(self, ino: Ino) -> tuple[Ino, dict[Ino, bytes]]:
        if ino not in self._listed:
            names: dict[Ino, bytes] = {}
            parent, after, end = Ino(0), b"", False
            try:
                while not end:
                    page = await self._volume.contact.ask(wire.ListNames(ino, after))
                    listed = dirnames.unpack(page.names)
                    names |= {child: name for name, child, _ in listed}
                    parent, end = page.parent, page.end or not listed
                    after = listed[-1][0] if listed else after
            except Failure:  # a removed or damaged directory has no path to tell
                parent = Ino(0)
            self._listed[ino] = parent, names
        return self._listed[ino]


# --- saying ------------------------------------------------------------------------------------


def _facts(found: Open, here: Found, host: str) -> dict[str, Any]:
    """With keys that scripts rely on."""
    inos = {one.ino for one in found.files} | {found.top}
    busy = [one for one in here.holders if one.ino in inos or _below(one, found.path)]
    return {
        "path": os.fsdecode(found.path),
        "inode": found.top,
        "open": [
            _file(one, found, [p for p in busy if _matches(p, one, found.mounts, host)], host)
            for one in sorted(found.files, key=lambda one: (found.names.get(one.ino, b""), one.ino))
        ],
        "processes": [_process(one) for one in busy],
        "not_looked_at": here.hidden,
        "settled": found.settled,
    }


def _below(holder: Holder, path: bytes) -> bool:
    """Whether what a process has is at or below a path inside the file system, by its text."""
    inner = holder.path.removeprefix(holder.directory.rstrip("/")) or "/"
    return f"{inner}/".startswith(f"{os.fsdecode(path).rstrip('/')}/")


def _matches(
    holder: Holder, one: wire.OpenFile, mounts: dict[Session, wire.Opener], host: str
) -> bool:
    mount = mounts[one.session]
    return holder.ino == one.ino and (mount.host, mount.mount) == (host, holder.directory)


def _file(one: wire.OpenFile, found: Open, busy: Sequence[Holder], host: str) -> dict[str, Any]:
    mount, path = found.mounts[one.session], found.names.get(one.ino)
    return {
        "path": None if path is None else os.fsdecode(path),
        "inode": one.ino,
        "removed": not one.names,
        "host": mount.host,
        "mount": mount.mount,
        "here": mount.host == host,
        "silent_s": round(mount.silent_ms / 1000, 1),
        "writes": one.writes,
        "wanted_by": one.wanted,
        "locks": one.locks,
        "lock_pids": list(one.lockers),
        "pids": sorted({holder.pid for holder in busy}),
    }


def _process(one: Holder) -> dict[str, Any]:
    return {
        "pid": one.pid,
        "name": one.name,
        "uid": one.uid,
        "how": one.how,
        "mount": one.directory,
        "path": one.path,
        "inode": one.ino,
    }


def text(facts: dict[str, Any]) -> str:
    """For people."""
    lines = []
    for one in facts["open"]:
        name = f"inode {one['inode']}" if one["path"] is None else printable(one["path"])
        lines.append(f"{name}{' (removed)' if one['removed'] else ''}")
        lines.append(f"    {one['host']}:{printable(one['mount'])}  {_doing(one)}")
    elsewhere = sorted({one["host"] for one in facts["open"] if not one["here"]})
    for one in facts["processes"]:
        lines.append(
            f"process {one['pid']} ({printable(one['name'])}, uid {one['uid']}): {one['how']}: "
            f"{printable(one['path'])}"
        )
    for host in elsewhere:
        lines.append(f"which processes those on {host} are, zdfs find-open says there")
    if facts["not_looked_at"]:
        hint = "" if os.geteuid() == 0 else "; as root it says more"
        lines.append(f"processes that nobody let us look at: {facts['not_looked_at']}{hint}")
    if not facts["settled"]:
        lines.append("the metaserver has just restarted, and some mount has yet to say what it has")
    if not facts["open"] and not facts["processes"]:
        lines.insert(0, f"nobody has {printable(facts['path'])} open, or anything below it")
    return "\n".join(lines)


def _doing(one: dict[str, Any]) -> str:
    words = ["has the write grant" if one["writes"] else "has it open"]
    if one["wanted_by"]:
        words.append(f"which {one['wanted_by']} other mounts wait for")
    if one["locks"]:
        pids = ", ".join(map(str, one["lock_pids"]))
        words.append(f"locks: {one['locks']}" + (f" (process {pids})" if pids else ""))
    if one["silent_s"] > 3:
        words.append(f"silent for {one['silent_s']:.0f} s")
    if one["pids"]:
        words.append(f"process {', '.join(map(str, one['pids']))} here")
    return ", ".join(words)
