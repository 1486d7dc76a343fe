"""`make run`'s supervisor, on programs that stand for nodes: real processes, no cluster."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import until

from zdfs import up
from zdfs.errors import StartError
from zdfs.up import Child, House

FOREVER = ["sh", "-c", "exec sleep 60"]


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    made = Child("a server", FOREVER, tmp_path / "log")
    yield made
    made.tell(signal.SIGKILL)
    assert made.wait(time.monotonic() + 5)


def prints(status: int, text: str) -> list[str]:
    """A program that prints and ends."""
    return [sys.executable, "-c", f"import sys; print({text!r}); sys.exit({status})"]


def test_a_dead_child_comes_back_after_growing_pauses(
    child: Child, capsys: pytest.CaptureFixture[str]
) -> None:
    child.start()
    for pause_s in (up.PAUSE_S, 2 * up.PAUSE_S):
        assert child.process is not None and child.pause_s == pause_s
        child.tell(signal.SIGKILL)
        until(lambda: child.status() is not None)
        child.look_after()
        assert child.process is None and child.due_s > time.monotonic()
        child.look_after()
        assert child.process is None, "not before its pause is over"
        child.due_s = 0.0
        child.look_after()
    assert capsys.readouterr().out.count("a server ended with status -9") == 2


def test_who_lived_long_starts_with_the_shortest_pause(child: Child) -> None:
    child.start()
    child.pause_s, child.started_s = up.PAUSE_MOST_S, time.monotonic() - up.CALM_S - 1
    child.tell(signal.SIGKILL)
    until(lambda: child.status() is not None)
    child.look_after()
    assert child.pause_s == 2 * up.PAUSE_S


def test_children_do_not_hear_our_terminal(child: Child) -> None:
    child.start()
    assert child.process is not None
    assert os.getsid(child.process.pid) == child.process.pid


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} .* is taken"):
            House(tmp_path / "store", tmp_path / "mnt", port).check()


def test_a_mount_point_must_be_an_empty_directory(tmp_path: Path) -> None:
    up._check_mount_point(tmp_path / "missing")
    up._check_mount_point(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="not empty"):
        up._check_mount_point(tmp_path)
    with pytest.raises(StartError, match="no directory"):
        up._check_mount_point(tmp_path / "file")


def test_nothing_is_mounted_on_a_plain_directory(tmp_path: Path) -> None:
    assert not up._mounted(tmp_path) and not up._listed(tmp_path / "missing")


@pytest.mark.parametrize(
    ("status", "text", "reason"),
    [
        (0, json.dumps({"note": "", "servers": []}), ""),
        (0, json.dumps({"note": "waiting for slot 2"}), "waiting for slot 2"),
        (0, "not JSON", "zdfs status prints no JSON"),
        (1, "", "zdfs status fails"),
    ],
)
def test_why_the_cluster_does_not_serve_yet(status: int, text: str, reason: str) -> None:
    assert up._why_not(prints(status, text)) == reason


def test_a_server_that_ends_at_once_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    house = House(tmp_path, tmp_path / "mnt")
    dying = Child("the metaserver", prints(3, "its store is locked"), tmp_path / "log")
    dying.start()
    with pytest.raises(StartError, match="status 3:\n    its store is locked"):
        house._wait(lambda: False, [dying])


def test_ending_kills_who_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "END_S", 0.3)
    house = House(tmp_path, tmp_path / "mnt")
    words = ["sh", "-c", "trap '' TERM; echo ready; while :; do read -r x </dev/zero; done"]
    deaf = Child("a deaf server", words, tmp_path / "log")
    polite = Child("a server", FOREVER, tmp_path / "log2")
    house.servers += [deaf, polite]
    for one in house.servers:
        one.start()
    until(lambda: b"ready" in deaf.log.read_bytes())
    house.end()
    assert deaf.status() == -signal.SIGKILL and polite.status() == -signal.SIGTERM
