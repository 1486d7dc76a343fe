"""Is everything where it must be?  Every replica of every block, as the servers say now.

The metaserver says what must stand on each slot (`Inventory`), each dataserver reads and verifies
(`Check`).  Nothing is changed: repair happens by itself, and whoever asks for it reads the file.
What the metaserver's own walk over its records found is in the events of `zdfs status`.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from zdfs import addresses, blockmap, limits, recovery, wire
from zdfs.calls import Ask, Peer, call, call_all
from zdfs.errors import Posix
from zdfs.ids import Ino, Slot
from zdfs.wire import Held, State

MOST_FAULTS = 1000  # more are counted, not kept
STATES = {
    Held.OK: "ok",
    Held.DAMAGED: "damaged",
    Held.MISSING: "missing",
    Held.NOT_YET: "missing",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A replica that isn't there."""

    ino: Ino
    block: int
    slot: Slot
    address: str
    state: str  # "missing", "damaged", "down"


@dataclass(slots=True)
class Report:
    """What a check of the whole cluster found."""

    replicas: int = 0
    bad: int = 0
    faults: list[Fault] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        """Count a bad replica, and keep it if there aren't too many."""
        self.bad += 1
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(fault)


async def check(meta: str) -> Report:
    """Look at every replica.  Raises Failure when the metaserver can't say what there must be."""
    peer = Peer(meta)
    status = await call(peer, wire.GetStatus())
    report = Report()
    members = [server.member for server in status.servers]
    for member in members:
        silent = member.state is State.DOWN
        async for wanted in _duties(peer, member.slot, len(members)):
            report.replicas += len(wanted)
            for chunk in recovery.chunks(wanted):
                states = ["down"] * len(chunk)
                if not silent:  # one time-out is enough
                    states = await _ask(status.cluster, member, chunk)
                    silent = states[0] == "down"
                await _note(peer, member, chunk, states, report)
    return report


async def _duties(meta: Peer, slot: Slot, servers: int) -> AsyncIterator[list[wire.Wanted]]:
    """All that must stand on a slot, page by page."""
    cursor = (Ino(0), -1)
    while True:
        stock = await call(meta, wire.Inventory(slot, *cursor), limits.BULK_TIMEOUT_S)
        for page in stock.pages:
            wanted = list(recovery.duty(page, slot, servers))
            if wanted:
                yield wanted
        if stock.end:
            return
        cursor = (stock.ino, stock.page)


async def _ask(cluster: bytes, member: wire.Member, wanted: list[wire.Wanted]) -> list[str]:
    """What one server says of some versions."""
    check_ = wire.Check(cluster, tuple(wanted))
    (answer,) = await call_all([Ask(Peer(member.address), check_, limits.BULK_TIMEOUT_S)])
    if isinstance(answer, wire.Checked) and len(answer.held) == len(wanted):
        return [STATES[held] for held in answer.held]
    return ["down"] * len(wanted)


async def _note(
    meta: Peer, member: wire.Member, wanted: list[wire.Wanted], states: list[str], report: Report
) -> None:
    """Count and keep what is not right, if it still counts."""
    for want, state in zip(wanted, states):
        if state != "ok" and await _still_named(meta, want):
            address = addresses.short(member.address)
            report.add(Fault(want.name.ino, want.name.block, member.slot, address, state))


async def _still_named(meta: Peer, want: wire.Wanted) -> bool:
    """Whether the map names that version now: a busy file's may have been overwritten meanwhile."""
    page, position = blockmap.page_of(want.name.block)
    try:
        pages = (await call(meta, wire.ReadMap(want.name.ino, page, 1))).pages
    except Posix:  # the file is gone
        return False
    entry = blockmap.entry_at(pages[0].entries, position)
    return entry is not None and entry.version == want.name.version


def text(report: Report) -> str:
    """For people."""
    if not report.bad:
        return f"{report.replicas} replicas: all there, all right"
    lines = [
        f"{report.replicas} replicas: {report.bad} missing, damaged or on a server that is down"
    ]
    for fault in report.faults[:50]:
        lines.append(
            f"  block {fault.block} of inode {fault.ino}: {fault.state} on {fault.address} "
            f"(slot {fault.slot})"
        )
    if report.bad > 50:
        lines.append(f"  ... and {report.bad - 50} more (--json has up to {MOST_FAULTS})")
    return "\n".join(lines)
