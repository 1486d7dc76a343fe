"""While a machine starts, `zdfs-mount` may come before the network does.  It waits ten seconds for
a metaserver; but where nobody knew the address of its host yet, it ended at once."""

from typing import Any

import pytest

from zdfs import wire
from zdfs.calls import CallAll, Now
from zdfs.errors import StartError, Unreachable
from zdfs.ids import Slot
from zdfs.tools import admin
from zdfs.wire import State

SERVES = wire.Identity(
    wire.Role.META, "1.0", b"", bytes(16), Slot(0), State.SERVING, False, b"", "", "", 1
)


def found(*answers: Any) -> Any:
    """What is found, or why nothing, if each question is answered so, a second after it."""
    finding, left, at = admin.find_meta("no-such-host.invalid:2222", 10.0), list(answers), 0.0
    value: Any = None
    while True:
        try:
            trap = finding.send(value)
        except StopIteration as done:
            return done.value
        if isinstance(trap, CallAll):
            at += 1.0
            value = [left.pop(0)]
        else:
            value = at if isinstance(trap, Now) else None


def test_a_host_may_be_known_soon() -> None:
    assert found(Unreachable(), Unreachable(), SERVES) is SERVES


def test_that_it_is_not_is_told_in_the_end() -> None:
    with pytest.raises(StartError, match="no-such-host.invalid: this machine knows no address"):
        found(*[Unreachable()] * 20)
