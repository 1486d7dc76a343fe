"""A segment that could not be read ended the upkeep of its dataserver, as a bug of ours."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_log import finish, is_right, name, put, small_segments
from zdfs import disk
from zdfs.blockstore import LogStore
from zdfs.errors import StoreError
from zdfs.ids import Slot


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LogStore:
    """With a segment that is worth being compacted."""
    small_segments(monkeypatch)
    made = LogStore(tmp_path / "d", Slot(0))
    for ino in range(1, 31):
        put(made, name(ino), size=400)
        finish(made)
    made.drop([name(ino) for ino in range(1, 30) if ino % 4])
    finish(made)
    made.checkpoint()
    return made


@contextmanager
def bad_disk() -> Iterator[None]:
    """Nothing can be read."""

    def fail(*words: Any) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", fail)
        yield


def test_it_stays_as_it_is(store: LogStore) -> None:
    steps = 0
    with bad_disk():
        while store.compact(1 << 20):
            steps += 1
            assert steps < 100, "each segment is tried once"
    assert steps > 1
    assert all(is_right(store, name(ino), 400) for ino in range(4, 30, 4))
    assert not store.compact(1 << 20), "until the next start"
    store.close()


def test_an_index_that_can_not_be_made_anew_stops_the_server(store: LogStore) -> None:
    with bad_disk(), pytest.raises(StoreError, match="its log can't be read: .*Input/output error"):
        store.rebuild_index()


def test_a_segment_that_can_not_be_removed_stops_the_server(store: LogStore) -> None:
    """It was an OSError, which the simulated power cuts found, and ended the upkeep, too."""

    def fail(*words: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    store.drop([name(ino) for ino in range(1, 30)])
    finish(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "sync_directory", fail)
        with pytest.raises(StoreError, match="can't be cleaned up: .*Input/output error"):
            store.checkpoint()
