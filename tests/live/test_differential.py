"""Random sequences of steps on mounts and on a local directory: no difference.

While servers are killed and started, the mount is made anew and the kernel's caches are dropped.
A sequence that fails is cut down to the steps that matter; differential.py says how to run them.
"""

from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

from tests.live.cluster import Cluster
from tests.live.differential import Stage, sequences

pytestmark = pytest.mark.timeout(900)  # a failing sequence is run many times, to cut it down
KINDS = pytest.mark.parametrize("kind", ["one", "two"])


def compare(folder: Path, kind: str, count: int, tell: Callable[[str], None]) -> None:
    """So many sequences; then every replica is right, too."""
    stage = Stage(folder, kind)

    @hypothesis.settings(
        max_examples=count,
        suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=False,
    )
    @hypothesis.given(sequences(kind))
    def same(sequence: list[tuple[str, bool]]) -> None:
        stage.run(sequence)

    try:
        same()
        tell(f"{stage.sequences} sequences, {stage.steps} steps, no difference")
        stage.rest()
        whole(stage.cluster)
    finally:
        stage.close()


def whole(cluster: Cluster) -> None:
    """All servers are up; fsck finds nothing."""
    cluster.wait_serving()
    done = cluster.command("zdfs", "fsck", "--meta", cluster.meta_port, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


@KINDS
def test_like_a_local_directory(tmp_path: Path, kind: str, tell: Callable[[str], None]) -> None:
    compare(tmp_path, kind, {"one": 40, "two": 25}[kind], tell)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@KINDS
def test_like_a_local_directory_for_long(
    tmp_path: Path, kind: str, tell: Callable[[str], None]
) -> None:
    compare(tmp_path, kind, 2000, tell)
