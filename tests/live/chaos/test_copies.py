"""A store, or a part of it, replaced by an older copy of itself: known as such, and never wins.

(A dataserver's whole store: tests/live/test_stale.py.)
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live.chaos.cases import STALE, Case
from tests.live.chaos.story import Stage, Story, Theatre, make_stage
from tests.live.cluster import READY_S

pytestmark = [pytest.mark.shared, pytest.mark.timeout(180)]
CASES = {case.name: case for case in STALE}
WHO = 1


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    """Four servers."""
    made = Theatre(make_stage(tmp_path_factory, "copies"))
    yield made
    made.close()


def work_on(story: Story) -> None:
    """The load goes on for a while, so that a copy is old."""
    story.cluster.wait_serving()
    story.load.wait(("write", "name"), time.monotonic(), "after the copy")
    story.cluster.wait_report(WHO)  # what shows the copy to be old


def copy_index(store: Path, target: Path) -> None:
    shutil.copytree(store / "index", target)


def copy_log(store: Path, target: Path) -> None:
    target.mkdir()
    for path in store.glob("segment-*.log"):
        shutil.copy(path, target)


def put_index(target: Path, store: Path) -> None:
    shutil.rmtree(store / "index")
    shutil.copytree(target, store / "index")


def put_log(target: Path, store: Path) -> None:
    for path in store.glob("segment-*.log"):
        path.unlink()
    for path in target.iterdir():
        shutil.copy(path, store)


@pytest.mark.parametrize("name", ["index", "log"])
def test_half_of_a_store_is_old(name: str, stage: Stage) -> None:
    """The other half is as it was left."""
    take, put = {"index": (copy_index, put_index), "log": (copy_log, put_log)}[name]
    cluster, node = stage.cluster, f"data-{WHO}"
    store, copy = cluster.stores[WHO], cluster.folder / f"copy-{name}"
    with stage.story(CASES[name]) as story:
        cluster.kill(node)
        take(store, copy)
        cluster.start_data(WHO)
        work_on(story)
        story.fault()
        cluster.kill(node)
        put(copy, store)
        cluster.start_data(WHO)
        story.over()


def test_the_metaserver_is_old(stage: Stage) -> None:
    """It takes over from the copies what it missed, before it serves."""
    case: Case = CASES["meta"]
    cluster = stage.cluster
    newest, copy = cluster.folder / "newest", cluster.folder / "copy-meta"
    with stage.story(case) as story:
        cluster.kill("meta")
        shutil.copytree(cluster.meta_store, copy)
        cluster.start_meta()
        work_on(story)
        story.fault()
        cluster.kill("meta")
        cluster.meta_store.rename(newest)
        copy.rename(cluster.meta_store)
        cluster.start_meta()
        until(lambda: set(cluster.states()) == {"serving"}, READY_S, "it serves")
        story.did.add("an old metaserver reads what it missed from the copies")
        story.over()
