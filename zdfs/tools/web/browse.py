"""The file browser's questions: only of what is opened, a page at a time.

A directory is listed from a name on.  Of a file a page of blocks is shown: what the map says, and
what each server found when it read and checked its copies just now.  Several browsers that look at
the same thing within a moment are answered together (`Fresh`).
"""

import os
import stat
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from errno import ENAMETOOLONG
from typing import Any

from zdfs import blockmap, limits, placement, wire
from zdfs.calls import Ask, Peer, call, call_all
from zdfs.errors import Failure, Posix, StartError, Unavailable
from zdfs.ids import ROOT, BlockNo, Ino, PageNo, Slot
from zdfs.link import Link
from zdfs.tools import admin, impact
from zdfs.tools.web import names, picture
from zdfs.tools.web.picture import Block, Replica
from zdfs.wire import Attributes, Held, State

LISTED = 200  # names on a page
CHECK_S = 1.5  # a dataserver that says nothing for so long is shown as silent
FILE_LIFE_S = 0.8
IMPACT_LIFE_S = 10.0
NAMED = 8  # files of each kind that an outage's cost names
KEPT = 256  # answers
KINDS = {
    stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device",
}  # fmt: skip


class Fresh:
    """Answers that are good for a moment: who asks what is being asked waits for that answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[Any, tuple[float, Future[Any]]] = {}

    def get(self, key: Any, life_s: float, make: Callable[[], Any]) -> Any:
        """The answer for a key, at most so old."""
        with self._lock:
            at, answer = self._answers.get(key, (0.0, None))
            mine = answer is None or (answer.done() and time.monotonic() - at > life_s)
            if mine:
                answer = Future()
                self._answers.pop(key, None)
                self._answers[key] = (float("inf"), answer)
                while len(self._answers) > KEPT:
                    del self._answers[next(iter(self._answers))]
        assert answer is not None
        if mine:
            self._make(key, answer, make)
        return answer.result()

    def _make(self, key: Any, answer: "Future[Any]", make: Callable[[], Any]) -> None:
        """Ask; whatever comes of it, those who wait are told, and a failure is not kept."""
        try:
            answer.set_result(make())
        except (Failure, StartError) as error:
            answer.set_exception(error)
        finally:
            kept = answer.done() and answer.exception() is None
            if not answer.done():
                answer.set_exception(Unavailable("the one who asked this failed: try again"))
            with self._lock:
                self._answers.pop(key, None)
                if kept:
                    self._answers[key] = (time.monotonic(), answer)


class Browser:
    """Looks at paths, and at what an outage would cost."""

    def __init__(self, link: Link, meta: str, status: Callable[[], wire.Status | None]):
        self.link, self.meta, self.peer, self.status = link, meta, Peer(meta), status
        self._fresh = Fresh()
        self._one_impact = threading.Lock()  # it reads all block maps: one at a time

    # --- a path --------------------------------------------------------------------------------

    def look(
        self, path: bytes, after: bytes = b"", first: int = 0, down: Collection[Slot] = ()
    ) -> dict[str, Any]:
        """What is at a path: a page of a directory, or of a file's blocks.  Raises Failure."""
        found: Attributes = self._get(("way", path), lambda: self._walk(path))
        shown: dict[str, Any] = {
            "crumbs": names.crumbs(path),
            "key": names.key(path),
            "kind": _kind(found.mode),
            "inode": found.ino,
            "size": found.size,
            "mode": stat.filemode(found.mode),
            "mtime_ns": found.mtime_ns,
        }
        if stat.S_ISDIR(found.mode):
            listed: dict[str, Any] = self._get(
                (found.ino, after), lambda: self._list(found.ino, after)
            )
            return shown | listed
        if stat.S_ISREG(found.mode):
            return shown | self._file(found.ino, first, down)
        return shown

    def _get(self, key: Any, make: Callable[[], Any]) -> Any:
        return self._fresh.get(key, FILE_LIFE_S, make)

    def _walk(self, path: bytes) -> Attributes:
        parts, ino = names.split(path), ROOT
        if any(len(name) > limits.NAME_BYTES for name in parts):
            raise Posix(ENAMETOOLONG)
        if not parts:
            return self._attributes(ROOT)
        while True:
            part, parts = parts[: limits.WALK_NAMES], parts[limits.WALK_NAMES :]
            walked: wire.Walked = self._ask(wire.Lookup(ino, tuple(part)))
            if walked.number:
                raise Posix(walked.number)
            ino = walked.steps[-1].ino
            if not parts:
                return walked.steps[-1]

    def _attributes(self, ino: Ino) -> Attributes:
        found: wire.Found = self._ask(wire.GetAttributes(ino))
        return found.attributes

    def _ask(self, request: wire.Request[Any]) -> Any:
        return self.link.run(call(self.peer, request))

    def _list(self, ino: Ino, after: bytes) -> dict[str, Any]:
        listing: wire.Listing = self._ask(wire.ReadDirectory(ino, after, LISTED))
        last = listing.entries[-1].name if listing.entries else b""
        return {
            "entries": [
                {
                    "name": names.shown(one.name),
                    "key": names.key(one.name),
                    "kind": _kind(one.attributes.mode),
                    "size": one.attributes.size,
                    "mtime_ns": one.attributes.mtime_ns,
                }
                for one in listing.entries
            ],
            "more": None if listing.end else names.key(last),
        }

    # --- a file --------------------------------------------------------------------------------

    def _file(self, ino: Ino, first: int, down: Collection[Slot]) -> dict[str, Any]:
        status = self.status()
        if status is None or not status.servers:
            raise Unavailable("the metaserver has not said yet which dataservers there are")
        count = picture.page_blocks(len(status.servers), status.block_bytes)
        first -= first % count
        blocks, size, policy = self._get(
            (ino, first, count), lambda: self._page(status, ino, BlockNo(first), count)
        )
        silent = {one.member.slot for one in status.servers if one.member.state is State.DOWN}
        away = picture.outage(down, silent)
        total = -(-size // status.block_bytes)
        return {
            "block_size": status.block_bytes,
            "blocks_total": total,
            "first": first,
            "page": count,
            "holes": min(count, max(0, total - first)) - len(blocks),
            "down": sorted(down),
        } | picture.drawn(blocks, away, policy, len(status.servers))

    def _page(self, status: wire.Status, ino: Ino, first: BlockNo, count: int) -> Any:
        """Blocks from one on, with what servers say of their copies; the file's size and policy."""
        servers, pages = len(status.servers), limits.PAGE_BLOCKS
        last = (first + count - 1) // pages
        begin = PageNo(first // pages)
        told: wire.MapPages = self._ask(wire.ReadMap(ino, begin, last - begin + 1))
        about, wanted = told.attributes, dict[BlockNo, wire.Wanted]()
        lengths = {}
        for page in told.pages:
            for place, entry in enumerate(blockmap.unpack_page(page.entries)):
                block = BlockNo(page.page * pages + place)
                if entry is not None and first <= block < first + count:
                    name = blockmap.name_of(ino, block, entry)
                    wanted[block] = wire.Wanted(
                        name, entry.seal, about.epoch, about.start, entry.stored
                    )
                    lengths[block] = entry.visible
        states = self._check(status, wanted)
        for slot, block in self._owed(ino, first, BlockNo(first + count)):
            if states.get((slot, block)) in ("missing", "down"):
                states[slot, block] = "owed"
        policy = self._ask(wire.GetPolicy(ino)).policy
        blocks = [
            Block(
                block, f"{want.name.version.token:x}.{want.name.version.sequence}", lengths[block],
                tuple([
                    Replica(slot, states.get((slot, block), "down"))
                    for slot in placement.slots(want.start, block, servers)
                ]),
            )
            for block, want in wanted.items()
        ]  # fmt: skip
        return blocks, about.size, policy

    def _check(
        self, status: wire.Status, wanted: dict[BlockNo, wire.Wanted]
    ) -> dict[tuple[Slot, BlockNo], str]:
        """What each server that is up says of its copies; all are asked at once."""
        asks, mine = [], []
        for one in status.servers:
            slot = one.member.slot
            here = [
                (block, want)
                for block, want in wanted.items()
                if slot in placement.slots(want.start, block, len(status.servers))
            ]
            if here and one.member.state is not State.DOWN:
                check = wire.Check(status.cluster, tuple([want for _, want in here]))
                asks.append(Ask(Peer(one.member.address), check, CHECK_S))
                mine.append((slot, [block for block, _ in here]))
        found: dict[tuple[Slot, BlockNo], str] = {}
        for (slot, blocks), answer in zip(mine, self.link.run(call_all(asks)) if asks else []):
            held: tuple[Held, ...] = answer.held if isinstance(answer, wire.Checked) else ()
            found |= {(slot, block): admin.STATES[one] for block, one in zip(blocks, held)}
        return found

    def _owed(self, ino: Ino, first: BlockNo, end: BlockNo) -> list[tuple[Slot, BlockNo]]:
        """Replicas that commits went without."""
        debts: wire.Debts = self._ask(wire.ListDebts(None, ino, first))
        return [
            (one.slot, one.want.name.block)
            for one in debts.items
            if one.want.name.ino == ino and one.want.name.block < end
        ]

    # --- the whole cluster ---------------------------------------------------------------------

    def cost(self, down: Collection[Slot]) -> dict[str, Any]:
        """What `zdfs impact` says.  Raises Failure, StartError."""
        text = ",".join(str(slot) for slot in sorted(down))
        told: dict[str, Any] = self._fresh.get(
            ("impact", text), IMPACT_LIFE_S, lambda: self._cost(text)
        )
        return told

    def _cost(self, text: str) -> dict[str, Any]:
        if not self._one_impact.acquire(timeout=limits.BULK_TIMEOUT_S):
            raise Unavailable("somebody else's question is being counted: try again")
        try:
            told = self.link.run(impact.impact(self.meta, text, NAMED))
        finally:
            self._one_impact.release()
        for kind in ("writes", "reads", "data"):
            for one in told[kind]["named"]:
                path = one.pop("path")
                one["key"] = None if path is None else names.key(os.fsencode(path))
                one["shown"] = None if path is None else names.shown(os.fsencode(path))
        return told


def _kind(mode: int) -> str:
    return KINDS.get(stat.S_IFMT(mode), "other")
