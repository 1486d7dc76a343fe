"""Hypothesis strategies of what a stranger says: valid, nearly valid, replayed, by type."""

import random
from typing import Any

from hypothesis import strategies as st
from tests.fuzz import spoil
from tests.fuzz.siege import OURS, SERVERS, Asked, Siege, recorded
from tests.unit import strategies

from zdfs import limits, records, wire
from zdfs.checksum import Buffer
from zdfs.data import Data
from zdfs.ids import BlockNo, Epoch, Incarnation, Ino, Name, PageNo, Session, Slot, Token
from zdfs.wire.base import NO_SLOT, NameBytes, Uuid

Said = tuple[int, list[bytes]]  # to whom, 0: the metaserver, and what
REQUESTS = sorted(
    (kind for kind in wire.BY_OPERATION.values() if issubclass(kind, wire.Request)),
    key=lambda kind: kind.operation,
)
NAMES = (b"a", b"b", b"d", b"link", b"nothing")
SLOTS = (NO_SLOT, 0, 1, limits.SLOTS - 1, limits.SLOTS)


def _puts() -> list[wire.Put]:
    return [put for _, put in recorded()[1][wire.Put] if isinstance(put, wire.Put)]


def wanted() -> list[wire.Wanted]:
    """Blocks that are there."""
    return [wire.Wanted(*block) for put in _puts() for block in put.blocks]


def known(siege: Siege) -> strategies.Known:
    """What a stranger may know of a cluster that he has looked at."""
    blocks = wanted()
    tokens = sorted({one.name.version.token for one in blocks})
    tokens += [Token(tokens[-1] + more) for more in range(1, 9)]  # those that are granted next
    uuids = [server.uuid for server in siege.meta.ledger.servers.values()]
    return strategies.Known(
        {
            Ino: siege.inos,
            Slot: [Slot(number) for number in range(SERVERS + 1)],
            Epoch: [Epoch(1)],
            PageNo: [PageNo(0), PageNo(1)],
            BlockNo: [BlockNo(0), BlockNo(1)],
            Token: tokens,
            Name: [one.name for one in blocks],
            wire.Wanted: blocks,
            Incarnation: [siege.meta.incarnation],
            Session: [siege.session],
            NameBytes: NAMES,
            Uuid: [OURS, *uuids],
        }
    )


def by_hand(siege: Siege) -> list[Asked]:
    """Good requests of types that nobody sends on a busy day."""
    ino, blocks = siege.inos[2], wanted()[:3]
    names, room = tuple(one.name for one in blocks), siege.servers[1].room
    assert isinstance(room, Data)
    token, one = blocks[0].name.version.token, blocks[0]
    state = room.store.state
    ack = wire.Ack(Slot(0), state.uuid, state.life, room.store.boot, room.store.synced)
    promised = state.promised
    return [
        (0, wire.StopWaiting(1)),
        (0, wire.CloseSession()),
        (0, wire.Lookup(Ino(1), (b"d", b"b"))),
        (0, wire.GetAttributes(ino)),
        (0, wire.Rename(Ino(1), b"a", siege.inos[1], b"moved", 0)),
        (0, wire.Rename(Ino(1), b"d", siege.inos[1], b"loop", 0)),
        (0, wire.Grant(ino)),
        (0, wire.ReturnGrant(ino, token)),
        (0, wire.ReadMap(ino, PageNo(0), 2)),
        (0, wire.Settle(ack, names)),
        (0, wire.SumDirectory(Ino(1), b"")),
        (0, wire.FindOpen(Ino(1), Session(0), Ino(0))),
        (0, wire.GetMeasures((), "")),
        (1, wire.GetMeasures((), "")),
        (1, wire.Get(OURS, tuple(blocks), True)),
        (1, wire.Corrupt(one.name, wire.Harm.FLIP, 3)),
        (1, wire.Discard(OURS, names, False)),
        (1, wire.ReadCopy(OURS, b"", b"")),
        (1, wire.ReadRounds(OURS, room.mirror.applied.round if room.mirror else 0)),
        (1, wire.AppendPiece(OURS, promised, room.store.round, 0, 2, (b"half of a round",))),
    ]


def good(siege: Siege) -> dict[type, list[Asked]]:
    """Good requests of every type."""
    found = {kind: list(asked) for kind, asked in recorded()[1].items()}
    for target, request in by_hand(siege):
        found.setdefault(type(request), []).append((target, request))
    return found


def frames_of(frames: list[Buffer]) -> list[bytes]:
    """As a script has them: with the stand-in for the cluster's name."""
    return [bytes(one).replace(recorded()[3], OURS) for one in frames]


HERE = recorded()[0]
GOOD = good(HERE)
KNOWN = known(HERE)


@st.composite
def heads(draw: st.DrawFn) -> wire.RequestHead:
    """Whose request it says it is."""
    (ours,) = KNOWN[Session]
    return wire.RequestHead(
        draw(st.sampled_from([ours, ours, ours, Session(0), Session(9), Session(2**64 - 1)])),
        draw(st.sampled_from(SLOTS)),
        draw(st.integers(0, 50) | st.sampled_from([2**32, 2**64 - 1])),
        draw(st.sampled_from([0, 50, 2000, 2**32 - 1])),
        draw(st.sampled_from([*KNOWN[Incarnation], Incarnation(0), Incarnation(2**64 - 1)])),
    )


@st.composite
def saying(draw: st.DrawFn, kind: type[wire.Request[Any]]) -> Said:
    """A request of this type, right or nearly."""
    target, request = draw(st.sampled_from(GOOD[kind]))
    how = draw(st.sampled_from(["as it was", "drawn", "one field", "misfit", "spoilt", "spoilt"]))
    if how == "drawn":
        request = draw(strategies.record(kind, KNOWN))
    elif how == "one field":
        request = _one_field(draw, request)
    frames = frames_of(wire.encode_request(draw(heads()), request))
    if how == "misfit":
        *head, _ = records.loads(frames[0])
        frames[0] = records.dumps([*head, draw(strategies.nearly(kind))])
    elif how == "spoilt":
        frames = spoil.frames(random.Random(draw(st.integers(0, 2**32))), frames)
    elsewhere = draw(st.sampled_from([target] * 9 + [0, 1]))
    return elsewhere, frames


def _one_field(draw: st.DrawFn, request: wire.Request[Any]) -> wire.Request[Any]:
    """A good request, in which one field has another value that is allowed there."""
    kind = type(request)
    values = [getattr(request, name) for name, _ in strategies.fields_of(kind)]
    if values:
        place = draw(st.integers(0, len(values) - 1))
        values[place] = draw(strategies.field(strategies.fields_of(kind)[place][1], KNOWN))
    return kind(*values)
