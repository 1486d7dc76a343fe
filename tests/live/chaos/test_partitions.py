"""Partitions, full and one-way, between processes in network namespaces of their own."""

from collections.abc import Iterator

import pytest

from tests.live.chaos.cases import CUTS, Case
from tests.live.chaos.story import Stage, Theatre, spaced
from tests.live.spaces import SpacedCluster

# Cut off from their dataserver, writes wait, and status says for which.
BLOCKING = {"data", "data-in", "data-out", "mount-data", "mount-data-in", "mount-data-out"}
pytestmark = [pytest.mark.shared, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    """Four servers, each in a namespace."""
    made = Theatre(spaced(tmp_path_factory, "partitions"))
    yield made
    made.close()


def part(case: Case, stage: Stage) -> None:
    """The packet filter drops what the case says, for so long."""
    who, whom, ways, seconds = case.more
    cluster = stage.cluster
    assert isinstance(cluster, SpacedCluster)
    with stage.story(case) as story:
        story.fault()
        cluster.cut(who, whom, ways)
        try:
            writers = {"data-1": 1, "mnt": 2}.get(who) if case.name in BLOCKING else None
            story.watch(seconds, says=writers)
        finally:
            cluster.mend(who)
        story.over()


@pytest.mark.parametrize("case", [c for c in CUTS if not c.soak], ids=lambda case: case.id)
def test_parted(case: Case, stage: Stage) -> None:
    part(case, stage)


@pytest.mark.soak
@pytest.mark.parametrize("case", [c for c in CUTS if c.soak], ids=lambda case: case.id)
def test_parted_elsewhere(case: Case, stage: Stage) -> None:
    part(case, stage)
