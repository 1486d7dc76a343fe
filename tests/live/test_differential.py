"""Random operations on a mount, with remounts, and on a local directory: no difference."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.cluster import Cluster

TESTS = Path(__file__).resolve().parents[1]


def compare(folder: Path, dice: random.Random, rounds: int, seconds: float) -> None:
    """Rounds of operations on the same two trees."""
    local = folder / "local"
    local.mkdir()
    cluster = Cluster(folder)
    try:
        cluster.start()
        for _ in range(rounds):
            where = cluster.mount()
            words = [dice.getrandbits(32), seconds, where, local]
            done = subprocess.run(
                [sys.executable, "-P", "-m", "live.differential", *map(str, words)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds + 60,
                env={**os.environ, "PYTHONPATH": str(TESTS)},
            )
            assert done.returncode == 0, f"seed {words[0]}\n" + done.stderr[-6000:]
            cluster.unmount(where)
    finally:
        cluster.close()


def test_like_a_local_directory(tmp_path: Path, dice: random.Random) -> None:
    compare(tmp_path, dice, 4, 6)


@pytest.mark.soak
def test_like_a_local_directory_for_long(tmp_path: Path, dice: random.Random) -> None:
    compare(tmp_path, dice, 30, 30)
