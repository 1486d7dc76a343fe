"""The ROUTER endpoint that both servers run on.

    frames in -> decode -> admit -> handler (a coroutine) -> reply -> round synced -> frames out

One thread.  Each turn of the loop drains what has arrived, drives the handlers until each is parked
or done, ends the store's round (one commit for all of them) and sends the replies whose round is
synced.  It knows no operation by name: the *room* (metaserver or dataserver) brings the handlers.

Rules:
- A reply leaves only when the round it reports on is as safe as it must be (`RoundStore.safe`).
  A failed store sends nothing and stops the node (StoreError).
- A request that is still parked when it comes again keeps its one handler and answers the newest
  sender.  A parked request whose sender gave up is closed: its remaining time ran out, or the next
  change came in its slot.
- What isn't our protocol is counted, logged once in a while, refused or dropped: never fatal.
  What is, and isn't served here, is answered so: its sender may have mistaken the port.
- Calls to other servers go through one DEALER per peer, made anew after a timeout, so that nothing
  queued for a dead server is delivered later.
"""

import collections
import logging
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import zmq

from zdfs import addresses, limits, wire
from zdfs.calls import CallAll, Now, Peer, Sleep, Spawn, Trap, Wait
from zdfs.errors import BadMessage, Failure, StartError, StoreError, Unavailable, Unreachable
from zdfs.ids import Round, Session
from zdfs.listener import Listener
from zdfs.pending import Pending, Timers
from zdfs.ports import Caller, Room, RoundStore
from zdfs.records import BadRecord

log = logging.getLogger("zdfs.broker")

BUDGET = 256  # messages taken in before the round is ended
BUDGET_BYTES = 2 * limits.MESSAGE_BYTES  # likewise: they all stand in memory until then
LOG_EVERY_S = 10.0  # bad messages are logged so often
GRACE_S = 2.0  # a parked request outlives its sender's patience by so much
MEMORY_BYTES = 256 * limits.MIB  # anonymous memory beyond which somebody is hoarding below us
WATCH_S = 0.25  # memory is looked at so often

Key = tuple[bytes, int, int]


class Task:
    """A coroutine being driven for a room; `caller` is None for background tasks."""

    __slots__ = ("coroutine", "caller", "message", "deadline", "name", "turn", "room", "closed")

    def __init__(
        self, coroutine: Coroutine[Trap, Any, Any], caller: Caller | None, name: str, room: Room
    ):
        self.coroutine, self.caller, self.name, self.room = coroutine, caller, name, room
        self.message: wire.Message | None = None
        self.deadline = float("inf")
        self.turn = 0  # counts resumptions: a timer of an earlier park is void
        self.closed = False  # without an answer; it may still stand among the ready ones


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


class Waiting(NamedTuple):
    """A reply that waits for its round."""

    needed: int
    synced: bool
    change: bool
    deadline: float  # its sender gave up
    address: bytes
    frames: list[Any]


class Call(NamedTuple):
    """One call of a CallAll, and the socket that it went out on."""

    calls: Calls
    place: int
    peer: Peer
    request: wire.Request[Any]
    dealer: zmq.Socket[bytes]


def _key(caller: Caller) -> Key:
    """What tells requests underway apart.  A slot has one; other numbers are the sender's own."""
    head = caller.head
    if head.slot != wire.NO_SLOT:
        return b"", head.session, head.slot
    return caller.address, head.session, head.sequence


class Broker:
    """Serves one room on one address."""

    def __init__(self, address: str, context: zmq.Context[Any] | None = None):
        """Takes the port; StartError when it can't be had.  The store comes with `serve`, so that
        none is touched in vain."""
        self.address = address
        self.context = context or zmq.Context()
        self.store: RoundStore
        self.room: Room | None = None
        self.poller = zmq.Poller()
        self.listener = Listener(address, self.context, self.poller)
        self.dealers: dict[Peer, zmq.Socket[bytes]] = {}
        self.calls: Pending[Call] = Pending()
        self.timers = Timers()
        self.ready: collections.deque[tuple[Task, Any, Failure | None]] = collections.deque()
        self.running: dict[Key, Task] = {}
        self.waiting: list[Waiting] = []
        self.stopping = os.eventfd(0, os.EFD_NONBLOCK)
        self.poller.register(self.stopping, zmq.POLLIN)
        self.stopped = False
        self._logged = -LOG_EVERY_S

    # --- life ----------------------------------------------------------------------------------

    def stop(self) -> None:
        """End `serve` soon; may be called from a signal handler."""
        os.eventfd_write(self.stopping, 1)

    def serve(self, room: Room, store: RoundStore) -> None:
        """Until stopped, or the room has ended.  Raises StoreError when the store failed,
        StartError when refused."""
        if self.room is None:
            self.timers.at(time.monotonic(), self._watch_memory)
            if (number := store.fileno()) is not None:
                self.poller.register(number, zmq.POLLIN)
        for task in list(self.running.values()):
            self._close(task)
        self.waiting.clear()
        self.room, self.store = room, store
        for name, coroutine in room.tasks():
            self.ready.append((Task(coroutine, None, name, room), None, None))
        while not self.stopped and not room.ended:
            self.turn(self._patience())

    def close(self) -> None:
        """Close the sockets; parked handlers end without an answer."""
        for task in list(self.running.values()):
            task.coroutine.close()
        self.listener.close()
        for dealer in self.dealers.values():
            dealer.close(0)
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
        if self.listener.router in events:
            self._drain_router()
        for _ in range(self.listener.strangers(BUDGET) if self.listener.monitor in events else 0):
            self._bad("a connection that does not speak ZeroMQ")
        for peer, dealer in list(self.dealers.items()):
            if dealer in events:
                self._drain_dealer(peer, dealer)
        for act in self.timers.due(time.monotonic()):
            act()
        self._run_ready()
        if self.store.dirty:
            if self.store.prepare():  # who sends it must be first; nothing else is ready now
                self._run_ready()
            self.store.end_round()
        if self.store.fileno() in events:
            self.store.woken()
        self._send_replies()

    def _run_ready(self) -> None:
        while self.ready:
            task, value, error = self.ready.popleft()
            if task.closed:
                continue
            if task.room is self.room:
                self._step(task, value, error)
            else:  # of a room that has ended
                task.coroutine.close()

    # --- requests ------------------------------------------------------------------------------

    def _drain_router(self) -> None:
        taken = 0
        for _ in range(BUDGET):
            if taken > BUDGET_BYTES or self.store.large:
                return
            try:
                address, *frames = self.listener.router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            except zmq.ZMQError as error:
                log.warning("receiving on %s failed: %s", self.address, error)
                return
            taken += sum(map(len, frames))
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
        patience = min(head.remaining_ms / 1000, limits.PATIENCE_S)
        deadline = time.monotonic() + patience + GRACE_S
        parked = self.running.get(_key(caller))
        if parked is not None and parked.caller and parked.caller.head.sequence == head.sequence:
            parked.caller, parked.deadline = caller, deadline
            return
        try:
            handler = self.room.handlers.get(type(message))
            if handler is None:
                name = type(message).__name__
                raise BadMessage(f"{name} is not served here: is {self.address} the right port?")
            if len(self.running) >= limits.PARKED:
                raise Unavailable("too many requests are waiting here")
            kept = self.room.admit(head, message) if head.slot != wire.NO_SLOT else None
        except Failure as error:
            if isinstance(error, BadMessage):
                self._bad(error.text)
            self._reply(caller, message, wire.Failed.of(error))
            return
        if kept is not None:
            self._reply(caller, message, kept)
            return
        if parked is not None:  # its sender has gone on to the next change
            self._close(parked)
        task = Task(handler(message, caller), caller, type(message).__name__, self.room)
        task.message, task.deadline = message, deadline
        self.running[_key(caller)] = task
        self._step(task, None, None)

    def _close(self, task: Task) -> None:
        """End a parked request without an answer.  It has changed nothing: traps come first."""
        assert task.caller is not None
        del self.running[_key(task.caller)]
        task.message, task.closed = None, True
        task.turn += 1
        task.coroutine.close()

    def _finish(self, task: Task, reply: wire.Reply) -> None:
        caller = task.caller
        if caller is None:
            return
        assert self.room is not None and task.message is not None
        self.running.pop(_key(caller), None)
        asked, task.message = task.message, None  # a timer may hold the task for a while
        try:
            if caller.head.slot != wire.NO_SLOT:
                self.room.keep(caller.head, reply)
            self._reply(caller, asked, reply)
        except BadRecord as error:
            log.error("the reply to %s can't be said: %s", task.name, error)
            reply = wire.Failed.of(Failure("the server's reply can't be said: see its log"))
            self._reply(caller, asked, reply)
        except Failure as error:  # the change without its reply: neither may be committed
            raise StoreError(f"the reply to {task.name} can't be kept: {error}") from error

    def _reply(self, caller: Caller, asked: wire.Message, reply: wire.Reply) -> None:
        assert self.room is not None
        head = caller.head
        reply_head = wire.ReplyHead(
            *head[:3], asked.operation, self.room.incarnation, self.store.synced
        )
        # An unsynced round may hold what this reply reports, also when another request made it.
        synced = reply.durability is wire.Durability.SYNCED
        needed = Round(max(0, self.store.round - (not self.store.dirty)))
        if synced:
            self.store.promise(needed)
        until = time.monotonic() + min(head.remaining_ms / 1000, limits.PATIENCE_S) + GRACE_S
        change, frames = head.slot != wire.NO_SLOT, wire.encode_reply(reply_head, reply)
        self.waiting.append(Waiting(needed, synced, change, until, caller.address, frames))

    def _send_replies(self) -> None:
        assert self.room is not None
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            if one.needed <= self.store.safe(one.synced, one.change):
                self._send(one.address, one.frames)
            elif one.deadline > time.monotonic():
                self.waiting.append(one)
        synced = self.store.synced
        pushes, self.room.pushes[:] = list(self.room.pushes), []
        for address, session, push in pushes:
            head = wire.ReplyHead(session, wire.NO_SLOT, 0, 0, self.room.incarnation, synced)
            self._send(address, wire.encode_reply(head, push))

    def _send(self, address: bytes, frames: list[Any]) -> None:
        assert self.room is not None
        try:
            self.listener.router.send_multipart(
                [address, *frames], zmq.NOBLOCK, copy=len(frames) == 1
            )
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
                self.ready.append((Task(trap.coroutine, None, trap.name, task.room), None, None))
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
            self._wait(trap, resume)
        else:
            assert isinstance(trap, CallAll), trap
            self._call(Calls(resume, len(trap.asks)), trap)
        if task.caller is not None:
            self._expire(task)

    def _wait(self, trap: Wait, resume: Callable[[Any], None]) -> None:
        def wake() -> None:
            resume(True)

        def tire() -> None:  # nobody may ever notify: don't leave a waiter behind each time
            if wake in trap.condition.waiters:
                trap.condition.waiters.remove(wake)
            resume(False)

        trap.condition.waiters.append(wake)
        if trap.seconds is not None:
            self.timers.at(time.monotonic() + trap.seconds, tire)

    def _expire(self, task: Task) -> None:
        """Close a parked request when its sender gave up."""

        def check() -> None:
            if task.caller is None or self.running.get(_key(task.caller)) is not task:
                return
            if task.deadline > time.monotonic():
                self.timers.at(task.deadline, check)
            else:
                self._close(task)

        if task.turn <= 1:  # once per task
            self.timers.at(task.deadline, check)

    # --- calls to other servers ----------------------------------------------------------------

    def _call(self, calls: Calls, trap: CallAll) -> None:
        assert self.room is not None
        if not trap.asks:
            calls.resume([])
        for place, ask in enumerate(trap.asks):
            try:
                dealer = self._dealer(ask.peer)
            except zmq.ZMQError as error:
                calls.answer(place, Unreachable(f"can't connect to {ask.peer}: {error}"))
                continue
            number = self.calls.add(Call(calls, place, ask.peer, ask.request, dealer))
            head = wire.RequestHead(
                Session(0), wire.NO_SLOT, number, int(ask.timeout_s * 1000), self.room.incarnation
            )
            frames = wire.encode_request(head, ask.request)
            try:
                dealer.send_multipart(frames, zmq.NOBLOCK, copy=len(frames) == 1)
            except zmq.ZMQError as error:
                self._answer(number, Unreachable(f"can't send to {ask.peer}: {error}"))
                continue
            self.timers.at(time.monotonic() + ask.timeout_s, self._expired(number, ask.peer))

    def _dealer(self, peer: Peer) -> zmq.Socket[bytes]:
        dealer = self.dealers.get(peer)
        if dealer is None:
            dealer = self.context.socket(zmq.DEALER)
            dealer.setsockopt(zmq.LINGER, 0)
            dealer.setsockopt(zmq.MAXMSGSIZE, max(limits.FRAME_BYTES, limits.HEAD_BYTES))
            dealer.setsockopt(zmq.SNDHWM, limits.PEERS_QUEUED)
            try:
                dealer.connect(addresses.tcp(peer))
            except zmq.ZMQError:
                dealer.close(0)
                raise
            self.dealers[peer] = dealer
            self.poller.register(dealer, zmq.POLLIN)
        return dealer

    def _expired(self, number: int, peer: Peer) -> Callable[[], None]:
        def act() -> None:
            found = self.calls.peek(number)
            if found is None:
                return
            what = type(found.request).__name__
            self._answer(number, Unreachable(f"{peer} did not answer {what} in time"))
            if self.dealers.get(peer) is found.dealer:  # nothing that it queued may arrive later
                del self.dealers[peer]
                self.poller.unregister(found.dealer)
                found.dealer.close(0)

        return act

    def _answer(self, number: int, answer: wire.Reply | Failure) -> None:
        found = self.calls.take(number)
        if found is not None:
            found.calls.answer(found.place, answer)

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
            if found is None or found.peer != peer or found.request.operation != head.answers:
                self.room.counts["late replies"] += 1
                continue
            self._answer(head.sequence, wire.judged(found.request, reply))

    # --- hoarders ------------------------------------------------------------------------------

    def _watch_memory(self) -> None:
        assert self.room is not None
        if self.listener.relieve(MEMORY_BYTES):
            self.room.counts["connections dropped"] += 1
        self.timers.at(time.monotonic() + WATCH_S, self._watch_memory)
