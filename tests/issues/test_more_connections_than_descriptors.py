"""Whoever opened more connections than a node may have descriptors ended the node.

Its watch over its own memory reads a file twice in a second; that one could not be opened, either.
And to bind again while the old socket still took who stood at the door ended it: ZeroMQ asserts
that it can list the interfaces.
"""

import os
import resource
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.conftest import until
from tests.contract.test_broker import Counters, SlowStore
from tests.live.cluster import free_ports
from zdfs import listener, wire
from zdfs.broker import Broker
from zdfs.calls import Peer, call
from zdfs.errors import StartError
from zdfs.ids import Ino
from zdfs.link import Link

ROOT = Path(__file__).parents[2]
FILES = 256
CONNECTIONS = 400
A_SECOND = 2000


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


@contextmanager
def few_descriptors(log: Path) -> Iterator[tuple[int, int]]:
    """A node that may have few: its process and its port; in the end it is there and serves."""
    words = [sys.executable, "-m", "tests.issues.test_more_connections_than_descriptors"]
    with (
        open(log, "w") as errors,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT) as node,
    ):
        try:
            assert node.stdout is not None
            port = int(node.stdout.readline())
            yield node.pid, port
            assert node.poll() is None
            link = Link()
            reply = link.run(call(Peer(f"127.0.0.1:{port}"), wire.ReadLink(Ino(4)), 10.0))
            assert reply.target == b"0 of 4"
            link.close()
        finally:
            node.kill()


def test_a_crowd_is_sent_away(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with few_descriptors(log) as (pid, port), ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        until(lambda: "dropping every connection" in log.read_text(), 20, "they were too many")
        until(lambda: descriptors(pid) < FILES // 2, 20, "they are gone")


def knock(port: int) -> socket.socket:
    """What becomes a connection, or not: nobody waits."""
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex(("127.0.0.1", port))
    return one


def test_those_who_come_again_at_once(tmp_path: Path) -> None:
    with few_descriptors(tmp_path / "log") as (_, port):
        crowd: deque[socket.socket] = deque()
        began = time.monotonic()
        for number in range(30 * CONNECTIONS):
            until(lambda: time.monotonic() - began > number / A_SECOND)
            crowd.append(knock(port))
            while len(crowd) > CONNECTIONS:
                crowd.popleft().close()
        while crowd:
            crowd.popleft().close()


def test_a_node_that_can_not_listen_again_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended with a fault of ZeroMQ's, "not a socket": it closed what was closed."""
    (port,) = free_ports(1)
    monkeypatch.setattr(listener, "REBIND_S", 0.1)
    context: zmq.Context[Any] = zmq.Context()
    made = listener.Listener(f"127.0.0.1:{port}", context, zmq.Poller())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors(os.getpid()) + 4, hard))
    try:
        with pytest.raises(StartError, match="can't listen again"):
            made.relieve(2**60)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    made.close()
    context.destroy(0)


def serve() -> None:
    """A node with few descriptors."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    (port,) = free_ports(1)
    store = SlowStore()
    broker = Broker(f"127.0.0.1:{port}")
    print(port, flush=True)
    broker.serve(Counters(store), store)


if __name__ == "__main__":
    serve()
