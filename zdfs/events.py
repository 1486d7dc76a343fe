"""What happens in a cluster, in one numbered list: whoever asks gets each event once, in order.

Numbers only grow, over restarts of the metaserver too; the newest `limits.EVENTS` are kept.
Whoever has seen everything up to a number asks for what came after it; the answer waits for
something to happen.  If events were dropped in between, the answer says so.

    kind                       by whom      what
    metaserver                 metaserver   a new incarnation serves
    down, up, started          metaserver   a dataserver fell silent; is back; came back unnoticed
    old, lost disk, former store   "        a dataserver's store is not what it was
    rebuild, rebuilding, rebuilt   dataserver   begun, each tenth, whole again
    lost                       dataserver   nobody has these blocks
    damage, repaired           dataserver   a copy, the index
    scrubbed                   dataserver   a pass that was asked for, or that found something
    full, room                 both         a disk
    mount, unmount, session    metaserver   a mount came, went, fell silent
    blocked, unblocked         metaserver   writes of a mount wait for a dataserver; go on
    metadata damage, mended    metaserver   records
    unheard                    metaserver   a dataserver had more to tell than it could keep
"""

from collections.abc import Coroutine
from typing import Any

from zdfs import addresses, limits, records, schema, wire
from zdfs.calls import Trap, clock, now, sleep, wait
from zdfs.ids import Session, Slot
from zdfs.membership import Membership
from zdfs.ports import Caller
from zdfs.sessions import Mount

OFTEN = 60  # comings and goings of one key's mounts (or one machine's) that are told ...
OFTEN_NS = 600 * 10**9  # ... within so long: else they would push all else out
ROOM_AGAIN_BYTES = limits.META_RESERVE_BYTES  # above what is kept back: else it would flutter


def shown(mount: Mount) -> str:
    """A mount, for people."""
    return f"{mount.record.host}:{mount.record.mount}"


class Chronicle:
    """Tells what happened, and records what mounts do."""

    def __init__(self, members: Membership):
        self.members, self.ledger = members, members.ledger
        self.full = False
        self._lately: dict[str, tuple[int, int]] = {}  # since when, how often

    def tasks(self) -> list[tuple[str, Coroutine[Trap, Any, None]]]:
        """What runs beside the requests."""
        return [("room", self.watch_room())]

    async def tell(self, request: wire.GetEvents, caller: Caller) -> wire.Events:
        """What came after a number; waits for it as long as was asked."""
        end = await now() + request.wait_ms / 1000
        while True:
            found, gap = self.ledger.events_after(request.after, request.last)
            left = end - await now()
            if found or gap or left <= 0:
                return wire.Events(tuple(found), gap, self.ledger.incarnation)
            await wait(self.ledger.happened, left)

    def came(self, at_ns: int, mount: Mount) -> None:
        """A mount is here.  Commands that visit for a moment have no directory."""
        if mount.record.mount.startswith("/") and self._seldom(at_ns, mount):
            self.ledger.event(at_ns, "mount", shown(mount))

    def went(self, at_ns: int, mount: Mount, kind: str = "unmount", text: str = "") -> None:
        """A mount has ended."""
        self.blocked(at_ns, mount, (), lives=False)
        if (text or mount.record.mount.startswith("/")) and self._seldom(at_ns, mount):
            self.ledger.event(at_ns, kind, text or shown(mount))

    def _seldom(self, at_ns: int, mount: Mount) -> bool:
        """Whether it is told that it came or went; that it no longer is, once."""
        host = mount.record.host.partition("@")[0]  # the key's name, where there are keys
        since, count = self._lately.get(host, (at_ns, 0))
        if at_ns - since > OFTEN_NS:
            since, count = at_ns, 0
        if len(self._lately) >= limits.SESSIONS:
            self._lately.clear()
        self._lately[host] = since, count + 1
        if count == OFTEN:
            text = f"{shown(mount)} comes and goes too often for each to be told"
            self.ledger.event(at_ns, "mount", text)
        return count < OFTEN

    def blocked(
        self, at_ns: int, mount: Mount, waits: tuple[wire.Blocked, ...], lives: bool = True
    ) -> None:
        """For whom a mount's writes wait, as it says.  What was said of it is kept with its
        session: a new metaserver doesn't say it again, and says it when it ends."""
        if not self.members.granted:
            return
        before, after = set(mount.record.blocked), {one.slot: one for one in waits}
        for slot in sorted(before - set(after)):
            text = f"writes on {shown(mount)} need not wait for {self._name(slot)} any more"
            self.ledger.event(at_ns, "unblocked", text)
        for slot in sorted(set(after) - before):
            text = f"writes on {shown(mount)} wait for {self._name(slot)}"
            self.ledger.event(at_ns, "blocked", f"{text}; programs waiting: {after[slot].writers}")
        if before != set(after):
            mount.record = mount.record._replace(blocked=tuple(sorted(after)))
            if lives:
                self._keep(mount.session, mount.record)

    def _keep(self, session: Session, record: schema.SessionRecord) -> None:
        with self.ledger.raw() as txn:
            txn.put(schema.number_key(b"n", session), records.pack(record))

    def _name(self, slot: Slot) -> str:
        ring = self.ledger.ring
        return f"dataserver {addresses.short(ring[slot]) if slot < len(ring) else slot}"

    async def watch_room(self) -> None:
        """An event when the metaserver's own disk is full, and when it has room again."""
        while True:
            await sleep(limits.BEAT_S)
            free, at_ns = self.ledger.store.free_bytes(), await clock()
            if not self.ledger.begun:
                continue
            if not self.full and free <= 0:
                self.full = True
                text = "the metaserver's disk is full: nothing new can be made; deleting helps"
                self.ledger.event(at_ns, "full", text)
            elif self.full and free > ROOM_AGAIN_BYTES:
                self.full = False
                self.ledger.event(at_ns, "room", "the metaserver's disk has room again")
