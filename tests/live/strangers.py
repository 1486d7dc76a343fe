"""What strangers do to a port: attacks, each a function of whom, of dice, and of a pause.

`pause()` returns when the others have got on a little: what is held open, is held until then.  A
port with keys is attacked alike: `Target.keys` lets ZeroMQ's sockets in; what is made of bytes by
hand gets as far as half a handshake there, and is hung up on, as it must be.
"""

import random
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import zmq

from tests.world import zmtp
from zdfs import checksum, limits, records, wire
from zdfs.ids import BlockNo, Epoch, Incarnation, Ino, Name, Round, Session, Slot, Token, Version

MIB = 1 << 20
ATTACK_S = 4.0
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST, and leaves no port waiting
CONNECTS = 10_000
BATCH = 500  # connections that are open at a time: far below what a process may have
HELLO = zmtp.command(b"HELLO", b"\x01\x00" + bytes(72) + bytes(32) + bytes(8) + bytes(80))  # CURVE


class Target(NamedTuple):
    """A port, and what its ZeroMQ wants to see."""

    port: int
    keys: tuple[bytes, bytes, bytes] | None = None  # the server's, our public and our secret one


Attack = Callable[[Target, random.Random, Callable[[], None]], None]


def plain_dealer(target: Target) -> zmq.Socket[bytes]:
    """A socket of the library's."""
    made = zmq.Context.instance().socket(zmq.DEALER)
    made.setsockopt(zmq.LINGER, 500)
    made.setsockopt(zmq.SNDTIMEO, 1000)
    if target.keys:
        made.curve_serverkey, made.curve_publickey, made.curve_secretkey = target.keys
    made.connect(f"tcp://127.0.0.1:{target.port}")
    return made


@contextmanager
def dealer(target: Target) -> Iterator[zmq.Socket[bytes]]:
    """The same for an attack, which ends where nobody takes it: who is not let in can't send."""
    with plain_dealer(target) as made, suppress(zmq.Again):
        yield made


def tcp(target: Target, stack: ExitStack | None = None) -> socket.socket:
    """A connection; closed by a reset."""
    raw = socket.create_connection(("127.0.0.1", target.port), 10)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    return stack.enter_context(raw) if stack else raw


def push(raw: socket.socket, piece: bytes) -> bool:
    """Send; False: hung up, or nobody takes it."""
    try:
        raw.sendall(piece)
        return True
    except OSError:
        return False


def shaken(target: Target) -> socket.socket | None:
    """A connection after its handshake; None: refused, as a port with keys does."""
    try:
        return zmtp.connect(target.port)
    except (OSError, AssertionError):
        return None


def endless(target: Target, piece: bytes) -> None:
    """Send for a while; whenever hung up on, come back at once."""
    end = time.monotonic() + ATTACK_S
    while time.monotonic() < end:
        raw = shaken(target)
        if raw is None:
            select.select([], [], [], 0.05)
            continue
        with raw:
            while time.monotonic() < end and push(raw, piece):
                pass


# --- before a handshake ------------------------------------------------------------------------


def raw_bytes(target: Target, dice: random.Random, pause: Callable[[], None]) -> None:
    """No ZeroMQ at all: other protocols, noise, nothing."""
    web, tls = b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    with ExitStack() as stack:
        for number in range(200):
            raw = tcp(target, stack if number % 2 else None)
            push(raw, dice.choice([web, tls, dice.randbytes(500), b"\xff" * 99, bytes(64), b""]))
            if not number % 2:
                raw.close()
        pause()


def steps() -> Iterable[bytes]:
    """Handshakes, each up to another place; after the last byte their peer falls silent."""
    for mechanism in (b"NULL", b"PLAIN", b"CURVE", b"GSSAPI", b"\xff" * 20):
        whole = zmtp.greeting(mechanism)
        yield from (whole[:end] for end in (0, 1, 9, 10, 11, 12, 20, 33, 63, 64))
        end = {b"CURVE": HELLO, b"PLAIN": zmtp.command(b"HELLO", b"\x01u\x01p")}.get(
            mechanism, zmtp.ready()
        )
        yield from (whole + end[:count] for count in (1, 2, 8, len(end) // 2, len(end) - 1))
        if mechanism != b"NULL":
            yield whole + end
    yield zmtp.greeting() + zmtp.command(b"READY", b"\xff" + bytes(20))
    yield zmtp.greeting() + zmtp.ready(b"PUB")
    yield zmtp.greeting(b"CURVE") + zmtp.command(b"HELLO", bytes(5000))
    yield zmtp.greeting(b"CURVE") + zmtp.command(b"INITIATE", bytes(300))
    yield zmtp.greeting() + struct.pack(">BQ", zmtp.COMMAND | zmtp.LONG, 1 << 62)


def half_handshakes(target: Target, dice: random.Random, pause: Callable[[], None]) -> None:
    """Begin and fall silent, at each step; held until the server lets go of them."""
    with ExitStack() as stack:
        held = []
        for step in steps():
            for _ in range(3):
                raw = tcp(target, stack)
                push(raw, step)
                held.append(raw)
        pause()
        left = set(held)
        end = time.monotonic() + 3 * 5.0  # HANDSHAKE_IVL, with room
        while left and time.monotonic() < end:
            for raw in select.select(left, [], [], 0.5)[0]:
                with suppress(OSError):
                    if raw.recv(4096):
                        continue
                left.discard(raw)
        assert not left, f"{len(left)} half handshakes are kept open"


def connects(target: Target, dice: random.Random, pause: Callable[[], None]) -> None:
    """Ten thousand connections, by hundreds at a time, that say nothing, or a greeting, and go."""
    for first in range(0, CONNECTS, BATCH):
        with ExitStack() as stack:
            for number in range(first, first + BATCH):
                raw = tcp(target, stack)
                if number % 3:
                    push(raw, zmtp.GREETING if number % 3 == 1 else b"\xff")
    pause()


def slow_senders(target: Target, dice: random.Random, pause: Callable[[], None]) -> None:
    """A byte a second on each of many connections: of handshakes, and of a message."""
    ask = zmtp.frame(bytes(wire.encode_request(head(Session(0), 1), wire.Identify())[0]))
    with ExitStack() as stack:
        half = [tcp(target, stack) for _ in range(100)]
        whole = [stack.enter_context(raw) for raw in (shaken(target) for _ in range(100)) if raw]
        for second in range(6):
            for raw in half:
                push(raw, zmtp.GREETING[second : second + 1])
            for raw in whole:
                push(raw, ask[second : second + 1])
            select.select([], [], [], 1.0)
        pause()


# --- after it: what is no message of ours ------------------------------------------------------


def bad_msgpack(target: Target, dice: random.Random, pause: Callable[[], None]) -> None:
    """Well-formed ZeroMQ around nonsense."""
    with dealer(target) as bad:
        for _ in range(2000):
            bad.send_multipart([dice.randbytes(dice.randrange(200)) for _ in range(3)])
        for nest in (b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff", b"\xc1"):
            bad.send(nest)
        pause()


def giant_frames(target: Target, dice: random.Random, pause: Callable[[], None]) -> None:
    """Frames beyond the limit, said or sent; messages beyond the limit, frame by frame."""
    for length in (limits.FRAME_BYTES + 1, 2 * MIB, 1 << 40, (1 << 63) - 1, (1 << 64) - 1):
        raw = shaken(target)
        if raw is not None:
            with raw:
                if push(raw, b"\x02" + length.to_bytes(8, "big")):
                    push(raw, bytes(2 * MIB))
    with dealer(target) as bad:
        for _ in range(4):
            bad.send_multipart([bytes(MIB)] * 64)
        pause()


def many_frames(target: Target, dice: random.Random, pause: Callable[[], None]) -> None:
    """Tiny frames without number, in finished messages and in one that never ends."""
    with dealer(target) as bad:
        for _ in range(5):
            bad.send_multipart([b"x"] * 20_000)
    endless(target, zmtp.frame(b"x", more=True) * 5000)


def endless_message(target: Target, dice: random.Random, pause: Callable[[], None]) -> None:
    """Frames at their limit, and never the last one."""
    endless(target, zmtp.frame(bytes(MIB), more=True))


def unfinished(target: Target, dice: random.Random, pause: Callable[[], None]) -> None:
    """Many messages begun and never ended, each of them within all limits."""
    with ExitStack() as stack:
        for _ in range(100):
            raw = shaken(target)
            if raw is not None:
                stack.enter_context(raw)
                push(raw, zmtp.frame(bytes(MIB // 2), more=True))
        pause()


# --- and what is -------------------------------------------------------------------------------


def head(session: Session, sequence: int, slot: int = wire.NO_SLOT) -> wire.RequestHead:
    """Of a request whose sender has all the time of the world."""
    return wire.RequestHead(session, slot, sequence, 2**32 - 1, Incarnation(9))


def deaf(target: Target, dice: random.Random, pause: Callable[[], None]) -> None:
    """Many that ask and never take the answers."""
    ask = zmtp.frame(bytes(wire.encode_request(head(Session(0), 1), wire.GetStatus())[0]))
    who = zmtp.frame(bytes(wire.encode_request(head(Session(0), 1), wire.Identify())[0]))
    with ExitStack() as stack:
        held = [stack.enter_context(raw) for raw in (shaken(target) for _ in range(50)) if raw]
        for raw in held:
            raw.settimeout(0.02)
            push(raw, (ask + who) * 500)
        pause()


def foreign(target: Target, dice: random.Random, pause: Callable[[], None]) -> None:
    """Our protocol, from somewhere else: other versions, clusters, sessions, roles."""
    name = Name(Ino(1), BlockNo(0), Version(Token(1), 1))
    block = wire.Put1(name, checksum.seal(name, b"evil"), Epoch(1), Slot(0), 4)
    wanted = wire.Wanted(name, block.seal, Epoch(1), Slot(0), 4)
    requests: list[wire.Request[Any]] = [
        wire.Put(bytes(16), (block,), b"", (b"evil",)),
        wire.Get(bytes(16), (wanted,), True, b""),
        wire.Check(bytes(16), (wanted,)),
        wire.Corrupt(name, wire.Harm.LOSE, 1),
        wire.TakeDrops(Slot(0), bytes(16), 2**64 - 1),
        wire.Inventory(Slot(9), Ino(2**63), -1),
        wire.Judge((name,)),
        wire.Unlink(Ino(1), b"w0"),
        wire.Grant(Ino(1)),
        wire.Beat(1, 0, 0, (), (), ()),
        wire.CloseSession(),
    ]
    with dealer(target) as bad:
        for number, request in enumerate(requests):
            for slot in (wire.NO_SLOT, 0, 300):
                for session in (Session(0), Session(2**64 - 1)):
                    if slot != wire.NO_SLOT or not isinstance(request, wire.Unlink):
                        bad.send_multipart(
                            wire.encode_request(head(session, number, slot), request)
                        )
        first = wire.encode_request(head(Session(0), 5), wire.Identify())[0]
        plain = records.loads(first)
        for version in (0, 2, 2**63, "1", None):
            bad.send(records.dumps([version, *plain[1:]]))
        for cut in range(0, len(first), 3):
            bad.send(bytes(first[:cut]))
        for _ in range(50):  # replayed
            bad.send(bytes(first))
        pause()


def replies_as_requests(target: Target, dice: random.Random, pause: Callable[[], None]) -> None:
    """Answers nobody asked for."""
    with dealer(target) as bad:
        for number in range(500):
            told = wire.ReplyHead(Session(0), wire.NO_SLOT, number, 71, Incarnation(1), Round(1))
            bad.send_multipart(wire.encode_reply(told, wire.Done()))
        pause()


def sessions_without_end(target: Target, dice: random.Random, pause: Callable[[], None]) -> None:
    """Open sessions that nobody keeps alive."""
    with dealer(target) as bad:
        for number in range(300):
            request = wire.OpenSession(dice.randbytes(16), "h" * 4096, "m" * 4096)
            bad.send_multipart(wire.encode_request(head(Session(0), number), request))
        pause()


ATTACKS: list[Attack] = [
    raw_bytes,
    half_handshakes,
    connects,
    slow_senders,
    bad_msgpack,
    giant_frames,
    many_frames,
    endless_message,
    unfinished,
    deaf,
    foreign,
    replies_as_requests,
    sessions_without_end,
]
