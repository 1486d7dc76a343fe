"""`zdfs du PATH`: how much stands at and below a path, asked of the metaserver.

No mount is walked: the metaserver adds up each directory itself (`usage`), slice by slice, and some
directories are asked about at once.  What has several names is counted once, where it is met first.
A cluster at work moves meanwhile: what is counted is what each slice found.
"""

import argparse
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from zdfs import limits, locating, progress, wire
from zdfs.amounts import printable, size
from zdfs.calls import Ask, call_all
from zdfs.errors import Failure, Posix, StartError
from zdfs.ids import Ino
from zdfs.link import Link
from zdfs.paths import PathVolume
from zdfs.tools import visiting

DEPTH = 1
FLIGHT = 8  # directories asked about at once: the metaserver answers others in between
ABOUT = """How much stands at and below a path: names, files, bytes as 'ls -l' shows them, bytes
that are stored (holes are not), and those on disks (each block stands on three).  What has several
names is counted once.  What mounts have not flushed yet is not known.

exit status
  0  everything is counted
  1  something could not be read, or there is no such path"""


@dataclass(slots=True)
class Node:
    """A path with all that is below it, once it is added up."""

    path: bytes
    depth: int
    names: int = 0  # below it
    files: int = 0
    directories: int = 0
    size_bytes: int = 0
    stored_bytes: int = 0
    damaged: int = 0

    def add(self, other: "Node") -> None:
        """What was found below."""
        self.names += other.names
        self.files += other.files
        self.directories += other.directories
        self.size_bytes += other.size_bytes
        self.stored_bytes += other.stored_bytes
        self.damaged += other.damaged


@dataclass(slots=True)
class Place:
    """A directory that is still to be asked about; `node` is what it counts for."""

    ino: Ino
    path: bytes
    node: int
    after: bytes = b""


@dataclass(slots=True)
class Tree:
    """What was found so far: nodes to a depth, each with the number of the one above."""

    depth: int
    nodes: list[Node] = field(default_factory=list)
    above: list[int] = field(default_factory=list)
    todo: list[Place] = field(default_factory=list)
    seen: set[Ino] = field(default_factory=set)  # of what has several names
    unread: list[str] = field(default_factory=list)

    def begin(self, ino: Ino, path: bytes) -> None:
        """From this directory on."""
        self.nodes.append(Node(path, 0))
        self.above.append(0)
        self.todo.append(Place(ino, path, 0))

    def take(self, place: Place, found: wire.DirectorySum) -> None:
        """A slice of a directory."""
        node = self.nodes[place.node]
        node.names += found.names
        node.files += found.files
        node.directories += len(found.below)
        node.size_bytes += found.size_bytes
        node.stored_bytes += found.stored_bytes
        node.damaged += found.damaged
        for one in found.shared:
            if one.ino not in self.seen:
                self.seen.add(one.ino)
                node.files += one.regular
                node.size_bytes += one.size
                node.stored_bytes += one.stored
        if not found.end:
            self.todo.append(Place(place.ino, place.path, place.node, found.after))
        for below in found.below:
            path = place.path.rstrip(b"/") + b"/" + below.name
            self.todo.append(Place(below.ino, path, self._node(place, path)))

    def _node(self, place: Place, path: bytes) -> int:
        """Of a directory below a place: its own, or that place's if it is too deep."""
        above = self.nodes[place.node]
        if above.depth >= self.depth:
            return place.node
        self.nodes.append(Node(path, above.depth + 1))
        self.above.append(place.node)
        return len(self.nodes) - 1

    def added_up(self) -> list[Node]:
        """All nodes, each with what is below it; the first is the whole."""
        for number in range(len(self.nodes) - 1, 0, -1):  # what is above came before
            self.nodes[self.above[number]].add(self.nodes[number])
        return self.nodes


def options(commands: Any) -> None:
    """Its arguments, for argparse."""
    parser = commands.add_parser(
        "du", help="how much stands below a path, without a walk through a mount",
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False,
    )  # fmt: skip
    parser.add_argument("path", help="a path inside the file system, or on a mount of this machine")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "-d", "--depth", type=int, default=DEPTH, metavar="DEPTH",
        help=f"show directories so far below the path, too ({DEPTH})",
    )  # fmt: skip
    ways.add_argument("-s", "--summarize", action="store_true", help="only the sum: --depth 0")
    units = parser.add_mutually_exclusive_group()
    units.add_argument("-b", "--bytes", action="store_true", help="bytes, without a unit")
    units.add_argument(
        "-h", "--human-readable", action="store_true", help="KiB, MiB, ...: as it is anyway"
    )
    parser.add_argument("--help", action="help", help="show this and exit")
    visiting.common(parser)
    parser.set_defaults(do=command)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """Add up and show."""
    path, meta = visiting.inside(chosen.path, None)
    depth = 0 if chosen.summarize else max(0, chosen.depth)
    with progress.Shown(chosen.json, "counting") as tell:
        with visiting.visit(link, visiting.meta_of(chosen, meta)) as volume:
            nodes, unread = link.run(measure(volume, path, depth, tell))
    facts = _facts(nodes, unread)
    print(json.dumps(facts, indent=2) if chosen.json else text(facts, chosen.bytes))
    return 0 if facts["complete"] else 1


async def measure(
    volume: PathVolume, path: bytes, depth: int, tell: progress.Shown
) -> tuple[list[Node], list[str]]:
    """Nodes to a depth, the whole first, and what could not be read.  StartError: no such path."""
    try:
        found = await volume.lookup(path)
    except Posix as error:
        raise StartError(f"{os.fsdecode(path)}: {error}") from error
    if not stat.S_ISDIR(found.mode):
        regular = stat.S_ISREG(found.mode)
        return [Node(path, 0, 0, int(regular), 0, found.size, found.stored)], []
    tree = Tree(depth)
    tree.begin(found.ino, path)
    names = 0
    while tree.todo:
        places = [tree.todo.pop() for _ in range(min(FLIGHT, len(tree.todo)))]
        asks = [Ask(volume.contact.meta, wire.SumDirectory(p.ino, p.after)) for p in places]
        for place, answer in zip(places, await call_all(asks)):
            told = await _again(volume, place, answer) if isinstance(answer, Failure) else answer
            if isinstance(told, wire.DirectorySum):
                names += told.names
                tree.take(place, told)
            elif told is not None:
                tree.unread.append(f"{os.fsdecode(place.path)}: {told}")
        tell("counting names", names)
    return tree.added_up(), tree.unread


async def _again(volume: PathVolume, place: Place, error: Failure) -> wire.Message | Failure | None:
    """Another try, if that may help; None: it was removed meanwhile."""
    if isinstance(error, Posix):
        return None
    request = wire.SumDirectory(place.ino, place.after)
    try:
        answer: wire.DirectorySum = await locating.asking(volume.contact.meta, request)
    except Posix:
        return None
    except Failure as failure:
        return failure
    return answer


# --- showing it --------------------------------------------------------------------------------


def _facts(nodes: list[Node], unread: list[str]) -> dict[str, Any]:
    """With keys that scripts rely on."""
    whole, *below = [_node(node) for node in nodes]
    complete = not unread and not whole["damaged_records"]
    below.sort(key=lambda one: os.fsencode(one["path"]).split(b"/"))
    return {**whole, "complete": complete, "unread": unread, "below": below}


def _node(node: Node) -> dict[str, Any]:
    return {
        "path": os.fsdecode(node.path),
        "depth": node.depth,
        "names": node.names,
        "files": node.files,
        "directories": node.directories,
        "bytes": node.size_bytes,
        "stored_bytes": node.stored_bytes,
        "disk_bytes": node.stored_bytes * limits.REPLICAS,
        "damaged_records": node.damaged,
    }


def text(facts: dict[str, Any], plain: bool = False) -> str:
    """For people: the whole at the end, where they look."""
    lines = [f"{'names':>12}{'files':>12}{'size':>20}{'stored':>20}{'on disks':>20}  path"]
    lines += [_line(one, plain) for one in (*facts["below"], facts)]
    lines += [f"not counted: {printable(one)}" for one in _first(facts["unread"])]
    if facts["damaged_records"]:
        lines.append(
            f"not counted: {facts['damaged_records']} records of the metadata are damaged: "
            "see zdfs fsck"
        )
    return "\n".join(lines)


def _first(unread: list[str], most: int = 20) -> Iterator[str]:
    yield from unread[:most]
    if len(unread) > most:
        yield f"... and {len(unread) - most} more (--json has all)"


def _line(one: dict[str, Any], plain: bool) -> str:
    amounts = (one["bytes"], one["stored_bytes"], one["disk_bytes"])
    shown = "".join(f"{str(n) if plain else size(n):>20}" for n in amounts)
    return f"{one['names']:>12}{one['files']:>12}{shown}  {printable(one['path'])}"
