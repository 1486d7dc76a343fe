"""One cluster for the cases of a module, remade after a case that failed."""

from collections.abc import Iterator

import pytest

from tests.live.chaos.story import Stage, Theatre


@pytest.fixture
def stage(theatre: Theatre) -> Iterator[Stage]:
    """A whole cluster with known content; `theatre` is the module's."""
    yield theatre.stage()
