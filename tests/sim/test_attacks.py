"""Attacks on the copies of the metadata: none may lose a name, or stand still for ever."""

import copy

import pytest

from tests.sim.towns import Town, backed_up, begun
from zdfs.data import Data
from zdfs.errors import NoSpace
from zdfs.meta import Meta


@pytest.fixture
def town(seed: int) -> Town:
    """Whole, with a file in it."""
    return begun(seed)


def test_a_backup_taken_while_it_ran(town: Town) -> None:
    """No start since then tells it from the newest."""
    old = copy.deepcopy(town.cluster.meta.store).crash()
    town.write(*(b"/f%d" % number for number in range(20)))
    town.cluster.rest(3.0)
    town.lose(old)
    town.cluster.restart()
    town.all_is_well()


def test_an_older_store_that_was_started_in_vain(seed: int) -> None:
    """A backup of a closed store is restored, and started a few times with nobody there."""
    town, old = backed_up(seed)
    town.cluster.rest(3.0)
    for server in town.cluster.data:
        server.kill()
    town.lose(old)
    for _ in range(3):
        town.cluster.meta.restart()
        town.cluster.rest(1.0)
        town.cluster.meta.crash()
    town.cluster.restart()
    town.all_is_well()


def cut(town: Town, slot: int, on: bool) -> None:
    """What the metaserver says does not reach a dataserver; or it does again."""
    pair = (town.cluster.meta.address, town.cluster.data[slot].address)
    cuts = town.world.network.cuts
    (cuts.add if on else cuts.discard)(pair)


def test_a_set_that_only_one_server_was_told(town: Town) -> None:
    """M proposes #2 = {0,1,3}; only data:3 hears of it.  The next M works with #1 = {0,1,2}, and
    the one after it judges by #2 alone."""
    assert town.members == (0, 1, 2)
    town.cluster.data[2].kill()
    copying = town.copying
    while copying.proposed is None:
        town.cluster.rest(0.05)
    assert copying.proposed.slots == (0, 1, 3)
    d3 = town.cluster.data[3]
    for _ in range(4000):  # until data:3, alone, has been told
        if d3.store.state.copies == copying.proposed:
            break
        for slot in (0, 1):
            cut(town, slot, True)
        town.cluster.rest(0.01)
    knows = [s.store.state.copies == copying.proposed for s in town.cluster.data]
    assert knows == [False, False, False, True]
    town.cluster.rest(0.5)
    d3.kill()
    town.cluster.meta.kill()
    cut(town, 0, False)
    cut(town, 1, False)
    town.cluster.data[2].restart()
    town.cluster.meta.restart()
    town.cluster.rest(8.0)
    assert town.members == (0, 1, 2)
    cut(town, 1, True)  # for a moment
    town.do(town.volume.make(b"/lost", 0o40755, 0, 0))
    town.cluster.rest(0.02)
    town.lose()
    town.cluster.data[0].kill()
    cut(town, 1, False)
    d3.restart()
    town.cluster.meta.restart()
    town.cluster.rest(10.0)
    town.cluster.restart()
    town.all_is_well()
    assert town.do(town.volume.lookup(b"/lost")).mode == 0o40755


def test_a_transaction_beyond_one_message(town: Town) -> None:
    """A round of more than 8 MiB goes in pieces."""
    with town.meta.ledger.raw() as txn:
        for number in range(9 * 16):
            txn.put(b"q%04d" % number, bytes(65536))
    town.cluster.meta.settle()
    town.cluster.rest(60.0)
    town.do(town.volume.make(b"/d", 0o40755, 0, 0))


def test_the_chosen_copy_has_a_full_disk(town: Town) -> None:
    """Three copies are equally new, and the first one's disk is full: another one is read."""
    best = town.cluster.data[town.members[0]]
    best.store.copy.total_bytes = 0
    town.do(town.volume.make(b"/d", 0o40755, 0, 0))
    town.cluster.rest(5.0)
    town.lose()
    town.cluster.meta.restart()
    town.cluster.rest(120.0)
    assert isinstance(town.cluster.meta.room, Meta)


@pytest.mark.parametrize(
    "needed,servers", [(3, 3), (4, 3), (5, 3), (5, 4), (0, 3), (1, 3), (3, 5), (5, 5)]
)
def test_meta_copies(seed: int, needed: int, servers: int) -> None:
    town = Town(seed, servers, meta_copies=needed)
    town.write(b"/a")
    town.all_is_well()


@pytest.mark.parametrize("table", [b"s", b"a", b"n", b"e", b"i"])
def test_a_lost_record_is_written_before_it_was_missed(town: Town, table: bytes) -> None:
    """The next change of that key makes a round whose count is wrong: no good copy breaks of it."""
    key = town.key(table, -1)
    value = town.cluster.meta.store.records.get(key)
    town.damage(key)
    with town.meta.ledger.raw() as txn:  # the next change of that record
        txn.put(key, value)
    town.cluster.meta.settle()
    town.cluster.rest(1400.0)  # two proofs
    copying = town.copying
    assert all(whole for _, whole, _ in copying.facts())
    town.all_is_well()


def restart_whose_record_is_lost(town: Town) -> None:
    """A slot's record is lost; then that server starts again, and its record is changed."""
    town.damage(town.key(b"s", 3))
    town.cluster.data[3].kill()
    town.cluster.data[3].restart()


def test_by_a_dataservers_restart(town: Town) -> None:
    """The same, without a hand in it: a slot's record is lost, then that server restarts."""
    restart_whose_record_is_lost(town)
    town.cluster.rest(1400.0)
    copying = town.copying
    town.do(town.volume.make(b"/d", 0o40755, 0, 0))
    assert all(whole for _, whole, _ in copying.facts())
    town.cluster.meta.kill()
    town.cluster.meta.restart()
    town.all_is_well()


@pytest.mark.parametrize("bad", [1, 2])
def test_members_that_are_up_but_take_nothing(
    seed: int, bad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They report each second, but refuse rounds (a full log): spare servers take their place."""
    town = Town(seed, servers=5)
    town.write(b"/a")
    town.cluster.heal()

    def full(*_: object) -> None:
        raise NoSpace("full")

    for slot in town.members[:bad]:
        room = town.cluster.data[slot].room
        assert isinstance(room, Data)
        monkeypatch.setattr(room.mirror, "append", full)
    town.cluster.rest(120.0)
    town.do(town.volume.make(b"/d", 0o40755, 0, 0))
    town.cluster.rest(120.0)
    assert all(whole for _, whole, _ in town.copying.facts())
    assert not set(town.members) & set(range(bad)), "a member whose log is full stays in the set"


def test_a_restart_does_not_help(town: Town) -> None:
    restart_whose_record_is_lost(town)
    town.cluster.rest(30.0)
    town.cluster.meta.kill()
    town.cluster.meta.restart()
    town.cluster.rest(700.0)
    town.do(town.volume.make(b"/d", 0o40755, 0, 0))
