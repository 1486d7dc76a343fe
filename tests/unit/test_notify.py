"""What a service manager hears: on a real socket."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from zdfs import notify
from zdfs.pending import Timers


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(5)
        yield made


def heard(manager: socket.socket) -> list[str]:
    """All that was said so far."""
    found = []
    manager.setblocking(False)
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


def of(manager: socket.socket, **environment: str) -> notify.Notifier:
    return notify.from_environment({"NOTIFY_SOCKET": manager.getsockname(), **environment}, 42)


def test_what_is_said(manager: socket.socket) -> None:
    notifier = of(manager, WATCHDOG_USEC="3000000", WATCHDOG_PID="42")
    assert notifier.listens and notifier.period_s == 1.5
    notifier.ready("waiting for the votes")
    notifier.status("waiting for the votes")  # is known
    notifier.status("serving")
    notifier.alive()
    notifier.stopping()
    assert heard(manager) == [
        "READY=1\nSTATUS=waiting for the votes", "STATUS=serving", "WATCHDOG=1", "STOPPING=1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "x"},
        {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "7"},
    ],
)
def test_no_watchdog_unless_it_is_ours(manager: socket.socket, more: dict[str, str]) -> None:
    notifier = of(manager, **more)
    assert notifier.period_s is None
    notifier.alive()
    assert heard(manager) == []


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0zdfs-test-notify")
        notify.from_environment({"NOTIFY_SOCKET": "@zdfs-test-notify"}, 1).stopping()
        assert heard(manager) == ["STOPPING=1"]


def test_nobody_to_tell(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    silent = notify.from_environment({}, 1)
    silent.ready()
    assert not silent.listens and not caplog.records
    odd = notify.from_environment({"NOTIFY_SOCKET": "vsock:2:1"}, 1)
    assert not odd.listens and "nobody is told" in caplog.text
    gone = notify.from_environment({"NOTIFY_SOCKET": str(tmp_path / "gone")}, 1)
    gone.ready()
    assert "the service manager can't be told READY=1" in caplog.text


def test_nobody_waits_for_a_manager_that_does_not_listen(manager: socket.socket) -> None:
    notifier = of(manager, WATCHDOG_USEC="1000000")
    for _ in range(1000):  # far beyond what a queue of datagrams takes
        notifier.alive()
    notifier.ready("serving")
    notifier.stopping()
    assert 0 < len(heard(manager)) < 1000
    notifier.alive()
    (words,) = heard(manager)  # what there was no room for, once
    assert sorted(words.splitlines()) == ["READY=1", "STATUS=serving", "STOPPING=1", "WATCHDOG=1"]


def test_a_loop_tells_from_its_timers(manager: socket.socket) -> None:
    clock, how, timers = [100.0], ["waiting"], Timers()

    def turn() -> list[str]:
        for act in timers.due(clock[0]):
            act()
        return heard(manager)

    notifier = of(manager, WATCHDOG_USEC="1000000")
    notify.attend(timers, lambda: clock[0], notifier, lambda: how[0])
    assert heard(manager) == []  # not before the loop turns
    assert turn() == ["READY=1\nSTATUS=waiting", "WATCHDOG=1"]
    assert turn() == []
    clock[0], how[0] = 100.5, "serving"
    assert turn() == ["STATUS=serving", "WATCHDOG=1"]
    clock[0] = 101.0
    assert turn() == ["WATCHDOG=1"]
    none = Timers()
    notify.attend(none, lambda: clock[0], notify.Notifier(None), lambda: how[0])
    assert none.next() is None
