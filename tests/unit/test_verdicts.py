"""What figures of `zdfs bench` mean, and how they are shown."""

from pathlib import Path

import pytest

from zdfs import progress
from zdfs.amounts import lasting, printable, size
from zdfs.errors import StartError
from zdfs.tools import bench
from zdfs.verdicts import ROWS, ratio, verdict

TINY = bench.Scale(0.02, 2, 8)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_row_is_judged(row: bench.Row) -> None:
    assert row.good > 2 * row.slow > 0 and row.reason and row.look
    assert verdict(row, row.good)[0] == "good"
    assert verdict(row, row.good - 1e-9)[0] == verdict(row, row.slow)[0] == "normal"
    word, text = verdict(row, row.slow - 1e-9)
    assert word == "slow" and row.look in text
    assert verdict(row, None)[0] == "failed"


def test_ratios() -> None:
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(None, 2.0) is ratio(3.0, None) is ratio(3.0, 0.0) is None


def test_amounts() -> None:
    assert [size(n) for n in (0, 1023, 1024, 1536 << 20, 3 << 50)] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 GiB", "3072.0 TiB",
    ]  # fmt: skip
    assert [lasting(s) for s in (1, 119, 120, 7200, 200_000)] == [
        "1 seconds", "119 seconds", "2 minutes", "2 hours", "2 days",
    ]  # fmt: skip
    assert printable("Grüße\udcff\n\x1b[0m") == "Grüße\\udcff\\n\\x1b[0m"
    assert [bench.rounded(f) for f in (0.0, 1234.5, 12.345, 0.012345)] == [0, 1234, 12.3, 0.0123]


def test_everything_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    with progress.Shown(quiet=True) as tell:
        found = bench.measure(tmp_path, TINY, tell)
    assert set(found.figures) == {row.name for row in ROWS} and not found.errors
    assert all(figure > 0 for figure in found.figures.values())
    assert not list(tmp_path.iterdir())
    facts = bench._facts([tmp_path, tmp_path], [found, found])
    assert {one["ratio"] for one in facts["rows"]} == {1.0}
    assert {one["verdict"] for one in facts["rows"]} == {"not judged"}
    assert "beside" in bench.text(facts) and facts["file_system"] not in ("zdfs", "unknown")


def test_a_row_that_fails_is_said_and_the_others_go_on(tmp_path: Path) -> None:
    found = bench.Measured({row.name: row.slow / 2 for row in ROWS[1:]}, {"write": "No space"})
    facts = bench._facts([tmp_path], [found])
    facts["rows"] = [bench._row(row, found, None, True) for row in ROWS]
    assert facts["rows"][0]["text"] == "failed: No space" and facts["rows"][0]["figure"] is None
    assert "slow: read, cold, " in bench.text(facts)


def test_it_refuses_where_there_is_too_little_room(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="this wants"):
        bench._must_have_room(tmp_path, bench.Scale(1.0, 1 << 40, 1))
    with pytest.raises(StartError, match="no directory"):
        bench._must_have_room(tmp_path / "nothing", TINY)
