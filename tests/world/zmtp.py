"""ZMTP 3.0 by hand: what a peer can send that the library never would."""

import socket
import struct

MORE, LONG, COMMAND = 1, 2, 4
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def frame(body: bytes, more: bool = False) -> bytes:
    """One frame of a message."""
    return struct.pack(">BQ", LONG | (MORE if more else 0), len(body)) + body


def _ready() -> bytes:
    body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
    return struct.pack(">BB", COMMAND, len(body)) + body


def connect(port: int, timeout_s: float = 10.0) -> socket.socket:
    """A connection that has shaken hands as a DEALER."""
    raw = socket.create_connection(("127.0.0.1", port), timeout_s)
    raw.sendall(GREETING)
    _read(raw, 64)
    raw.sendall(_ready())
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
