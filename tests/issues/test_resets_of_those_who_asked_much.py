"""A connection that was reset while more of its messages waited than are taken in ended the node.

ZeroMQ's own heartbeats did: `Assertion failed: !_io_error` (libzmq's stream_engine_base.cpp).  The
timer of a connection whose input is stopped writes to it although it is known to be broken.  Five
seconds in which a busy server did not get to the messages of a mount that was killed were enough.
So was a stranger's own heartbeat among such messages, when they were taken in at last.
"""

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import zmq

from tests.conftest import until
from tests.live.cluster import free_ports
from tests.live.strangers import RESET
from tests.world import zmtp
from zdfs.listener import Listener

ROOT = Path(__file__).parents[2]
HEARTBEATS_S = 6.5  # longer than between two of them
BUSY_S = 5.8
MESSAGES = 3000


@pytest.mark.parametrize("beats", [b"", zmtp.command(b"PING", b"\0\0")], ids=["ours", "theirs"])
def test_the_node_lives(beats: bytes) -> None:
    words = [sys.executable, "-m", "tests.issues.test_resets_of_those_who_asked_much"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as node:
        try:
            assert node.stdout is not None
            port = int(node.stdout.readline())
            for _ in range(3):
                with zmtp.connect(port) as raw:
                    raw.settimeout(0.2)
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    try:
                        raw.sendall((zmtp.frame(b"question") * 3 + beats) * MESSAGES)
                    except OSError:
                        pass  # not all of them are taken in
            end = time.monotonic() + HEARTBEATS_S
            until(lambda: time.monotonic() > end or node.poll() is not None, 30)
            assert node.poll() is None, f"it ended: {node.poll()}"
        finally:
            node.kill()


def serve() -> None:
    """A port whose server has other things to do."""
    (port,) = free_ports(1)
    with zmq.Context() as context:
        listener = Listener(f"127.0.0.1:{port}", context, zmq.Poller())
        print(port, flush=True)
        threading.Event().wait(BUSY_S)
        while listener.router.poll(20_000):
            listener.router.recv_multipart()
        listener.close()


if __name__ == "__main__":
    serve()
