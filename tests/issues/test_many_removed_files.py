"""A look at the next few orphans was one at all of them: while a million removed files were let go
of, the metaserver stood still for a fiftieth of a second, a dozen times a second."""

from collections.abc import Iterator

from tests.issues.test_early_drops import session
from tests.issues.test_kept_grant import metaserver
from tests.unit.test_drops import turns
from tests.world.stores import MemoryMetaStore
from zdfs.contents import REAP_FILES
from zdfs.ids import ROOT, Ino
from zdfs.orphans import Orphans


class Watched(Orphans):
    """Which of them are looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Ino] = []

    def __iter__(self) -> Iterator[Ino]:
        for ino in super().__iter__():
            self.seen.append(ino)
            yield ino


def test_a_look_at_a_few_is_not_one_at_all() -> None:
    meta = metaserver(MemoryMetaStore())
    us = session(meta, bytes(16))
    orphans = meta.contents.orphans = Watched()
    many = [Ino(1000 + number) for number in range(4 * REAP_FILES)]
    for ino in many:
        orphans.add(ino, ROOT)
        meta.sessions.opened(us, ino, 1)  # so they stay
    reaper = meta.contents.reap()
    turns(reaper, 1.0, 5)  # four looks, each after a rest
    reaper.close()
    assert orphans.seen[: len(many)] == many, "each has its turn"
    assert len(orphans.seen) == len(many)
