"""What an outage would cost: every block and file counted once, however the slices fall."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.world.tree import BLOCK, Tree
from zdfs import cluster, forecast, limits, placement, schema, wire
from zdfs.errors import StartError
from zdfs.forecast import Outage
from zdfs.ids import ROOT, BlockNo, Epoch, Ino, Policy, Slot
from zdfs.schema import Server
from zdfs.tools import impact
from zdfs.wire import State

SLOTS = st.frozensets(st.integers(0, 5).map(Slot))
FILES = st.lists(
    st.tuples(st.integers(0, 5), st.frozensets(st.integers(0, 200), max_size=12)), max_size=6
)


def slices(tree: Tree, outage: Outage, servers: int, examined: int) -> impact.Sum:
    """All of it, so many records at a time, as the command asks."""
    total, cursor, far = impact.Sum(most=100), (Ino(0), -1), (0, 0)
    for _ in range(1000):
        request = wire.Foresee(tuple(outage.down), tuple(outage.silent), 50, *cursor)
        told = forecast.foresee(tree.view(), request, outage, lambda epoch: servers, examined)
        total.add(told)
        if told.end:
            return total
        before, far = far, (told.ino, told.page if told.page >= 0 else 1 << 63)
        assert far > before
        cursor = (told.ino, told.page)
    raise AssertionError("it does not end")


@given(st.integers(3, 6), FILES, SLOTS, SLOTS, SLOTS, st.integers(1, 20))
def test_against_the_definition(
    servers: int, shape: list[tuple[int, frozenset[int]]], down: frozenset[Slot],
    silent: frozenset[Slot], partial: frozenset[Slot], examined: int,
) -> None:  # fmt: skip
    tree = Tree()
    tree.mkdir(ROOT, b"d")
    made: dict[Ino, tuple[int, frozenset[int]]] = {}
    for number, (start, blocks) in enumerate(shape):
        ino = tree.make(ROOT, b"%d" % number, start=Slot(start % servers))
        tree.grant(ino, 10)
        if blocks:
            entries = {block: tree.entry(10, 1 + block % BLOCK) for block in blocks}
            tree.commit(ino, entries, (max(blocks) + 1) * BLOCK)
        made[ino] = (start % servers, blocks)
    outage = Outage(down, silent, partial)
    found = slices(tree, outage, servers, examined)
    unread, unsure, lost, unread_bytes = set(), set(), set(), 0
    for ino, (start, blocks) in made.items():
        for block in blocks:
            here = set(placement.slots(Slot(start), BlockNo(block), servers))
            if not here - down - silent:
                unread.add((ino, block))
                unread_bytes += 1 + block % BLOCK
            elif not here - down - silent - partial:
                unsure.add((ino, block))
            if not here - down:
                lost.add((ino, block))
    assert found.files == len(made)
    waits = any(slot < servers for slot in down | silent)
    assert found.waiting == (len(made) if waits else 0)
    assert set(found.writes) == (set(made) if waits else set())
    assert (found.reads.blocks, found.reads.bytes) == (len(unread), unread_bytes)
    assert found.reads.unsure_blocks == len(unsure) and found.data.blocks == len(lost)
    assert found.reads.files == len({ino for ino, _ in unread})
    assert found.data.files == len({ino for ino, _ in lost})
    assert {one[0] for one in found.reads.named} == {ino for ino, _ in unread | unsure}


def test_a_skipped_server_is_not_waited_for_and_not_whole() -> None:
    one, four = frozenset({Slot(1)}), frozenset({Slot(4)})
    assert not forecast.writes_wait(Policy.ALL, Outage(one, skipped=frozenset({Slot(1)})), 4)
    assert forecast.writes_wait(Policy.ALL, Outage(one, skipped=frozenset({Slot(2)})), 4)
    assert not forecast.writes_wait(Policy.ALL, Outage(four), 4)  # of no ring of ours


def test_writes_by_quorum_wait_where_two_of_three_are_away() -> None:
    def waits(*down: int, servers: int = 6) -> bool:
        away = frozenset(Slot(slot) for slot in down)
        return forecast.writes_wait(Policy.QUORUM, Outage(away), servers)

    assert not waits(1) and not waits(1, 4)
    assert waits(1, 2) and waits(1, 3) and waits(5, 0)


def test_which_stores_are_not_known_to_be_whole() -> None:
    def server(reconcile: int = 1, reconciled: int = 1, skipped: bool = False) -> Server:
        return Server(b"u" * 16, 0, 1, 1, 1, 0, reconcile, reconciled, 0, skipped)

    servers = {
        Slot(0): server(),
        Slot(1): server(reconcile=2),  # its disk was lost, and it went down before it was rebuilt
        Slot(2): server(skipped=True),
        Slot(3): server(),
        Slot(4): server(),
    }
    states = [State.SERVING, State.DOWN, State.SERVING, State.DOWN, State.RECOVERING]
    members = [
        wire.Member(Slot(n), "x", b"u" * 16, 0, state, False, b"") for n, state in enumerate(states)
    ]
    assert cluster.partial(servers, members) == {1, 2, 4}


def test_damage_is_counted_and_passed_by() -> None:
    tree = Tree()
    for number in range(3):
        ino = tree.make(ROOT, b"%d" % number)
        tree.grant(ino, 10)
        tree.commit(ino, {0: tree.entry(10), 64: tree.entry(10)}, 65 * BLOCK)
    one, two, three = tree.names().values()
    for key in (schema.inode_key(one), schema.page_key(two, 0)):  # type: ignore[arg-type]
        value = bytearray(tree.store.values[key])
        value[-1] ^= 1
        tree.store.values[key] = bytes(value)
    for examined in (1, 2, 100):
        found = slices(tree, Outage(frozenset(map(Slot, range(3)))), 3, examined)
        assert (found.files, found.damaged, found.reads.blocks) == (2, 2, 3)


def test_an_answer_is_bounded() -> None:
    tree = Tree()
    for number in range(limits.HITS + 20):
        tree.make(ROOT, b"%04d" % number)
    outage = Outage(frozenset({Slot(0)}))
    request = wire.Foresee((Slot(0),), (), 2**16 - 1, Ino(0), -1)
    told = forecast.foresee(tree.view(), request, outage, lambda epoch: 4)
    assert len(told.hits) == limits.HITS and not told.end
    total = impact.Sum(most=5)
    total.add(told)
    assert len(total.writes) == 5


def test_every_outage_of_the_ring_agrees_with_placement() -> None:
    for servers in (3, 4, 5, 6):
        for count in range(servers + 1):
            for dead in itertools.combinations(map(Slot, range(servers)), count):
                outage = Outage(frozenset(dead))
                readable = not any(one.unread for one in forecast.fates(outage, servers))
                assert readable == placement.readable(servers, dead)


def test_servers_as_people_name_them() -> None:
    ring = ("127.0.0.1:3333", "127.0.0.1:4444", "far:5555")
    assert impact.slots_of("2,0", ring) == (0, 2)
    assert impact.slots_of("4444,far:5555", ring) == (1, 2)
    for wrong in ("3", "7777", "x", "", ","):
        with pytest.raises(StartError):
            impact.slots_of(wrong, ring)


def test_epochs_are_asked_for() -> None:
    tree = Tree()
    ino = tree.make(ROOT, b"f", epoch=Epoch(7))
    tree.grant(ino, 10)
    asked: list[Epoch] = []

    def servers(epoch: Epoch) -> int:
        asked.append(epoch)
        return 5

    request = wire.Foresee((Slot(0),), (), 0, Ino(0), -1)
    forecast.foresee(tree.view(), request, Outage(frozenset({Slot(0)})), servers)
    assert asked == [7]
