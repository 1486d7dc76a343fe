"""One request of a client underway, on a socket of its own for as long as that takes.

Whose version isn't known (`parley`) is asked who it is first, on the same socket.
"""

import time
from collections.abc import Iterator
from typing import Any, Protocol

import zmq

from zdfs import addresses, wire
from zdfs.calls import Ask, Peer
from zdfs.dialing import Dialer
from zdfs.errors import BadMessage, Failure, Outdated, Refused, Unreachable
from zdfs.ids import Incarnation, Session
from zdfs.pace import Paces
from zdfs.parley import Parley


class Asker(Protocol):
    """What it needs of the link."""

    session: Session
    incarnation: Incarnation
    late: int
    paces: Paces
    parley: Parley
    dialer: Dialer
    _sequences: Iterator[int]

    def _take(self, peer: Peer) -> tuple[zmq.Socket[bytes], int]: ...
    def _put_back(self, peer: Peer, socket: zmq.Socket[bytes], generation: int) -> None: ...


class Call:
    """One request underway on one socket."""

    __slots__ = (
        "link", "ask", "head", "hello", "deadline", "sent", "socket", "answer", "generation",
        "took_s", "unsent",
    )  # fmt: skip

    def __init__(self, link: Asker, ask: Ask):
        self.link, self.ask = link, ask
        self.deadline = time.monotonic() + ask.timeout_s
        slot, sequence = ask.slot or (wire.NO_SLOT, next(link._sequences))
        self.head = wire.RequestHead(
            link.session, slot, sequence, int(ask.timeout_s * 1000), link.incarnation
        )
        self.hello: wire.RequestHead | None = None  # of the question that goes before
        self.answer: wire.Reply | Failure | None = None
        self.sent = time.monotonic()
        self.took_s = 0.0
        self.unsent: tuple[wire.RequestHead, wire.Request[Any]] | None = None
        self.socket, self.generation = link._take(ask.peer)

    def send(self) -> None:
        """Send, or ask first who that is."""
        version = self.link.parley.version(self.ask.peer, self.sent)
        if version is None:
            self.hello = self.head._replace(
                slot=wire.NO_SLOT, sequence=next(self.link._sequences), protocol=wire.PROTOCOL_MIN
            )
            self._send(self.hello, wire.Identify())
        else:
            self._ask(version)

    def _ask(self, version: int) -> None:
        self.head, self.sent = self.head._replace(protocol=version), time.monotonic()
        self._send(self.head, self.ask.request)

    def _send(self, head: wire.RequestHead, request: wire.Request[Any]) -> None:
        """Big frames are not copied, so they must not change afterwards."""
        self.unsent = None
        try:
            frames = wire.encode_request(head, request)
            self.socket.send_multipart(frames, zmq.NOBLOCK, copy=len(frames) == 1)
        except Outdated as error:
            self.answer = Outdated(f"{addresses.short(self.ask.peer)}: {error.text}")
        except zmq.Again:  # its connection, which came to nothing, is just being made again
            self.unsent = (head, request)
        except zmq.ZMQError as error:
            self.answer = Unreachable(f"can't send to {self.ask.peer}: {error}")

    def send_again(self) -> None:
        """What could not be sent at once."""
        if self.unsent is not None:
            self._send(*self.unsent)

    def _met(self, head: wire.ReplyHead, reply: wire.Reply) -> bool:
        """Whether it was the answer to `hello`: the request itself follows."""
        hello, peer, parley = self.hello, self.ask.peer, self.link.parley
        if hello is None or (head.session, head.slot, head.sequence) != hello[:3]:
            return False
        self.hello, at = None, time.monotonic()
        self.answer = parley.heard(peer, wire.judged(wire.Identify(), reply), at)
        if self.answer is None:
            self._ask(parley.surely(peer))
        return True

    def receive(self) -> bool:
        """Take what arrived; False when it wasn't the answer."""
        try:
            frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            parts = [frames[0].bytes, *[frame.buffer for frame in frames[1:]]]
            head, reply = wire.decode_reply(parts)
        except zmq.Again:
            return False
        except BadMessage as error:
            self.answer = error
            return True
        if self._met(head, reply):
            return self.answer is not None
        mine = (head.session, head.slot, head.sequence) == self.head[:3]
        if not mine or head.answers != self.ask.request.operation:
            self.link.late += 1
            return False
        if head.incarnation > self.link.incarnation > 0:  # a metaserver that was started again
            self.link.parley.forget(self.ask.peer)
        self.link.incarnation = max(self.link.incarnation, head.incarnation)
        self.answer = wire.judged(self.ask.request, reply)
        at = time.monotonic()
        self.took_s = at - self.sent
        self.link.paces.answered(self.ask.peer, type(self.ask.request), self.took_s, at)
        return True

    def end(self) -> None:
        """Give the socket back, or close it with everything it still holds."""
        self.took_s = self.took_s or time.monotonic() - self.sent
        if isinstance(self.answer, Refused):
            self.link.dialer.heard(self.ask.peer)
        if self.answer is None or isinstance(self.answer, (Unreachable, BadMessage, Refused)):
            self.link.parley.forget(self.ask.peer)
            self.socket.close(0)
        else:
            self.link._put_back(self.ask.peer, self.socket, self.generation)
