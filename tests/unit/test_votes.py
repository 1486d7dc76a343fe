"""One metaserver: who votes for whom, and what nobody does without a vote."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.issues.test_early_drops import drive_through_a_wait, session
from tests.issues.test_kept_grant import caller, drive, metaserver
from tests.issues.test_reports import RING, instructions, membership, report, told
from tests.world.stores import MemoryBlockStore, MemoryMetaStore
from zdfs import wire
from zdfs.data import Data
from zdfs.errors import Unavailable
from zdfs.ids import ROOT, Incarnation, Round, Session, Slot
from zdfs.membership import Membership
from zdfs.wire import State


def hoping() -> Membership:
    """A metaserver that has started again and has no vote yet."""
    store = MemoryMetaStore()
    membership(store)
    store.end_round()
    made = membership(store)
    made.granted = False
    return made


def hear(members: Membership, **newest: Any) -> None:
    """All servers have promised themselves; what the last of them has seen besides."""
    ours = members.ledger.incarnation
    for slot in range(3):
        more = newest if slot == 2 else {}
        told(members, report(slot, **({"promised": ours} | more)), 1.0)


def test_with_all_votes_it_serves() -> None:
    members = hoping()
    hear(members)
    assert members.granted
    members.may_change()


@pytest.mark.parametrize("ahead", [{"promised": 1}, {"served_incarnation": 0, "served_round": 9}])
def test_an_older_copy_of_the_metaserver_never_serves(ahead: dict[str, int]) -> None:
    """Two votes would do; the third server has seen more than this store knows."""
    members = hoping()
    ours, (incarnation, round_) = members.ledger.incarnation, members.ledger.opened
    seen: dict[str, Any] = {"promised": Incarnation(ours + 1)}
    if "served_round" in ahead:
        seen = {
            "served_incarnation": Incarnation(incarnation),
            "served_round": Round(round_ + ahead["served_round"]),
        }
    told(members, report(2, **seen), 1.0)
    hear(members, **seen)
    assert not members.granted and "old copy" in members.note
    for may in (members.may_change, lambda: members.may_read(1.0)):
        with pytest.raises(Unavailable):
            may()


def test_a_metaserver_gives_way_to_a_later_one() -> None:
    members = hoping()
    hear(members)
    told(members, report(1, promised=Incarnation(members.ledger.incarnation + 1)), 2.0)
    with pytest.raises(Unavailable):
        members.may_change()


def test_nothing_is_changed_without_a_vote() -> None:
    meta = metaserver(MemoryMetaStore())
    us = session(meta, bytes(16))
    meta.members.granted = False
    request = wire.Create(ROOT, b"f", b"/f", 0o644, 0, 0, True, 1, 0)
    changes: list[Callable[[], Any]] = [
        lambda: meta.contents.create(request, caller(us, 0)),
        lambda: meta.names.make(
            wire.Make(ROOT, b"d", b"/d", 0o40755, 0, 0, 0, b"", 0), caller(us, 0)
        ),
        lambda: meta.names.rename(wire.Rename(ROOT, b"a", ROOT, b"b", 0), caller(us, 0)),
        lambda: meta.names.unlink(wire.Unlink(ROOT, b"a"), caller(us, 0)),
        lambda: meta.open_session(wire.OpenSession(b"n" * 16, "h", "m"), caller(Session(0))),
        lambda: meta.members.judge(wire.Judge(()), caller(us)),
    ]
    for change in changes:
        with pytest.raises(Unavailable):
            drive(change())


# --- a dataserver's side -------------------------------------------------------------------------


def dataserver() -> Data:
    """That has promised itself to 3, and knows that 2 served its round 5."""
    data = Data(MemoryBlockStore(Slot(0)), Slot(0), RING, "127.0.0.1:9")
    data.told(instructions())
    assert data.store.state.promised == 3
    assert (data.store.state.served_incarnation, data.store.state.served_round) == (2, 5)
    return data


def claim(incarnation: int, served: tuple[int, int]) -> wire.Claim:
    return wire.Claim(Incarnation(incarnation), Incarnation(served[0]), Round(served[1]))


def test_a_metaserver_that_knows_less_gets_no_vote() -> None:
    data = dataserver()
    for less in ((2, 4), (1, 99), (0, 0)):
        data.told(instructions(claim=claim(4, less), granted=False))
        assert data.store.state.promised == 3
    data.told(instructions(claim=claim(4, (2, 5)), granted=False))
    assert data.store.state.promised == 4


def test_a_promise_is_kept() -> None:
    data = dataserver()
    data.told(instructions(claim=claim(7, (2, 5)), granted=False))
    data.told(instructions(claim=claim(6, (9, 9)), granted=False))
    assert data.store.state.promised == 7


def test_a_dataserver_obeys_the_metaserver_that_it_voted_for() -> None:
    data = dataserver()
    before = data.store.state
    data.told(instructions(claim=claim(2, (2, 9)), life=8, drops=7, reconcile=3))
    assert data.store.state == before
    assert (data.healer.drops_ready, data.healer.reconcile_wanted) == (0, 0)
    data.told(instructions(claim=claim(3, (3, 9)), life=8, drops=7, reconcile=3))
    assert data.store.state.life == 8
    assert (data.healer.drops_ready, data.healer.reconcile_wanted) == (7, 3)


# --- a server that was skipped -------------------------------------------------------------------


def test_a_server_that_was_skipped_looks_for_what_it_missed() -> None:
    """It was up all the while: nothing else tells it that commits went by."""
    made = metaserver(MemoryMetaStore())
    made.members.faults = True
    for on, more in ((True, 0), (True, 0), (False, 1), (False, 0)):
        before = made.ledger.servers[Slot(1)].reconcile
        drive(made.members.skip(wire.Skip(Slot(1), on), caller(Session(0))))
        assert made.ledger.servers[Slot(1)].reconcile == before + more
        assert made.ledger.servers[Slot(1)].skipped is on
    answer = told(made.members, report(1), 2.0)
    assert answer.reconcile == made.ledger.servers[Slot(1)].reconcile > 0


# --- what is believed of a server ----------------------------------------------------------------


def test_nothing_is_recorded_of_servers_before_the_votes_are_there() -> None:
    """An old copy of the metaserver's store must not be able to call the others old."""
    members = hoping()
    before = dict(members.ledger.servers)
    other = report(1, uuid=b"another store   ", boot=9)
    answer = told(members, other, 1.0)
    told(members, replace(other, ticket=answer.ticket), 2.0)  # no late one either
    assert not members.granted and members.ledger.servers == before


def test_a_lost_disk_is_told_its_new_life() -> None:
    members = hoping()
    hear(members)
    ours = members.ledger.incarnation
    lost = report(1, uuid=b"another store   ", promised=ours)
    answer = told(members, lost, 2.0)
    assert not answer.granted and members.ledger.servers[Slot(1)].life == 0, "it may be a late one"
    answer = told(members, replace(lost, ticket=answer.ticket), 3.0)
    assert answer.life == members.ledger.servers[Slot(1)].life == 1
    assert answer.wiped and answer.reconcile == 1


def test_without_a_vote_names_are_read_only_while_some_server_is_heard() -> None:
    members = hoping()
    told(members, report(0), 1.0)
    members.may_read(2.0)
    with pytest.raises(Unavailable):
        members.may_read(100.0)


def test_who_is_told_to_look_does_not_serve_before() -> None:
    looks, rests = (Data(MemoryBlockStore(Slot(0)), Slot(0), RING, "127.0.0.1:9") for _ in "ab")
    looks.told(instructions(reconcile=3))
    assert looks.healer.state is State.JOINING and looks.healer.reconcile_wanted == 3
    rests.told(instructions())
    assert rests.healer.state is State.SERVING


# --- grants of mounts that are gone, or not heard of yet -----------------------------------------


def test_the_token_of_a_mount_that_ended_is_void() -> None:
    meta = metaserver(MemoryMetaStore())
    us = session(meta, bytes(16))
    request = wire.Create(ROOT, b"f", b"/f", 0o644, 0, 0, True, 1, 0)
    made = drive(meta.contents.create(request, caller(us, 0)))
    drive(meta.close_session(wire.CloseSession(), caller(us, 1)))
    with meta.ledger.view() as view:
        assert view.inode(made.attributes.ino).token > made.token


def test_nobody_is_given_a_grant_that_another_may_still_announce() -> None:
    store = MemoryMetaStore()
    before = metaserver(store)
    us, other = (session(before, nonce * 16) for nonce in (b"u", b"o"))
    request = wire.Create(ROOT, b"f", b"/f", 0o644, 0, 0, True, 1, 0)
    made = drive(before.contents.create(request, caller(us, 0)))
    ino = made.attributes.ino
    store.end_round()
    after = metaserver(store)
    nothing = wire.Announce((), (), (), after.incarnation, True)
    drive(after.announce(nothing, caller(other)))
    waits: list[int] = []

    def waited() -> None:
        waits.append(1)
        holding = (wire.Holding(ino, made.token, 0),)
        if len(waits) == 1:
            drive(after.announce(replace(nothing, holdings=holding), caller(us)))
        else:
            after.contents.returned(us, ino, made.token)

    granted = drive_through_a_wait(after.contents.grant(wire.Grant(ino), caller(other, 0)), waited)
    assert len(waits) == 2 and granted.token > made.token
