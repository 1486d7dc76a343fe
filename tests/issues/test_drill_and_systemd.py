"""`zdfs drill --nodes 0` did not find dataservers that systemd had started: "no dataserver of slot
0 runs on this machine".  Their command lines name no ports, for a configuration file does.  And
systemd starts again what was killed: a drill that did so, too, would have found its port taken."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zdfs.tools.nodes import Node, find_nodes

SERVER = """import socket, sys, threading
def busy():
    while True:
        open("/dev/null").close()
door = socket.create_server(("127.0.0.1", 0))
if sys.argv[3:] == ["--busy"]:
    for _ in range(4):
        threading.Thread(target=busy, daemon=True).start()
print(door.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def a_node(folder: Path, shell: str, *more: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that looks like a dataserver's, without ports, and the port that it listens at."""
    program = folder / "zdfs-node"
    program.write_text(SERVER)
    words = ["sh", "-c", f"{shell} exec {sys.executable} {program} data 1 {' '.join(more)}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.communicate()


def found(port: int) -> list[Node]:
    """Those of a ring whose second server is at a port."""
    return find_nodes(("127.0.0.1:1", f"127.0.0.1:{port}", "127.0.0.1:2"))


def test_a_node_without_ports_is_known_by_where_it_listens(tmp_path: Path) -> None:
    with a_node(tmp_path, "") as (process, port):
        (node,) = found(port)
        assert (node.slot, node.pid, node.address) == (1, process.pid, f"127.0.0.1:{port}")
        assert not node.looked_after
        assert not found(port - 1), "it listens elsewhere: it is another cluster's"


def test_who_starts_it_again(tmp_path: Path) -> None:
    with a_node(tmp_path, "SYSTEMD_EXEC_PID=$$") as (_, port):
        (node,) = found(port)
        assert node.keeper == "systemd" and node.looked_after
    with a_node(tmp_path, "SYSTEMD_EXEC_PID=1") as (_, port):  # inherited from a service's shell
        assert not found(port)[0].looked_after


def test_a_node_that_opens_and_closes_files_is_found_each_time(tmp_path: Path) -> None:
    """A descriptor that was closed between two looks at it hid the node."""
    with a_node(tmp_path, "", "--busy") as (_, port):
        assert all(found(port) for _ in range(100))
