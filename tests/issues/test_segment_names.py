"""What was acknowledged right after a start could be lost with its whole segment in a power cut.

The bytes of the first segment of a boot were synced, its name in the directory was not: POSIX
promises nothing for a file whose directory was never synced.
"""

import random
from pathlib import Path

from tests.world.platter import Disks
from zdfs import checksum
from zdfs.blockstore import LogStore
from zdfs.ids import BlockNo, Epoch, Ino, Name, Slot, Token, Version

NAME = Name(Ino(1), BlockNo(0), Version(Token(1), 1))


def test_a_synced_round_survives_in_a_new_segment(tmp_path: Path) -> None:
    disks = Disks()
    for seed in range(8):  # half of them find the directory as it was last synced
        platter = disks.platter(tmp_path / str(seed))
        with disks.spinning():
            store = LogStore(platter.path, Slot(0), thread=False)
            store.append(NAME, checksum.seal(NAME, b"data"), Epoch(1), Slot(0), b"data")
            store.end_round()
            store.sync()
            synced = store.synced
            store.abandon()
            platter.cut(random.Random(seed))
            found = LogStore(platter.path, Slot(0), thread=False)
            assert found.opened_round >= synced and found.boot == 2
            assert found.read(NAME) is not None
            found.abandon()
            platter.forget()
