"""A copy of the metadata with one record that can't be read threw all of its records away as soon
as somebody read that one, or it proved itself (`Mirror._break`), also while there was no metaserver
that could fill it again.  The metaserver's disk was lost, and each copy had one bad sector: one
after the other went, every name of the cluster was gone, and each of them had stood intact on two
servers."""

import pytest

from tests.sim.towns import Town, begun, spoil


def _spoil(town: Town, slot: int, place: int, how: str) -> None:
    """One of the names in a copy."""
    records = town.cluster.data[slot].store.copy.records
    key = [key for key in records.keys if key[:1] == b"e"][place]
    spoil(records, key, how)


@pytest.mark.parametrize("idle_s", [0.0, 1300.0])
@pytest.mark.parametrize("how", ["flipped", "gone"])
def test_each_record_stands_somewhere(seed: int, how: str, idle_s: float) -> None:
    town = begun(seed)
    town.write(b"/b", b"/c", b"/d")
    town.cluster.rest(5.0)
    members = town.members
    town.lose()
    for place, slot in enumerate(members):
        _spoil(town, slot, place, how)
    town.cluster.rest(idle_s)  # they prove themselves meanwhile
    town.cluster.restart()
    town.all_is_well()
