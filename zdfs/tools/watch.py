"""`zdfs watch`: events as they happen, and rebuilds as they go.

The metaserver numbers events and keeps the newest; each question quotes the number of the last one
seen, so none is missed and none comes twice, however often the metaserver starts again.  While it
is silent that is said, and asked on.  On a terminal bars below the events show the rebuilds
underway; elsewhere each event is a line (`--json`: an object), and rebuilds tell each tenth.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zdfs import addresses, limits, wire
from zdfs.calls import Peer, call, now, sleep
from zdfs.errors import Failure
from zdfs.link import Link
from zdfs.tools import visiting
from zdfs.tools.admin import facts, find_meta, moment, size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

WAIT_MS = 1000  # an answer waits so long for something to happen
NEWEST = 10


def options(commands: Any) -> None:
    """The arguments."""
    parser = commands.add_parser("watch", help="events as they happen, rebuilds as they go; ^C")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument(
        "--last", type=int, default=NEWEST, metavar="N", help=f"begin with the newest N ({NEWEST})"
    )
    begin.add_argument(
        "--after", type=int, metavar="NUMBER", help="begin behind the event of this number"
    )
    visiting.common(parser)
    parser.set_defaults(do=command)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """`zdfs watch`: until it is interrupted."""
    meta = visiting.meta_of(chosen)
    screen = Screen(chosen.json)
    try:
        link.run(_watch(meta, screen, chosen.after, max(0, chosen.last)))
    except KeyboardInterrupt:
        return 0
    finally:
        screen.close()
    return 0


async def _watch(meta: str, screen: "Screen", after: int | None, last: int) -> None:
    """For ever.  `after` None: from the newest `last` on."""
    await find_meta(meta, serves=False)
    peer, shown, silent = Peer(meta), addresses.short(meta), False
    last = 0 if after is not None else min(last, limits.EVENTS_TOLD)
    if after is None and not last:  # only what is still to come
        newest = await call(peer, wire.GetEvents(0, 1, 0))
        after = newest.events[-1].number if newest.events else 0
    number = after or 0
    while True:
        try:
            told = await call(peer, wire.GetEvents(number, last, 0 if last else WAIT_MS), 3.0)
        except Failure as error:
            if not silent:
                screen.note(f"the metaserver at {shown} does not answer: {error}")
            silent = True
            await sleep(limits.RETRY_S / 2)
            continue
        if silent:
            silent = False
            screen.note(f"the metaserver answers: incarnation {told.incarnation}")
        if told.gap:
            screen.note("events in between are not kept any more: this watch was away too long")
        for event in told.events:
            screen.event(event)
            number = event.number
        last = 0
        if screen.bars is not None:
            await _show_rebuilds(peer, screen)


async def _show_rebuilds(peer: Peer, screen: "Screen") -> None:
    try:
        if screen.due(await now()):
            screen.rebuilds(facts(await call(peer, wire.GetStatus()))["servers"])
    except Failure:  # the next question says so
        return


class Screen:
    """Where events are shown."""

    def __init__(self, as_json: bool):
        self.json = as_json
        terminal = sys.stdout.isatty() and not as_json
        self.bars: "Progress | None" = _bars() if terminal else None
        self._tasks: dict[int, "TaskID"] = {}
        self._shown_at = 0.0
        if self.bars is not None:
            self.bars.start()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bars is not None:
            self.bars.stop()

    def due(self, at: float) -> bool:
        """Whether the bars are old."""
        if at - self._shown_at < limits.BEAT_S:
            return False
        self._shown_at = at
        return True

    def note(self, text: str) -> None:
        """Something that the metaserver doesn't tell: it has no number."""
        self._line(None, time.time_ns(), "watch", text)

    def event(self, event: wire.Happened) -> None:
        """Show one."""
        self._line(*event)

    def _line(self, number: int | None, at_ns: int, kind: str, text: str) -> None:
        if self.json:
            one = {"number": number, "at_ns": at_ns, "kind": kind, "text": text}
            print(json.dumps(one), flush=True)
            return
        line = f"{moment(at_ns)}  {kind}: {text}"
        if self.bars is not None:
            self.bars.console.print(line, markup=False, highlight=False)
        else:
            print(line, flush=True)

    def rebuilds(self, servers: Sequence[dict[str, Any]]) -> None:
        """A bar for each server that is rebuilt."""
        assert self.bars is not None
        for server in servers:
            slot, job = server["slot"], server["rebuild"]
            if job is None:
                if slot in self._tasks:
                    self.bars.remove_task(self._tasks.pop(slot))
                continue
            if slot not in self._tasks:
                self._tasks[slot] = self.bars.add_task(server["address"], speed="")
            left = "?" if job["eta_s"] is None else f"{job['eta_s']:.0f} s"
            about = f"{size(job['done_bytes'])} of {size(job['total_bytes'])}"
            self.bars.update(
                self._tasks[slot], completed=job["done_bytes"], total=job["total_bytes"],
                speed=f"{about}, {size(job['bytes_per_s'])}/s, {left} left",
            )  # fmt: skip


def _bars() -> "Progress":
    # Imported here: it takes a tenth of a second, which no node or mount should wait for.
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("rebuilding {task.description}"), BarColumn(), TextColumn("{task.fields[speed]}")
    )
