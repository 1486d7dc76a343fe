"""After a start the metaserver looked through a million names so busily that a change took thirty
milliseconds: it rests for as many times as long as it worked."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.world.stores import MemoryMetaStore
from zdfs import meta, metacheck
from zdfs.calls import Now, Sleep
from zdfs.meta import WALK_RESTS, Meta


@pytest.mark.parametrize("took, rests", [(0.5, WALK_RESTS * 0.5), (0.0, 0.02)])
def test_the_walk_rests(monkeypatch: pytest.MonkeyPatch, took: float, rests: float) -> None:
    cursors = [metacheck.Cursor(), None]
    monkeypatch.setattr(meta.metacheck, "walk", lambda *_: ([], cursors.pop(0)))
    served = SimpleNamespace(granted=True)
    stub = SimpleNamespace(members=served, ledger=SimpleNamespace(store=MemoryMetaStore()))
    walk, at, slept, answer = Meta.walk(cast(Any, stub)), 100.0, [], None
    while cursors or not slept:
        trap = walk.send(answer)
        if isinstance(trap, Now):
            answer, at = (0 if trap.wall else at), at + (0 if trap.wall else took)
        else:
            assert isinstance(trap, Sleep)
            slept.append(trap.seconds)
            answer = None
    walk.close()
    assert slept[0] == pytest.approx(rests)
