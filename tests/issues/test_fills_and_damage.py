"""A record of the metaserver's own that is damaged stops every fill of a copy (`Copying._fill`
reads all records), and nobody has it healed for that: `follow` only logs it and sleeps. With
the set short of members no name could be changed until the next proof, ten minutes later,
though a copy that is whole was up; and a cluster that was started with copies for the first
time could not be changed ever again."""

import pytest

from tests.sim.towns import Town, begun
from zdfs.copied import CopiedStore
from zdfs.meta import Meta
from zdfs.succession import succeed


def _make(town: Town, name: bytes, seconds: float) -> None:
    ended: list[object] = []
    town.cluster.mounts[0].spawn(
        town.volume.make(name, 0o40755, 0, 0), lambda *result: ended.append(result)
    )
    town.cluster.rest(seconds)
    assert ended, (town.copying.note, [f.trouble for f in town.copying.followers.values()])


@pytest.mark.parametrize("damaged", [False, True])
def test_a_fill_has_what_it_needs_healed(seed: int, damaged: bool) -> None:
    town = begun(seed)
    town.do(town.volume.setxattr(b"/a", b"user.x", b"value", 0))
    town.cluster.rest(3.0)
    if damaged:
        town.damage(town.key(b"x"), "flipped")
    for slot in town.members[:2]:
        town.cluster.data[slot].kill()
    _make(town, b"/d", 120.0)


@pytest.mark.parametrize("damaged", [False, True])
def test_the_first_copies_of_a_store_with_a_damaged_record(seed: int, damaged: bool) -> None:
    town = Town(seed, meta_copies=0)
    town.write(b"/a")
    town.do(town.volume.setxattr(b"/a", b"user.x", b"value", 0))
    town.cluster.heal()
    meta = town.cluster.meta
    meta.kill()
    if damaged:
        town.damage(town.key(b"x"), "flipped")

    def make(store, last):  # type: ignore[no-untyped-def]
        live = CopiedStore(store) if last is None else meta.live
        return succeed(live, bytes(16), last, lambda ledger: Meta(ledger, 64, True, 10.0, 2)), live

    meta.make = make
    meta.restart()
    _make(town, b"/d", 1500.0)
