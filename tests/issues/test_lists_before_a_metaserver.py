"""A mistyped list of ports was not refused while a metaserver with an empty store waited.

It waited for good, and the dataserver with the wrong list was never told.
"""

from tests.issues.test_reports import CALLER, RING, report
from tests.world.stores import MemoryMetaStore
from zdfs import wire
from zdfs.calls import Now
from zdfs.copied import CopiedStore
from zdfs.copies import alive
from zdfs.ids import Slot
from zdfs.limits import DOWN_S
from zdfs.regain import Regain

OTHER = ("127.0.0.1:3", "127.0.0.1:2", "127.0.0.1:1")
OURS = b"c" * 16


def waiting() -> Regain:
    return Regain(CopiedStore(MemoryMetaStore()), bytes(16), None)


def refused(room: Regain, request: wire.Report, at: float) -> str:
    """What the dataserver is told."""
    handler = room.report(request, CALLER)
    assert isinstance(handler.send(None), Now)
    try:
        handler.send(at)
    except StopIteration as done:
        told: wire.Instructions = done.value
        return told.refused
    raise AssertionError("one question only")


def test_another_list_is_refused_before_the_founding() -> None:
    room = waiting()
    assert refused(room, report(0), 1.0) == ""
    text = refused(room, report(1, addresses=OTHER), 1.0)
    assert text == "its list of ports differs from that of slot 0: 1 2 3"
    assert refused(room, report(7), 1.0) == "slot 7 is not in its own list of 3 ports"
    assert list(room.reports) == [Slot(0)]


def test_a_wrong_list_is_forgotten_with_its_server() -> None:
    room = waiting()
    assert refused(room, report(0, addresses=OTHER), 1.0) == ""
    assert refused(room, report(0), 2.0) == "", "the same slot may correct itself"
    assert refused(room, report(0, addresses=OTHER), 3.0) == ""
    assert refused(room, report(1), 3.5 + DOWN_S) == ""


def test_who_belongs_to_a_cluster_is_believed() -> None:
    room = waiting()
    assert refused(room, report(0, addresses=OTHER), 1.0) == ""
    assert refused(room, report(1, cluster=OURS), 1.0) == ""
    text = refused(room, report(0, addresses=OTHER), 2.0)
    assert text == "its list of ports differs from that of slot 1: 1 2 3"


def test_lists_of_one_cluster_that_differ_are_said() -> None:
    room, lists = waiting(), (RING, RING, OTHER)
    for slot, ports in enumerate(lists):
        assert refused(room, report(slot, cluster=OURS, addresses=ports), 1.0) == ""
    assert "differing lists of ports" in _said(room)


def _said(room: Regain) -> str:
    return room._judge(alive(room.reports, 1.0)).text
