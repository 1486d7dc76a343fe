"""The traps: how logic asks for something to be done.

Core code is plain `async def` whose only awaits are these.  A trap yields itself to whoever drives
the coroutine and is resumed with the answer.  Three drivers exist: `broker` (servers: parks the
coroutine until the answer comes), `link` (clients: does it in the calling thread) and the
simulated world of the tests.  No trap ever stands inside a write transaction.

    reply   = await call(peer, request)           raises the peer's Failure, or Unreachable
    replies = await call_all([(peer, request)])   one reply or Failure each, in order
    await sleep(seconds)                          may raise Interrupted in a client
    seconds = await now()                         monotonic
    ns      = await clock()                       wall clock, ns since 1970
    await spawn(coroutine, name)                  runs beside; its failure is logged
    woken   = await wait(condition, seconds)      until notify(condition); False after the time
    notify(condition)                             no trap: may be called anywhere in core code
"""

from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NewType

from zdfs import limits
from zdfs.errors import Failure

if TYPE_CHECKING:
    from zdfs.wire import Message, Request

Peer = NewType("Peer", str)  # an address: "127.0.0.1:3333"
Outcome = "Message | Failure"


class Trap:
    """What a coroutine yields to its driver."""

    __slots__ = ()

    def __await__(self) -> Generator["Trap", Any, Any]:
        return (yield self)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for one peer.  `slot`: the exactly-once slot and sequence, on M's changes."""

    peer: Peer
    request: "Request[Any]"
    timeout_s: float = limits.TIMEOUT_S
    slot: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class CallAll(Trap):
    """Answered with a list: a reply message or a Failure for each ask, in order."""

    asks: Sequence[Ask]


@dataclass(frozen=True, slots=True)
class Sleep(Trap):
    """Answered with None after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Now(Trap):
    """Answered with monotonic seconds, or wall-clock nanoseconds."""

    wall: bool = False


@dataclass(frozen=True, slots=True)
class Spawn(Trap):
    """Answered with None; the coroutine runs beside its maker."""

    coroutine: Coroutine[Trap, Any, None]
    name: str


@dataclass(eq=False, slots=True)
class Condition:
    """Something to wait for.  Drivers hang their waiters here; core code only calls `notify`."""

    waiters: list[Callable[[], None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Wait(Trap):
    """Answered with True when notified, False when the time ran out."""

    condition: Condition
    seconds: float | None


async def call_all(asks: Sequence[Ask]) -> "list[Message | Failure]":
    """Ask several peers at once; wait for each answer or its timeout."""
    answers: "list[Message | Failure]" = await CallAll(asks)
    return answers


async def call(
    peer: Peer,
    request: "Request[Any]",
    timeout_s: float = limits.TIMEOUT_S,
    slot: tuple[int, int] | None = None,
) -> Any:
    """Ask one peer; raises the Failure that it answered, or Unreachable."""
    (answer,) = await CallAll([Ask(peer, request, timeout_s, slot)])
    if isinstance(answer, Failure):
        raise answer
    return answer


async def sleep(seconds: float) -> None:
    """Let time pass."""
    await Sleep(seconds)


async def now() -> float:
    """Monotonic seconds."""
    seconds: float = await Now()
    return seconds


async def clock() -> int:
    """Wall-clock nanoseconds since 1970."""
    ns: int = await Now(wall=True)
    return ns


async def spawn(coroutine: Coroutine[Trap, Any, None], name: str) -> None:
    """Run a coroutine beside this one."""
    await Spawn(coroutine, name)


async def wait(condition: Condition, seconds: float | None = None) -> bool:
    """Until `condition` is notified; False when `seconds` ran out first."""
    woken: bool = await Wait(condition, seconds)
    return woken


def notify(condition: Condition) -> None:
    """Wake everything that waits for `condition`."""
    waiters, condition.waiters = condition.waiters, []
    for wake in waiters:
        wake()
