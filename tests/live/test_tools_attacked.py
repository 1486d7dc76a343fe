"""What a careful user met in the commands: one mount under another source (`-o fsname=files`) ended
`zdfs health`, `why`, `top`, `find-open`, `profile` and `du` with an error, on that mount or not."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.cluster import Cluster, started

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for all of these: none of them breaks anything."""
    with started(tmp_path_factory.mktemp("attacked"), 3, block_size=4096) as made:
        yield made


@pytest.fixture(scope="module")
def odd(cluster: Cluster) -> Path:
    """A mount whose source says no metaserver, as somebody named it."""
    return cluster.mount("odd", "-o", "fsname=files")


@pytest.mark.parametrize(
    ("words", "status"),
    [(("health",), None), (("why",), 0), (("top", "--once", "--every", "0.2"), 0),
     (("find-open", "/"), None), (("du", "/"), 0), (("status",), 0), (("where", "/"), None)],
)  # fmt: skip
def test_a_mount_under_another_source_is_in_nobodys_way(
    cluster: Cluster, odd: Path, words: tuple[str, ...], status: int | None
) -> None:
    done = cluster.command("zdfs", *words, "--meta", cluster.meta_port)
    assert "is no address" not in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert status is None or done.returncode == status, done.stderr


@pytest.mark.parametrize(
    "words", [("why",), ("find-open",), ("du",), ("profile", "--over", "0.1"), ("scrub",)]
)
def test_a_path_on_it_wants_a_metaserver(
    cluster: Cluster, odd: Path, words: tuple[str, ...]
) -> None:
    done = cluster.command("zdfs", *words, odd)
    assert done.returncode in (1, 2)
    assert "'files', names no metaserver: say which with --meta" in done.stderr
    done = cluster.command("zdfs", *words, odd, "--meta", cluster.meta_port, "--json")
    assert done.stderr == "" and json.loads(done.stdout)
