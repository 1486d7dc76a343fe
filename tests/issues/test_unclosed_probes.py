"""Programs that look for what they forgot to close (`python -X dev`, `-W error`, pytest) were told
of sockets of ours: each look at a server that does not answer left its monitor open."""

import socket
import subprocess
import sys

CONNECT = """import zdfs
try:
    zdfs.connect("127.0.0.1:{port}", connect_timeout_s=2.5)
except ConnectionError:
    print("nobody answers")
"""


def test_a_server_that_is_down_leaves_no_socket_open() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        code = CONNECT.format(port=taken.getsockname()[1])
        words = [sys.executable, "-X", "dev", "-c", code]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert "nobody answers" in done.stdout, done.stderr
    assert "Unclosed socket" not in done.stderr
