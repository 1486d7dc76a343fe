"""Messages in older versions: what a peer of version 4 sends is heard, what it is sent it knows."""

import json
from pathlib import Path
from typing import Annotated as A
from typing import Any, NamedTuple

import pytest
from tests.unit import golden

from zdfs import errors, parley, records, wire
from zdfs.calls import Peer
from zdfs.errors import BadMessage, Outdated, StartError
from zdfs.ids import Incarnation, Ino, Session, Slot
from zdfs.records import U16, BadRecord, Since
from zdfs.wire import Protocols

KEPT = json.loads((Path(__file__).parent / "protocol-4.json").read_text())
OLD = golden.HEAD._replace(protocol=4)
OLD_REPLY = golden.REPLY_HEAD._replace(protocol=4)
HERE = Peer("127.0.0.1:1")


def identity(protocols: Protocols, release: str = "9.9") -> wire.Identity:
    return wire.Identity(
        wire.Role.META, release, b"", bytes(16), Slot(0), wire.State.SERVING, False, b"", "", "", 0,
        protocols,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def as_ever() -> Any:
    yield
    wire.speak(wire.PROTOCOL)


def test_what_is_not_there_can_not_be_spoken() -> None:
    for version in (wire.PROTOCOL_MIN - 1, wire.PROTOCOL + 1):
        with pytest.raises(StartError, match=f"--speak {version}: 4 to 5"):
            wire.speak(version)
    assert wire.spoken().newest == wire.PROTOCOL
    wire.speak(4)
    wire.speak(None)
    assert wire.spoken().newest == wire.PROTOCOL


# --- version 4, as it was ----------------------------------------------------------------------


def test_every_message_of_version_4_is_kept() -> None:
    of_4 = {kind.__name__ for kind in wire.BY_OPERATION.values() if kind.since == 4}
    assert of_4 == {name for name, _, _ in KEPT}


@pytest.mark.parametrize(("name", "frames", "said"), KEPT, ids=[f"{n}" for n, _, _ in KEPT])
def test_what_a_4_sends_is_heard_and_what_it_is_sent_it_knows(
    name: str, frames: list[str], said: Any
) -> None:
    sent = [bytes.fromhex(frame) for frame in frames]
    decode = wire.decode_request if issubclass(getattr(wire, name), wire.Request) else None
    head, message = decode(sent) if decode else wire.decode_reply(sent)
    assert type(message).__name__ == name and head in (OLD, OLD_REPLY)
    assert golden.told(message, 4) == said
    if isinstance(head, wire.RequestHead):
        assert isinstance(message, wire.Request)
        again = wire.encode_request(head, message)
    else:
        assert isinstance(message, wire.Reply)
        again = wire.encode_reply(head, message)
    assert [bytes(frame) for frame in again] == sent


# --- fields and messages that came later -------------------------------------------------------


class Inner(NamedTuple):
    old: int
    new: A[int, U16, Since(5)] = 7


class Outer(NamedTuple):
    inner: Inner
    newer: A[Inner | None, Since(6)] = None


def test_younger_fields_are_left_out_and_defaults_taken() -> None:
    full = Outer(Inner(1, 2), Inner(3, 4))
    assert records.codec(Outer, 4).pack(full) == [[1]]
    assert records.codec(Outer, 5).pack(full) == [[1, 2]]
    assert records.codec(Outer, 6).pack(full) == records.codec(Outer).pack(full)
    assert records.codec(Outer).unpack([[1]]) == Outer(Inner(1, 7), None)
    assert records.codec(Outer).unpack([[1, 2], [3]]) == Outer(Inner(1, 2), Inner(3, 7))
    for wrong in ([[]], [[1, 2, 3]], [], [[1], [1], 1]):
        with pytest.raises(BadRecord):
            records.codec(Outer).unpack(wrong)


def test_what_an_old_peer_never_heard_of_is_not_sent_to_it(monkeypatch: Any) -> None:
    monkeypatch.setattr(wire.GetStatus, "since", 5)
    with pytest.raises(Outdated, match="speaks protocol 4, which has no GetStatus: upgrade it"):
        wire.encode_request(OLD, wire.GetStatus())
    wire.encode_request(OLD._replace(protocol=5), wire.GetStatus())


def test_a_new_operation_is_of_the_version_that_came_with_it() -> None:
    try:

        @wire.message(60_000)
        class Later(wire.Reply):
            """Made now."""

        assert Later.since == 5 and wire.GetStatus.since == 4
    finally:
        del wire.BY_OPERATION[60_000]


# --- ends that don't fit -----------------------------------------------------------------------


def asked(protocol: Any, operation: Any = 111) -> list[bytes]:
    return [records.dumps([protocol, operation, *OLD[:5], []])]


@pytest.mark.parametrize(
    ("protocol", "operation", "what"),
    [
        (3, 111, "speaks protocols 4 to 5, not 3: who asks is the older end, upgrade that"),
        (6, 111, "speaks protocols 4 to 5, not 6: it is the older end, upgrade it"),
        (6, 60_001, "speaks protocols 4 to 5, not 6: it is the older end, upgrade it"),
        (5, 60_001, "does not know operation 60001: it is the older end, upgrade it"),
    ],
)
def test_who_does_not_fit_is_told_what_to_do(protocol: int, operation: int, what: str) -> None:
    with pytest.raises(wire.Misfit) as found:
        wire.decode_request(asked(protocol, operation))
    misfit = found.value
    assert misfit.head == OLD._replace(protocol=protocol)
    refusal = misfit.refusal("2222")
    answered = wire.ReplyHead(
        *misfit.head[:3], operation, Incarnation(1), OLD_REPLY.round, protocol
    )
    head, back = wire.decode_reply(wire.encode_reply(answered, refusal))
    assert isinstance(back, wire.Failed) and head == answered, "a refusal is heard by any version"
    failure = back.failure()
    assert isinstance(failure, Outdated) and failure.definite and failure.details == (4, 5)
    assert what in failure.text and "2222" in failure.text


def test_the_order_is_said_to_who_must_upgrade_a_server() -> None:
    with pytest.raises(wire.Misfit) as found:
        wire.decode_request(asked(6))
    assert "first every dataserver, then the metaserver" in found.value.refusal("2222").text


@pytest.mark.parametrize(("protocol", "operation"), [(2**40, 111), (-1, 1), (True, 1), (9, "x")])
def test_rubbish_is_not_answered(protocol: Any, operation: Any) -> None:
    with pytest.raises(BadMessage) as found:
        wire.decode_request(asked(protocol, operation))
    assert not isinstance(found.value, wire.Misfit)


def test_who_speaks_4_alone_answers_5_with_silence() -> None:
    wire.speak(4)
    with pytest.raises(BadMessage) as found:
        wire.decode_request(asked(5))
    assert not isinstance(found.value, wire.Misfit)
    assert wire.released(4) == "0.1.0" == wire.released(4).split()[0]


def test_an_old_peer_that_hears_of_outdated_has_an_errno() -> None:
    assert errors.revive(15, 71, "x", ()).number == 71


# --- who is spoken to how ----------------------------------------------------------------------


def test_the_range_crosses_in_version_4_too() -> None:
    said = identity(wire.spoken(), wire.released(4))
    frames = wire.encode_reply(OLD_REPLY, said)
    _, heard = wire.decode_reply(frames)
    assert isinstance(heard, wire.Identity) and heard.protocols == wire.ONLY_FIRST
    assert wire.protocols_of(heard) == wire.spoken() == Protocols(4, 5)
    assert wire.protocols_of(identity(wire.ONLY_FIRST, "0.1.0")) == Protocols(4, 4)


def test_a_peer_is_asked_first_and_then_spoken_to_in_the_newest_common_version() -> None:
    made = parley.Parley()
    assert made.version(HERE, 0.0) is None and made.surely(HERE) == 4
    assert made.heard(HERE, identity(Protocols(4, 5)), 0.0) is None
    assert made.version(HERE, 1e9) == 5 == made.surely(HERE)
    made.forget(HERE)
    assert made.version(HERE, 0.0) is None


def test_an_older_peer_is_asked_again_later() -> None:
    made = parley.Parley()
    assert made.heard(HERE, identity(Protocols(4, 4)), 100.0) is None
    assert made.version(HERE, 100.0 + parley.AGAIN_S - 0.1) == 4
    assert made.version(HERE, 100.0 + parley.AGAIN_S) is None


def test_a_newer_peer_may_have_our_version_still() -> None:
    made = parley.Parley()
    assert made.heard(HERE, Outdated("", (5, 8)), 0.0) is None and made.version(HERE, 0.0) == 5


@pytest.mark.parametrize(
    ("theirs", "what"),
    [
        (Protocols(6, 8), "speaks protocols 6 to 8, this is zdfs"),
        (Protocols(2, 3), "is the older end, upgrade it"),
    ],
)
def test_a_peer_without_a_common_version_is_not_spoken_to(theirs: Protocols, what: str) -> None:
    failure = parley.Parley().heard(HERE, identity(theirs), 0.0)
    assert isinstance(failure, Outdated) and what in failure.text


def test_silence_is_the_answer_of_who_is_asked() -> None:
    silence = errors.Unreachable("no")
    assert parley.Parley().heard(HERE, silence, 0.0) is silence


def test_who_speaks_4_alone_asks_nobody() -> None:
    wire.speak(4)
    assert parley.Parley().version(HERE, 0.0) == 4


def test_heads_say_their_version() -> None:
    head = wire.RequestHead(Session(1), 2, 3, 4, Incarnation(5), 4)
    back, _ = wire.decode_request(wire.encode_request(head, wire.GetAttributes(Ino(1))))
    assert back == head
