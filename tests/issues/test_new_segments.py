"""What was acknowledged could be gone with the power, although each of its bytes was synced.

Each boot begins a segment of the log.  Its name was synced only when the next segment was begun: on
a disk that keeps no more than POSIX asks for, a power cut before that took the file.
"""

import random
from pathlib import Path

import pytest

from tests.unit.test_log import finish, is_right, name, put
from tests.unit.test_power_cuts import Disk
from zdfs.blockstore import LogStore
from zdfs.ids import Slot


def test_a_segments_name_is_on_disk_before_what_stands_in_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path / "d", monkeypatch)
    store = LogStore(tmp_path / "d", Slot(0))
    put(store, name(1))
    finish(store)
    again = LogStore(disk.cut(tmp_path / "cut", random.Random(1)), Slot(0))
    assert again.opened_round == store.synced and is_right(again, name(1))
    again.close()
    store.close()
