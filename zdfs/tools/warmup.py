"""`zdfs warmup PATH`: have what is there in memory before somebody waits for it.

    a path on a mount of this machine   its files are read through the mount: they are then in the
                                        kernel's page cache here, and in the servers' caches
    a path inside the file system,      every server reads all its copies of the files' blocks, and
    or --servers                        checks them: they are then in the servers' page caches, and
                                        nothing crosses the network

What is warm stays so as long as the kernel likes: memory that others need is taken from it.
"""

import argparse
import json
import os
import stat
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from zdfs import addresses, limits, progress, recovery, wire
from zdfs.amounts import printable, size
from zdfs.calls import Ask, Peer, call_all
from zdfs.errors import Posix, StartError
from zdfs.link import Link
from zdfs.paths import PathVolume
from zdfs.tools import visiting
from zdfs.tools.scrub import Walk
from zdfs.wire import Held, State

PARALLEL = 8
MOST = 256
PIECE = 1024 * 1024
BLOCKS = 16  # copies that one question has a server read: it answers others in between
NAMED = 20
ABOUT = """Read files ahead of those who will want them.  A path on a mount of this machine is read
through that mount, into the kernel's memory here and the servers'; a path inside the file system,
or --servers, has the servers read their copies into their own memory, and nothing is sent.

exit status
  0  everything was read
  1  something could not be read, or there is no such path"""


@dataclass(slots=True)
class Warmed:
    """What was read."""

    how: str  # mount, servers
    paths: list[str]
    files: int = 0
    bytes: int = 0
    errors: list[str] = field(default_factory=list)
    took_s: float = 0.0


def options(commands: Any) -> None:
    """Its arguments, for argparse."""
    parser = commands.add_parser(
        "warmup", help="read files ahead, through a mount or by the servers alone",
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "paths", nargs="+", metavar="path",
        help="files and trees: on a mount of this machine, or paths inside the file system",
    )  # fmt: skip
    parser.add_argument(
        "--servers", action="store_true", help="have the servers read their copies, also of a mount"
    )
    parser.add_argument(
        "--parallel", type=_parallel, default=PARALLEL, metavar="N",
        help=f"so many reads at once ({PARALLEL})",
    )  # fmt: skip
    visiting.common(parser)
    parser.set_defaults(do=command)


def _parallel(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"{text}: from 1 to {MOST}")
    return int(text)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """Read and say what was read."""
    places = [visiting.inside(path, None) for path in chosen.paths]
    metas = {meta for _, meta in places}
    if len(metas) > 1:
        raise StartError("some of these paths are on a mount and some are not: warm them in turn")
    (source,) = metas
    began = monotonic()
    with progress.Shown(chosen.json, "looking for files") as tell:
        if source is not None and not chosen.servers:
            warmed = through_mount(chosen.paths, chosen.parallel, tell)
        else:
            inner = [path for path, _ in places]
            with visiting.visit(link, visiting.meta_of(chosen, source)) as volume:
                warmed = link.run(by_servers(volume, inner, chosen.parallel, tell))
    warmed.took_s = round(monotonic() - began, 3)
    facts = _facts(warmed)
    print(json.dumps(facts, indent=2) if chosen.json else text(facts))
    return 1 if warmed.errors else 0


# --- through a mount ---------------------------------------------------------------------------


def through_mount(paths: list[str], parallel: int, tell: progress.Shown) -> Warmed:
    """Read all files there, so many at once."""
    warmed = Warmed("mount", paths)
    underway: deque[tuple[str, Future[int]]] = deque()

    def taken() -> None:
        path, future = underway.popleft()
        try:
            warmed.bytes += future.result()
            warmed.files += 1
        except OSError as error:
            warmed.errors.append(f"{path}: {error.strerror}")
        tell(f"{warmed.files:,} files, MiB", warmed.bytes // PIECE)

    with ThreadPoolExecutor(parallel) as threads:
        try:
            for path in _files(paths, warmed.errors):
                underway.append((path, threads.submit(_read, path)))
                if len(underway) >= 2 * parallel:
                    taken()
            while underway:
                taken()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
    return warmed


def _files(paths: list[str], errors: list[str]) -> Iterator[str]:
    """Regular files at and below these; symlinks are not followed, each file comes once."""
    seen: set[int] = set()
    todo = list(reversed(paths))
    while todo:
        path = todo.pop()
        try:
            found = os.lstat(path)
            if stat.S_ISDIR(found.st_mode):
                todo += sorted((os.path.join(path, n) for n in os.listdir(path)), reverse=True)
            elif stat.S_ISREG(found.st_mode) and found.st_ino not in seen:
                if found.st_nlink > 1:
                    seen.add(found.st_ino)
                yield path
        except OSError as error:
            errors.append(f"{path}: {error.strerror}")


def _read(path: str) -> int:
    """How many bytes; OSError."""
    descriptor, total = os.open(path, os.O_RDONLY), 0
    try:
        while some := len(os.read(descriptor, PIECE)):
            total += some
    finally:
        os.close(descriptor)
    return total


# --- by the servers ----------------------------------------------------------------------------


async def by_servers(
    volume: PathVolume, paths: list[bytes], parallel: int, tell: progress.Shown
) -> Warmed:
    """Have every server read its copies of the files there, so many questions at once."""
    warmed = Warmed("servers", [os.fsdecode(path) for path in paths])
    servers = Servers(volume, parallel, warmed.errors)
    for path in paths:
        walk = Walk(volume)
        try:
            async for page in walk.pages(path):
                await servers.want(page)
                tell(f"{len(walk.paths):,} names, MiB of copies", servers.bytes // PIECE)
        except Posix as error:
            raise StartError(f"{os.fsdecode(path)}: {error}") from error
        warmed.errors += walk.unread
        warmed.files += len(servers.files)
        servers.files.clear()
    await servers.ask_all()
    warmed.bytes = servers.bytes
    warmed.errors += servers.told()
    return warmed


class Servers:
    """What each server is to read, and what it says of it."""

    def __init__(self, volume: PathVolume, parallel: int, errors: list[str]):
        self._volume, self._parallel, self._errors = volume, parallel, errors
        self._members = volume.contact.map.members
        self._wanted: list[list[wire.Wanted]] = [[] for _ in self._members]
        self._bad: dict[tuple[int, str], int] = {}
        self.bytes = 0
        self.files: set[int] = set()

    async def want(self, page: wire.InventoryPage) -> None:
        """The copies of a page of a file's map; asks when there are enough of them."""
        self.files.add(page.ino)
        for member in self._members:
            self._wanted[member.slot] += recovery.duty(page, member.slot, len(self._members))
        if sum(map(len, self._wanted)) >= 2 * self._parallel * BLOCKS:
            await self.ask_all()

    async def ask_all(self) -> None:
        """Have them read all that is wanted."""
        parts = deque(
            (member, wanted[first : first + BLOCKS])
            for member, wanted in zip(self._members, self._wanted)
            for first in range(0, len(wanted), BLOCKS)
        )
        self._wanted = [[] for _ in self._members]
        while parts:
            some = [parts.popleft() for _ in range(min(self._parallel, len(parts)))]
            asked = [(member, part) for member, part in some if self._up(member, len(part))]
            asks = [
                Ask(
                    Peer(member.address),
                    wire.Check(self._volume.contact.cluster, tuple(part)),
                    limits.BULK_TIMEOUT_S,
                )
                for member, part in asked
            ]
            for (member, part), answer in zip(asked, await call_all(asks)):
                self._hear(member, part, answer)

    def _up(self, member: wire.Member, count: int) -> bool:
        if member.state is State.DOWN:
            self._note(member, "is down", count)
        return member.state is not State.DOWN

    def _hear(self, member: wire.Member, part: list[wire.Wanted], answer: object) -> None:
        if not isinstance(answer, wire.Checked):
            self._note(member, f"does not answer ({answer})", len(part))
            return
        for want, held in zip(part, answer.held):
            if held is Held.OK:
                self.bytes += want.length
            else:
                self._note(member, f"copies that are {held.name.lower()}", 1)

    def _note(self, member: wire.Member, what: str, count: int) -> None:
        self._bad[member.slot, what] = self._bad.get((member.slot, what), 0) + count

    def told(self) -> list[str]:
        """What could not be read, by server."""
        return [
            f"dataserver {addresses.short(self._members[slot].address)}: {what}: {count} copies "
            "were not read"
            for (slot, what), count in sorted(self._bad.items())
        ]


# --- showing it --------------------------------------------------------------------------------


def _facts(warmed: Warmed) -> dict[str, Any]:
    """With keys that scripts rely on."""
    return {
        "how": warmed.how,
        "paths": warmed.paths,
        "files": warmed.files,
        "bytes": warmed.bytes,
        "took_s": warmed.took_s,
        "bytes_per_s": round(warmed.bytes / warmed.took_s) if warmed.took_s else 0,
        "errors": warmed.errors,
    }


def text(facts: dict[str, Any]) -> str:
    """For people."""
    amount = f"{facts['files']:,} files, {size(facts['bytes'])}"
    rate = f"in {facts['took_s']:.1f} s ({size(facts['bytes_per_s'])}/s)"
    if facts["how"] == "mount":
        lines = [f"read through the mount: {amount} {rate}; they are in this machine's memory now"]
    else:
        lines = [f"read by the servers: {amount} of copies {rate}; they are in the servers' memory"]
    errors = facts["errors"]
    lines += [f"not read: {printable(one)}" for one in errors[:NAMED]]
    if len(errors) > NAMED:
        lines.append(f"not read: {len(errors) - NAMED} more (--json has all)")
    return "\n".join(lines)
