"""How a dataserver heals what is asked of it.

- A reader with an old map asked for a version that was dropped: two servers sent one another to
  repair it, for ever, with an event each time.
- A Put that was repeated over a damaged record was acknowledged, although nothing good was stored.
- While a neighbour was silent, a rebuild declared the blocks lost that only it could give, and the
  server said it was whole.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from tests.world.stores import MemoryBlockStore
from zdfs import blockmap, checksum, wire
from zdfs.blockmap import MapEntry
from zdfs.calls import CallAll, Now, Peer, Sleep, Trap, Wait
from zdfs.data import Data
from zdfs.errors import Unreachable
from zdfs.ids import BlockNo, Epoch, Incarnation, Ino, Name, PageNo, Session, Slot, Token, Version
from zdfs.ports import Caller
from zdfs.wire import Held, State

RING = ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
META = Peer("127.0.0.1:9")
NAME = Name(Ino(7), BlockNo(0), Version(Token(9), 1))
BYTES = b"what it holds"
SEAL = checksum.seal(NAME, BYTES)
WANT = wire.Wanted(NAME, SEAL, Epoch(1), Slot(0), len(BYTES))
CALLER = Caller(b"peer", wire.RequestHead(Session(0), wire.NO_SLOT, 1, 1000, Incarnation(0)))
Answer = Callable[[Peer, Any], Any]


def dataserver() -> Data:
    """That serves, and whose cluster is known."""
    made = Data(MemoryBlockStore(Slot(0)), Slot(0), RING, META)
    claim = wire.Claim(Incarnation(3), Incarnation(2), made.store.round)
    made.told(
        wire.Instructions(
            b"c" * 16, Epoch(1), RING, 65536, 0, claim, True, False, 0, 0, ""
        )  # fmt: skip
    )
    return made


def drive(task: Coroutine[Trap, Any, Any], answer: Answer, steps: int = 60) -> None:
    """So many traps of a task; `answer` says what peers reply."""
    value: Any = None
    for _ in range(steps):
        try:
            trap = task.send(value)
        except StopIteration:
            return
        value = None
        if isinstance(trap, CallAll):
            value = [answer(ask.peer, ask.request) for ask in trap.asks]
        else:
            assert isinstance(trap, Now | Sleep | Wait)
            value = 1 if isinstance(trap, Now) else None


def test_nobody_repairs_what_no_file_names() -> None:
    data = dataserver()
    asked = []

    def answer(peer: Peer, request: Any) -> Any:
        asked.append(type(request))
        return wire.Judgement(b"\0", 0)

    data.healer.mend(WANT, Held.MISSING)
    drive(data.healer.repair(), answer)
    assert asked == [wire.Judge] and not data.healer.events


def test_neighbours_are_not_sent_to_repair() -> None:
    data = dataserver()
    gets = []

    def answer(peer: Peer, request: Any) -> Any:
        if isinstance(request, wire.Judge):
            return wire.Judgement(b"\1", 0)
        gets.append(type(request))
        return wire.Fetched((Held.MISSING,), False, (b"",))

    data.healer.mend(WANT, Held.MISSING)
    drive(data.healer.repair(), answer)
    assert gets == [wire.Fetch] * 2, "a Get might ask for a repair"


def test_a_put_over_a_damaged_record_is_stored() -> None:
    data = dataserver()
    block = wire.Put1(NAME, SEAL, Epoch(1), Slot(0), len(BYTES))
    for _ in range(2):
        put = data.put(wire.Put(b"c" * 16, (block,), b"", (BYTES,)), CALLER)
        drive(put, lambda peer, request: None)
        assert data.healer.held(WANT) == (Held.OK, BYTES)
        data.store.harm(NAME, wire.Harm.FLIP, 1)
        assert data.healer.held(WANT)[0] is Held.DAMAGED


def rebuilt(neighbour: Answer) -> Data:
    """A server that looks for its only block, after some time."""
    data = dataserver()
    entry = MapEntry(NAME.version, len(BYTES), len(BYTES), SEAL)
    page = wire.InventoryPage(Ino(7), Epoch(1), Slot(0), PageNo(0), blockmap.pack_page([entry]))

    def answer(peer: Peer, request: Any) -> Any:
        if isinstance(request, wire.Inventory):
            return wire.Stock((page,), True, Ino(7), 0)
        if isinstance(request, wire.Judge):
            return wire.Judgement(b"\1" * len(request.names), 0)
        return neighbour(peer, request)

    data.healer.reconcile_wanted = 1
    drive(data.healer.reconcile(), answer)
    return data


def test_what_a_silent_neighbour_may_have_is_not_lost() -> None:
    def silent(peer: Peer, request: Any) -> Any:
        return (
            Unreachable("no") if peer == RING[1] else wire.Fetched((Held.MISSING,), False, (b"",))
        )

    data = rebuilt(silent)
    assert data.healer.state is State.RECOVERING
    assert [event.kind for event in data.healer.events] == ["rebuild"]
    assert data.healer.progress is not None
    assert (data.healer.progress.done, data.healer.progress.total) == (0, 1)


def test_what_both_neighbours_deny_is_lost() -> None:
    data = rebuilt(lambda peer, request: wire.Fetched((Held.NOT_YET,), False, (b"",)))
    assert data.healer.state is State.SERVING
    assert [event.kind for event in data.healer.events] == ["rebuild", "lost"]


def test_what_one_neighbour_has_comes_back() -> None:
    def one(peer: Peer, request: Any) -> Any:
        return wire.Fetched((Held.OK,), False, (BYTES,)) if peer == RING[2] else Unreachable("no")

    data = rebuilt(one)
    assert data.healer.state is State.SERVING and data.healer.held(WANT) == (Held.OK, BYTES)
    assert [event.kind for event in data.healer.events] == ["rebuild", "rebuilt"]
