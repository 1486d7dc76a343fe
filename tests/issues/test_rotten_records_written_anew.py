"""A record that was about to be replaced or removed had to be readable first (`copied.Noting` wants
its check), so one bad sector that nobody needed to read did harm: the metaserver stopped when a
mount's next change replaced a kept reply (its reply "can't be kept"), and without copies its whole
store was set aside at the next start; a journal set whose record was bad was never changed again,
whoever died; a mount that ended with a bad session record kept its grants for ever."""

import pytest

from tests.sim.towns import Town, begun, pair, spoil
from tests.world.cluster import Cluster
from zdfs import schema


def _spoil(cluster: Cluster, tables: bytes) -> None:
    """All records of these tables."""
    records = cluster.meta.store.records
    for key in [key for key in records.keys if key[:1] in tables]:
        spoil(records, key)


@pytest.mark.parametrize("copies", [0, 2])
def test_a_kept_reply(seed: int, copies: int) -> None:
    town = Town(seed, meta_copies=copies)
    town.write(b"/a", b"/b")
    town.cluster.heal()
    town.cluster.rest(5.0)
    _spoil(town.cluster, b"k")
    for number in range(20):
        town.do(town.volume.make(b"/d%d" % number, 0o40755, 0, 0))
    town.cluster.rest(700.0)
    town.all_is_well()
    if copies:
        head = town.meta.ledger.copied.head  # type: ignore[union-attr]
        assert all(h.report.copy.agrees for h in town.meta.members.reports.values()), head


def test_the_journal_set(seed: int) -> None:
    town = begun(seed)
    gone = town.members[0]
    town.cluster.data[gone].kill()
    while town.copying.proposed is None:
        town.cluster.rest(0.01)
    _spoil(town.cluster, schema.COPY_SET)
    town.cluster.rest(30.0)
    assert gone not in town.members
    town.cluster.restart()
    town.all_is_well()


@pytest.mark.parametrize("copies", [0, 2])
def test_the_session_of_a_mount_that_died(seed: int, copies: int) -> None:
    cluster = pair(seed, meta_copies=copies)
    cluster.mounts[0].put(b"/a", b"before")
    cluster.rest(2.0)
    _spoil(cluster, b"nk")
    cluster.mounts[0].kill()
    cluster.rest(200.0)
    keys: list[bytes] = cluster.meta.store.records.keys
    assert len([key for key in keys if key[:1] == b"n"]) == 1
    ours = schema.number_key(b"k", cluster.mounts[1].session)
    assert all(key[:9] == ours for key in keys if key[:1] == b"k"), "garbage"
    cluster.mounts[1].put(b"/a", b"after")
