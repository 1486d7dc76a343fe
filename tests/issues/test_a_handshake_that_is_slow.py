"""Who had no keys was told that nobody answers, by a server that wants keys on a busy machine.

Its handshake, which fails, had not said so within a second; the server's first bytes, which name
what it wants, were looked at only after it had.  When they were looked at first, each client that
waited for a busy server without keys was counted there as a stranger; and the answer could still
come a moment after the time for one was up.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import zmq

from zdfs import wire
from zdfs.calls import Peer, call
from zdfs.dialing import AGAIN_PLAIN_S, Found
from zdfs.errors import Mistrusted, Unreachable
from zdfs.link import Link
from zdfs.listener import HANDSHAKES


def slow(listener: socket.socket, wants: bytes, silent_s: float = 0.0) -> None:
    """Name what it wants to who says a version at once; ZeroMQ waits for our first word before."""
    kept = []
    never = threading.Event()
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
            never.wait(silent_s)
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
        link.run(call(Peer("127.0.0.1:%d" % listener.getsockname()[1]), wire.Identify(), 4.0))
    assert type(raised.value) is failure
    assert ("wants keys" in raised.value.text) == (failure is Mistrusted)


def test_the_first_verdict_is_waited_for(listener: socket.socket) -> None:
    threading.Thread(target=slow, args=(listener, b"CURVE", 0.6), daemon=True).start()
    with closing(Link()) as link, pytest.raises(Mistrusted):
        link.run(call(Peer("127.0.0.1:%d" % listener.getsockname()[1]), wire.Identify(), 0.8))


@pytest.mark.parametrize("refusals", [1, 3])
def test_a_connection_that_is_being_made_again(
    monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    """ZeroMQ takes no message in the moment after a handshake that failed.  That was an answer:
    nobody is there, before keys could be asked about."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, closing(context.socket(zmq.ROUTER)) as router, closing(Link()) as link:
        peer = Peer(f"127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}")
        left = [True] * refusals
        real = zmq.Socket.send_multipart

        def sending(self: "zmq.Socket[bytes]", *words: Any, **more: Any) -> Any:
            if left and left.pop():
                raise zmq.Again
            return real(self, *words, **more)

        monkeypatch.setattr(zmq.Socket, "send_multipart", sending)
        with pytest.raises(Unreachable, match="did not answer in time"):
            link.run(call(peer, wire.Identify(), 1.0))
        assert not left and router.poll(30_000), "it was sent in the end"


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


def test_a_server_that_hangs_is_not_tried_each_second(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try that is given up is a stranger there."""
    peer = Peer("127.0.0.1:%d" % listener.getsockname()[1])  # which takes connections, that is all
    with closing(Link()) as link:
        tried: list[Peer] = []
        monkeypatch.setattr(link.dialer, "_find", lambda one: (tried.append(one), (None, ""))[1])
        now = time.monotonic()
        for age_s, tries in ((AGAIN_PLAIN_S / 2, 0), (AGAIN_PLAIN_S + 1, 1)):
            link.dialer._verdicts[peer] = (now - age_s, Found.ABSENT, None)
            link.dialer.doubt(peer)
            for probe in list(link.dialer._probes.values()):
                probe.join()
            assert len(tried) == tries


def test_a_doubt_is_no_stranger() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, closing(context.socket(zmq.ROUTER)) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        monitor = router.get_monitor_socket(HANDSHAKES)
        with closing(Link()) as link, pytest.raises(Unreachable):
            link.run(call(Peer(f"127.0.0.1:{port}"), wire.Identify(), 1.0))
        assert not monitor.poll(500), "a handshake was broken off"
        router.disable_monitor()
        monitor.close(0)
