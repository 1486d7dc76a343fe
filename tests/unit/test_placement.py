"""Placement: the seed's table, and what may die."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdfs import limits, placement
from zdfs.ids import BlockNo, Slot


def test_the_seeds_table() -> None:
    """3 servers, 8-byte blocks, file 11111111222222223333333344444444, start 0."""
    table = [
        [[0, 3], [2], [1]],
        [[1], [0, 3], [2]],
        [[2], [1], [0, 3]],
    ]
    for slot, replicas in enumerate(table):
        for number, blocks in enumerate(replicas):
            found = [
                block
                for block in range(4)
                if placement.replica(Slot(0), BlockNo(block), 3, Slot(slot)) == number
            ]
            assert found == blocks, f"slot {slot}, replica {number}"


RINGS = st.integers(3, 40).flatmap(
    lambda servers: st.tuples(st.just(servers), st.integers(0, servers - 1), st.integers(0, 2**40))
)


@given(RINGS)
def test_slots_and_replica_are_inverse(ring: tuple[int, int, int]) -> None:
    servers, first, block = ring
    slots = placement.slots(Slot(first), BlockNo(block), servers)
    assert len(set(slots)) == limits.REPLICAS
    for slot in range(servers):
        number = placement.replica(Slot(first), BlockNo(block), servers, Slot(slot))
        assert (number is None) == (slot not in slots)
        assert number is None or slots[number] == slot


@given(RINGS)
def test_a_whole_turn_loads_every_server_alike(ring: tuple[int, int, int]) -> None:
    servers, first, block = ring
    turn = [placement.slots(Slot(first), BlockNo(block + b), servers) for b in range(servers)]
    for number in range(limits.REPLICAS):
        assert sorted(slots[number] for slots in turn) == list(range(servers))


def test_start_is_a_hash_of_the_path() -> None:
    """Fixed values: a release that placed files elsewhere would not find the old ones' homes."""
    assert [placement.start(b"/a/1.txt", n) for n in (3, 4, 5, 7)] == [1, 0, 3, 0]
    assert placement.start(b"/\xff", 4) in range(4)
    seen = {placement.start(b"/%d" % number, 7) for number in range(200)}
    assert seen == set(range(7))


def _brute(servers: int, dead: set[int]) -> bool:
    """Every block of every file, wherever it starts, has a live replica."""
    return all(
        set(placement.slots(Slot(first), BlockNo(block), servers)) - dead
        for first in range(servers)
        for block in range(servers)
    )


@pytest.mark.parametrize("servers", range(3, 8))
def test_readable_under_every_set_of_dead_servers(servers: int) -> None:
    for count in range(servers + 1):
        for dead in itertools.combinations(range(servers), count):
            slots = [Slot(slot) for slot in dead]
            assert placement.readable(servers, slots) == _brute(servers, set(dead)), dead


def test_the_promise_in_words() -> None:
    assert placement.readable(3, [Slot(0), Slot(1)]), "with three servers: any two"
    assert not placement.readable(5, [Slot(4), Slot(0), Slot(1)]), "the ring is cyclic"
    assert placement.readable(5, [Slot(0), Slot(1), Slot(3)])
    assert placement.readable(6, [Slot(0), Slot(1), Slot(3), Slot(4)])
