"""The walk over all metadata, for fsck: slice by slice, mending on the way if that is wanted.

A walk belongs to who asked for it and is kept between its steps (`metacheck.Cursor`).  Each step is
answered again as it was when it is asked for again: its answer may have been lost.  A slice and
what is mended in it see one state; each mending is one write block and one event.
"""

import logging
import stat
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from zdfs import limits, mending, placement, schema, wire
from zdfs.calls import clock, now
from zdfs.errors import BadMessage, Damaged, Failure, Unavailable
from zdfs.ids import Ino
from zdfs.ledger import Ledger
from zdfs.membership import Membership
from zdfs.metacheck import Cursor, Finding
from zdfs.namespace import Newborn
from zdfs.orphans import Orphans
from zdfs.ports import Caller
from zdfs.schema import Dirent
from zdfs.tables import decode, scan_past_damage
from zdfs.wire import Fault, Flaw

log = logging.getLogger("zdfs.meta")

RUNS = 4  # walks kept at once; the one that rested longest gives way
STEP_RECORDS = 512  # looked at between two rounds
TEXT = 400  # characters of a fault's text: limits.FAULTS of them fit into one head


@dataclass(slots=True)
class _Run:
    """A walk, and what it found and has not told."""

    cursor: Cursor
    found: deque[Fault] = field(default_factory=deque)
    step: int = 0
    told: wire.Examined | None = None
    proof: int = 0  # the proof of the store that must have ended before anything is mended


class Inspection:
    """Answers `Examine` and `ListEntries`.  `orphans` are those that somebody will let go of."""

    def __init__(
        self,
        ledger: Ledger,
        orphans: Orphans,
        is_open: Callable[[Ino], bool],
        members: Membership,
    ):
        self.ledger, self.orphans = ledger, orphans
        self.is_open, self.members = is_open, members
        self._runs: dict[bytes, _Run] = {}

    async def examine(self, request: wire.Examine, caller: Caller) -> wire.Examined:
        """The next slice of a walk."""
        at_ns = await clock()
        self.members.may_change()
        ready = not request.mend or await self._healed(self._run(request))
        self.members.may_change()  # still
        run = self._run(request)
        if run.told is not None and request.step == run.step:
            return run.told
        if request.step != run.step + 1:
            raise BadMessage(f"step {request.step} of a walk that is at {run.step}")
        if ready and not run.found and not run.cursor.done:
            with self.ledger.store.read() as read:
                findings = run.cursor.step(read, STEP_RECORDS)
            for finding in findings:
                done = self._mend(at_ns, run, finding) if request.mend else ""
                run.found.append(_fault(finding, done))
        told = [run.found.popleft() for _ in range(min(limits.FAULTS, len(run.found)))]
        end = run.cursor.done and not run.found
        run.step += 1
        run.told = wire.Examined(run.step, tuple(told), run.cursor.records, end)
        return run.told

    async def list_entries(self, request: wire.ListEntries, caller: Caller) -> wire.Entries:
        """The entries of a directory that can be read."""
        self.members.may_read(await now())
        prefix = schema.entry_key(request.ino, b"")
        first = prefix + request.after + b"\0" if request.after else prefix
        found: list[wire.Entry1] = []
        with self.ledger.store.read() as read:
            for key, payload in scan_past_damage(read, first, schema.after(prefix)):
                with suppress(Damaged):
                    if not isinstance(payload, Damaged):
                        entry = decode(Dirent, key, payload)
                        found.append(wire.Entry1(key[9:], entry.ino, entry.mode))
                if len(found) == limits.LISTING_ENTRIES:
                    return wire.Entries(tuple(found), False)
        return wire.Entries(tuple(found), True)

    async def _healed(self, run: _Run) -> bool:
        """What copies have is not mended by what is left of it.  False: not healed yet, go on
        asking: a large store takes its time."""
        copying = self.members.copying
        if copying is None or not copying.copies.needed:
            return True
        proof = copying.proof
        run.proof = run.proof or proof.begun + 1
        if not await proof.proven(run.proof):
            return False
        if not proof.sound:
            raise Unavailable(
                "nothing is mended before the copies of the metadata were asked, and they can't be "
                "just now: see zdfs status"
            )
        return True

    def _run(self, request: wire.Examine) -> _Run:
        run = self._runs.pop(request.run, None)
        if run is None:
            if request.step != 1:
                raise BadMessage(
                    "this walk is not known here: the metaserver has started again, or too many "
                    "checks run at once; start the check again"
                )
            while len(self._runs) >= RUNS:
                del self._runs[next(iter(self._runs))]
            run = _Run(Cursor(self._forgotten))
        self._runs[request.run] = run
        return run

    def _forgotten(self, ino: Ino) -> bool:
        return ino not in self.orphans and not self.is_open(ino)

    def _mend(self, at_ns: int, run: _Run, finding: Finding) -> str:
        """One finding, in a write block of its own; what was done."""
        try:
            with self.ledger.change() as tables:
                done = mending.mend(
                    tables, at_ns, finding, run.cursor.recounted, self._lost_and_found
                )
        except Failure as error:
            log.error("not mended, %s: %s", finding.what, error)
            return ""
        if done:
            self._let_go(finding)
            self.ledger.event(at_ns, "mended", f"{finding.what}: {done}")
        return done

    def _let_go(self, finding: Finding) -> None:
        """Whoever lets go of orphans hears of it."""
        ino = Ino(schema.number_of_key(finding.key)) if finding.key[8:] else Ino(0)
        with self.ledger.view() as view:
            inode = view.find(ino)
            orphan = view.read.get(schema.number_key(b"o", ino)) is not None
        if inode is None or not orphan:
            self.orphans.discard(ino)
        else:
            self.orphans.add(ino, inode.parent)

    def _lost_and_found(self) -> Newborn:
        assert self.ledger.cluster is not None
        start = placement.start(b"/" + mending.LOST, len(self.ledger.ring))
        mode = stat.S_IFDIR | 0o700
        epoch = self.ledger.cluster.epoch
        return Newborn(self.ledger.new_ino(), mode, 0, 0, epoch=epoch, start=start)


def _fault(finding: Finding, mended: str) -> Fault:
    """A finding for the wire."""
    key, name, ino = finding.key, b"", 0
    if key[:1] in (b"i", b"e", b"x", b"m", b"o", b"w") and len(key) >= 9:
        ino = schema.number_of_key(key)
        name = key[9:] if key[:1] == b"e" else b""
    about = schema.describe(key) + ": " if finding.flaw is Flaw.RECORD and key else ""
    text = finding.what if finding.what.startswith(about) else about + finding.what
    return Fault(finding.flaw, Ino(ino), name[: limits.NAME_BYTES], text[:TEXT], mended[:TEXT])
