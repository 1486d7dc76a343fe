"""Fresh lives, as many as half a minute allows, and all that ever failed.

`make sim SEEDS=10000` tries more; tests/sim/seeds.txt keeps what failed.
"""

from pathlib import Path

import pytest

from tests.sim.kinds import KINDS
from tests.sim.life import play

FRESH = 60  # kinds follow one another, from one that the seed says
FAILED = Path(__file__).with_name("seeds.txt")


def failed() -> list[tuple[str, int]]:
    """Kind and seed of each life that ever failed."""
    lines = (line.partition("#")[0].split() for line in FAILED.read_text().splitlines())
    return [(words[0], int(words[1])) for words in lines if words]


@pytest.mark.parametrize("number", range(FRESH))
def test_a_life(number: int, seed: int) -> None:
    kinds = list(KINDS)
    play(kinds[(seed + number) % len(kinds)], seed + number)


@pytest.mark.parametrize(("kind", "seed"), failed())
def test_what_failed_once(kind: str, seed: int) -> None:
    play(kind, seed)
