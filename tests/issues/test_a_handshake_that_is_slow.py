"""Who had no keys was told that nobody answers, by a server that wants keys on a busy machine.

Its handshake, which fails, had not said so within a second; the server's first bytes, which name
what it wants, were looked at only after it had.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from zdfs import wire
from zdfs.calls import Peer, call
from zdfs.errors import Mistrusted, Unreachable
from zdfs.link import Link


def slow(listener: socket.socket, wants: bytes) -> None:
    """Name what it wants to who says a version at once; ZeroMQ waits for our first word before."""
    kept = []
    while True:
        try:
            one, _ = listener.accept()
        except OSError:
            break
        kept.append(one)
        one.settimeout(0.2)
        try:
            said = one.recv(64)
            while len(said) < 12 and (more := one.recv(64)):
                said += more
            one.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + wants.ljust(20, b"\0") + bytes(32))
        except OSError:
            continue
    for one in kept:
        one.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    made = socket.create_server(("127.0.0.1", 0))
    yield made
    made.close()


@pytest.mark.parametrize(
    "wants, failure", [(b"CURVE", Mistrusted), (b"NULL", Unreachable), (b"", Unreachable)]
)
def test_what_it_wants_is_said(
    listener: socket.socket, wants: bytes, failure: type[Unreachable]
) -> None:
    threading.Thread(target=slow, args=(listener, wants), daemon=True).start()
    with closing(Link()) as link, pytest.raises(Unreachable) as raised:
        link.run(call(Peer("127.0.0.1:%d" % listener.getsockname()[1]), wire.Identify(), 6.0))
    assert type(raised.value) is failure
    assert ("wants keys" in raised.value.text) == (failure is Mistrusted)


def greet(listener: socket.socket) -> None:
    """Speak another protocol to all who come."""
    while True:
        try:
            one, _ = listener.accept()
        except OSError:
            return
        with one:
            one.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            one.recv(64)


def test_a_server_of_something_else_has_no_wrong_key(listener: socket.socket) -> None:
    threading.Thread(target=greet, args=(listener,), daemon=True).start()
    with closing(Link()) as link, pytest.raises(Unreachable) as raised:
        link.run(call(Peer("127.0.0.1:%d" % listener.getsockname()[1]), wire.Identify(), 4.0))
    assert type(raised.value) is Unreachable, "it was said to have another key than is pinned"
