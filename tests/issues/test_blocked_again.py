"""A server that answered while a writer asked for its policy was waited for once more.

What was read before the question (who is down) was believed after it, so that the log said twice
that writes wait, and the writer waited for another second.
"""

from typing import Any

from zdfs import wire
from zdfs.calls import CallAll, Now, Wait
from zdfs.contact import Contact
from zdfs.ids import Epoch, Incarnation, Ino, Policy, Session, Slot
from zdfs.wire import State

MEMBERS = tuple(
    wire.Member(Slot(slot), f"data:{slot}", bytes([slot]) * 16, 0, State.SERVING, False, b"")
    for slot in range(4)
)
DOWN = Slot(1)


class Driver:
    """Of a mount that nobody drives but the test."""

    session, incarnation = Session(1), Incarnation(1)

    def near(self, peer: object) -> None:
        """Everything is as near."""

    def monotonic(self) -> float:
        return 0.0


def test_who_came_back_meanwhile_is_not_waited_for() -> None:
    contact = Contact("meta:1", "/m", Driver())
    contact.map = wire.ClusterMap(1, Epoch(1), MEMBERS)
    contact.block(DOWN, 1.0)
    waiting = contact.wait_for_ring(Ino(7), Slot(0), range(1))
    value: Any = None
    at, asked = 2.0, 0
    while True:
        try:
            trap: Any = waiting.send(value)
        except StopIteration:
            break
        at += 0.01
        assert not isinstance(trap, Wait), "it waits for a server that is back"
        value = at if isinstance(trap, Now) else None
        if isinstance(trap, CallAll):
            asked += 1
            contact.trust(DOWN, at)
            contact.unblock(DOWN)
            value = [wire.PolicyFound(Policy.ALL, Policy.INHERIT, Ino(0))]
    assert asked == 1 and not contact.blocked
