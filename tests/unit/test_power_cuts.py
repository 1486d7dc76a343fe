"""A dataserver's store when the power goes: what no sync has covered is gone, names of files too.

The disk is the worst that POSIX allows: of a file it keeps what was there at its last sync, and of
the rest as much as it likes; a new file's name only once its directory was synced; what was deleted
is gone at once.
"""

import os
import random
import shutil
import stat
import threading
from pathlib import Path

import pytest

from tests.unit.test_log import finish, is_right, kill, name, put, small_segments
from zdfs import schema
from zdfs.blockstore import LogStore
from zdfs.ids import Name, Slot
from zdfs.log import segment_numbers, segment_path

SLOT = Slot(0)
STEPS = 50


class Disk:
    """What is certain of a store's files; syncs wait while the gate is closed."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch):
        self.directory = directory
        self.synced: dict[str, int] = {}  # bytes of each segment
        self.names: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self._real = {"fsync": os.fsync, "fdatasync": os.fdatasync}
        patch.setattr(os, "fsync", lambda fd: self._sync("fsync", fd))
        patch.setattr(os, "fdatasync", lambda fd: self._sync("fdatasync", fd))

    def _sync(self, how: str, fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if how == "fdatasync" and path.parent == self.directory:
            self.gate.wait(60)
        status = os.fstat(fd)
        self._real[how](fd)
        if stat.S_ISREG(status.st_mode) and path.parent == self.directory:
            self.synced[path.name] = status.st_size
        elif path == self.directory:
            self.names = {one.name for one in path.iterdir()}

    def cut(self, target: Path, dice: random.Random) -> Path:
        """The directory as the next boot finds it."""
        shutil.copytree(self.directory, target)
        for path in target.glob("segment-*.log"):
            if path.name not in self.names:
                path.unlink()
                continue
            sure, all_of_it = self.synced.get(path.name, 0), path.stat().st_size
            os.truncate(path, dice.choice([sure, sure, dice.randint(sure, all_of_it)]))
        return target


class Life:
    """A store that works, and what it has acknowledged."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, seed: int):
        self.dice = random.Random(seed)
        self.folder = folder
        folder.mkdir()
        self.disk = Disk(folder / "d", patch)
        self.store = LogStore(folder / "d", SLOT)
        self.rounds: dict[Name, int] = {}  # what was put, and not dropped since
        self.sizes: dict[Name, int] = {}
        self.ino = 0

    def put(self) -> None:
        size = self.dice.choice([40, 340])
        for _ in range(self.dice.randint(1, 4)):
            self.ino += 1
            one = name(self.ino)
            self.sizes[one] = size
            put(self.store, one, size=size)
            self.rounds[one] = self.store.round
        self.store.end_round()

    def drop(self) -> None:
        gone = self.dice.sample(sorted(self.rounds), len(self.rounds) // 2)
        for one in gone:
            del self.rounds[one]
        self.store.drop(gone)
        self.store.end_round()

    def sync(self) -> None:
        self.disk.gate.set()
        self.store.settle()
        self.disk.gate.clear()

    def checkpoint(self) -> None:
        self.store.checkpoint()

    def compact(self) -> None:
        self.store.compact(600)
        self.store.end_round()

    def cut(self, number: int) -> None:
        """Power goes, and comes back."""
        copied = self.disk.cut(self.folder / f"cut-{number}", self.dice)
        synced = self.store.synced
        again = LogStore(copied, SLOT)
        assert again.opened_round >= synced and again.round > synced
        assert again.boot == self.store.boot + 1
        for one, round_ in self.rounds.items():
            if round_ <= synced:
                assert is_right(again, one, self.sizes[one]), f"{one} was acknowledged"
        again.close()
        shutil.rmtree(copied)


def test_a_power_cut_between_any_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    small_segments(monkeypatch, 2048)
    for number in range(2):
        life = Life(tmp_path / str(number), monkeypatch, seed + number)
        life.put()
        life.sync()
        for step in range(STEPS):
            steps = [life.put, life.put, life.drop, life.compact, life.compact]
            life.dice.choice([*steps, life.sync, life.sync, life.checkpoint, life.checkpoint])()
            life.cut(step)
        life.disk.gate.set()
        life.store.close()


def test_a_segment_stays_until_the_copies_of_its_records_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_segments(monkeypatch, 2048)
    disk = Disk(tmp_path / "d", monkeypatch)
    store = LogStore(tmp_path / "d", SLOT)
    names = [name(ino) for ino in range(1, 41)]
    for one in names:
        put(store, one, size=400)
        finish(store)
    store.checkpoint()
    before = len(segment_numbers(tmp_path / "d"))
    live = names[::8]
    store.drop([one for one in names if one not in live])
    finish(store)
    disk.gate.clear()
    while store.compact(1 << 20):
        store.end_round()
    store.checkpoint()  # the drops are on disk, the copies are not
    dice = random.Random(1)
    again = LogStore(disk.cut(tmp_path / "cut", dice), SLOT)
    assert all(is_right(again, one, 400) for one in live)
    again.close()
    disk.gate.set()
    store.settle()
    store.checkpoint()
    assert len(segment_numbers(tmp_path / "d")) < before / 2, "now they could go"
    again = LogStore(disk.cut(tmp_path / "cut-2", dice), SLOT)
    assert all(is_right(again, one, 400) for one in live)
    again.close()
    store.close()


def test_a_round_of_which_anything_is_left_is_not_used_again(tmp_path: Path) -> None:
    """Its end is torn off, its block counts; a later round of that number would not be the same."""
    store = LogStore(tmp_path / "d", SLOT)
    put(store, name(1))
    finish(store)
    put(store, name(2))
    torn, entry = store.round, store.find(name(2))
    finish(store)
    kill(store)
    assert entry is not None
    behind = entry.offset + schema.RECORD_BYTES + entry.length
    os.truncate(segment_path(tmp_path / "d", entry.segment), behind + 5)
    again = LogStore(tmp_path / "d", SLOT)
    assert again.opened_round == torn - 1 and again.synced > torn
    assert is_right(again, name(1)) and is_right(again, name(2))
    again.close()


def test_a_bad_copy_does_not_hide_the_good_one(tmp_path: Path) -> None:
    """A record was written twice, as compaction does; the second rots, and the index is lost."""
    store = LogStore(tmp_path / "d", SLOT)
    put(store, name(1))
    finish(store)
    put(store, name(1))
    finish(store)
    second = store.find(name(1))
    assert second is not None
    put(store, name(2))
    finish(store)
    kill(store)
    path = segment_path(tmp_path / "d", second.segment)
    data = bytearray(path.read_bytes())
    data[second.offset + schema.RECORD_BYTES + 3] ^= 1
    path.write_bytes(data)
    shutil.rmtree(tmp_path / "d" / "index")
    store = LogStore(tmp_path / "d", SLOT)
    assert is_right(store, name(1)) and is_right(store, name(2))
    store.close()
