"""How a dataserver looks through all that it holds, again and again: the scrub.

    a pass    seals     every version's bytes are read and checked, in the order of names
              repairs   what is bad is fetched anew, by the healer
              maps      what should be here by the metaserver's maps and isn't, or has another seal
                        or length, is fetched; what is here and should not be is dropped
    a rest

`recovery.pace` and `recovery.rest` say how fast and how often.  A pass goes on where it was after a
restart: its cursor is in the store's state, recorded now and then.  A pass that somebody asked for
(`zdfs scrub --now`) begins at once, from the beginning, and never rests.

The metaserver's rounds that stand in the same log are no blocks, and no neighbour has them by
placement: `mirror` answers for them.
"""

import logging
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from zdfs import checksum, limits, recovery, wire
from zdfs.calls import Condition, Trap, clock, notify, now, sleep, wait
from zdfs.errors import Damaged
from zdfs.healing import Healer
from zdfs.ids import NOT_JOURNAL, Name
from zdfs.schema import RECORD_BYTES, IndexEntry, ScrubState
from zdfs.wire import Held, State

log = logging.getLogger("zdfs.data")

PAGE = 256  # names looked up in one go
STEP_BYTES = 512 * limits.KIB  # read between two looks at what else is to be done: some ms
SAVE_S = 60.0  # the cursor of a long pass is recorded so often
SAVE_END_S = 600.0  # the end of a short one: an idle server need not write each few seconds
PATIENCE_S = 30.0  # with repairs that wait for a server that is down: the next pass must come, too
RUNS = 64  # passes that somebody asked for, remembered
NS = 1_000_000_000


@dataclass(slots=True)
class _Pass:
    """One look at everything."""

    state: ScrubState
    begun: float  # as if it had begun in this process
    before: Counter[str]  # what the healer had found until it began
    runs: tuple[bytes, ...]  # who waits for it; then it is at full rate
    bytes_per_s: int = 0
    bad: list[wire.Wanted] = field(default_factory=list)
    found: Counter[str] | None = None  # once it has ended


class Scrubber:
    """The scrub of one dataserver."""

    def __init__(self, healer: Healer):
        self.healer, self.store, self.rates = healer, healer.store, healer.rates
        self._pass: _Pass | None = None  # underway, or the newest
        self._ended_ns = self.store.state.scrub.ended_ns
        self._saved = -SAVE_END_S
        self._wanted: list[bytes] = []
        self._finished: dict[bytes, wire.Scrubbing] = {}
        self._hurry = Condition()  # somebody asked for a pass

    def tasks(self) -> list[tuple[str, Coroutine[Trap, Any, None]]]:
        """What runs beside the requests."""
        return [("scrub", self.scrub())]

    def asked(self, run: bytes) -> wire.Scrubbing:
        """Have a full pass begin for this run, unless it has; how far it is."""
        done = self._finished.get(run)
        if done is not None:
            return done
        underway = self._pass is not None and run in self._pass.runs
        if not underway and run not in self._wanted and len(self._wanted) < RUNS:
            self._wanted.append(run)
            notify(self._hurry)
        return wire.Scrubbing(False, 0, self.shown())

    def shown(self) -> wire.ScrubStatus:
        """For the wire."""
        one = self._pass
        state = ScrubState() if one is None else one.state
        found: Counter[str] = Counter()
        if one is not None:
            found = self._found(one) if one.found is None else one.found
        total = state.done_bytes
        if one is not None and one.found is None:
            total = max(total, self.store.space().used_bytes)
        return wire.ScrubStatus(
            state.began_ns, self._ended_ns, state.done_bytes, total,
            0 if one is None else one.bytes_per_s,
            *(max(0, found[kind]) for kind in ("damaged", "missing", "excess", "healed")),
        )  # fmt: skip

    def _found(self, one: _Pass) -> Counter[str]:
        found = Counter(self.healer.found)
        found.subtract(one.before)
        return found

    # --- passes --------------------------------------------------------------------------------

    async def scrub(self) -> None:
        """Pass after pass."""
        while True:
            await wait(self._hurry, limits.BEAT_S)
            if self.healer.state is not State.SERVING:
                continue
            one = self._pass = await self._begin()
            if not await self._read(one):
                continue
            await self._repaired()
            await self._looked()
            await self._repaired()
            ended = await now()
            self._end(one, await clock(), ended)
            if not self._wanted:
                await wait(self._hurry, recovery.rest(self.rates, ended - one.begun))

    async def _begin(self) -> _Pass:
        """A new pass, or the one that was underway when this server ended."""
        at, at_ns = await now(), await clock()
        state, runs = self.store.state.scrub, tuple(self._wanted)
        fresh = runs or self._pass is not None or not 0 < state.began_ns <= at_ns
        self._wanted.clear()
        if fresh:
            state = ScrubState(at_ns, None, 0, self._ended_ns)
        else:
            log.info("the scrub goes on where it was, %d bytes into its pass", state.done_bytes)
        begun = at - (at_ns - state.began_ns) / NS
        return _Pass(state, begun, Counter(self.healer.found), runs)

    async def _read(self, one: _Pass) -> bool:
        """Check every seal; False when the pass is to be given up: another one is wanted, or the
        index is made anew."""
        while True:
            try:
                some = self.store.scan(one.state.after or NOT_JOURNAL, PAGE)
            except Damaged as error:
                self.healer.index_failed(error)
                return False
            if not some:
                return True
            size = 0
            for name, entry in some:
                size += self._check(one, name, entry)
                if size >= STEP_BYTES or (not one.runs and size >= one.bytes_per_s):
                    await self._pause(one, size)
                    size = 0
                if self._wanted and not one.runs:
                    return False
            await self._pause(one, size)

    def _check(self, one: _Pass, name: Name, entry: IndexEntry) -> int:
        """Read one version; how many bytes that took."""
        seal = checksum.Seal(entry.crc16, entry.crc32c)
        want = wire.Wanted(name, seal, entry.epoch, entry.start, entry.length)
        held, _ = self.healer.held(want)
        if held is Held.DAMAGED:
            if len(one.bad) < limits.LIST_ITEMS:
                one.bad.append(want)
            self.healer.mend(want, held)
        size = entry.length + RECORD_BYTES
        one.state = one.state._replace(after=name, done_bytes=one.state.done_bytes + size)
        return size

    async def _pause(self, one: _Pass, size: int) -> None:
        """As long as `size` bytes are to take; the cursor is recorded now and then."""
        at = await now()
        if at - self._saved >= SAVE_S and at - one.begun >= SAVE_S:
            self._save(one.state, at)
        if one.runs:
            await sleep(0.0)  # others have their turn
            return
        left = max(0, self.store.space().used_bytes - one.state.done_bytes)
        one.bytes_per_s = round(recovery.pace(self.rates, left, at - one.begun))
        end = at + size / one.bytes_per_s + 0.001
        while await now() < end and not self._wanted:
            await wait(self._hurry, end - await now())

    def _save(self, state: ScrubState, at: float) -> None:
        self._saved = at
        self.store.set_state(replace(self.store.state, scrub=state))

    async def _repaired(self) -> None:
        """Until the healer is through with what it was told of, or waits for others for long."""
        left, since = 0, await now()
        while len(self.healer.sick) and await now() - since < PATIENCE_S:
            if len(self.healer.sick) != left:
                left, since = len(self.healer.sick), await now()
            await sleep(limits.BEAT_S / 4)

    async def _looked(self) -> None:
        """Until all that is here was compared with the maps."""
        before = self.healer.looks
        self.healer.look()
        while self.healer.looks == before:
            await wait(self.healer.looked, limits.BEAT_S)

    def _end(self, one: _Pass, at_ns: int, at: float) -> None:
        self._ended_ns = at_ns
        one.found = self._found(one)
        bad = [want for want in one.bad if self.healer.held(want)[0] is Held.DAMAGED]
        left = len(bad) + self.healer.lost
        one.state = ScrubState(0, None, one.state.done_bytes, at_ns)
        if at - self._saved >= SAVE_END_S or at - one.begun >= SAVE_S:
            self._save(one.state._replace(done_bytes=0), at)
        shown = self.shown()
        for run in one.runs:
            self._finished[run] = wire.Scrubbing(True, left, shown)
        while len(self._finished) > RUNS:
            del self._finished[next(iter(self._finished))]
        found = shown.damaged + shown.missing + shown.excess
        if one.runs or found:
            text = (
                f"{shown.done_bytes} bytes read; bad {shown.damaged}, missing {shown.missing}, "
                f"too many {shown.excess}; healed {shown.healed}"
            )
            self.healer.say("scrubbed", text + (f", not healed {left}" if left else ""))
