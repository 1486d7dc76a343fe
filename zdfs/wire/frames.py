"""Messages as frames: encode, decode, and what an answer means to its asker."""

from collections.abc import Sequence
from typing import Annotated as A
from typing import Any, NamedTuple

from zdfs import limits, records
from zdfs.checksum import Buffer
from zdfs.errors import BadMessage, Failure, Outdated
from zdfs.ids import Incarnation, Round, Session
from zdfs.records import U16, U32, U64, BadRecord, Between
from zdfs.wire.base import Message, Reply, Request, BY_OPERATION
from zdfs.wire.parts import Failed
from zdfs.wire.versions import PROTOCOL, PROTOCOL_MIN, cant_speak, spoken, unknown_here

# --- frames ------------------------------------------------------------------------------------


class RequestHead(NamedTuple):
    """The id of a request and how long its sender will wait; `protocol`: the version it is in."""

    session: Session
    slot: A[int, U16]
    sequence: A[int, U64]
    remaining_ms: A[int, U32]
    incarnation: Incarnation
    protocol: A[int, Between(PROTOCOL_MIN, PROTOCOL)] = PROTOCOL


class ReplyHead(NamedTuple):
    """The id of the request that is answered (answers: its operation; 0: a push), in the version
    of that."""

    session: Session
    slot: A[int, U16]
    sequence: A[int, U64]
    answers: A[int, U16]
    incarnation: Incarnation
    round: Round
    protocol: A[int, Between(PROTOCOL_MIN, PROTOCOL)] = PROTOCOL


_REQUEST, _REPLY = 8, 9  # values in the head of either, its message among them
_U16, _U32, _U64 = (records.kind_of(A[int, bound]).unpack for bound in (U16, U32, U64))


def _body(msg: Message, version: int) -> tuple[list[Any], Sequence[Buffer]]:
    found = records.codec(type(msg), version)
    return found.pack(msg), getattr(msg, found.bulk) if found.bulk else ()


def encode_request(head: RequestHead, msg: Request[Any]) -> list[Buffer]:
    """The frames of a request, in the version of its head.  Outdated: that one has no such
    request."""
    *numbers, version = head
    if msg.since > version:
        what = type(msg).__name__
        raise Outdated(f"it speaks protocol {version}, which has no {what}: upgrade it")
    body, bulk = _body(msg, version)
    return [records.dumps([version, msg.operation, *numbers, body]), *bulk]


def encode_reply(head: ReplyHead, msg: Reply) -> list[Buffer]:
    """The frames of a reply or push, in the version of its head."""
    *numbers, version = head
    body, bulk = _body(msg, version)
    return [records.dumps([version, msg.operation, *numbers, body]), *bulk]


class Misfit(BadMessage):
    """A request that is in order as far as can be seen, in a version or of an operation that is not
    ours: it can be answered (`text` of `refusal`)."""

    def __init__(self, version: int, operation: int, plain: Sequence[Any]):
        theirs = "" if operation in BY_OPERATION else f", operation {operation}"
        super().__init__(f"protocol {version}{theirs}; this end speaks {spoken().shown()}")
        self.operation = operation
        self.known = spoken().oldest <= version <= spoken().newest  # then the operation is not
        session, slot, sequence, remaining_ms, incarnation = plain
        self.head = RequestHead(session, slot, sequence, remaining_ms, incarnation, version)

    def refusal(self, here: str) -> Failed:
        """What the server at this address says to it."""
        version = self.head.protocol
        text = unknown_here(here, self.operation) if self.known else cant_speak(here, version)
        return Failed.of(Outdated(text, tuple(spoken())))


def _refused(plain: list[Any], count: int) -> BadMessage:
    """Why a message with the head of another version, or of an unknown operation, is none."""
    version, operation = plain[:2]
    numbers = plain[2:7]
    proper = all(type(one) is int and 0 <= one < 2**32 for one in (version, operation))
    proper = proper and all(type(one) is int and 0 <= one < 2**64 for one in numbers)
    if count == _REQUEST and len(plain) == count and proper and spoken().newest > 4:
        return Misfit(version, operation, numbers)
    what = f"protocol {str(version)[:20]}, operation {str(operation)[:20]}"
    return BadMessage(f"{what}; this end speaks {spoken().shown()}")


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
    kind = BY_OPERATION.get(plain[1]) if type(plain[1]) is int else None
    oldest, newest = spoken()
    if not oldest <= plain[0] <= newest and kind is not Failed:
        raise _refused(plain, count)
    if kind is None or kind.since > plain[0] and kind is not Failed:
        raise _refused(plain, count)
    if len(plain) != count:
        raise BadMessage(f"not the head of a {kind.__name__}")
    return plain, kind


def _build(kind: type[Message], plain: Any, bulk: Sequence[Any]) -> Message:
    found = records.codec(kind)
    if found.bulk is None:
        if bulk:
            raise BadMessage(f"{kind.__name__} carries no blocks")
        message: Message = found.unpack(plain)
        return message
    if type(plain) is not list or len(plain) not in found.counts:
        raise BadMessage(f"not the fields of {kind.__name__}")
    unpacked = [one.unpack(value) for (_, one), value in zip(found.fields, plain)]
    made: Message = kind(*unpacked, **{found.bulk: tuple(bulk)})
    return made


def decode_request(frames: Sequence[Any]) -> tuple[RequestHead, Request[Any]]:
    """A request from its frames (routing removed); BadMessage for anything else."""
    plain, kind = _open(frames, _REQUEST)
    if not issubclass(kind, Request):
        raise BadMessage(f"{kind.__name__} is no request")
    try:
        head = RequestHead(
            Session(_U64(plain[2])),
            _U16(plain[3]),
            _U64(plain[4]),
            _U32(plain[5]),
            Incarnation(_U64(plain[6])),
            plain[0],
        )
        msg = _build(kind, plain[7], frames[1:])
    except BadRecord as error:
        raise BadMessage(f"{kind.__name__}: {error}") from error
    assert isinstance(msg, Request)
    return head, msg


def decode_reply(frames: Sequence[Any]) -> tuple[ReplyHead, Reply]:
    """A reply or push from its frames; BadMessage for anything else."""
    plain, kind = _open(frames, _REPLY)
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
            plain[0],
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
