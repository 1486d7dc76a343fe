"""Founding, who stands in a slot, votes, acknowledgements that outlived their store."""

from dataclasses import replace
from typing import Any

import pytest

from zdfs import cluster, limits, wire
from zdfs.cluster import Heard
from zdfs.ids import Epoch, Incarnation, Round, Slot
from zdfs.schema import Server
from zdfs.wire import State

RING = ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4")
CLUSTER = b"c" * 16
US = Incarnation(5)


def uuid(number: int) -> bytes:
    """A store's."""
    return bytes([number]) * 16


def report(slot: int, **fields: Any) -> wire.Report:
    """What a healthy server of a founded cluster says."""
    health = wire.Health(State.SERVING, 100, 50, 7, 50, None, 0, 0, 0, "x")
    usual: dict[str, Any] = {
        "slot": Slot(slot), "addresses": RING, "host": b"", "cluster": CLUSTER,
        "uuid": uuid(slot), "life": 2, "boot": 3, "opened_round": Round(40),
        "synced_round": Round(60), "health": health, "promised": US,
        "served_incarnation": Incarnation(4), "served_round": Round(9), "reconciled": 1,
        "events": (),
    }  # fmt: skip
    return wire.Report(**(usual | fields))


def server(slot: int, **fields: Any) -> Server:
    """What the metaserver recorded of it."""
    usual: dict[str, Any] = {
        "uuid": uuid(slot), "life": 2, "boot": 3, "opened_round": Round(40),
        "synced_round": Round(55), "dropped": 0, "reconcile": 1, "reconciled": 1, "refill": 0,
        "skipped": False,
    }  # fmt: skip
    return Server(**(usual | fields))


def servers(count: int = 4) -> dict[Slot, Server]:
    """All slots."""
    return {Slot(slot): server(slot) for slot in range(count)}


def heard(*reports: wire.Report, at: float = 0.0) -> dict[Slot, Heard]:
    """All just heard."""
    return {one.slot: Heard(at, one) for one in reports}


# --- founding ----------------------------------------------------------------------------------


def test_founded_when_all_empty_stores_agree() -> None:
    empty = [report(slot, cluster=b"") for slot in range(4)]
    assert cluster.founding({}, 0.0)[0] is None
    ring, note = cluster.founding(heard(*empty[:3]), 0.0)
    assert ring is None and note == "waiting for the dataservers at 4"
    assert cluster.founding(heard(*empty), 0.0) == (RING, "")
    assert cluster.founding(heard(*empty), limits.DOWN_S + 1)[0] is None, "they fell silent"


def test_not_founded_over_other_lists_or_another_clusters_stores() -> None:
    other = report(3, cluster=b"", addresses=RING[::-1])
    ring, note = cluster.founding(heard(report(0, cluster=b""), other), 0.0)
    assert ring is None and "differing" in note
    ring, note = cluster.founding(heard(report(0, cluster=b""), report(1)), 0.0)
    assert ring is None and CLUSTER.hex() in note


# --- who stands in a slot ------------------------------------------------------------------------


def judged(**fields: Any) -> cluster.Verdict:
    """What a report of slot 1 means."""
    all_servers = servers()
    return cluster.judge(all_servers[Slot(1)], all_servers, report(1, **fields))


def test_the_same_boot_is_no_news() -> None:
    assert judged() == (replace(server(1), synced_round=Round(60)), "", "")


@pytest.mark.parametrize("opened", [55, 56, 60, 1000])
def test_a_killed_server_is_believed_and_reconciles(opened: int) -> None:
    verdict = judged(boot=4, opened_round=Round(opened), synced_round=Round(opened))
    assert verdict.server is not None and not verdict.kind
    assert (verdict.server.boot, verdict.server.life) == (4, 2)
    assert verdict.server.reconcile == 2 and verdict.server.refill == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"boot": 4, "opened_round": Round(54), "synced_round": Round(54)},
        {"boot": 3, "opened_round": Round(39), "synced_round": Round(39)},
        {"boot": 2, "opened_round": Round(70), "synced_round": Round(70)},
    ],
)
def test_an_older_copy_gets_a_new_life(fields: dict[str, Any]) -> None:
    verdict = judged(**fields)
    assert verdict.kind == "old" and verdict.server is not None
    assert (verdict.server.life, verdict.server.reconcile, verdict.server.refill) == (3, 2, 2)
    again = cluster.judge(verdict.server, servers(), report(1, **fields))
    assert again == (verdict.server, "", ""), "said once"


def test_an_empty_store_is_a_lost_disk_and_a_former_one_reconciles() -> None:
    lost = judged(uuid=uuid(9), cluster=b"", life=0)
    former = judged(uuid=uuid(9))
    assert (lost.kind, former.kind) == ("lost disk", "former store")
    for verdict in (lost, former):
        assert verdict.server is not None and verdict.server.uuid == uuid(9)
        assert (verdict.server.life, verdict.server.refill) == (3, 2)


def test_the_store_of_another_slot_is_refused() -> None:
    verdict = judged(uuid=uuid(2))
    assert verdict.server is None and "belongs to slot 2, not 1" in verdict.text


# --- votes ---------------------------------------------------------------------------------------


def votes(*reports: wire.Report, count: int = 4) -> bool:
    """Whether we are granted."""
    return cluster.granted(servers(count), heard(*reports), US, 0.0)


def test_more_than_half_must_have_promised() -> None:
    assert votes(report(0), report(1), report(2))
    assert not votes(report(0), report(1))
    assert not votes(report(0), report(1), *[report(s, promised=US - 1) for s in (2, 3)])
    assert not cluster.granted(
        servers(), heard(*map(report, range(4))), US, limits.DOWN_S + 1
    ), "old news"


def lost(slot: int) -> wire.Report:
    """A server with a new, empty store."""
    return report(slot, uuid=uuid(10 + slot), cluster=b"", life=0, opened_round=Round(0))


def test_a_store_without_memory_has_no_vote() -> None:
    older = report(2, boot=3, opened_round=Round(10), synced_round=Round(10))
    unaware = report(2, life=1)  # it has yet to hear of its new life
    for void in (lost(2), older, unaware):
        assert not votes(report(0), report(1), void), "the fourth may have served another"


def test_those_that_remember_suffice_when_all_are_heard() -> None:
    """A newer metaserver was granted by three of four: one of these two would know."""
    assert votes(report(0), report(1), lost(2), lost(3))
    assert not votes(report(0), lost(1), lost(2), lost(3)), "three may have forgotten it"
    assert not votes(report(0), report(1, promised=US - 1), lost(2), lost(3))
    assert not votes(report(0), lost(1), lost(2), count=3), "two of three are a majority"


def test_who_was_told_its_new_life_votes_again_before_it_is_whole() -> None:
    """Else three servers, two of them being rebuilt, could never be restarted."""
    known = servers(3)
    for slot in (1, 2):
        known[Slot(slot)] = server(slot, life=3, reconcile=7, refill=7)
    reports = [report(0), report(1, life=3), report(2, life=3)]
    assert cluster.granted(known, heard(*reports), US, 0.0)


def test_why_not_is_said() -> None:
    text = cluster.hoping(RING, servers(), heard(report(0), lost(1)), 0.0)
    assert "silent: 3, 4" in text and "without a vote (a new or old store): 2" in text


@pytest.mark.parametrize(
    "fields",
    [
        {"promised": US + 1},
        {"served_incarnation": Incarnation(4), "served_round": Round(101)},
        {"served_incarnation": US},
    ],
)
def test_an_outrun_metaserver_is_told(fields: dict[str, Any]) -> None:
    served = (4, 100)
    assert cluster.newer(heard(report(0)), US, served) is None
    assert cluster.newer(heard(report(0), report(1, **fields)), US, served) is not None


# --- the map -------------------------------------------------------------------------------------


def test_members_are_down_joining_or_as_they_say() -> None:
    reports = heard(report(0), report(1, life=1)) | heard(report(2), at=-limits.DOWN_S - 1)
    found = cluster.members(RING, servers(), reports, 0.0)
    assert [m.state for m in found] == [State.SERVING, State.JOINING, State.DOWN, State.DOWN]
    shown = cluster.Map(3, found).shown(Epoch(1))
    assert (shown.version, shown.members) == (3, found)


# --- acknowledgements ----------------------------------------------------------------------------


def ack(slot: int, **fields: Any) -> wire.Ack:
    """From the present boot."""
    usual: dict[str, Any] = {"slot": Slot(slot), "uuid": uuid(slot), "life": 2, "boot": 3}
    return wire.Ack(**(usual | {"round": Round(50)} | fields))


@pytest.mark.parametrize(
    "fields, bad",
    [
        ({}, False),
        ({"round": Round(10_000)}, False),  # this boot: newer than any report
        ({"boot": 2, "round": Round(40)}, False),  # the boot before: it survived
        ({"boot": 2, "round": Round(41)}, True),
        ({"boot": 1, "round": Round(1)}, True),
        ({"boot": 4}, True),  # not heard of yet
        ({"life": 1}, True),
        ({"uuid": uuid(9)}, True),
    ],
)
def test_an_acknowledgement_counts_while_its_store_lives(fields: dict[str, Any], bad: bool) -> None:
    needed = [Slot(0), Slot(1)]
    acks = [ack(0), ack(1, **fields)]
    assert cluster.stale(servers(), needed, acks) == ((Slot(1),) if bad else ())
    assert cluster.stale(servers(), [Slot(0)], acks) == (), "nobody needs it"


def test_a_missing_acknowledgement_is_stale() -> None:
    assert cluster.stale(servers(), [Slot(0), Slot(2)], [ack(0)]) == (Slot(2),)
    assert cluster.stale(servers(), [Slot(9)], [ack(9)]) == (Slot(9),)
