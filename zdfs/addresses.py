"""Addresses as users write them and as sockets want them.

`PORT` is loopback, `HOST:PORT` anything else.  Everything inside zdfs speaks of "HOST:PORT".  Two
processes with the same `host_id` share a kernel and a network namespace: there, each server can
also be reached through an abstract socket of its address's name, which is faster for bulk.
"""

import functools
import hashlib
import os
import re
import socket
from pathlib import Path

from zdfs.errors import StartError

LOOPBACK = "127.0.0.1"


def parse(text: str) -> str:
    """ "3333" or "host:3333" as "host:port"; StartError when it is neither."""
    host, colon, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise StartError(
            f"{text!r} is no address: write PORT (on this machine) or HOST:PORT, a PORT from "
            "1 to 65535"
        )
    if host and not re.fullmatch(r"[A-Za-z0-9._-]+", host):
        raise StartError(f"{host!r} is no host name or IPv4 address")
    if colon and not host:
        raise StartError(f"{text!r} has no host: write PORT (on this machine) or HOST:PORT")
    return f"{host or LOOPBACK}:{int(port)}"


def short(address: str) -> str:
    """As a user would write it."""
    return address.removeprefix(LOOPBACK + ":")


def tcp(address: str) -> str:
    """The ZeroMQ endpoint across the network."""
    return f"tcp://{address}"


def ipc(address: str) -> str:
    """The ZeroMQ endpoint inside this machine and network namespace."""
    return f"ipc://@zdfs/{address}"


def is_local(address: str) -> bool:
    """Whether a server of this machine and network namespace goes by exactly this address.  One
    that we know by another name (`localhost`, a second address) has no socket of that name."""
    name = "@" + ipc(address).partition("@")[2]
    try:
        text = Path("/proc/self/net/unix").read_text(errors="surrogateescape")
    except OSError:
        return False  # the network will do
    return any(line.endswith(" " + name) for line in text.splitlines())


def nameless(address: str) -> str:
    """Why this machine can't know whom "HOST:PORT" means; "": it knows."""
    host = address.rpartition(":")[0]
    try:
        socket.getaddrinfo(host, None, socket.AF_INET)
    except OSError as error:
        return f"{host}: this machine knows no address of it ({error.strerror or error})"
    return ""


@functools.cache
def host_id() -> bytes:
    """Equal for processes that can reach each other's abstract sockets."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    space = os.stat("/proc/self/ns/net").st_ino
    return hashlib.blake2b(boot + str(space).encode(), digest_size=16).digest()
