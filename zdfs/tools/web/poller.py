"""The one who asks the cluster: so many questions a second, however many browsers look.

    pulse      each second: the metaserver's status, events, disputes; makes the snapshot, also when
               there was no answer: then it is the last one known, with its age
    servers    each two seconds: what servers count; each ten: who they are and what time they have

Two threads, for a server that is silent takes its time, and the snapshot must not wait for it.
Browsers take what is there: `Board` keeps the newest snapshot, the events and the hour.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from zdfs import __version__, checksum, limits, wire
from zdfs.calls import Ask, Peer, call_all
from zdfs.errors import Failure, Interrupted, StartError
from zdfs.health import Answered
from zdfs.ids import Ino
from zdfs.link import Link
from zdfs.reasons import Seen
from zdfs.tools import checkup, why
from zdfs.tools.web import history
from zdfs.tools.web.history import History
from zdfs.tools.web.snapshot import Heard, snapshot
from zdfs.wire import State

PULSE_S = 1.0
ANSWER_S = 0.9  # a metaserver that says nothing for so long is silent for this second
COUNT_S = 2.0
IDENTIFY_S = 10.0
EVENTS = 500  # that are kept here
EARLIER_S = 10.0  # between the statuses that are kept to see how fast disks fill
EARLIER = 30
log = logging.getLogger("zdfs")


class Board:
    """What is known, for all browsers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: set[Callable[[], None]] = set()
        self.ended = threading.Event()
        self.number = 0
        self.frame = b""  # the newest snapshot, as JSON
        self.status: wire.Status | None = None
        self.events: deque[wire.Happened] = deque(maxlen=EVENTS)
        self.histories: dict[str, History] = {}  # by address

    def post(self, shown: dict[str, Any], status: wire.Status | None) -> None:
        """A new snapshot."""
        with self._lock:
            self.number += 1
            shown["number"] = self.number
            self.frame, self.status = json.dumps(shown).encode(), status
        self._tell()

    def happened(self, told: tuple[wire.Happened, ...]) -> int:
        """New events; the number of the newest there is."""
        with self._lock:
            last = self.events[-1].number if self.events else 0
            self.events.extend(one for one in told if one.number > last)
            return self.events[-1].number if self.events else 0

    def events_after(self, number: int, most: int) -> list[wire.Happened]:
        """Behind a number, oldest first; of more than `most` the newest."""
        with self._lock:
            return [one for one in self.events if one.number > number][-most:]

    def counted(self, address: str, at_s: float, counts: history.Counts | None) -> None:
        """What a server has counted; None: it doesn't say."""
        with self._lock:
            self.histories.setdefault(address, History()).look(at_s, counts)

    def chart(self, at_s: float) -> list[dict[str, Any] | None]:
        """The last hour."""
        with self._lock:
            return history.chart(list(self.histories.values()), at_s)

    def loads(self) -> dict[str, dict[str, Any]]:
        """What each server does now."""
        with self._lock:
            found = {one: history.rates(each.now) for one, each in self.histories.items()}
        return {address: load for address, load in found.items() if load is not None}

    @contextmanager
    def listening(self, wake: Callable[[], None]) -> Iterator[None]:
        """`wake` is called, in some other thread, for each snapshot and at the end."""
        with self._lock:
            self._listeners.add(wake)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.discard(wake)

    def end(self) -> None:
        """Nothing more will come.  May be called by a signal's handler: takes no lock."""
        self.ended.set()
        for wake in tuple(self._listeners):
            wake()

    def _tell(self) -> None:
        with self._lock:
            listeners = tuple(self._listeners)
        for wake in listeners:
            wake()


class Poller:
    """Asks, and posts it on the board."""

    def __init__(self, link: Link, meta: str, board: Board):
        self.link, self.meta, self.board = link, meta, board
        self.status: wire.Status | None = None
        self.answered_at = time.monotonic()
        self.disputed: wire.Disputed | None = None
        self.identities: dict[str, Answered] = {}
        self.misfits: dict[str, str] = {}
        self.mounts: tuple[Seen, ...] = ()
        self._asked: dict[str, threading.Thread] = {}
        self.earlier: deque[tuple[float, wire.Status]] = deque(maxlen=EARLIER)
        self._threads = [
            threading.Thread(target=self._each, args=(PULSE_S, self.pulse), name="pulse"),
            threading.Thread(target=self._each, args=(COUNT_S, self.servers), name="servers"),
        ]
        self._identified_at = float("-inf")

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask no more: the board has ended."""
        for thread in self._threads:
            thread.join()

    def _each(self, step_s: float, ask: Callable[[], None]) -> None:
        due = time.monotonic()
        while not self.board.ended.is_set():
            try:
                ask()
            except Interrupted:  # it is ending
                return
            except (StartError, Failure, OSError) as error:  # the next look may see more
                name = threading.current_thread().name
                log.warning("%s: could not look, the page waits for the next: %s", name, error)
            due = max(due + step_s, time.monotonic())
            self.board.ended.wait(due - time.monotonic())

    # --- the metaserver ------------------------------------------------------------------------

    def pulse(self) -> None:
        """One second's snapshot."""
        last, peer = self.board.happened(()), Peer(self.meta)
        events = wire.GetEvents(last, 0 if last else limits.EVENTS_TOLD, 0)
        asks: list[wire.Request[Any]] = [wire.GetStatus(), events, wire.Dispute(Ino(0))]
        status, told, disputed = self.link.run(
            call_all([Ask(peer, request, ANSWER_S) for request in asks])
        )
        at = time.monotonic()
        if isinstance(told, wire.Events):
            last = self.board.happened(told.events)
        refusal = why.refusal(status)
        if isinstance(status, wire.Status):
            self.status, self.answered_at = status, at
            if not self.earlier or at - self.earlier[-1][0] >= EARLIER_S:
                self.earlier.append((at, status))
        self.disputed = disputed if isinstance(disputed, wire.Disputed) else None
        answers = isinstance(status, wire.Status)
        self.board.post(snapshot(self._heard(answers, refusal, at, last)), self.status)

    def _heard(self, answers: bool, refusal: str, at: float, last: int) -> Heard:
        then, earlier = self.earlier[0] if self.earlier else (at, None)
        return Heard(
            self.meta, time.time_ns(), __version__, checksum.engine(), answers, refusal,
            self.status, at - self.answered_at, self.disputed, self.identities, self.misfits,
            earlier, at - then, self.board.loads(), last, self.mounts,
        )  # fmt: skip

    # --- everybody -----------------------------------------------------------------------------

    def servers(self) -> None:
        """What each server says of itself."""
        members = [one.member for one in self.status.servers] if self.status else []
        up = [one.address for one in members if one.state is not State.DOWN]
        self._count(up)
        if time.monotonic() - self._identified_at >= IDENTIFY_S:
            self._identified_at = time.monotonic()
            asked = checkup.identities(self.link, [self.meta, *up], ANSWER_S)
            self.identities, self.misfits = asked
            self.mounts = tuple(why.see({self.meta}, self._asked))

    def _count(self, up: list[str]) -> None:
        """What they counted; one that is silent, down, or of an older release leaves a gap."""
        request = wire.GetMeasures(history.METRICS, "")
        asks = [Ask(Peer(address), request, ANSWER_S) for address in up]
        told = dict(zip(up, self.link.run(call_all(asks)) if asks else []))
        at = time.monotonic()
        for address in {*up, *self.board.histories}:
            found = told.get(address)
            counts = history.counted(found.samples) if isinstance(found, wire.Measures) else None
            self.board.counted(address, at, counts)
