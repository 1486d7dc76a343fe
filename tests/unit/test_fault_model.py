"""docs/TESTING.md shows the fault model as it is, and each fault strikes in some kind of life."""

import dataclasses
from pathlib import Path

from sim.kinds import KINDS
from world.faults import MODEL, rows

TESTING = Path(__file__).resolve().parents[2] / "docs" / "TESTING.md"


def test_the_table_is_the_model() -> None:
    shown = TESTING.read_text()
    table = "\n".join(rows())
    assert table in shown, f"docs/TESTING.md is stale; its fault model is:\n\n{table}"


def test_every_fault_strikes_somewhere() -> None:
    struck = {"loss", "doubling"}
    for kind in KINDS.values():
        struck |= {name for name, weight in dataclasses.asdict(kind.faults).items() if weight}
    assert {fault.name for fault in MODEL} <= struck
