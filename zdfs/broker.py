"""The ROUTER endpoint that both servers run on.

    frames in -> decode -> admit -> handler (a coroutine) -> reply -> round synced -> frames out

One thread.  Each turn of the loop drains what has arrived, drives the handlers until each is parked
or done, ends the store's round (one commit for all of them) and sends the replies whose round is
synced.  It knows no operation by name: the *room* (metaserver or dataserver) brings the handlers.

Rules:
- A reply leaves only when the round it reports on is as safe as it must be (`RoundStore.safe`).
  A failed store sends nothing and stops the node (StoreError).
- Who can't be answered because he is gone isn't worked for: the rest of what he asked is left.
- A request that is still parked when it comes again keeps its one handler and answers the newest
  sender.  A parked request whose sender gave up is closed: its remaining time ran out, or the next
  change came in its slot.
- What isn't our protocol is counted, logged once in a while, refused or dropped: never fatal.
  What is, and isn't served here, is answered so: its sender may have mistaken the port.  So is a
  version or an operation that we don't know: one end is to be upgraded.
"""

import collections
import logging
import os
import time
from collections.abc import Callable
from errno import EACCES
from pathlib import Path
from typing import Any

import zmq

from zdfs import addresses, limits, wire
from zdfs.calls import CallAll, Now, Sleep, Spawn, Trap, Wait
from zdfs.errors import BadMessage, Failure, Posix, Refused, StartError, StoreError
from zdfs.errors import Unavailable
from zdfs.ids import Round
from zdfs.listener import Listener
from zdfs.measures import queues
from zdfs.outgoing import Outgoing
from zdfs.pending import Timers
from zdfs.ports import Caller, Room, RoundStore
from zdfs.records import BadRecord
from zdfs.underway import Calls, Key, Task, Waiting, key_of

log = logging.getLogger("zdfs.broker")

BUDGET = 256  # messages taken in before the round is ended
BUDGET_BYTES = 2 * limits.MESSAGE_BYTES  # likewise: they all stand in memory until then
BUDGET_S = 0.05  # likewise: who is answered waits for the whole round
LOG_EVERY_S = 10.0  # bad messages are logged so often
GRACE_S = 2.0  # a parked request outlives its sender's patience by so much
MEMORY_BYTES = 256 * limits.MIB  # anonymous memory beyond which somebody is hoarding below us
WATCH_S = 0.25  # memory is looked at so often


class Broker:
    """Serves one room on one address."""

    def __init__(self, address: str, keys: Path | None = None):
        """Takes the port; StartError when it can't be had.  The store comes with `serve`, so that
        none is touched in vain."""
        self.address = address
        self.context: zmq.Context[Any] = zmq.Context()
        self.store: RoundStore
        self.room: Room | None = None
        self.poller = zmq.Poller()
        self.listener = Listener(address, self.context, self.poller, keys)
        self.timers = Timers()
        self.outgoing = Outgoing(self.context, keys, self.poller, self.timers, self._bad)
        self.ready: collections.deque[tuple[Task, Any, Failure | None]] = collections.deque()
        self.running: dict[Key, Task] = {}
        self.waiting: list[Waiting] = []
        self.gone: set[bytes] = set()  # could not be answered: what they still ask is not done
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
        self.outgoing.room = room
        room.meter.sources["broker"] = lambda: queues(self.running, self.waiting, room.counts)
        for name, coroutine in room.tasks():
            self.ready.append((Task(coroutine, None, name, room), None, None))
        while not self.stopped and not room.ended:
            self.turn(self._patience())

    def close(self) -> None:
        """Close the sockets; parked handlers end without an answer."""
        for task in [*self.running.values(), *(ready for ready, _, _ in self.ready)]:
            task.coroutine.close()
        self.listener.close()
        self.outgoing.close()
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
        for text in self.listener.strangers(BUDGET) if self.listener.monitor in events else ():
            self._bad(text)
        for peer, dealer in list(self.outgoing.dealers.items()):
            if dealer in events:
                self.outgoing.drain(peer, dealer)
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
            if task.room is not self.room:  # it has ended
                task.coroutine.close()
            elif task.caller and not self.listener.stands(task.caller.key):
                task.coroutine.close()
                changed = Unavailable("the rights of its key were changed while this waited")
                self._finish(task, wire.Failed.of(changed))  # asked again, it is judged anew
            else:
                self._step(task, value, error)

    # --- requests ------------------------------------------------------------------------------

    def _drain_router(self) -> None:
        assert self.room is not None
        taken, end = 0, time.monotonic() + BUDGET_S
        for number in range(BUDGET):
            if taken > BUDGET_BYTES or self.store.large or (number and time.monotonic() > end):
                return
            try:
                address, *frames = self.listener.router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            except zmq.ZMQError as error:
                log.warning("receiving on %s failed: %s", self.address, error)
                return
            size = sum(map(len, frames))
            taken += size
            self.room.meter.count("zdfs_received_bytes_total", size)
            if self.gone and address.bytes in self.gone:
                self.room.counts["unsent (not even begun)"] += 1
                continue
            try:
                self._request(address, frames)
            except wire.Misfit as error:
                self._bad(error.text + self.listener.whose(address))
                self._refuse(address, error)
            except BadMessage as error:
                self._bad(error.text + self.listener.whose(address))

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

    def _welcome(self, caller: Caller, message: wire.Message, address: zmq.Frame) -> bool:
        """Where there are keys: whether its holder may ask for this; else it is told so."""
        assert self.room is not None
        try:
            if caller.key is None:
                raise Refused("the key was revoked")
            self.room.welcome(caller, message)
        except Failure as error:
            if isinstance(error, (Refused, Posix)) and error.number == EACCES:
                self._bad(error.text + self.listener.whose(address))
            self._reply(caller, message, wire.Failed.of(error))
            return False
        return True

    def _refuse(self, address: zmq.Frame, misfit: wire.Misfit) -> None:
        """One of both ends is to be upgraded: say which."""
        assert self.room is not None
        head = wire.ReplyHead(
            *misfit.head[:3], misfit.operation, self.room.incarnation, self.store.synced,
            misfit.head.protocol,
        )  # fmt: skip
        refusal = misfit.refusal(addresses.short(self.address))
        self._send(address.bytes, wire.encode_reply(head, refusal))

    def _request(self, address: zmq.Frame, frames: list[zmq.Frame]) -> None:
        assert self.room is not None
        parts = [frames[0].bytes, *[frame.buffer for frame in frames[1:]]] if frames else []
        head, message = wire.decode_request(parts)
        caller = Caller(address.bytes, head, self.listener.holder(address), time.monotonic())
        if self.listener.gate is not None and not self._welcome(caller, message, address):
            return
        patience = min(head.remaining_ms / 1000, limits.PATIENCE_S)
        deadline = caller.at + patience + GRACE_S
        parked = self.running.get(key_of(caller))
        if parked is not None and parked.caller and parked.caller.head.sequence == head.sequence:
            parked.caller, parked.deadline = caller._replace(at=parked.caller.at), deadline
            self.room.meter.count("zdfs_request_repeats_total")
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
                self._bad(error.text + self.listener.whose(address))
            self._reply(caller, message, wire.Failed.of(error))
            return
        if kept is not None:
            self.room.meter.count("zdfs_request_repeats_total")
            self._reply(caller, message, kept)
            return
        if parked is not None:  # its sender has gone on to the next change
            self._close(parked)
        task = Task(handler(message, caller), caller, type(message).__name__, self.room)
        task.message, task.deadline = message, deadline
        self.running[key_of(caller)] = task
        self._step(task, None, None)

    def _close(self, task: Task) -> None:
        """End a parked request without an answer.  It has changed nothing: traps come first."""
        assert task.caller is not None
        del self.running[key_of(task.caller)]
        task.message, task.closed = None, True
        task.turn += 1
        task.coroutine.close()

    def _finish(self, task: Task, reply: wire.Reply) -> None:
        caller = task.caller
        if caller is None:
            return
        assert self.room is not None and task.message is not None
        self.running.pop(key_of(caller), None)
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
            *head[:3], asked.operation, self.room.incarnation, self.store.synced, head.protocol
        )
        # An unsynced round may hold what this reply reports, also when another request made it.
        synced = reply.durability is wire.Durability.SYNCED
        needed = Round(max(0, self.store.round - (not self.store.dirty)))
        if synced:
            self.store.promise(needed)
        made = time.monotonic()
        until = made + min(head.remaining_ms / 1000, limits.PATIENCE_S) + GRACE_S
        change, frames = head.slot != wire.NO_SLOT, wire.encode_reply(reply_head, reply)
        self.room.meter.failed(type(asked), reply)
        self.waiting.append(
            Waiting(needed, synced, change, until, caller, type(asked), made, frames)
        )

    def _send_replies(self) -> None:
        assert self.room is not None
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            if one.needed <= self.store.safe(one.synced, one.change):
                self._send(one.caller.address, one.frames)
                left = time.monotonic()
                self.room.meter.replied(one.asked, left - one.caller.at, left - one.made)
            elif one.deadline > time.monotonic():
                self.waiting.append(one)
        synced = self.store.synced
        pushes, self.room.pushes[:] = list(self.room.pushes), []
        for address, session, push, version in pushes:
            if push.since <= version:  # else it would not know what that is
                numbers = wire.NO_SLOT, 0, 0, self.room.incarnation, synced, version
                self._send(address, wire.encode_reply(wire.ReplyHead(session, *numbers), push))

    def _send(self, address: bytes, frames: list[Any]) -> None:
        assert self.room is not None
        self.room.meter.count("zdfs_sent_bytes_total", sum(map(len, frames)))
        try:
            self.listener.router.send_multipart(
                [address, *frames], zmq.NOBLOCK, copy=len(frames) == 1
            )
        except zmq.ZMQError as error:  # gone, or its pipe is full: it will ask again
            if error.errno == zmq.EHOSTUNREACH:  # by another connection, under another address
                self.gone.add(address)
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
            self.outgoing.call(Calls(resume, len(trap.asks)), trap)
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
            if task.caller is None or self.running.get(key_of(task.caller)) is not task:
                return
            if task.deadline > time.monotonic():
                self.timers.at(task.deadline, check)
            else:
                self._close(task)

        if task.turn <= 1:  # once per task
            self.timers.at(task.deadline, check)

    # --- hoarders ------------------------------------------------------------------------------

    def _watch_memory(self) -> None:
        assert self.room is not None
        if self.listener.relieve(MEMORY_BYTES):
            self.room.counts["connections dropped"] += 1
        self.gone.clear()  # there is no end of them; whose messages still come is soon known again
        self.timers.at(time.monotonic() + WATCH_S, self._watch_memory)
