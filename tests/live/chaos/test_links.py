"""One link that is slow, late, swallows or is reset, by a proxy in the namespace of one end."""

from collections.abc import Iterator

import pytest

from tests.live.chaos.cases import LINKS, Case
from tests.live.chaos.story import Stage, Theatre, spaced
from tests.live.spaces import SpacedCluster

pytestmark = [pytest.mark.shared, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    """Four servers, each in a namespace."""
    made = Theatre(spaced(tmp_path_factory, "links"))
    yield made
    made.close()


def spoil(case: Case, stage: Stage) -> None:
    """The link goes through a proxy from before the load on; the proxy turns bad for so long."""
    who, whom, command, seconds = case.more
    cluster = stage.cluster
    assert isinstance(cluster, SpacedCluster)
    with cluster.bend(who, whom) as proxy:
        try:
            if who.startswith("data-"):  # it is connected already, past the proxy
                cluster.kill(who)
                cluster.start_data(int(who.removeprefix("data-")))
                cluster.wait_serving()
            with stage.story(case) as story:
                story.fault()
                proxy(command)
                # What is slow is waited for, and `zdfs why` says so; what is late, status does.
                late = command in ("hold", "delay 8") and whom == ["data-1"]
                slow = command == "delay 0.3" and (who, whom) == ("mnt", ["data-1"])
                story.watch(seconds, says=1 if late else None, slow=1 if slow else None)
                proxy("pass")
                story.over()
        finally:
            cluster.mend(who)


@pytest.mark.parametrize("case", [c for c in LINKS if not c.soak], ids=lambda case: case.id)
def test_a_bad_link(case: Case, stage: Stage) -> None:
    spoil(case, stage)


@pytest.mark.soak
@pytest.mark.parametrize("case", [c for c in LINKS if c.soak], ids=lambda case: case.id)
def test_a_bad_link_elsewhere(case: Case, stage: Stage) -> None:
    spoil(case, stage)
