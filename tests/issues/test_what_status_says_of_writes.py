"""While a server was down and nobody happened to write, `zdfs status` said "writes    go through",
though the next write of policy all would wait; so it did while the metaserver served reads only."""

from dataclasses import replace

from tests.unit.test_reasons import status
from zdfs import wire
from zdfs.ids import Policy
from zdfs.tools import admin
from zdfs.wire import State


def writes(found: wire.Status) -> str:
    """The line of what writes do."""
    lines = admin.status_text(admin.facts(found)).splitlines()
    (line,) = [one for one in lines if one.startswith("writes ")]
    return line.removeprefix("writes").strip()


def test_while_a_server_is_down() -> None:
    down = status(s1=State.DOWN)
    assert "would wait for 4444" in writes(replace(down, policy=Policy.ALL))
    assert "down: 4444" in writes(replace(down, policy=Policy.QUORUM))


def test_while_the_metaserver_serves_reads_only() -> None:
    assert "would wait" in writes(replace(status(), note="waits for dataservers"))


def test_while_all_are_up() -> None:
    assert writes(status()) == "go through"
