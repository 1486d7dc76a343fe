"""The ROUTER endpoint that both servers run on.

    frames in -> decode -> admit -> handler (a coroutine) -> reply -> round synced -> frames out

One thread.  Each turn of the loop drains what has arrived, drives the handlers until each is parked
or done, ends the store's round (one commit for all of them) and sends the replies whose round is
synced.  It knows no operation by name: the *room* (metaserver or dataserver) brings the handlers.

Rules:
- A reply leaves only when the round it reports on is synced.  A failed store sends nothing and
  stops the node (StoreError).
- A request that is still parked when it comes again keeps its one handler and answers the newest
  sender.  A parked request whose sender gave up (its remaining time ran out) is closed.
- What isn't our protocol is counted, logged once in a while, refused or dropped: never fatal.
- Calls to other servers go through one DEALER per peer, made anew after a timeout, so that nothing
  queued for a dead server is delivered later.
"""

import collections
import logging
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

import zmq

from zdfs import addresses, limits, wire
from zdfs.calls import CallAll, Now, Peer, Sleep, Spawn, Trap, Wait
from zdfs.errors import BadMessage, Failure, StartError, StoreError, Unreachable
from zdfs.ids import Session
from zdfs.pending import Pending, Timers
from zdfs.ports import Caller, Room, RoundStore

log = logging.getLogger("zdfs.broker")

BUDGET = 256  # messages taken in before the round is ended
LOG_EVERY_S = 10.0  # bad messages are logged so often
GRACE_S = 2.0  # a parked request outlives its sender's patience by so much
MEMORY_BYTES = 512 * limits.MIB  # anonymous memory beyond which somebody is hoarding below us


class Task:
    """A coroutine being driven; `caller` is None for background tasks."""

    __slots__ = ("coroutine", "caller", "message", "deadline", "name", "turn")

    def __init__(self, coroutine: Coroutine[Trap, Any, Any], caller: Caller | None, name: str):
        self.coroutine, self.caller, self.name = coroutine, caller, name
        self.message: wire.Message | None = None
        self.deadline = float("inf")
        self.turn = 0  # counts resumptions: a timer of an earlier park is void


class Calls:
    """A CallAll underway."""

    __slots__ = ("resume", "answers", "missing")

    def __init__(self, resume: Callable[[Any], None], count: int):
        self.resume = resume
        self.answers: list[wire.Reply | Failure | None] = [None] * count
        self.missing = count

    def answer(self, place: int, answer: wire.Reply | Failure) -> None:
        """One of them is answered; the last resumes the task."""
        self.answers[place] = answer
        self.missing -= 1
        if not self.missing:
            self.resume(self.answers)


class Broker:
    """Serves one room on one address."""

    def __init__(self, address: str, store: RoundStore, context: zmq.Context[Any] | None = None):
        self.address, self.store = address, store
        self.context = context or zmq.Context()
        self.room: Room | None = None
        self.poller = zmq.Poller()
        self.router = self._bind()
        self.dealers: dict[Peer, zmq.Socket[bytes]] = {}
        self.calls: Pending[tuple[Calls, int, Peer, wire.Request[Any]]] = Pending()
        self.timers = Timers()
        self.ready: collections.deque[tuple[Task, Any, Failure | None]] = collections.deque()
        self.running: dict[tuple[int, int, int], Task] = {}
        self.waiting: collections.deque[tuple[int, bytes, list[Any]]] = collections.deque()
        self.stopping = os.eventfd(0, os.EFD_NONBLOCK)
        self.poller.register(self.stopping, zmq.POLLIN)
        self.stopped = False
        self._logged = -LOG_EVERY_S
        if (number := store.fileno()) is not None:
            self.poller.register(number, zmq.POLLIN)

    # --- life ----------------------------------------------------------------------------------

    def _bind(self) -> zmq.Socket[bytes]:
        router = self.context.socket(zmq.ROUTER)
        router.setsockopt(zmq.LINGER, 0)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.MAXMSGSIZE, max(limits.FRAME_BYTES, limits.HEAD_BYTES))
        router.setsockopt(zmq.RCVHWM, limits.PEERS_QUEUED // 16)
        router.setsockopt(zmq.SNDHWM, limits.PEERS_QUEUED)
        router.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        router.setsockopt(zmq.HEARTBEAT_IVL, 5000)
        router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15000)
        router.setsockopt(zmq.BACKLOG, 512)
        for endpoint in (addresses.tcp(self.address), addresses.ipc(self.address)):
            try:
                router.bind(endpoint)
            except zmq.ZMQError as error:
                router.close()
                what = addresses.short(self.address)
                if error.errno == zmq.EADDRINUSE:
                    raise StartError(f"port {what} is in use: is this node already running?")
                raise StartError(f"can't listen on {what}: {error}")
        self.poller.register(router, zmq.POLLIN)
        return router

    def stop(self) -> None:
        """End `serve` soon; may be called from a signal handler."""
        os.eventfd_write(self.stopping, 1)

    def serve(self, room: Room) -> None:
        """Until stopped.  Raises StoreError when the store failed, StartError when refused."""
        self.room = room
        for name, coroutine in room.tasks():
            self.ready.append((Task(coroutine, None, name), None, None))
        self._watch_memory()
        while not self.stopped:
            self.turn(self._patience())

    def close(self) -> None:
        """Close sockets and store; parked handlers end without an answer."""
        for task in list(self.running.values()):
            task.coroutine.close()
        for socket in (self.router, *self.dealers.values()):
            socket.close(0)
        self.store.close()
        self.context.destroy(0)
        os.close(self.stopping)

    def _patience(self) -> float:
        if self.ready:
            return 0.0
        due = self.timers.next()
        return 1.0 if due is None else min(1.0, max(0.0, due - time.monotonic()))

    def turn(self, wait_s: float) -> None:
        """One turn of the loop."""
        events = dict(self.poller.poll(int(wait_s * 1000 + 0.999)))
        if self.stopping in events:
            self.stopped = True
        if self.router in events:
            self._drain_router()
        for peer, dealer in list(self.dealers.items()):
            if dealer in events:
                self._drain_dealer(peer, dealer)
        for act in self.timers.due(time.monotonic()):
            act()
        while self.ready:
            self._step(*self.ready.popleft())
        if self.store.dirty:
            self.store.end_round()
        if self.store.fileno() in events:
            self.store.woken()
        self._send_replies()

    # --- requests ------------------------------------------------------------------------------

    def _drain_router(self) -> None:
        for _ in range(BUDGET):
            try:
                address, *frames = self.router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            except zmq.ZMQError as error:
                log.warning("receiving on %s failed: %s", self.address, error)
                return
            try:
                self._request(address.bytes, frames)
            except BadMessage as error:
                self._bad(error.text)

    def _bad(self, text: str) -> None:
        assert self.room is not None
        self.room.counts["refused"] += 1
        now = time.monotonic()
        if now - self._logged >= LOG_EVERY_S:
            self._logged = now
            log.warning(
                "refused %d messages so far that are not zdfs's, the newest: %s",
                self.room.counts["refused"],
                text,
            )

    def _request(self, address: bytes, frames: list[zmq.Frame]) -> None:
        assert self.room is not None
        parts = [frames[0].bytes, *[frame.buffer for frame in frames[1:]]] if frames else []
        head, message = wire.decode_request(parts)
        caller = Caller(address, head)
        key = (head.session, head.slot, head.sequence)
        running = self.running.get(key)
        deadline = time.monotonic() + head.remaining_ms / 1000 + GRACE_S
        if running is not None:
            running.caller, running.deadline = caller, deadline
            return
        try:
            kept = self.room.admit(head) if head.slot != wire.NO_SLOT else None
        except Failure as error:
            self._reply(caller, message, wire.Failed.of(error))
            return
        if kept is not None:
            self._reply(caller, message, kept)
            return
        handler = self.room.handlers.get(type(message))
        if handler is None:
            raise BadMessage(f"{type(message).__name__} is not served here")
        task = Task(handler(message, caller), caller, type(message).__name__)
        task.message, task.deadline = message, deadline
        self.running[key] = task
        self._step(task, None, None)

    def _finish(self, task: Task, reply: wire.Reply) -> None:
        caller = task.caller
        if caller is None:
            return
        assert self.room is not None and task.message is not None
        head = caller.head
        self.running.pop((head.session, head.slot, head.sequence), None)
        if head.slot != wire.NO_SLOT:
            try:
                self.room.keep(head, reply)
            except Failure as error:
                reply = wire.Failed.of(error)
        self._reply(caller, task.message, reply)

    def _reply(self, caller: Caller, asked: wire.Message, reply: wire.Reply) -> None:
        assert self.room is not None
        head = caller.head
        reply_head = wire.ReplyHead(
            head.session,
            head.slot,
            head.sequence,
            asked.operation,
            self.room.incarnation,
            self.store.synced,
        )
        # An unsynced round may hold what this reply reports, also when another request made it.
        synced = reply.durability is wire.Durability.SYNCED or self.store.fileno() is None
        needed = self.store.round if synced else 0
        if synced and not self.store.dirty:
            needed = max(0, self.store.round - 1)
        self.waiting.append((needed, caller.address, wire.encode_reply(reply_head, reply)))

    def _send_replies(self) -> None:
        assert self.room is not None
        synced = self.store.synced
        later = []
        for needed, address, frames in self.waiting:
            if needed > synced:
                later.append((needed, address, frames))
            else:
                self._send(address, frames)
        self.waiting = collections.deque(later)
        pushes, self.room.pushes[:] = list(self.room.pushes), []
        for address, session, push in pushes:
            head = wire.ReplyHead(session, wire.NO_SLOT, 0, 0, self.room.incarnation, synced)
            self._send(address, wire.encode_reply(head, push))

    def _send(self, address: bytes, frames: list[Any]) -> None:
        assert self.room is not None
        try:
            self.router.send_multipart([address, *frames], zmq.NOBLOCK, copy=len(frames) == 1)
        except zmq.ZMQError as error:  # gone, or its pipe is full: it will ask again
            self.room.counts[f"unsent ({error.strerror or error})"] += 1

    # --- driving coroutines --------------------------------------------------------------------

    def _step(self, task: Task, value: Any, error: Failure | None) -> None:
        """Resume a coroutine until it parks or ends.  One of the four seams."""
        task.turn += 1
        while True:
            try:
                trap = task.coroutine.throw(error) if error else task.coroutine.send(value)
            except StopIteration as done:
                self._finish(task, done.value)
                return
            except Failure as failure:
                if task.caller is None:
                    log.error("%s ended: %s", task.name, failure)
                self._finish(task, wire.Failed.of(failure))
                return
            except (StoreError, StartError):
                raise
            except Exception as unexpected:  # a bug must not take the other clients down
                log.exception("%s failed unexpectedly", task.name)
                text = f"{type(unexpected).__name__} in the server: see its log"
                self._finish(task, wire.Failed.of(Failure(text)))
                return
            error = None
            if isinstance(trap, Now):
                value = time.time_ns() if trap.wall else time.monotonic()
                continue
            if isinstance(trap, Spawn):
                self.ready.append((Task(trap.coroutine, None, trap.name), None, None))
                value = None
                continue
            self._park(task, trap)
            return

    def _park(self, task: Task, trap: Trap) -> None:
        turn = task.turn

        def resume(value: Any) -> None:
            if task.turn == turn:  # not resumed by something else meanwhile
                task.turn += 1
                self.ready.append((task, value, None))

        if isinstance(trap, Sleep):
            self.timers.at(time.monotonic() + trap.seconds, lambda: resume(None))
        elif isinstance(trap, Wait):
            trap.condition.waiters.append(lambda: resume(True))
            if trap.seconds is not None:
                self.timers.at(time.monotonic() + trap.seconds, lambda: resume(False))
        else:
            assert isinstance(trap, CallAll), trap
            self._call(Calls(resume, len(trap.asks)), trap)
        if task.caller is not None:
            self._expire(task)

    def _expire(self, task: Task) -> None:
        """Close a parked request when its sender gave up."""

        def check() -> None:
            caller = task.caller
            assert caller is not None
            key = (caller.head.session, caller.head.slot, caller.head.sequence)
            if self.running.get(key) is not task:
                return
            if task.deadline > time.monotonic():
                self.timers.at(task.deadline, check)
                return
            del self.running[key]
            task.turn += 1
            task.coroutine.close()

        if task.turn <= 1:  # once per task
            self.timers.at(task.deadline, check)

    # --- calls to other servers ----------------------------------------------------------------

    def _call(self, calls: Calls, trap: CallAll) -> None:
        assert self.room is not None
        if not trap.asks:
            calls.resume([])
        for place, ask in enumerate(trap.asks):
            number = self.calls.add((calls, place, ask.peer, ask.request))
            head = wire.RequestHead(
                Session(0), wire.NO_SLOT, number, int(ask.timeout_s * 1000), self.room.incarnation
            )
            frames = wire.encode_request(head, ask.request)
            try:
                self._dealer(ask.peer).send_multipart(frames, zmq.NOBLOCK, copy=len(frames) == 1)
            except zmq.ZMQError as error:
                self._answer(number, Unreachable(f"can't send to {ask.peer}: {error}"))
                continue
            expire = self._expired(number, ask.peer, type(ask.request).__name__)
            self.timers.at(time.monotonic() + ask.timeout_s, expire)

    def _dealer(self, peer: Peer) -> zmq.Socket[bytes]:
        dealer = self.dealers.get(peer)
        if dealer is None:
            dealer = self.dealers[peer] = self.context.socket(zmq.DEALER)
            dealer.setsockopt(zmq.LINGER, 0)
            dealer.setsockopt(zmq.MAXMSGSIZE, max(limits.FRAME_BYTES, limits.HEAD_BYTES))
            dealer.setsockopt(zmq.SNDHWM, limits.PEERS_QUEUED)
            dealer.connect(addresses.tcp(peer))
            self.poller.register(dealer, zmq.POLLIN)
        return dealer

    def _expired(self, number: int, peer: Peer, what: str) -> Callable[[], None]:
        def act() -> None:
            if self._answer(number, Unreachable(f"{peer} did not answer {what} in time")):
                dealer = self.dealers.pop(peer, None)
                if dealer is not None:  # nothing that it queued may arrive later
                    self.poller.unregister(dealer)
                    dealer.close(0)

        return act

    def _answer(self, number: int, answer: wire.Reply | Failure) -> bool:
        found = self.calls.take(number)
        if found is None:
            return False
        calls, place, _, _ = found
        calls.answer(place, answer)
        return True

    def _drain_dealer(self, peer: Peer, dealer: zmq.Socket[bytes]) -> None:
        assert self.room is not None
        for _ in range(BUDGET):
            try:
                frames = dealer.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.ZMQError:
                return
            try:
                parts = [frames[0].bytes, *[frame.buffer for frame in frames[1:]]]
                head, reply = wire.decode_reply(parts)
            except BadMessage as error:
                self._bad(f"from {peer}: {error.text}")
                continue
            found = self.calls.peek(head.sequence)
            if found is None or found[2] != peer or found[3].operation != head.answers:
                self.room.counts["late replies"] += 1
                continue
            self._answer(head.sequence, wire.judged(found[3], reply))

    # --- hoarders ------------------------------------------------------------------------------

    def _watch_memory(self) -> None:
        """A peer that never ends a multipart message eats memory below us, where no limit of
        ZeroMQ reaches: when this process grows far beyond its needs, drop all connections."""
        if anonymous_bytes() > MEMORY_BYTES:
            log.error(
                "%s holds %d MiB: dropping every connection", self.address, MEMORY_BYTES >> 20
            )
            self.poller.unregister(self.router)
            self.router.close(0)
            self.router = self._bind()
        self.timers.at(time.monotonic() + 1.0, self._watch_memory)


def anonymous_bytes() -> int:
    """This process's anonymous memory (RssAnon of proc(5))."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0
