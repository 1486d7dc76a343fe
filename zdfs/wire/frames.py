"""Messages as frames: encode, decode, and what an answer means to its asker."""

from collections.abc import Sequence
from typing import Annotated as A
from typing import Any, NamedTuple

from zdfs import limits, records
from zdfs.checksum import Buffer
from zdfs.errors import BadMessage, Failure
from zdfs.ids import Incarnation, Round, Session
from zdfs.records import U16, U32, U64, BadRecord
from zdfs.wire.base import PROTOCOL, Message, Reply, Request, BY_OPERATION
from zdfs.wire.parts import Failed

# --- frames ------------------------------------------------------------------------------------


class RequestHead(NamedTuple):
    """The id of a request and how long its sender will wait."""

    session: Session
    slot: A[int, U16]
    sequence: A[int, U64]
    remaining_ms: A[int, U32]
    incarnation: Incarnation


class ReplyHead(NamedTuple):
    """The id of the request that is answered (answers: its operation; 0: a push)."""

    session: Session
    slot: A[int, U16]
    sequence: A[int, U64]
    answers: A[int, U16]
    incarnation: Incarnation
    round: Round


_U16, _U32, _U64 = (records.kind_of(A[int, bound]).unpack for bound in (U16, U32, U64))


def _body(msg: Message) -> tuple[list[Any], Sequence[Buffer]]:
    found = records.codec(type(msg))
    return found.pack(msg), getattr(msg, found.bulk) if found.bulk else ()


def encode_request(head: RequestHead, msg: Request[Any]) -> list[Buffer]:
    """The frames of a request."""
    body, bulk = _body(msg)
    return [records.dumps([PROTOCOL, msg.operation, *head, body]), *bulk]


def encode_reply(head: ReplyHead, msg: Reply) -> list[Buffer]:
    """The frames of a reply or push."""
    body, bulk = _body(msg)
    return [records.dumps([PROTOCOL, msg.operation, *head, body]), *bulk]


def _open(frames: Sequence[Any], count: int) -> tuple[list[Any], type[Message]]:
    if not frames or len(frames) > limits.FRAMES:
        raise BadMessage(f"a message of {len(frames)} frames")
    if sum(map(len, frames)) > limits.MESSAGE_BYTES:
        raise BadMessage("a message beyond the limit of bytes")
    if any(len(frame) > limits.FRAME_BYTES for frame in frames[1:]):
        raise BadMessage("a frame beyond the limit of bytes")
    try:
        plain = records.loads(frames[0])
    except BadRecord as error:
        raise BadMessage(str(error)) from error
    if type(plain) is not list or len(plain) < 2 or type(plain[0]) is not int:
        raise BadMessage("not a head")
    if plain[0] != PROTOCOL:
        raise BadMessage(f"protocol {str(plain[0])[:20]}; this is zdfs protocol {PROTOCOL}")
    kind = BY_OPERATION.get(plain[1]) if type(plain[1]) is int else None
    if kind is None or len(plain) != count:
        raise BadMessage(f"operation {str(plain[1])[:20]} is unknown here")
    return plain, kind


def _build(kind: type[Message], plain: Any, bulk: Sequence[Any]) -> Message:
    found = records.codec(kind)
    if found.bulk is None:
        if bulk:
            raise BadMessage(f"{kind.__name__} carries no blocks")
        message: Message = found.unpack(plain)
        return message
    if type(plain) is not list or len(plain) != len(found.fields):
        raise BadMessage(f"not the fields of {kind.__name__}")
    unpacked = [one.unpack(value) for (_, one), value in zip(found.fields, plain)]
    made: Message = kind(*unpacked, tuple(bulk))  # type: ignore[call-arg]
    return made


def decode_request(frames: Sequence[Any]) -> tuple[RequestHead, Request[Any]]:
    """A request from its frames (routing removed); BadMessage for anything else."""
    plain, kind = _open(frames, 8)
    if not issubclass(kind, Request):
        raise BadMessage(f"{kind.__name__} is no request")
    try:
        head = RequestHead(
            Session(_U64(plain[2])),
            _U16(plain[3]),
            _U64(plain[4]),
            _U32(plain[5]),
            Incarnation(_U64(plain[6])),
        )
        msg = _build(kind, plain[7], frames[1:])
    except BadRecord as error:
        raise BadMessage(f"{kind.__name__}: {error}") from error
    assert isinstance(msg, Request)
    return head, msg


def decode_reply(frames: Sequence[Any]) -> tuple[ReplyHead, Reply]:
    """A reply or push from its frames; BadMessage for anything else."""
    plain, kind = _open(frames, 9)
    if not issubclass(kind, Reply):
        raise BadMessage(f"{kind.__name__} is no reply")
    try:
        head = ReplyHead(
            Session(_U64(plain[2])),
            _U16(plain[3]),
            _U64(plain[4]),
            _U16(plain[5]),
            Incarnation(_U64(plain[6])),
            Round(_U64(plain[7])),
        )
        msg = _build(kind, plain[8], frames[1:])
    except BadRecord as error:
        raise BadMessage(f"{kind.__name__}: {error}") from error
    assert isinstance(msg, Reply)
    return head, msg


def judged(request: Request[Any], reply: Reply) -> Reply | Failure:
    """The answer as its asker wants it: Failed as an exception, a wrong type as BadMessage."""
    if isinstance(reply, Failed):
        return reply.failure()
    if isinstance(reply, request.reply_type()):
        return reply
    return BadMessage(f"{type(request).__name__} was answered with {type(reply).__name__}")
