"""The metaserver's store had a bad record, and so had each copy, another one.  Asked for the first,
each copy found its own, called itself broken and threw away all that it had (`Mirror.read`): nobody
was left to heal the metaserver's record, and no copy could be filled from a store with a bad one.
Names could not be changed any more, for ever, and every record had stood intact on two servers."""

import pytest

from tests.sim.towns import Town, begun, spoil


def _keys(town: Town, table: bytes) -> list[bytes]:
    keys: list[bytes] = town.cluster.meta.store.records.keys
    return [key for key in keys if key[:1] == table]


@pytest.mark.parametrize("table", [b"v", b"e", b"s"])
def test_each_heals_the_others(seed: int, table: bytes) -> None:
    town = begun(seed)
    town.write(*(b"/f%d" % number for number in range(4)))
    town.cluster.rest(5.0)
    members = town.members
    for place, slot in enumerate(members):
        spoil(town.cluster.data[slot].store.copy.records, _keys(town, b"m")[place])
    spoil(town.cluster.meta.store.records, _keys(town, table)[-1])
    town.cluster.rest(1500.0)
    town.all_is_well()
    town.cluster.rest(1500.0)
    for slot in town.members:
        records = town.cluster.data[slot].store.copy.records
        for key in list(records.keys):
            records.get(key)
    town.all_is_well()
