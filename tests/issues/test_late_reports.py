"""A report that was held up in the network was taken for one of a store that went back in time.

After a partition of some seconds the kernel delivers what its sockets still held: reports that the
dataserver had given up, behind newer ones.  Their synced round is lower: "an older copy of its
store".  Its acknowledgements became void, it reconciled, and its vote was gone until it was told.
"""

from tests.issues.test_reports import membership, report, told
from tests.world.stores import MemoryMetaStore
from zdfs import wire
from zdfs.ids import Round, Slot
from zdfs.membership import Membership

OLD = {"boot": 2, "synced_round": Round(10)}
NEW = {"boot": 2, "synced_round": Round(20)}


def life(members: Membership) -> int:
    return members.ledger.servers[Slot(1)].life


def kinds(members: Membership) -> list[str]:
    """Events, but for those of processes that started."""
    return [event.kind for event in members.ledger.events(10) if event.kind != "started"]


def test_a_late_report_convicts_nobody() -> None:
    members = membership(MemoryMetaStore())
    ticket = told(members, report(1, **OLD), 1.0).ticket
    late = report(1, **OLD, ticket=ticket)
    newer = told(members, report(1, **NEW, ticket=ticket), 2.0).ticket
    told(members, late, 3.0)
    told(members, report(1, **OLD), 3.0)  # and one from before it was ever answered
    assert life(members) == 0 and kinds(members) == []
    assert members.reports[Slot(1)].report.synced_round == 20
    told(members, report(1, **NEW, ticket=newer), 4.0)
    assert life(members) == 0 and kinds(members) == []


def test_a_late_report_of_the_process_before_convicts_nobody() -> None:
    members = membership(MemoryMetaStore())
    ticket = told(members, report(1, **OLD), 1.0).ticket
    told(members, report(1, boot=3, opened_round=Round(20), synced_round=Round(20)), 2.0)
    told(members, report(1, **OLD, ticket=ticket), 3.0)
    assert life(members) == 0 and kinds(members) == []


def test_an_older_copy_is_known_by_its_second_report() -> None:
    members = membership(MemoryMetaStore())
    told(members, report(1, **NEW), 1.0)
    answer = told(members, report(1, **OLD), 2.0)
    assert not answer.granted and not answer.cluster, "nothing is settled, no event was recorded"
    assert told(members, report(1, **OLD, ticket=answer.ticket), 3.0).life == 1
    assert kinds(members) == ["old"]


def test_a_late_report_of_a_lost_store_does_not_bring_it_back() -> None:
    members = membership(MemoryMetaStore())
    ours = members.ledger.cluster
    assert ours is not None
    ticket = told(members, report(1, **OLD, cluster=ours.uuid), 1.0).ticket
    late = report(1, **OLD, cluster=ours.uuid, ticket=ticket)
    empty = {"uuid": b"n" * 16, "cluster": b""}
    fresh = told(members, report(1, **empty), 2.0).ticket
    answer = told(members, report(1, **empty, ticket=fresh), 3.0)
    assert answer.granted and kinds(members) == ["lost disk"]
    told(members, late, 4.0)
    assert members.ledger.servers[Slot(1)].uuid == empty["uuid"]
    assert isinstance(answer, wire.Instructions)
