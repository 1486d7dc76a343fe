"""ZMTP 3.0 by hand: what a peer can send that the library never would."""

import socket
import struct

MORE, LONG, COMMAND = 1, 2, 4


def greeting(mechanism: bytes = b"NULL") -> bytes:
    """The first 64 bytes of a connection."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0") + bytes(32)


GREETING = greeting()


def frame(body: bytes, more: bool = False) -> bytes:
    """One frame of a message."""
    return struct.pack(">BQ", LONG | (MORE if more else 0), len(body)) + body


def command(name: bytes, body: bytes) -> bytes:
    """A command, as handshakes and heartbeats are made of."""
    whole = bytes([len(name)]) + name + body
    if len(whole) < 256:
        return struct.pack(">BB", COMMAND, len(whole)) + whole
    return struct.pack(">BQ", COMMAND | LONG, len(whole)) + whole


def ready(kind: bytes = b"DEALER") -> bytes:
    """The command that ends a handshake without keys."""
    return command(b"READY", b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind)


def connect(port: int, timeout_s: float = 10.0) -> socket.socket:
    """A connection that has shaken hands as a DEALER."""
    raw = socket.create_connection(("127.0.0.1", port), timeout_s)
    raw.sendall(GREETING)
    _read(raw, 64)
    raw.sendall(ready())
    head = _read(raw, 2)
    _read(raw, head[1])
    return raw


def _read(raw: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = raw.recv(count - len(data))
        assert more, "the peer hung up"
        data += more
    return data
