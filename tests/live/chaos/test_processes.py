"""Processes that die or stand still, under load: each kind of them, the mount too."""

import random
import signal
from collections.abc import Iterator

import pytest

from tests.live.chaos.cases import KILLS, SERVERS, STOPS, Case
from tests.live.chaos.story import Stage, Story, Theatre, make_stage
from zdfs import limits

pytestmark = [pytest.mark.shared, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    """Four servers."""
    made = Theatre(make_stage(tmp_path_factory, "processes"))
    yield made
    made.close()


def of(cases: list[Case], soak: bool) -> "pytest.MarkDecorator":
    """The cases that are, or are not, only for `make chaos`."""
    mine = [case for case in cases if case.soak == soak]
    return pytest.mark.parametrize("case", mine, ids=lambda case: case.id)


def kill(story: Story, victims: list[str]) -> None:
    """kill -9, and the same command lines again."""
    cluster = story.cluster
    if victims == ["mount"]:
        process = cluster.mounts.pop(story.mount)
        process.kill()
        process.wait(30)
        story.watch(1.0)
        cluster.mount("mnt")
        return
    cluster.kill(*victims)
    story.watch(1.5, meta="meta" not in victims)
    for name in victims:
        if name == "meta":
            cluster.start_meta()
        else:
            cluster.start_data(int(name.removeprefix("data-")))


def draw(kind: str, dice: random.Random) -> list[str]:
    """Who dies."""
    if kind == "data":
        return [dice.choice(SERVERS)]
    if kind == "two":
        return dice.sample(SERVERS, 2)
    return ["meta", *SERVERS] if kind == "all" else [kind]


@of(KILLS, soak=False)
def test_killed(case: Case, stage: Stage, dice: random.Random) -> None:
    with stage.story(case) as story:
        story.fault()
        kill(story, draw(str(case.more[0]), dice))
        story.over()


@pytest.mark.soak
@pytest.mark.timeout(1200)
@of(KILLS, soak=True)
def test_killed_again_and_again(case: Case, stage: Stage, dice: random.Random) -> None:
    kind, times = str(case.more[0]), int(str(case.more[1]))
    with stage.story(case) as story:
        for _ in range(times):
            story.fault()
            kill(story, draw(kind, dice))
            story.over()


def stop_and_go(case: Case, stage: Stage) -> None:
    """SIGSTOP, so many seconds, SIGCONT."""
    who, seconds = str(case.more[0]), float(str(case.more[1]))
    with stage.story(case) as story:
        victim = story.cluster.nodes.get(who) or story.cluster.mounts[story.mount]
        story.fault()
        victim.send_signal(signal.SIGSTOP)
        try:
            says = int(who[-1]) if who.startswith("data-") and seconds > limits.DOWN_S else None
            story.watch(seconds, meta=who != "meta", says=says)
        finally:
            victim.send_signal(signal.SIGCONT)
        story.over()


@of(STOPS, soak=False)
def test_stopped(case: Case, stage: Stage) -> None:
    stop_and_go(case, stage)


@pytest.mark.soak
@of(STOPS, soak=True)
def test_stopped_for_longer_or_shorter(case: Case, stage: Stage) -> None:
    stop_and_go(case, stage)
