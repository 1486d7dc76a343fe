"""Clients that mean harm, within and beyond the rights of their keys; and accidents with keys.

- Whoever might write one file could keep a cluster that had lost its metadata from ever being
  rebuilt: dataservers stored blocks that no file can have, and `zdfs meta rebuild` ended there.
- A list of keys that was not copied to its end let a confined client do everything, or a revoked
  one in again: what restricts a key stands at the end of its line.
- A client whose root is squashed listed root's drop box (mode 0733), and opened root's write-only
  log (0622) for reading.
- It made programs that run with root's group, in a directory of root's that gives its group on.
"""

import stat
from errno import EACCES
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.conftest import until
from tests.issues.test_repairs import BYTES, CALLER, NAME, RING, dataserver, drive
from tests.unit.test_guard import RIGHTS, House, setting
from zdfs import checksum, keys, limits, rights, wire
from zdfs.data import Data
from zdfs.errors import BadMessage, StartError, Unavailable
from zdfs.gate import Gate
from zdfs.ids import ROOT, BlockNo, Epoch, Name, PageNo, Slot
from zdfs.tools import keymaking
from zdfs.wire import Attributes


@pytest.fixture
def house() -> House:
    return House()


# --- blocks that no file can have ----------------------------------------------------------------


def put(
    data: Data, name: Name = NAME, epoch: int = 1, start: int = 0, stored: bytes = BYTES
) -> None:
    """One block, from a client that may write it."""
    block = wire.Put1(name, checksum.seal(name, stored), Epoch(epoch), Slot(start), len(stored))
    request = wire.Put(b"c" * 16, (block,), b"", (stored,))
    drive(data.put(request, CALLER), lambda peer, request: None)


@pytest.mark.parametrize(
    "name, epoch, start, stored, why",
    [
        (NAME, 1, 0, bytes(65537), "more than a block of 65536"),
        (NAME._replace(block=BlockNo(2**64 - 1)), 1, 0, b"x", "the end of the longest file"),
        (NAME, 0, 0, b"x", "ring 0, which there never was"),
        (NAME, 1, len(RING), b"x", "slot 3, of a smaller ring"),
    ],
)
def test_a_block_that_no_file_can_have_is_refused(
    name: Name, epoch: int, start: int, stored: bytes, why: str
) -> None:
    data = dataserver()
    with pytest.raises(BadMessage, match=why):
        put(data, name, epoch, start, stored)
    assert data.store.find(name) is None


def test_the_last_block_of_the_longest_file_is_taken() -> None:
    data, last = dataserver(), limits.FILE_BYTES // 65536
    name = NAME._replace(block=BlockNo(last))
    put(data, name, 1, len(RING) - 1, bytes(65535))
    assert data.store.find(name) is not None


def test_a_ring_that_a_server_was_not_told_of_yet_may_come() -> None:
    """A mount may hear of it first: it asks again, like one whose pass is newer."""
    data = dataserver()
    with pytest.raises(Unavailable, match="ring 2, of which we were not told yet"):
        put(data, epoch=2, start=3)
    data.healer.rings[Epoch(2)] = (*RING, "127.0.0.1:4")
    put(data, epoch=2, start=3)
    assert data.store.find(NAME) is not None


def test_a_server_that_was_just_started_takes_what_it_took() -> None:
    """Nobody has told it of any ring; its own list is the one that there is."""
    data = dataserver()
    data.healer.rings.clear()
    put(data)
    assert data.store.find(NAME) is not None
    with pytest.raises(BadMessage):
        put(data, NAME._replace(block=BlockNo(1)), start=3)


# --- lists of keys that end early ----------------------------------------------------------------


def cut(path: Path, word: str) -> None:
    """A copy that a full disk or a lost connection has ended."""
    text = path.read_text()
    path.write_text(text[: text.index(word)])


def told(caplog: pytest.LogCaptureFixture) -> None:
    """Until it is said; then that is forgotten."""
    until(lambda: "looks cut off" in caplog.text, 10)
    caplog.clear()


def test_a_list_that_ends_early_gives_nobody_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "keys"
    keymaking.make(folder, "node")
    bob, _ = keymaking.give(folder, "bob", may="ro root=/home/bob")
    context: zmq.Context[Any] = zmq.Context()
    gate = Gate(context, folder)
    try:
        whole = (folder / "cluster").read_text()
        for word in (" rights=", " root=", "/bob"):
            cut(folder / "cluster", word)
            told(caplog)
            assert rights.of(gate.allowed[bob.public]).root == b"/home/bob"
            (folder / "cluster").write_text(whole)
        keymaking.end(folder, "bob")
        until(lambda: bob.public not in gate.allowed, 10)
        cut(folder / "cluster", " revoked=")
        told(caplog)
        assert bob.public not in gate.allowed
    finally:
        gate.close()
        context.destroy(0)


def test_what_to_do_with_a_list_that_ends_early_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keymaking.make(folder, "node")
    for name in ("cluster", "own"):
        path = folder / name
        assert path.read_text().endswith("\n")
        path.write_text(path.read_text()[:-1])
        with pytest.raises(StartError, match=f"{name} looks cut off.*copy it again"):
            keys.load(folder)
        path.write_text(path.read_text() + "\n")
    assert keys.load(folder)


# --- whose root is nobody ------------------------------------------------------------------------


def test_who_may_only_drop_something_into_a_box_does_not_see_what_is_there(house: House) -> None:
    box = house.make(ROOT, b"box", 0o040733)
    house.change("root", setting(box, 0o040733))
    house.create("root", box, b"a name that is none of theirs")
    for request in (
        wire.ReadDirectory(box, b"", 9),
        wire.ListNames(box, b""),
        wire.SumDirectory(box, b""),
        wire.ListXattr(box),
    ):
        assert house.refused("squashed", request) == EACCES, request
    dropped = house.create("squashed", box, b"dropped").attributes.ino
    assert house.ask("squashed", wire.Lookup(box, (b"dropped",))).steps[0].ino == dropped
    house.change("squashed", wire.Unlink(box, b"dropped"))


def test_who_may_only_write_to_a_file_opens_it_for_that(house: House) -> None:
    log = house.create("root", house.shared, b"log").attributes.ino
    house.change("root", setting(log, 0o100622))
    reading = wire.Open(log, 1, False, False, house.shared, b"log")
    assert house.refused("squashed", reading) == EACCES
    opened = house.change("squashed", wire.Open(log, 2, True, False, house.shared, b"log"))
    again = wire.Open(log, 3, False, False, house.shared, b"log")  # it has the grant already
    assert house.ask("squashed", again).attributes.ino == log
    house.ask("squashed", wire.ReadMap(log, PageNo(0), 1))
    house.ask("squashed", wire.ReturnGrant(log, opened.token))
    assert house.refused("squashed", again) == EACCES


@pytest.mark.parametrize("mode", [0o100644, 0o100711, 0o100640])
def test_what_may_be_read_or_run_is_opened_for_that(house: House, mode: int) -> None:
    house.change("root", setting(house.file, mode))
    house.ask("squashed", wire.Open(house.file, 1, False, False, house.inside, b"file"))


def made(house: House, key: str, kind: int, name: bytes) -> Attributes:
    """Something with setgid, in a directory of root's that gives group 0 on."""
    parent = house.ask("root", wire.Lookup(ROOT, (b"given",))).steps
    at = parent[0].ino if parent else house.make(ROOT, b"given", stat.S_IFDIR | 0o755)
    house.change("root", setting(at, stat.S_IFDIR | 0o2777))
    path, mode = b"/given/" + name, kind | 0o2755
    request: Any = wire.Make(at, name, path, mode, 0, 0, 0, b"", 0)
    if kind == 0:
        request = wire.Create(at, name, path, mode, 0, 0, True, 1, 0)
    ino = house.change(key, request).attributes.ino
    found: Attributes = house.ask("root", wire.GetAttributes(ino)).attributes
    return found


@pytest.mark.parametrize("kind", [0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK])
def test_nobody_makes_a_program_that_runs_with_roots_group(house: House, kind: int) -> None:
    found = made(house, "squashed", kind, b"program")
    assert (found.gid, stat.S_IMODE(found.mode)) == (0, 0o755)
    house.change("squashed", setting(found.ino, found.mode | stat.S_ISGID | stat.S_ISUID))
    after = house.ask("root", wire.GetAttributes(found.ino)).attributes
    assert stat.S_IMODE(after.mode) == 0o4755, "whose it is, nobody is root"


def test_who_gives_a_group_on_or_has_root_s_goes_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made(house, "squashed", stat.S_IFDIR, b"directory").mode & stat.S_ISGID
    assert made(house, "ada", 0, b"whole").mode & stat.S_ISGID
    mine = house.create("squashed", house.shared, b"mine").attributes.ino
    house.change("squashed", setting(mine, 0o102755))
    assert house.ask("root", wire.GetAttributes(mine)).attributes.mode == 0o102755
    for number, given in enumerate(("root-squash=65534:0", "root-squash gid=7:0")):
        monkeypatch.setitem(RIGHTS, "squashed", given)
        found = made(house, "squashed", 0, b"%d" % number)
        assert found.gid == 0 and found.mode & stat.S_ISGID, given


def test_a_file_of_roots_group_that_gets_another_may_be_setgid(house: House) -> None:
    ino = made(house, "squashed", 0, b"program").ino
    given = wire.SetAttributes(ino, 0o102755, None, 0, None, None, False, False)
    house.change("squashed", given)
    after = house.ask("root", wire.GetAttributes(ino)).attributes
    assert (after.gid, after.mode) == (65533, 0o102755)
