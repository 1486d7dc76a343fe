"""A dataserver that is in the journal set no more keeps saying that its copy does not agree, also
when it has found that the copy itself is broken (`Mirror._break` leaves `agrees`; `Copying._look`
asks all that live, not the members): the metaserver read all of its own records over and over."""

from tests.sim.towns import Town


def test_a_former_members_doubt_ends(seed: int) -> None:
    town = Town(seed, servers=4)
    town.write(*(b"/f%d" % number for number in range(4)))
    town.cluster.heal()
    town.cluster.rest(5.0)
    gone = town.cluster.data[town.members[0]]
    records = gone.store.copy.records
    key = next(key for key in records.keys if key[:1] == b"e")
    del records.values[key]
    records.keys.remove(key)
    town.do(town.volume.unlink(b"/" + key[9:]))
    del town.files[b"/" + key[9:]]
    town.cluster.rest(3.0)
    assert not gone.room.mirror.agrees
    links = {(town.cluster.meta.address, gone.address), (gone.address, town.cluster.meta.address)}
    town.world.cuts.update(links)
    town.world.run(lambda: town.cluster.data.index(gone) not in town.members, 60)
    town.world.cuts.difference_update(links)
    town.cluster.heal()
    town.cluster.rest(1300.0)  # it has verified its copy twice
    looks = [0]
    proof = town.copying.proof
    inner = proof._proven

    async def counted(rebase: bool = False) -> bool:
        looks[0] += 1
        return await inner(rebase)

    proof._proven = counted
    town.cluster.rest(60.0)
    assert looks[0] <= 1, f"{looks[0]} looks at all records within a minute"
