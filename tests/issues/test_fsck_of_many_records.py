"""`zdfs fsck --repair` could not be used on a file system of more than some ten thousand files: its
first question was answered only when the metaserver had proven its whole store, which takes a
quarter of a second for each two thousand records, and `fsck` gives up after fifteen seconds.  Each
repeat of the question began another proof beside the first, and they spoilt each other's count
(`CopiedStore.checked`): what they took for the sum of all records was not."""

import os

import pytest

from tests.sim.towns import begun
from tests.world.cluster import META
from zdfs import fsck, proof


def test_it_waits_for_the_proof(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    town = begun(seed)
    town.write(*(b"/f%d" % number for number in range(20)))
    town.cluster.rest(5.0)
    monkeypatch.setattr(proof, "PAGE", 1)  # as if there were two thousand times as many
    key = town.key(b"e", 3)
    town.damage(key, "gone")
    report = town.do(fsck.check(META, repair=True))
    assert not report.unfinished, report.unfinished
    assert key in town.cluster.meta.store.records.values
    monkeypatch.undo()
    town.all_is_well()


def test_two_at_once_beside_work(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    town = begun(seed)
    town.write(*(b"/f%d" % number for number in range(10)))
    town.cluster.rest(5.0)
    monkeypatch.setattr(proof, "PAGE", 1)
    volume, mount, ended = town.volume, town.cluster.mounts[0], [0]

    async def work() -> None:
        while ended[0] < 2:
            await volume.release(await volume.create(b"/w", 0o644, 0, 0, os.O_RDWR))
            await volume.unlink(b"/w")

    def done(*_: object) -> None:
        ended[0] += 1

    mount.spawn(work())
    for _ in range(2):
        mount.spawn(fsck.check(META, repair=True), done)
        town.cluster.rest(0.1)
    town.world.run(lambda: ended[0] == 2, 300)
    said = {event.kind for event in town.meta.ledger.events(50)}
    assert "metadata healed" not in said, "nothing was wrong"
    town.all_is_well()
