"""One flipped bit in every region of the metaserver's file: it comes back from the copies.

The metaserver is killed, the bit is flipped, the same command line starts it.  Everything is looked
at, from a mount that remembers nothing: what it shows is right, and nothing is EIO.
"""

import random
from collections.abc import Iterator

import pytest

from tests.conftest import until
from tests.live.chaos import regions
from tests.live.chaos.cases import FLIPS_MANY, FLIPS_META, LMDB_REGIONS, Case
from tests.live.chaos.story import Stage, Story, Theatre, make_stage
from tests.live.cluster import READY_S, Cluster

pytestmark = [pytest.mark.shared, pytest.mark.timeout(180)]

BACK = "sets the file aside and reads all metadata from a copy"
SERVES = "starts; a record that is damaged comes back from a copy"


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    """Four servers."""
    made = Theatre(make_stage(tmp_path_factory, "flips-meta"))
    yield made
    made.close()


def serves(cluster: Cluster) -> bool:
    """Whether all is as it should be."""
    assert cluster.nodes["meta"].poll() is None, cluster.log("meta")[-2000:]
    serving = all(state == "serving" for state in cluster.states() or [""])
    return serving and not cluster.status().get("note")


def once(stage: Stage, story: Story, region: str, dice: random.Random) -> None:
    """Kill, flip, start, look at everything."""
    cluster = story.cluster
    path = cluster.meta_store / "meta" / "data.mdb"
    story.fault()
    cluster.kill("meta")
    span = regions.draw(regions.lmdb_regions(path), region, dice)
    print(f"{region}: {regions.flip(path, span, dice)}")
    before = len(cluster.log("meta"))
    cluster.start_meta()
    until(lambda: serves(cluster), 3 * READY_S)  # it may have to get everything back, twice
    story.did.add(BACK if "set aside" in cluster.log("meta")[before:] else SERVES)
    ill = [one for one in stage.cold_look() if not one.ok]
    assert not ill, ill


@pytest.mark.parametrize("case", FLIPS_META, ids=lambda case: case.id)
def test_a_bit_of_the_metadata(case: Case, stage: Stage, dice: random.Random) -> None:
    with stage.story(case) as story:
        once(stage, story, str(case.more[0]), dice)
        story.over()


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_bits_everywhere(stage: Stage, dice: random.Random) -> None:
    case = next(case for case in FLIPS_MANY if case.name == "many-meta")
    with stage.story(case) as story:
        for region in LMDB_REGIONS:
            for _ in range(int(str(case.more[1]))):
                once(stage, story, region, dice)
                story.over()
