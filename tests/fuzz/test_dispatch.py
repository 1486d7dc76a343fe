"""What strangers say to the rooms, valid and nearly: nothing but Failures comes of it.

Scripts of messages go to a metaserver and dataservers of the simulated world (`siege`).  Whatever
they are, no exception leaves a handler or a task, every answer is one that its asker can read, a
mount is served meanwhile and afterwards, and in the end fsck finds the cluster whole.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.fuzz.sayings import GOOD, REQUESTS, Said, saying
from tests.fuzz.siege import Siege

from zdfs import wire

TOGETHER = 5  # types in one script
TIMES = 8  # messages of each
CHUNKS = [REQUESTS[first : first + TOGETHER] for first in range(0, len(REQUESTS), TOGETHER)]


def play(script: Sequence[Said]) -> Siege:
    """All of it, and what must hold."""
    siege = Siege()
    siege.play(script)
    siege.serves()
    siege.ends()
    return siege


@pytest.mark.parametrize("kinds", CHUNKS, ids=lambda kinds: kinds[0].__name__)
def test_whatever_is_said(
    kinds: list[type[wire.Request[Any]]], pytestconfig: pytest.Config
) -> None:
    examples = 2 * pytestconfig.getoption("--deep")
    script = st.lists(
        st.sampled_from(kinds).flatmap(saying),
        min_size=TIMES,
        max_size=TIMES * len(kinds),
    )

    @settings(
        max_examples=examples,
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(script)
    def check(script: list[Said]) -> None:
        play(script)

    check()


def test_there_is_a_good_request_of_every_type() -> None:
    assert set(GOOD) == set(REQUESTS)
