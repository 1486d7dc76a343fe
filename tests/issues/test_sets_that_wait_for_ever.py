"""A journal set that was proposed, and whose members then died, was waited for as long as they were
away, although more than half of the servers and enough of the set in force were up, or could be
filled: `Copying._strive` looks for no other set while one is proposed."""

import pytest

from tests.sim.towns import Town


def _make(town: Town, name: bytes) -> None:
    """mkdir, within half a minute of virtual time."""
    ended: list[object] = []
    town.cluster.mounts[0].spawn(
        town.volume.make(name, 0o40755, 0, 0), lambda *result: ended.append(result)
    )
    town.cluster.rest(120.0)
    assert ended, town.copying.note


def _proposed(seed: int) -> tuple[Town, int]:
    """A set was proposed, and one dataserver that lives on knows of it."""
    town = Town(seed, servers=7)
    town.cluster.heal()
    town.write(b"/a")
    assert town.members == (0, 1, 2)
    town.cluster.data[2].kill()
    town.world.run(lambda: town.copying.proposed is not None, 60)
    proposed = town.copying.proposed
    assert proposed is not None
    (new,) = set(proposed.slots) - {0, 1, 2}
    others = [s for s in town.cluster.data if s.room and s.address not in ("data:1", f"data:{new}")]
    town.world.run(lambda: any(s.store.state.copies == proposed for s in others), 60)
    assert town.copying.proposed is not None
    return town, new


@pytest.mark.parametrize("restarted", [False, True])
def test_another_set_takes_the_place_of_one_that_was_proposed(seed: int, restarted: bool) -> None:
    """Of seven, three are down: a majority is up, and reads and votes go on."""
    town, new = _proposed(seed)
    if restarted:
        town.cluster.meta.kill()
    town.cluster.data[new].kill()
    town.cluster.data[1].kill()
    if restarted:
        town.cluster.meta.restart()
        town.cluster.rest(15.0)
        assert town.meta.members.granted
    _make(town, b"/d")


@pytest.mark.parametrize("restarted", [False, True])
def test_control_the_same_deaths_a_moment_later(seed: int, restarted: bool) -> None:
    town = Town(seed, servers=7)
    town.cluster.heal()
    town.write(b"/a")
    town.cluster.data[2].kill()
    town.world.run(lambda: 2 not in town.members, 60)
    (new,) = set(town.members) - {0, 1}
    if restarted:
        town.cluster.meta.kill()
    town.cluster.data[new].kill()
    town.cluster.data[1].kill()
    if restarted:
        town.cluster.meta.restart()
        town.cluster.rest(15.0)
    _make(town, b"/d")


@pytest.mark.parametrize("down", [False, True])
def test_copies_are_begun_while_one_server_is_down(seed: int, down: bool) -> None:
    """A cluster without copies is started with them while one of its servers is dead."""
    from zdfs.copied import CopiedStore
    from zdfs.meta import Meta
    from zdfs.succession import succeed

    town = Town(seed, servers=5, meta_copies=0)
    town.cluster.heal()
    town.write(b"/a")
    meta = town.cluster.meta
    meta.kill()

    def make(store, last):  # type: ignore[no-untyped-def]
        live = CopiedStore(store) if last is None else meta.live
        return succeed(live, bytes(16), last, lambda ledger: Meta(ledger, 64, True, 10.0, 2)), live

    meta.make = make
    if down:
        town.cluster.data[1].kill()
    meta.restart()
    town.cluster.rest(20)
    _make(town, b"/d")
