"""What a user met who took docs/API.md at its word: bytes that were accepted and gone, calls that no
time limit ended, directories that a walk left out, copies that wrote over what they must not."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import zdfs
from tests.live.cluster import Cluster, started
from zdfs.api import FileSystem

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("api-attacked"), 3) as one:
        yield one


@pytest.fixture(scope="module")
def fs(cluster: Cluster) -> Iterator[FileSystem]:
    one = zdfs.connect(cluster.meta_address, umask=0o022)
    try:
        yield one
    finally:
        one.abandon()


@contextlib.contextmanager
def program(text: str, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """A program beside us; it ends with the test."""
    line = (sys.executable, "-c", text, *words)
    with subprocess.Popen(
        line, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        try:
            yield child
        finally:
            child.kill()


# --- what was accepted is stored ---------------------------------------------------------------


def test_the_end_of_a_program_stores_large_blocks(cluster: Cluster, fs: FileSystem) -> None:
    """The messaging library's own end came first, once something large had been sent before."""
    text = """
import sys, zdfs
fs = zdfs.connect(sys.argv[1])
fs.write_bytes("/before", bytes(300_000))
file = fs.open("/at-exit", "wb")
file.write(b"x" * 100_000)
"""
    with program(text, cluster.meta_address) as child:
        assert child.wait(60) == 0
    assert fs.read_bytes("/at-exit") == b"x" * 100_000
