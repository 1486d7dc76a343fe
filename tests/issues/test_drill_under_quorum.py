"""`zdfs drill` on a cluster whose policy is quorum: no write waits for a server that is down, and
that is as it should be; but `Drill._away` waited for a blocked mount and called it a broken promise
after a minute (exit status 2).  In the step `kill` it then ended without starting the dataserver
again that it had killed."""

import types

import pytest

from zdfs.ids import Policy
from zdfs.tools import drill
from zdfs.wire import State


def test_no_write_has_to_wait_under_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill, "HEALED_S", 0.5)
    member = types.SimpleNamespace(state=State.DOWN)
    status = types.SimpleNamespace(
        servers=[types.SimpleNamespace(member=member)], sessions=[], policy=Policy.QUORUM, note=""
    )
    one = drill.Drill.__new__(drill.Drill)
    one.status = status
    monkeypatch.setattr(one.__class__, "_status", lambda self: status)
    monkeypatch.setattr(
        one.__class__,
        "_until",
        lambda self, good, what, patience_s=0.5: _once(good, what),
    )
    one._away(drill.Step("stop"), 0)


def _once(good, what):  # type: ignore[no-untyped-def]
    if not good():
        raise drill.Broken(f"not within: {what}")
