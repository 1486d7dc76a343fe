"""The table of real faults in docs/TESTING.md, and the judge that stands behind its words."""

import pytest

from tests.live.chaos import load, table
from tests.live.chaos.cases import CASES
from tests.live.chaos.load import Call


def test_the_table_has_a_row_for_each_case_and_says_nothing_that_must_not_be() -> None:
    assert not table.problems(table.DOCUMENT.read_text()), "say: make chaos"


@pytest.mark.parametrize("word", table.FORBIDDEN)
def test_the_table_is_looked_through(word: str) -> None:
    case = CASES[0]
    line = f"| `{case.id}` | {case.fault} | {case.place} | {word.title()} | nothing |"
    found = table.problems("\n".join([table.BEGIN, table.HEAD, line, table.END]))
    assert f"{case.id} says {word!r}" in found and f"no row for {CASES[1].id}" in found


def test_a_row_of_nothing_is_found() -> None:
    found = table.problems("\n".join([table.BEGIN, "| `gone` | a | b | c |  |", table.END]))
    assert "a row for gone, which is no case" in found and "gone has an empty cell" in found


# --- the judge -----------------------------------------------------------------------------------


def write(begin: float, end: float, generation: int, error: int = 0) -> Call:
    return Call(begin, end, error, "write", "hot0", generation, None)


def read(begin: float, end: float, *found: int) -> Call:
    return Call(begin, end, 0, "read", "hot0", 0, list(found))


WRITES = [write(1, 2, 1), write(3, 4, 2, error=5), write(5, 6, 3)]


@pytest.mark.parametrize(
    ("seen", "right"),
    [
        (read(0.1, 0.9, 0), True),
        (read(0.1, 1.5, 1), True),  # it was underway
        (read(2.1, 2.2, 0), False),  # acknowledged before the read began
        (read(2.1, 2.2, 2), False),  # of the future
        (read(4.5, 4.6, 1, 2, 1), True),  # nobody knows of 2
        (read(4.5, 5.5, 3), True),
        (read(6.1, 6.2, 2), False),  # 3 was acknowledged: 2 is no longer possible
        (read(6.1, 6.2, 3, 3), True),
        (read(6.1, 6.2, load.WRONG), False),
    ],
)
def test_what_a_read_may_show(seen: Call, right: bool) -> None:
    assert (not load.wrong_reads(WRITES, [seen])) == right


def test_a_write_whose_end_is_unknown_may_show() -> None:
    dying = Call(7, float("inf"), -1, "write", "hot0", 4, None)
    assert load.allowed([*WRITES, dying], "hot0", 100, 101) == {3, 4}


@pytest.mark.parametrize(
    "change", ["zeros", "one bit", "another's", "older block", "short", "swap"]
)
def test_blocks_say_whose_they_are(change: str) -> None:
    data = bytearray(load.content("hot0", 7))
    assert load.generations("hot0", bytes(data)) == [7] * load.BLOCKS
    first = slice(load.BLOCK, 2 * load.BLOCK)
    if change == "zeros":
        data[first] = bytes(load.BLOCK)
    elif change == "one bit":
        data[load.BLOCK + 4000] ^= 1
    elif change == "another's":
        data[first] = load.block("hot1", 7, 1)
    elif change == "swap":
        data[first] = load.block("hot0", 7, 2)
    elif change == "short":
        del data[-1:]
    else:
        data[first] = load.block("hot0", 6, 1)
    expected = [load.WRONG] if change == "short" else [7, load.WRONG, 7, 7, 7]
    if change == "older block":
        expected[1] = 6
    assert load.generations("hot0", bytes(data)) == expected


def change(begin: float, kind: str, name: str, more: str = "", error: int = 0) -> Call:
    return Call(begin, begin + 0.5, error, kind, name, more, None)


NAMES = [change(1, "mkdir", "a"), change(2, "rename", "a", "b"), change(3, "mkdir", "c", error=5)]


@pytest.mark.parametrize(
    ("at", "seen", "right"),
    [
        (1.6, ["a"], True),
        (1.6, [], False),  # an acknowledged name is lost
        (2.2, ["b"], True),  # underway
        (2.6, ["a"], False),  # it was renamed
        (4.0, ["b"], True),
        (4.0, ["b", "c"], True),
        (4.0, ["b", "d"], False),
    ],
)
def test_what_a_listing_may_show(at: float, seen: list[str], right: bool) -> None:
    listing = Call(at, at + 0.1, 0, "list", "", "", seen)
    assert (not load.wrong_names(NAMES, [listing])) == right
