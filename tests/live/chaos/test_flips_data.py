"""One flipped bit in every region of a dataserver's files: never read, said, repaired.

The server is stopped in good order or killed, the bit is flipped, the same command line starts it.
Every block is then looked at: by a mount that remembers nothing, and by fsck on every replica.
"""

import random
from collections.abc import Iterator

import pytest

from tests.conftest import until
from tests.live.chaos import regions
from tests.live.chaos.cases import (
    FLIPS_INDEX, FLIPS_LOG, FLIPS_MANY, LMDB_REGIONS, LOG_REGIONS, Case,
)  # fmt: skip
from tests.live.chaos.story import Stage, Story, Theatre, make_stage
from tests.live.cluster import Cluster

pytestmark = [pytest.mark.shared, pytest.mark.timeout(180)]
MANY = {case.more[0]: case for case in FLIPS_MANY if case.name.startswith("many")}
WHO = 1


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    """Four servers whose scrub is quick."""
    made = Theatre(
        make_stage(tmp_path_factory, "flips-data", Cluster, more=("--scrub-rate", "100000000"))
    )
    yield made
    made.close()


def flip_in_log(cluster: Cluster, region: str, dice: random.Random) -> str:
    """One bit of the dataserver's log; it is not running."""
    path, found = regions.live_log_regions(cluster.stores[WHO])
    return regions.flip(path, regions.draw(found, region, dice), dice)


def flip_in_index(cluster: Cluster, region: str, dice: random.Random) -> str:
    """One bit of its index; it is not running."""
    path = cluster.stores[WHO] / "index" / "data.mdb"
    return regions.flip(path, regions.draw(regions.lmdb_regions(path), region, dice), dice)


def once(story: Story, where: str, region: str, dice: random.Random) -> None:
    """Kill, flip, start, look at everything."""
    cluster = story.cluster
    cluster.damaged = "a replica was harmed: fsck may be the first to meet it"
    story.fault()
    cluster.kill(f"data-{WHO}")
    place = (flip_in_log if where == "log" else flip_in_index)(cluster, region, dice)
    print(f"{region}: {place}")
    cluster.start_data(WHO)
    story.over()


@pytest.mark.parametrize("case", FLIPS_LOG, ids=lambda case: case.id)
def test_a_bit_of_the_log(case: Case, stage: Stage, dice: random.Random) -> None:
    with stage.story(case) as story:
        once(story, "log", str(case.more[0]), dice)


@pytest.mark.parametrize("case", FLIPS_INDEX, ids=lambda case: case.id)
def test_a_bit_of_the_index(case: Case, stage: Stage, dice: random.Random) -> None:
    with stage.story(case) as story:
        once(story, "index", str(case.more[0]), dice)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("where", ["log", "index"])
def test_bits_everywhere(where: str, stage: Stage, dice: random.Random) -> None:
    case = MANY[where]
    names = LOG_REGIONS if where == "log" else [n for n in LMDB_REGIONS if n != "overflow"]
    with stage.story(case) as story:
        for region in names:
            for _ in range(int(str(case.more[1]))):
                once(story, where, region, dice)
        stage.cold_look()


@pytest.mark.soak
def test_bits_under_a_running_server(stage: Stage, dice: random.Random) -> None:
    case = next(case for case in FLIPS_MANY if case.name == "running-log")
    with stage.story(case) as story:
        cluster = story.cluster
        cluster.damaged = "replicas were harmed"
        story.fault()
        for _ in range(int(str(case.more[1]))):
            flip_in_log(cluster, dice.choice(["block-header", "block-body"]), dice)
        story.watch(5)
        story.over()
        until(lambda: cluster.told()["servers"][WHO]["damaged"] > 0, 60, "damage is found")
