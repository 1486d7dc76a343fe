"""What `zdfs meta rebuild` prints, and which directories it takes."""

import json
from pathlib import Path

import pytest

from zdfs import salvage
from zdfs.chain import NO_COPIES
from zdfs.checksum import Seal
from zdfs.errors import StartError
from zdfs.ids import BlockNo, Epoch, Incarnation, Ino, Name, Slot, Token, Version
from zdfs.salvage import Candidate, Choice, Doubt, Made, Plan
from zdfs.tools import metacommand

RING = ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "far:4")


def candidate(sequence: int, *slots: int) -> Candidate:
    name = Name(Ino(9), BlockNo(4), Version(Token(0x5A), sequence))
    return Candidate(name, Seal(1, 1), 10, Epoch(1), Slot(1), tuple(map(Slot, slots)))


def made() -> Made:
    """Three files; a block of one has three versions, and the newest can't be read."""
    found = Made(files=3, blocks=40, stored=999, versions=118, thin=2, extras=1, leftovers=5)
    choice = Choice(candidate(3, 1, 2), (candidate(2, 1), candidate(1, 2)), "older")
    found.doubt(Doubt(choice, (b"9.1", None), False))
    return found


NONE: frozenset[Slot] = frozenset()
PLAN = Plan(
    RING, b"c" * 16, 64, {}, NONE, NONE, (), Incarnation(3), True, Incarnation(4), NO_COPIES
)


def test_facts() -> None:
    facts = metacommand.describe(PLAN, made())
    assert json.loads(json.dumps(facts)) == facts
    assert facts["servers"] == ["1", "2", "3", "far:4"] and facts["without"] == [0, 1, 2, 3]
    assert facts["counts"] == {"older": 1}
    assert facts["doubtful"] == [
        {
            "kind": "older",
            "inode": 9,
            "block": 4,
            "counts": {"version": "5a.3", "length": 10, "slots": [1, 2], "readable": False},
            "others": [
                {"version": "5a.2", "length": 10, "slots": [1], "file": "/lost+found/9.1"},
                {"version": "5a.1", "length": 10, "slots": [2], "file": None},
            ],
        }
    ]


def test_text() -> None:
    text = metacommand.text(metacommand.describe(PLAN, made()), Path("new"))
    assert "3 files of 40 blocks, 999 bytes, in /lost+found" in text
    assert "done without dataserver far:4 (slot 3)" in text
    assert "2 blocks have fewer than 3 copies" in text and "5 records of an earlier" in text
    assert f"1 blocks older: {salvage.KINDS['older']}" in text
    assert "inode 9 block 4: nobody can read it now, so it is EIO" in text
    assert "other versions: /lost+found/9.1, nowhere" in text
    assert text.endswith("next: zdfs-node meta PORT --store new, then zdfs fsck")


def test_what_is_not_there() -> None:
    found = Made(files=1)
    found.doubt(Doubt(Choice(None, (candidate(2, 1),), "alone"), (b"9.1",), False))
    facts = metacommand.describe(PLAN._replace(missing=(Slot(1), Slot(2), Slot(3))), found)
    assert facts["unproven"] == [1, 2, 3] and facts["doubtful"][0]["counts"] is None
    text = metacommand.text(facts, Path("new"))
    assert "what had all its copies on 2, 3, far:4 is lost, and reads as zeros" in text
    assert "inode 9 block 4; other versions: /lost+found/9.1" in text


def test_many_are_counted_and_some_are_shown() -> None:
    many = made()
    for _ in range(salvage.MOST_DOUBTS + 5):
        many.doubt(many.doubts[0])
    facts = metacommand.describe(PLAN, many)
    assert facts["counts"] == {"older": salvage.MOST_DOUBTS + 6}
    assert len(facts["doubtful"]) == salvage.MOST_DOUBTS
    more = salvage.MOST_DOUBTS + 6 - metacommand.SHOWN
    assert f"... and {more} more" in metacommand.text(facts, Path("new"))


def test_a_store_is_never_written_over(tmp_path: Path) -> None:
    metacommand._must_be_empty(tmp_path)
    metacommand._must_be_empty(tmp_path / "new")
    (tmp_path / "file").touch()
    for there in (tmp_path, tmp_path / "file"):
        with pytest.raises(StartError, match="is not empty"):
            metacommand._must_be_empty(there)
