"""ZMTP 3.0 by hand: what a peer can send that the library never would."""

import socket
import struct
from pathlib import Path

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


def connections(address: str, both: bool = True) -> int:
    """How many ends of connections to this port of 127.0.0.1 somebody has open (proc(5):
    addresses, state; those that wait are the kernel's alone).  Not `both`: the server's only."""
    port = f":{int(address.rpartition(':')[2]):04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    busy = [line for line in lines if line[3] in ("01", "04", "05", "08", "09")]
    ours = [line for line in busy if line[1].endswith(port) or both and line[2].endswith(port)]
    return len(ours)


def _read(raw: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = raw.recv(count - len(data))
        assert more, "the peer hung up"
        data += more
    return data
