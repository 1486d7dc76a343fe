"""What `broker` remembers: handlers underway, the calls they wait for, replies that wait."""

from collections.abc import Callable, Coroutine
from typing import Any, Generic, NamedTuple, TypeVar

from zdfs import wire
from zdfs.calls import Peer, Trap
from zdfs.errors import Failure
from zdfs.ports import Caller, Room

Dealer = TypeVar("Dealer")  # a socket: whose, only the driver knows
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
    caller: Caller
    asked: type[wire.Message]
    made: float  # when the handler was done with it
    frames: list[Any]


class Call(NamedTuple, Generic[Dealer]):
    """One call of a CallAll, and the socket that it went out on."""

    calls: Calls
    place: int
    peer: Peer
    request: wire.Request[Any]
    dealer: Dealer
    sent: float
    deadline: float


def key_of(caller: Caller) -> Key:
    """What tells requests underway apart.  A slot has one; other numbers are the sender's own."""
    head = caller.head
    if head.slot != wire.NO_SLOT:
        return b"", head.session, head.slot
    return caller.address, head.session, head.sequence
