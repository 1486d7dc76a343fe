"""The ROUTER socket of a server: its port, who knocks without speaking ZeroMQ, who hoards.

Bound twice: across the network, and as an abstract socket for peers of this machine.  Taken before
the store is opened, so that a port in use leaves the store alone.

A peer that never ends a multipart message, or never takes its replies, eats memory below us, where
no limit of ZeroMQ reaches; many that only connect eat descriptors.  So this process's own memory
and descriptors are watched: far beyond its needs, every connection is dropped at once.  Those who
mean well connect again by themselves.
"""

import ctypes
import errno
import logging
import os
import resource
import socket
import time
from pathlib import Path
from typing import Any

import zmq
import zmq.utils.monitor

from zdfs import addresses, limits
from zdfs.errors import StartError
from zdfs.gate import Gate
from zdfs.keys import Key

log = logging.getLogger("zdfs.broker")

TELL_EVERY_S = 10.0  # who is sent away may come back at once, as often as he likes
REBIND_S = 10.0  # until ZeroMQ's own thread has let go of the port
HANDSHAKES = (
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_AUTH
)

_libc = ctypes.CDLL(None)


class PortInUse(StartError):
    """Somebody else listens there."""


class Listener:
    """A bound ROUTER, and the monitor of its connections, both registered with a poller."""

    def __init__(
        self, address: str, context: zmq.Context[Any], poller: zmq.Poller, keys: Path | None = None
    ):
        """With a key directory only its keys come in.  StartError when the port can't be had, or
        that directory is at fault."""
        self.address, self.context, self.poller = address, context, poller
        self._told = -TELL_EVERY_S
        self.gate = Gate(context, keys) if keys else None
        try:
            self.router, self.monitor = self._bind()
        except StartError:
            self._close_gate()
            raise

    def _bind(self) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        try:
            router = self.context.socket(zmq.ROUTER)
        except zmq.ZMQError as error:
            raise self._refusal(error) from error
        router.setsockopt(zmq.LINGER, 0)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.MAXMSGSIZE, limits.SEALED_BYTES)
        router.setsockopt(zmq.RCVHWM, 0)  # a peer at its limit that is reset: see below
        router.setsockopt(zmq.SNDHWM, limits.PEERS_QUEUED // 4)
        router.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        # The kernel looks for peers that are gone.  ZeroMQ's heartbeats, ours or a stranger's,
        # abort this process when a peer was reset while more of its messages waited than RCVHWM
        # (issues 3937, 4364, 4767 of zeromq/libzmq).  Whoever floods us meets `relieve`.
        router.setsockopt(zmq.TCP_KEEPALIVE, 1)
        router.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 10)
        router.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 5)
        router.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
        router.setsockopt(zmq.BACKLOG, 512)
        if self.gate is not None:
            self.gate.dress(router)
        try:
            router.bind(addresses.ipc(self.address))  # where fewer knock: first
            router.bind(addresses.tcp(numeric(self.address)))
            self._bound = router.getsockopt_string(zmq.LAST_ENDPOINT).removeprefix("tcp://")
            monitor = router.get_monitor_socket(HANDSHAKES)
        except zmq.ZMQError as error:
            router.close()
            raise self._refusal(error) from error
        self.poller.register(router, zmq.POLLIN)
        self.poller.register(monitor, zmq.POLLIN)
        return router, monitor

    def _refusal(self, error: zmq.ZMQError) -> StartError:
        what = addresses.short(self.address)
        if error.errno == zmq.EADDRINUSE:
            return PortInUse(f"port {what} is in use: is this node already running?")
        if error.errno in (errno.ENODEV, zmq.EADDRNOTAVAIL, errno.EINVAL):
            return StartError(f"can't listen on {what}: this machine does not have that address")
        if error.errno == errno.EACCES:
            return StartError(f"can't listen on {what}: low ports are root's; choose another")
        return StartError(f"can't listen on {what}: {error}")

    def strangers(self, most: int) -> list[str]:
        """Of each connection that came to nothing since the last call, why."""
        found: list[str] = []
        while len(found) < most and self.monitor.poll(0):
            told = zmq.utils.monitor.recv_monitor_message(self.monitor, zmq.NOBLOCK)
            if self.gate is None:
                found.append("a connection that does not speak ZeroMQ, or has keys")
            elif told["event"] == zmq.Event.HANDSHAKE_FAILED_AUTH:
                found.append(self.gate.refusal)
            else:
                found.append("a connection without keys, or to another key than this server's")
        return found

    def holder(self, frame: zmq.Frame) -> Key | None:
        """Whose message this is a frame of; None: there are no keys, or it may not speak."""
        return self.gate.holder(frame) if self.gate is not None else None

    def stands(self, key: Key | None) -> bool:
        """Whether a key that was let in is still as it was then."""
        if self.gate is None or key is None:
            return True
        return self.gate.allowed.get(key.public) == key

    def whose(self, frame: zmq.Frame) -> str:
        """The same for a line about a message that was refused."""
        return f", from {self.gate.text(frame)}" if self.gate is not None else ""

    def relieve(self, most_bytes: int) -> bool:
        """Drop every connection if this process holds more anonymous memory, or nearly all the
        descriptors that it may; whether it did."""
        try:
            crowded, hoarding = _crowded(), _hoarding(most_bytes)
        except OSError:  # the last descriptor was taken meanwhile
            crowded = True
        if crowded:
            what = "has nearly as many connections as it may have open files"
        elif hoarding:
            held = f"{most_bytes >> 20} MiB in messages"
            what = f"holds over {held} that somebody does not end, or does not take"
        else:
            return False
        if time.monotonic() - self._told >= TELL_EVERY_S:
            self._told = time.monotonic()
            log.error("%s %s: dropping every connection", self.address, what)
        self.poller.unregister(self.router)
        self.poller.unregister(self.monitor)
        self._unbind()
        end = time.monotonic() + REBIND_S
        while True:
            try:
                self._wait_until_closed(end)
                self.router, self.monitor = self._bind()
                break
            except StartError:  # its other endpoint: ZeroMQ's thread closes each in its time
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)
        _libc.malloc_trim(0)
        return True

    def close(self) -> None:
        """Give the port back."""
        self._unbind()
        self._close_gate()

    def _unbind(self) -> None:
        if self.router.closed:  # it could not be had again, which is being told
            return
        self.router.disable_monitor()
        self.router.close(0)

    def _wait_until_closed(self, end: float) -> None:
        """Until ZeroMQ's thread has closed the socket that we closed, and its connections.

        To bind sooner could end this process: ZeroMQ asserts that it can list the interfaces
        (ip_resolver.cpp), which takes a descriptor, while the old socket takes all there are.
        """
        while _listening(self._bound) or _in_use() > 1 / 2:
            if time.monotonic() > end:
                raise StartError(f"can't listen again on {addresses.short(self.address)}")
            time.sleep(0.01)

    def _close_gate(self) -> None:
        if self.gate is not None:
            self.gate.close()


def _hoarding(most_bytes: int) -> bool:
    if anonymous_bytes() <= most_bytes:
        return False
    _libc.malloc_trim(0)  # what was freed and only waits for its next use is no hoard
    return anonymous_bytes() > most_bytes


def _listening(endpoint: str) -> bool:
    host, _, port = endpoint.rpartition(":")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, int(port)))
    except OSError:
        return True
    return False


def _crowded() -> bool:
    """Whether three quarters of the descriptors are in use; only connections are ever so many."""
    return _in_use() > 3 / 4


def _in_use() -> float:
    """Which part of the descriptors that this process may have it has."""
    try:
        return len(os.listdir("/proc/self/fd")) / resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except OSError:  # not even one for this
        return 1.0


def numeric(address: str) -> str:
    """The same with the host's IPv4 address: ZeroMQ looks no names up to listen.  What has none
    may be an interface's name, which ZeroMQ knows."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.gethostbyname(host)
    except OSError:
        return address
    if found.startswith("127.") and found != host and host != "localhost":
        log.warning(
            "%s is %s on this machine, as /etc/hosts mostly has it: nobody else can reach this "
            "server.  Name it by an address of its network",
            host, found,
        )  # fmt: skip
    return f"{found}:{port}"


def anonymous_bytes() -> int:
    """This process's anonymous memory (RssAnon of proc(5))."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0
