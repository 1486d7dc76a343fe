"""Before a page of records took the place of what a store had there, each of these had to be read
(`Mirror.fill` and `CopiedStore.fill` scan them), and one that could not be ended it.  A copy with a
flipped bit called itself broken, as it should, and could never be filled again; a metaserver whose
old store had one could not get the newest records, and never started."""

from typing import Any

import pytest

from tests.sim.towns import Town, backed_up, spoil


def _flip(records: Any, table: bytes) -> None:
    spoil(records, next(key for key in sorted(records.values) if key[:1] == table))


@pytest.mark.parametrize("busy", [False, True])
def test_a_copy_is_filled_again(seed: int, busy: bool) -> None:
    town = Town(seed, servers=3)  # nobody can take over
    town.write(b"/b", b"/c")
    town.cluster.heal()
    town.cluster.rest(5.0)
    slot = town.members[0]
    records = town.cluster.data[slot].store.copy.records
    _flip(records, b"t" if busy else b"e")  # the totals change with each file
    town.cluster.rest(1500.0)
    town.write(*(b"/n%d" % number for number in range(5 if busy else 0)))
    town.cluster.rest(30.0)
    assert all(whole for _, whole, _ in town.copying.facts())
    for key in list(records.keys):
        records.get(key)
    town.all_is_well()


def test_an_old_store_gets_what_is_new(seed: int) -> None:
    town, old = backed_up(seed)
    town.cluster.rest(5.0)
    for number in range(600):  # more rounds than a copy keeps
        town.do(town.volume.setxattr(b"/a", b"user.x", b"%d" % number, 0))
    town.cluster.rest(5.0)
    _flip(old.records, b"e")
    town.lose(old)
    town.cluster.restart()
    town.cluster.heal()
    town.read()
