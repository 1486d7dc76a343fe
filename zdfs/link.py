"""The client's driver: coroutines over traps, run in the calling thread through DEALER sockets.

    run(coroutine)   in the caller's thread: the monitor's lock is held while core code runs and
                     released at each trap, where the thread sends, waits and takes the lock again
    spawn            the coroutine runs on a background thread of ours
    attend(volume)   the session's own DEALER: heartbeats out, pushes in

A socket serves one request at a time: it is taken from a pool for one peer, and put back when its
reply came.  After a timeout it is closed with everything it had queued, so that nothing meant for a
dead server is delivered later, and a late reply finds nobody (`asking`).

Waiting callers look for a signal every `limits.INTERRUPT_POLL_S`.  Whoever is about to die gives
up at once (Interrupted).  For one that survives its signal a question or a wait is given up once
it has taken `limits.SIGNALLED_S`; a change that was sent is not, because its fate is not known and
a program that lives on might repeat it.
"""

import collections
import itertools
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import zmq

# Made now, its end at exit comes after that of everybody who imports this: without it nothing large
# is sent any more, and by itself it is made as late as with the first large message.
from zmq.utils.garbage import gc  # noqa: F401

from zdfs import addresses, limits, wire
from zdfs.asking import Call
from zdfs.calls import CallAll, Now, Peer, Sleep, Spawn, Trap, Wait
from zdfs.dialing import DOUBT_S, Dialer
from zdfs.errors import BadMessage, Failure, Interrupted, NoSession, Refused, Unreachable
from zdfs.ids import Incarnation, Session
from zdfs.pace import Paces
from zdfs.parley import Parley
from zdfs.ports import Meter

log = logging.getLogger("zdfs.link")
T = TypeVar("T")

IDLE_THREADS = 8  # background threads kept
IDLE_SOCKETS = 64  # kept for one peer
SOCKETS = 8192
INSIDE = "(inside the mount)"  # what is waited for, where it is no answer
BESIDE = "(background)"  # the operation of what no program waits for


def library() -> str:
    """The version of libzmq."""
    return zmq.zmq_version()


class Attended(Protocol):
    """Who is told of heartbeats and pushes (the volume)."""

    @property
    def beat_s(self) -> float: ...
    def heartbeat(self) -> wire.Beat: ...
    def heard(self, message: wire.Reply | Failure) -> list[Coroutine[Trap, Any, None]]: ...


def never() -> bool:
    """No signals here."""
    return False


class Link:
    """DEALERs to the servers, and the threads that drive core code."""

    def __init__(
        self,
        interrupted: Callable[[], bool] = never,
        dying: Callable[[], bool] = never,
        keys: Path | None = None,
        meter: Meter | None = None,
    ) -> None:
        """`keys`: a key directory; StartError: its fault."""
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.context.set(zmq.MAX_SOCKETS, SOCKETS)
        self.dialer = Dialer(self.context, keys)
        self._generation = 0  # of the dialer: of what is in the pools
        self.interrupted, self.dying = interrupted, dying
        self.meter = meter  # None: nobody wants to know how long calls took
        self.session = Session(0)
        self.incarnation = Incarnation(0)
        self.late = 0
        self._monitor = threading.Lock()
        self._sequences: Iterator[int] = itertools.count(1)
        self._pools: dict[Peer, list[zmq.Socket[bytes]]] = {}
        self._pool_lock = threading.Lock()
        self._near: set[Peer] = set()
        self._jobs: collections.deque[Spawn] = collections.deque()
        self._hiring = threading.Condition()
        self._idle = 0  # background threads that wait for a job
        self._threads: set[threading.Thread] = set()
        self._here = threading.local()  # since: the start of what runs in this thread; its trap
        self.paces = Paces()
        self.parley = Parley()
        self.asked: dict[int, tuple[wire.Asked, ...]] = {}  # by callers' threads that wait long
        self._closing = threading.Event()
        self._attendant: threading.Thread | None = None

    def monotonic(self) -> float:
        """Seconds, for plain code that is told the time."""
        return time.monotonic()

    def near(self, peer: Peer) -> None:
        """This peer is on this machine: an abstract socket leads there, if it has this name."""
        if peer not in self._near and addresses.is_local(peer):
            self._near.add(peer)
            with self._pool_lock:
                for socket in self._pools.pop(peer, []):
                    socket.close(0)

    # --- driving -------------------------------------------------------------------------------

    def run(self, coroutine: Coroutine[Trap, Any, T]) -> T:
        """Drive a coroutine in this thread; returns its result or raises its failure."""
        value: Any = None
        error: BaseException | None = None
        self._here.since = time.monotonic()
        with self._monitor:
            while True:
                try:
                    trap = coroutine.throw(error) if error else coroutine.send(value)
                except StopIteration as done:
                    result: T = done.value
                    return result
                self._here.trap = trap
                woken = self._register(trap)
                self._monitor.release()
                value = error = None
                began = time.monotonic()
                try:
                    value = self._do(trap, woken)
                except Failure as failure:
                    error = failure
                finally:
                    self._waited(trap, began)
                    self._monitor.acquire()
                    if isinstance(trap, Wait) and woken is not None:
                        self._unhang(trap, woken)

    def _waited(self, trap: Trap, began: float) -> None:
        """Note what this thread waited for: an answer, or something inside of the mount."""
        if self.meter is None or isinstance(trap, (Now, Spawn)):
            return
        asks = trap.asks if isinstance(trap, CallAll) else ()
        what = type(asks[0].request).__name__ if asks else INSIDE
        spent = self._here.__dict__.setdefault("spent", {})
        spent[what] = spent.get(what, 0.0) + time.monotonic() - began

    def spent(self) -> dict[str, float]:
        """What this thread waited for since it was last asked: seconds, by request."""
        found: dict[str, float] = self._here.__dict__.pop("spent", {})
        return found

    def _register(self, trap: Trap) -> threading.Event | None:
        """Hang up our waiter while the lock is still held, so that no notification is lost."""
        if not isinstance(trap, Wait):
            return None
        woken = threading.Event()
        trap.condition.waiters.append(woken.set)
        return woken

    def _unhang(self, trap: Wait, woken: threading.Event) -> None:
        """Who waits each second for hours must not leave a waiter behind each second."""
        if woken.set in trap.condition.waiters:
            trap.condition.waiters.remove(woken.set)

    def _do(self, trap: Trap, woken: threading.Event | None) -> Any:
        if isinstance(trap, CallAll):
            return self._call_all(trap)
        if isinstance(trap, Now):
            return time.time_ns() if trap.wall else time.monotonic()
        if isinstance(trap, Spawn):
            self._spawn(trap)
            return None
        if isinstance(trap, Sleep):
            self._pause(threading.Event(), trap.seconds)
            return None
        assert isinstance(trap, Wait) and woken is not None, trap
        return self._pause(woken, trap.seconds)

    def _signalled(self) -> bool:
        """Whether to stop waiting.  A signal that the caller survives (a timer, a child's end)
        must not break what a local file system would finish: it counts once we are blocked."""
        if getattr(self._here, "background", False):
            return False
        trap = self._here.trap
        asks = trap.asks[:4] if isinstance(trap, CallAll) else ()
        self.asked[threading.get_ident()] = tuple(
            [wire.Asked(ask.peer, type(ask.request).__name__) for ask in asks]
        )
        if not self.interrupted():
            return False
        return time.monotonic() - self._here.since > limits.SIGNALLED_S or self.dying()

    def _pause(self, woken: threading.Event, seconds: float | None) -> bool:
        """Wait for the event; Interrupted when the caller was signalled meanwhile."""
        deadline = time.monotonic() + (1e9 if seconds is None else seconds)
        step = limits.INTERRUPT_POLL_S
        while True:
            left = deadline - time.monotonic()
            if woken.wait(max(0.0, min(step, left))):
                return True
            if self._closing.is_set():
                raise Interrupted("the mount is ending")
            if left <= step:
                return False
            if self._signalled():
                raise Interrupted()
            step = min(step * 1.5, 0.25)

    # --- background ----------------------------------------------------------------------------

    def _spawn(self, trap: Spawn) -> None:
        with self._hiring:
            self._jobs.append(trap)
            if len(self._jobs) <= self._idle:
                self._hiring.notify()
                return
            name = f"zdfs-{len(self._threads)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.add(thread)
            thread.start()

    def spawn(self, coroutine: Coroutine[Trap, Any, None], name: str) -> None:
        """Run a coroutine in the background."""
        self._spawn(Spawn(coroutine, name))

    def _work(self) -> None:
        """A background thread: one job after the other.  One of the four seams."""
        self._here.background = True
        while (job := self._next_job()) is not None:
            try:
                self.run(job.coroutine)
            except Interrupted:
                log.debug("%s ended with the mount", job.name)
            except Failure as failure:
                log.error("%s: %s", job.name, failure)
            except Exception:
                log.exception("%s failed unexpectedly", job.name)
            if self.meter is not None:
                self.meter.waited(BESIDE, self.spent())

    def _next_job(self) -> Spawn | None:
        """Wait for one; None: this thread shall end.  To be idle and to take a job are one step:
        a job is never left to a thread that has just taken another, which may run for ever."""
        with self._hiring:
            if self._idle < IDLE_THREADS or self._jobs:
                self._idle += 1
                while not self._jobs and not self._closing.is_set():
                    self._hiring.wait()
                self._idle -= 1
                if self._jobs:
                    return self._jobs.popleft()
            self._threads.discard(threading.current_thread())
            return None

    def ours(self) -> bool:
        """Whether this thread is a background one: finalisers that run in it must not wait."""
        mine = getattr(self._here, "background", False)
        return mine or threading.current_thread() is self._attendant

    def close(self) -> None:
        """End the background threads and close every socket."""
        self._closing.set()
        with self._hiring:
            threads = list(self._threads)
            self._hiring.notify_all()
        for thread in [*threads, *([self._attendant] if self._attendant else [])]:
            thread.join(limits.BULK_TIMEOUT_S)
        with self._pool_lock:
            for socket in [one for pool in self._pools.values() for one in pool]:
                socket.close(0)
            self._pools.clear()
        self.dialer.close()
        self.context.destroy(0)

    # --- calls ---------------------------------------------------------------------------------

    def _dealer(self, peer: Peer) -> zmq.Socket[bytes]:
        self.dialer.settle(peer)
        return self.dialer.dealer(peer, addresses.ipc(peer) if peer in self._near else "")

    def _take(self, peer: Peer) -> tuple[zmq.Socket[bytes], int]:
        """A socket of nobody's, and the generation of the keys that it was made with."""
        if self._closing.is_set():  # the context would wait for it for ever
            raise Interrupted("the mount is ending")
        generation = self.dialer.refresh()
        with self._pool_lock:
            if generation != self._generation:
                self._generation = generation
                for socket in [one for pool in self._pools.values() for one in pool]:
                    socket.close(0)
                self._pools.clear()
            pool = self._pools.get(peer)
            if pool:
                return pool.pop(), generation
        return self._dealer(peer), generation

    def _put_back(self, peer: Peer, socket: zmq.Socket[bytes], generation: int) -> None:
        with self._pool_lock:
            pool = self._pools.setdefault(peer, [])
            kept = len(pool) < IDLE_SOCKETS and not self._closing.is_set()
            if kept and generation == self._generation:
                pool.append(socket)
                return
        socket.close(0)

    def _call_all(self, trap: CallAll) -> list[wire.Reply | Failure]:
        calls = [Call(self, ask) for ask in trap.asks]
        poller = zmq.Poller()
        waiting: dict[zmq.Socket[bytes], Call] = {}
        try:
            for call in calls:
                call.send()
                if call.answer is None:
                    waiting[call.socket] = call
                    poller.register(call.socket, zmq.POLLIN)
            self._gather(poller, waiting)
        finally:
            for call in calls:
                call.end()
                if self.meter is not None:
                    self.meter.called(type(call.ask.request), call.took_s, call.answer)
        answers = [call.answer for call in calls]
        assert all(answer is not None for answer in answers)
        return answers  # type: ignore[return-value]

    def _gather(self, poller: zmq.Poller, waiting: "dict[zmq.Socket[bytes], Call]") -> None:
        """Until each call is answered or out of time."""
        changing = any(call.ask.slot is not None for call in waiting.values())
        step = limits.INTERRUPT_POLL_S
        while waiting:
            now = time.monotonic()
            left = min(call.deadline for call in waiting.values()) - now
            ready = poller.poll(int(max(0.0, min(left, step)) * 1000) + 1)
            for socket, _ in ready:
                call = waiting[socket]
                if call.receive():
                    poller.unregister(socket)
                    del waiting[socket]
            now = time.monotonic()
            for socket, call in list(waiting.items()):
                if call.deadline <= now:
                    keys = self.dialer.last_word(call.ask.peer, call.sent)
                    call.answer = keys or Unreachable(f"{call.ask.peer} did not answer in time")
                    poller.unregister(socket)
                    del waiting[socket]
            if waiting and not ready:
                self._give_up(changing)
                for call in waiting.values():
                    call.send_again()
                self._doubt(poller, waiting, now)
                step = min(step * 1.5, 0.25)

    def _doubt(
        self, poller: zmq.Poller, waiting: "dict[zmq.Socket[bytes], Call]", now: float
    ) -> None:
        """Answer those whose server does not, because of keys."""
        for socket, call in list(waiting.items()):
            if now - call.sent > DOUBT_S:
                call.answer = self.dialer.verdict(call.ask.peer, call.sent)
                if call.answer is not None:
                    poller.unregister(socket)
                    del waiting[socket]

    def _give_up(self, changing: bool) -> None:
        if self._closing.is_set():
            raise Interrupted("the mount is ending")
        if self._signalled() and (not changing or self.dying()):
            raise Interrupted()

    # --- the session ---------------------------------------------------------------------------

    def attend(self, volume: Attended, meta: Peer) -> None:
        """Start the thread that keeps the session alive."""
        self._attendant = threading.Thread(
            target=self._attend, args=(volume, meta), name="zdfs-session", daemon=True
        )
        self._attendant.start()

    def _attend(self, volume: Attended, meta: Peer) -> None:
        dealer, generation = self._dealer(meta), self.dialer.refresh()
        answered = time.monotonic()
        beaten = answered - limits.BEAT_S
        while not self._closing.is_set():
            now = time.monotonic()
            stale = self.dialer.refresh() != generation  # its key may be on the way out
            if stale or now - answered > limits.DOWN_S:  # nothing queued may arrive later
                dealer.close(0)
                dealer, answered, generation = self._dealer(meta), now, self.dialer.generation
                self.parley.forget(meta)
            if now >= beaten + volume.beat_s:
                beaten = now
                with self._monitor:
                    beat = volume.heartbeat()
                head = wire.RequestHead(
                    self.session, wire.NO_SLOT, next(self._sequences), 2000, self.incarnation,
                    self.parley.surely(meta),
                )  # fmt: skip
                with suppress(zmq.Again):  # refused in its handshake, it never connects again
                    dealer.send_multipart(wire.encode_request(head, beat), zmq.NOBLOCK)
            left = beaten + volume.beat_s - now
            if not dealer.poll(int(max(0.0, min(0.2, left)) * 1000)):
                continue
            message = self._next_message(meta, dealer)
            if message is None:
                continue
            answered = time.monotonic()
            with self._monitor:
                jobs = volume.heard(message)
            for job in jobs:
                self.spawn(job, "told by the metaserver")
        dealer.close(0)

    def _next_message(self, peer: Peer, dealer: zmq.Socket[bytes]) -> wire.Reply | Failure | None:
        try:
            head, message = wire.decode_reply(dealer.recv_multipart(zmq.NOBLOCK))
        except (BadMessage, zmq.Again) as error:
            log.warning("on the session's socket: %s", error)
            return None
        if head.session != self.session:
            return None
        if head.incarnation > self.incarnation > 0:  # started again: of another release, perhaps
            self.parley.forget(peer)
        self.incarnation = head.incarnation
        if isinstance(message, wire.Failed):
            failure = message.failure()
            if isinstance(failure, Refused):
                self.dialer.heard(peer)
            return failure if isinstance(failure, NoSession) else None
        return message
