"""Fresh lives, sixty or as many as `--lives` says, and all that ever failed.

`make test` plays 120, `make sim SEEDS=10000` any number; tests/sim/seeds.txt keeps what
failed.
"""

from pathlib import Path

import pytest

from tests.sim.kinds import KINDS
from tests.sim.life import play

FAILED = Path(__file__).with_name("seeds.txt")


def failed() -> list[tuple[str, int]]:
    """Kind and seed of each life that ever failed."""
    lines = (line.partition("#")[0].split() for line in FAILED.read_text().splitlines())
    return [(words[0], int(words[1])) for words in lines if words]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Kinds follow one another, from one that the seed says."""
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(metafunc.config.getoption("lives")))


def test_a_life(number: int, seed: int) -> None:
    kinds = list(KINDS)
    play(kinds[(seed + number) % len(kinds)], seed + number)


@pytest.mark.parametrize(("kind", "seed"), failed())
def test_what_failed_once(kind: str, seed: int) -> None:
    play(kind, seed)
