"""The ROUTER socket of a server: its port, who knocks without speaking ZeroMQ, who hoards.

Bound twice: across the network, and as an abstract socket for peers of this machine.  Taken before
the store is opened, so that a port in use leaves the store alone.

A peer that never ends a multipart message, or never takes its replies, eats memory below us, where
no limit of ZeroMQ reaches.  So this process's own memory is watched: far beyond its needs, every
connection is dropped at once.  Those who mean well connect again by themselves.
"""

import ctypes
import errno
import logging
import time
from typing import Any

import zmq
import zmq.utils.monitor

from zdfs import addresses, limits
from zdfs.errors import StartError

log = logging.getLogger("zdfs.broker")

REBIND_S = 2.0  # until ZeroMQ's own thread has let go of the port
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

    def __init__(self, address: str, context: zmq.Context[Any], poller: zmq.Poller):
        """StartError when the port can't be had."""
        self.address, self.context, self.poller = address, context, poller
        self.router, self.monitor = self._bind()

    def _bind(self) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        router = self.context.socket(zmq.ROUTER)
        router.setsockopt(zmq.LINGER, 0)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.MAXMSGSIZE, max(limits.FRAME_BYTES, limits.HEAD_BYTES))
        router.setsockopt(zmq.RCVHWM, limits.PEERS_QUEUED // 16)
        router.setsockopt(zmq.SNDHWM, limits.PEERS_QUEUED // 4)
        router.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        router.setsockopt(zmq.HEARTBEAT_IVL, 5000)
        router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15000)
        router.setsockopt(zmq.BACKLOG, 512)
        for endpoint in (addresses.tcp(self.address), addresses.ipc(self.address)):
            try:
                router.bind(endpoint)
            except zmq.ZMQError as error:
                router.close()
                raise self._refusal(error) from error
        monitor = router.get_monitor_socket(HANDSHAKES)
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

    def strangers(self, most: int) -> int:
        """How many connections failed to become ZeroMQ's since the last call."""
        count = 0
        while count < most and self.monitor.poll(0):
            zmq.utils.monitor.recv_monitor_message(self.monitor, zmq.NOBLOCK)
            count += 1
        return count

    def relieve(self, most_bytes: int) -> bool:
        """Drop every connection if this process holds more anonymous memory; whether it did."""
        if anonymous_bytes() <= most_bytes:
            return False
        _libc.malloc_trim(0)  # what was freed and only waits for its next use is no hoard
        if anonymous_bytes() <= most_bytes:
            return False
        log.error(
            "%s holds over %d MiB in messages that somebody does not end, or does not take: "
            "dropping every connection", self.address, most_bytes >> 20,
        )  # fmt: skip
        self.poller.unregister(self.router)
        self.poller.unregister(self.monitor)
        self.close()
        end = time.monotonic() + REBIND_S
        while True:
            try:
                self.router, self.monitor = self._bind()
                break
            except PortInUse:  # by ourselves, until ZeroMQ's thread has closed it
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)
        _libc.malloc_trim(0)
        return True

    def close(self) -> None:
        """Give the port back."""
        self.router.disable_monitor()
        self.router.close(0)


def anonymous_bytes() -> int:
    """This process's anonymous memory (RssAnon of proc(5))."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0
