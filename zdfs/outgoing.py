"""A server's calls to other servers: one DEALER per peer, made anew after a timeout, so that
nothing queued for a dead server is delivered later.

A peer is asked first which versions it speaks (`parley`); what is to be said to it waits for that.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from zdfs import addresses, limits, wire
from zdfs.calls import CallAll, Peer
from zdfs.dialing import Dialer
from zdfs.errors import BadMessage, Failure, Outdated, Refused, Unreachable
from zdfs.ids import Session
from zdfs.parley import Parley
from zdfs.pending import Pending, Timers
from zdfs.ports import Room
from zdfs.underway import Call, Calls

BUDGET = 256  # replies taken in at once


class Outgoing:
    """All calls of one broker."""

    def __init__(
        self, context: zmq.Context[Any], keys: Path | None, poller: zmq.Poller, timers: Timers,
        bad: Callable[[str], None],
    ):  # fmt: skip
        """`bad`: told of what is no message of ours."""
        self.poller, self.timers, self.bad = poller, timers, bad
        self.room: Room | None = None  # for whom: the broker says
        self.dialer = Dialer(context, keys)
        self.dealers: dict[Peer, zmq.Socket[bytes]] = {}
        self.generation = 0  # of the dialer: of the oldest of them
        self.calls: Pending[Call[zmq.Socket[bytes]]] = Pending()
        self.parley = Parley()
        self.greeted: dict[Peer, list[int]] = {}  # calls that wait until we know who that is

    def close(self) -> None:
        """Close the sockets."""
        for dealer in self.dealers.values():
            dealer.close(0)
        self.dialer.close()

    def call(self, calls: Calls, trap: CallAll) -> None:
        """Ask all of these; a task is resumed with their answers."""
        if not trap.asks:
            calls.resume([])
        for place, ask in enumerate(trap.asks):
            try:
                dealer = self._dealer(ask.peer)
            except zmq.ZMQError as error:
                calls.answer(place, Unreachable(f"can't connect to {ask.peer}: {error}"))
                continue
            at = time.monotonic()
            call = Call(calls, place, ask.peer, ask.request, dealer, at, at + ask.timeout_s)
            number, version = self.calls.add(call), self.parley.version(ask.peer, at)
            self.timers.at(call.deadline, self._expired(number, ask.peer))
            if version is not None:
                self._say(number, version)
            elif ask.peer in self.greeted:
                self.greeted[ask.peer].append(number)
            else:
                self._greet(call, number)

    def _greet(self, first: Call[zmq.Socket[bytes]], waiting: int) -> None:
        """Who is that?  Then everything that waits for it is said."""
        peer, at = first.peer, time.monotonic()
        waiters = self.greeted[peer] = [waiting]

        def met(answers: Any) -> None:
            failure = self.parley.heard(peer, answers[0], time.monotonic())
            if self.greeted.get(peer) is waiters:
                del self.greeted[peer]
            for number in waiters:
                if failure is None:
                    self._say(number, self.parley.surely(peer))
                else:
                    self._answer(number, failure)

        until = min(first.deadline, at + limits.TIMEOUT_S)
        hello = Call(Calls(met, 1), 0, peer, wire.Identify(), first.dealer, at, until)
        number = self.calls.add(hello)
        self.timers.at(until, self._expired(number, peer))
        self._say(number, wire.PROTOCOL_MIN)

    def _say(self, number: int, version: int) -> None:
        """Send a request, unless it has expired."""
        assert self.room is not None
        call = self.calls.peek(number)
        if call is None or self.dealers.get(call.peer) is not call.dealer:
            self._answer(number, Unreachable("the connection was given up"))
            return
        left_ms = max(0, int((call.deadline - time.monotonic()) * 1000))
        numbers = wire.NO_SLOT, number, left_ms, self.room.incarnation, version
        try:
            frames = wire.encode_request(wire.RequestHead(Session(0), *numbers), call.request)
            call.dealer.send_multipart(frames, zmq.NOBLOCK, copy=len(frames) == 1)
        except Outdated as error:
            self._answer(number, Outdated(f"{addresses.short(call.peer)}: {error.text}"))
        except zmq.ZMQError as error:
            self._answer(number, Unreachable(f"can't send to {call.peer}: {error}"))
            self.dialer.doubt(call.peer)
            self._drop(call.peer, call.dealer)  # once refused, it never connects again

    def _dealer(self, peer: Peer) -> zmq.Socket[bytes]:
        if self.dialer.refresh() != self.generation:
            self._renew()
        dealer = self.dealers.get(peer)
        if dealer is None:
            dealer = self.dealers[peer] = self.dialer.dealer(peer)
            self.poller.register(dealer, zmq.POLLIN)
        return dealer

    def _drop(self, peer: Peer, dealer: zmq.Socket[bytes]) -> None:
        if self.dealers.get(peer) is dealer:  # nothing that it queued may arrive later
            del self.dealers[peer]
            self.greeted.pop(peer, None)
            self.poller.unregister(dealer)
            dealer.close(0)

    def _renew(self) -> None:
        """Our keys were changed: no dealer keeps an old one for longer than its calls."""
        busy = {call.dealer for call in self.calls.all()}
        for peer, dealer in list(self.dealers.items()):
            if dealer not in busy:
                self._drop(peer, dealer)
        self.generation = self.generation if self.dealers else self.dialer.generation

    def _expired(self, number: int, peer: Peer) -> Callable[[], None]:
        def act() -> None:
            found = self.calls.peek(number)
            if found is None:
                return
            self.parley.forget(peer)
            keys = self.dialer.verdict(peer)
            text = f"{peer} did not answer {type(found.request).__name__} in time"
            self._answer(number, Unreachable(keys.text if keys else text))
            self._drop(peer, found.dealer)

        return act

    def _answer(self, number: int, answer: wire.Reply | Failure) -> None:
        found = self.calls.take(number)
        if found is not None and self.room is not None:
            self.room.meter.called(type(found.request), time.monotonic() - found.sent, answer)
            found.calls.answer(found.place, answer)

    def drain(self, peer: Peer, dealer: zmq.Socket[bytes]) -> None:
        """Take in what a peer has answered."""
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
                self.bad(f"from {peer}: {error.text}")
                continue
            found = self.calls.peek(head.sequence)
            if found is None or found.peer != peer or found.request.operation != head.answers:
                self.room.counts["late replies"] += 1
                continue
            answer = wire.judged(found.request, reply)
            self._answer(head.sequence, answer)
            if isinstance(answer, Refused):  # the next socket may have a newer key
                self.dialer.heard(peer)
                return self._drop(peer, dealer)
