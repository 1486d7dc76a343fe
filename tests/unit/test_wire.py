"""Messages: every one goes there and back, and only BadMessage ever escapes from the rest."""

import struct
from typing import Annotated as A
from typing import Any, NamedTuple

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit import strategies

from zdfs import errors, limits, records, wire
from zdfs.errors import BadMessage
from zdfs.ids import Incarnation, Ino, Round, Session

ALL = sorted(wire.BY_OPERATION.values(), key=lambda kind: kind.operation)
REQUESTS = [kind for kind in ALL if issubclass(kind, wire.Request)]
REPLIES = [kind for kind in ALL if issubclass(kind, wire.Reply)]
HEAD = wire.RequestHead(Session(7), 3, 12, 2000, Incarnation(4))
REPLY_HEAD = wire.ReplyHead(Session(7), 3, 12, 23, Incarnation(4), Round(99))
VALID = wire.encode_request(HEAD, wire.GetAttributes(Ino(5)))


def name(kind: type) -> str:
    return kind.__name__


def decode(frames: Any) -> None:
    """Both decoders, as a server and as a mount would; BadMessage is the only way out."""
    for decoder in (wire.decode_request, wire.decode_reply):
        try:
            decoder(frames)
        except BadMessage:
            continue


# --- the catalogue -----------------------------------------------------------------------------


def test_every_message_is_a_request_or_a_reply() -> None:
    assert len(REQUESTS) + len(REPLIES) == len(ALL)
    assert all(0 < operation < 2**16 for operation in wire.BY_OPERATION)


@pytest.mark.parametrize("kind", REQUESTS, ids=name)
def test_every_request_names_its_reply(kind: type[wire.Request[Any]]) -> None:
    assert kind.reply_type() in REPLIES


def test_an_operation_number_is_used_once() -> None:
    with pytest.raises(AssertionError, match="used twice"):

        @wire.message(wire.Done.operation)
        class Again(wire.Reply):
            """Another message under a number that is taken."""


@pytest.mark.parametrize("kind", ALL, ids=name)
@settings(max_examples=25)
@given(data=st.data())
def test_round_trip(kind: type[wire.Message], data: st.DataObject) -> None:
    value = data.draw(strategies.record(kind))
    if isinstance(value, wire.Request):
        head = data.draw(strategies.record(wire.RequestHead))._replace(protocol=wire.PROTOCOL)
        frames = [bytes(frame) for frame in wire.encode_request(head, value)]
        assert wire.decode_request(frames) == (head, value)
        with pytest.raises(BadMessage):
            wire.decode_reply(frames)
    else:
        answer = data.draw(strategies.record(wire.ReplyHead))._replace(protocol=wire.PROTOCOL)
        frames = [bytes(frame) for frame in wire.encode_reply(answer, value)]
        assert wire.decode_reply(frames) == (answer, value)
        with pytest.raises(BadMessage):
            wire.decode_request(frames)


def test_bulk_travels_as_it_is() -> None:
    block = bytearray(b"block")
    frames = wire.encode_reply(REPLY_HEAD, wire.Got((wire.Held.OK,), (block,)))
    assert frames[1] is block, "a copy that nobody needs"


@pytest.mark.parametrize("code", sorted(errors.BY_CODE))
def test_failures_cross_the_wire(code: int) -> None:
    met = errors.BY_CODE[code]("it happened", (1, 2))
    frames = wire.encode_reply(REPLY_HEAD, wire.Failed.of(met))
    _, reply = wire.decode_reply(frames)
    assert isinstance(reply, wire.Failed)
    back = reply.failure()
    assert type(back) is type(met) and back.number == met.number
    assert (back.text, back.details, back.definite) == ("it happened", (1, 2), met.definite)


def test_a_failure_of_a_newer_peer_keeps_its_errno() -> None:
    back = errors.revive(999, 28, "new", ())
    assert isinstance(back, errors.Posix) and back.number == 28 and back.definite


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=6000))
def test_a_failure_with_a_long_text_still_fits(text: str) -> None:
    wire.decode_reply(wire.encode_reply(REPLY_HEAD, wire.Failed.of(errors.Damaged(text))))


# --- what others send --------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_random_frames(frames: list[bytes]) -> None:
    decode(frames)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary()
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=30,
)  # fmt: skip


@given(PLAIN, st.lists(st.binary(max_size=9), max_size=3))
def test_msgpack_of_anything(plain: Any, bulk: list[bytes]) -> None:
    try:
        frame = msgpack.packb(plain)
    except (ValueError, OverflowError):
        return
    decode([frame, *bulk])


@given(st.sampled_from(ALL), st.lists(PLAIN, min_size=6, max_size=8), PLAIN)
def test_a_right_head_around_anything(kind: Any, rest: list[Any], body: Any) -> None:
    numbers = [one if type(one) is int else 1 for one in rest[:-1]]
    for length in (5, 6):
        head = [wire.PROTOCOL, kind.operation, *numbers[:length], body]
        decode([msgpack.packb(head)])


@pytest.mark.parametrize("kind", ALL, ids=name)
@settings(max_examples=40)
@given(data=st.data())
def test_a_mutated_message(kind: Any, data: st.DataObject) -> None:
    value = data.draw(strategies.record(kind))
    if isinstance(value, wire.Request):
        frames = [bytes(frame) for frame in wire.encode_request(HEAD, value)]
    else:
        frames = [bytes(frame) for frame in wire.encode_reply(REPLY_HEAD, value)]
    first = bytearray(frames[0])
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, len(first) - 1))
        first[where] = data.draw(st.integers(0, 255))
    decode([bytes(first), *frames[1:]])
    decode([frames[0][: data.draw(st.integers(0, len(frames[0])))], *frames[1:]])
    decode([frames[0], *frames[1:], b"one more"])


class RequestNumbers(NamedTuple):
    """What stands in a request's head between its operation and its fields."""

    session: Session
    slot: A[int, records.U16]
    sequence: A[int, records.U64]
    remaining_ms: A[int, records.U32]
    incarnation: Incarnation


class ReplyNumbers(NamedTuple):
    """Likewise in a reply's."""

    session: Session
    slot: A[int, records.U16]
    sequence: A[int, records.U64]
    answers: A[int, records.U16]
    incarnation: Incarnation
    round: Round


HEADS = {"request": strategies.nearly(RequestNumbers), "reply": strategies.nearly(ReplyNumbers)}


@pytest.mark.parametrize("kind", ALL, ids=name)
@settings(max_examples=10)
@given(data=st.data())
def test_nearly_a_message(kind: type[wire.Message], data: st.DataObject) -> None:
    """One field is out of bounds, of another type, missing or one too many: refused, all of it."""
    value = data.draw(strategies.record(kind))
    if isinstance(value, wire.Request):
        frames, decoder = wire.encode_request(HEAD, value), wire.decode_request
    else:
        frames, decoder = wire.encode_reply(REPLY_HEAD, value), wire.decode_reply  # type: ignore
    *head_, _ = records.loads(frames[0])
    spoilt = [*head_, data.draw(strategies.nearly(kind))]
    with pytest.raises(BadMessage):
        decoder([records.dumps(spoilt), *frames[1:]])


@given(st.sampled_from(ALL), st.data())
def test_nearly_a_head(kind: type[wire.Message], data: st.DataObject) -> None:
    value = data.draw(strategies.record(kind))
    if isinstance(value, wire.Request):
        (first, *_), spoilt = wire.encode_request(HEAD, value), data.draw(HEADS["request"])
    else:
        (first, *_), spoilt = wire.encode_reply(REPLY_HEAD, value), data.draw(HEADS["reply"])
    protocol, operation, *_, body = records.loads(first)
    other = data.draw(st.sampled_from([0, wire.PROTOCOL + 1, True, 4.0, "4", b"4", None, [4]]))
    for words in ([protocol, operation, *spoilt, body], [other, operation, *HEAD[:5], body]):
        frame = records.dumps(words)
        for decoder in (wire.decode_request, wire.decode_reply):
            with pytest.raises(BadMessage):
                decoder([frame])


def head(*body: Any, protocol: Any = wire.PROTOCOL, operation: Any = None) -> bytes:
    """A request's head frame with a body of our choice."""
    chosen = wire.GetAttributes.operation if operation is None else operation
    result: bytes = msgpack.packb([protocol, chosen, *HEAD[:5], list(body)])
    return result


HOSTILE = {
    "no frames": [],
    "an empty frame": [b""],
    "too many frames": [VALID[0]] + [b""] * limits.FRAMES,
    "a giant head": [bytes(limits.HEAD_BYTES + 1)],
    "a giant frame": [VALID[0], bytes(limits.FRAME_BYTES + 1)],
    "a giant message": [VALID[0]] + [bytes(limits.FRAME_BYTES)] * 9,
    "blocks that nobody asked for": [VALID[0], b"block"],
    "a newer protocol": [head(5, protocol=wire.PROTOCOL + 1)],
    "a protocol that is true": [head(5, protocol=True)],
    "no such operation": [head(5, operation=65535)],
    "an operation that is a list": [head(5, operation=[1])],
    "an operation that is true": [head(5, operation=True)],
    "no body": [msgpack.packb([wire.PROTOCOL, 23, *HEAD[:5]])],
    "a body too long": [head(5, 6)],
    "a list that claims four billion items": [b"\xdd\xff\xff\xff\xff"],
    "bytes that claim four gigabytes": [b"\xc6\xff\xff\xff\xff"],
    "a list of a hundred thousand": [b"\xdd" + struct.pack(">I", 100_000) + b"\x90" * 100_000],
    "a million empty lists": [(b"\xdc\x0f\xff" + b"\x90" * 4095) * 60],
    "lists ten thousand deep": [b"\x91" * 10_000],
    "a deep list in a field": [head()[:-1] + b"\x91" + b"\x91" * 2000 + b"\x01"],
    "a map": [msgpack.packb({"a": 1})],
    "a timestamp": [b"\xd6\xff" + bytes(4)],
    "text that is not UTF-8": [b"\x91\xa2\xff\xfe"],
    "rubbish after the head": [VALID[0] + b"\x01"],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(case: str) -> None:
    frames = HOSTILE[case]
    for decoder in (wire.decode_request, wire.decode_reply):
        with pytest.raises(BadMessage):
            decoder(frames)


def test_every_truncation_of_a_head_is_refused() -> None:
    (frame,) = VALID
    for end in range(len(frame)):
        with pytest.raises(BadMessage):
            wire.decode_request([frame[:end]])


def test_our_own_head_is_checked_before_it_leaves() -> None:
    with pytest.raises(records.BadRecord):
        wire.encode_request(HEAD, wire.Unlink(Ino(1), b"n" * 256))


def test_the_largest_messages_fit() -> None:
    """Bounds of single fields add up: the fullest page of each kind is below HEAD_BYTES."""
    numbers = *[2**32 - 1] * 6, *[2**63 - 1] * 7, 2**64 - 1, 2**64 - 1
    attributes = wire.Attributes(*numbers)  # type: ignore[arg-type]
    some = min(limits.LISTING_ENTRIES, limits.LISTING_BYTES // limits.NAME_BYTES)
    entry = wire.Entry(b"n" * limits.NAME_BYTES, attributes)
    frames = wire.encode_reply(REPLY_HEAD, wire.Listing((entry,) * some, True, Ino(1), 9))
    assert len(frames[0]) <= limits.HEAD_BYTES
    page = wire.MapPage(2**63, bytes(wire.MAP_BYTES))  # type: ignore[arg-type]
    frames = wire.encode_reply(REPLY_HEAD, wire.MapPages(attributes, (page,) * 64))
    assert len(frames[0]) <= limits.HEAD_BYTES
