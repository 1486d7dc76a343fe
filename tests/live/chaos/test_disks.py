"""Errors from below LMDB and the log: libfiu fails the system calls of one node, under load.

The node is started by `fiu-run -x`; its failure points are turned on while it works, through the
pipes of libfiu's remote control, and off again.  A node that stops with a reason is started again
by the same command line.  Reading through mappings, as LMDB does, can't be failed in this way.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live.chaos.cases import DISKS, STARTS, Case
from tests.live.chaos.story import Stage, Story, Theatre, make_stage
from tests.live.cluster import Cluster

pytestmark = [pytest.mark.shared, pytest.mark.timeout(180)]
LASTS_S = 3.0
NODES = {"data": "data-1", "meta": "meta"}


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    """Four servers; one of them and the metaserver under libfiu."""

    class Failing(Cluster):
        def __init__(self, folder: Path, servers: int = 4, **more: int):
            super().__init__(folder, servers, **more)  # type: ignore[arg-type]
            for node in NODES.values():
                self.before[node] = ["fiu-run", "-x", "-f", str(pipes(self, node))]

    made = Theatre(make_stage(tmp_path_factory, "disks", Failing))
    yield made
    made.close()


def pipes(cluster: Cluster, node: str) -> Path:
    """The pipes of a node's remote control, without the process id."""
    return cluster.folder / f"fiu-{node}"


def control(cluster: Cluster, node: str, command: str) -> None:
    """Tell the libfiu of a node."""
    words = ["fiu-ctrl", "-c", command, "-f", str(pipes(cluster, node))]
    done = subprocess.run(
        [*words, str(cluster.nodes[node].pid)], capture_output=True, text=True, timeout=10
    )
    assert done.returncode == 0 and not done.stdout, (done.stdout, done.stderr)


def fail(cluster: Cluster, node: str, points: tuple[str, ...], once: bool) -> None:
    """Calls fail with EIO from here on, or the next one of each does."""
    for point in points:
        more = ",onetime" if once else ""
        control(cluster, node, f"enable name={point},failinfo=5{more}")


def ended(cluster: Cluster, node: str) -> bool:
    return cluster.nodes[node].poll() is not None


def spoil(case: Case, stage: Stage) -> None:
    """Fail for a while; then no more, and start it again if it stopped."""
    kind, points, once = case.more
    cluster, node = stage.cluster, NODES[str(kind)]
    cluster.damaged = "copies that could not be read or written are made anew"
    with stage.story(case) as story:
        before = len(cluster.log(node))
        story.fault()
        fail(cluster, node, points, bool(once))  # type: ignore[arg-type]
        story.watch(LASTS_S, meta=node != "meta")
        revive(story, node, points, before)  # type: ignore[arg-type]
        story.over()


def revive(story: Story, node: str, points: tuple[str, ...], before: int) -> None:
    """No more errors; what stopped said why."""
    cluster = story.cluster
    if not ended(cluster, node):
        try:
            for point in points:
                control(cluster, node, f"disable name={point}")
            story.did.add("the node goes on")
            return
        except (AssertionError, subprocess.TimeoutExpired):  # it ended meanwhile, or is about to
            until(lambda: ended(cluster, node), 10, f"{node} has ended")
    process = cluster.nodes.pop(node)
    lines = cluster.log(node)[before:].strip().splitlines()
    assert process.returncode == 1, (process.returncode, lines[-3:])
    said = lines[-1] if lines else ""
    assert "stops" in said or "Input/output error" in said, lines[-3:]
    story.did.add("the node stops, says why and what to do")
    start(cluster, node)


@pytest.mark.parametrize("case", [c for c in DISKS if not c.soak], ids=lambda case: case.id)
def test_a_call_that_fails(case: Case, stage: Stage) -> None:
    spoil(case, stage)


@pytest.mark.soak
@pytest.mark.parametrize("case", [c for c in DISKS if c.soak], ids=lambda case: case.id)
def test_a_call_that_fails_elsewhere(case: Case, stage: Stage) -> None:
    spoil(case, stage)


@pytest.mark.soak
@pytest.mark.parametrize("case", STARTS, ids=lambda case: case.id)
def test_a_start_that_fails(case: Case, stage: Stage) -> None:
    """It says why and ends, or doesn't need that call; started again, it carries on."""
    kind, points = case.more
    cluster, node = stage.cluster, NODES[str(kind)]
    assert isinstance(points, tuple)
    cluster.damaged = "copies that could not be read or written are made anew"
    with stage.story(case) as story:
        before, words = len(cluster.log(node)), cluster.before[node]
        story.fault()
        cluster.kill(node)
        orders = [("-c", f"enable name={point},failinfo=5") for point in points]
        cluster.before[node] = [*words, *(word for order in orders for word in order)]
        start(cluster, node)
        cluster.before[node] = words
        story.watch(LASTS_S, meta=node != "meta")
        revive(story, node, points, before)
        story.over()


def start(cluster: Cluster, node: str) -> None:
    """Its command line again."""
    if node == "meta":
        cluster.start_meta()
    else:
        cluster.start_data(int(node.removeprefix("data-")))
