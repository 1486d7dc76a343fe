"""The table of faults in docs/TESTING.md: each case writes its row, `make chaos` joins them.

    python -m tests.live.chaos.table        rewrites the table from the rows of this run, prints it

Nothing in it may say that what must never happen did: the tests fail before they write such a row,
and `check` looks again.
"""

import json
import re
import sys
from pathlib import Path

from tests.live.chaos.cases import CASES, Case

ROOT = Path(__file__).resolve().parents[3]
ROWS = ROOT / "build" / "faults"
DOCUMENT = ROOT / "docs" / "TESTING.md"
BEGIN = "<!-- the table of `make chaos`: written by it -->"
END = "<!-- the end of the table -->"
HEAD = "| case | fault | place | what programs saw | what the cluster did |"
FORBIDDEN = ("corruption served", "data loss", "lost data", "wrong byte", "crash", "traceback")


def record(case: Case, saw: str, did: str) -> None:
    """A case went well: its row."""
    ROWS.mkdir(parents=True, exist_ok=True)
    (ROWS / f"{case.id}.json").write_text(json.dumps([saw, did]))


def row(case: Case) -> str:
    """The line of a case in this run; FileNotFoundError: it didn't go well, or was not run."""
    saw, did = json.loads((ROWS / f"{case.id}.json").read_text())
    return f"| `{case.id}` | {case.fault} | {case.place} | {saw} | {did} |"


def shown(text: str) -> list[list[str]]:
    """The rows of the table in a document, cell by cell."""
    inside = text.partition(BEGIN)[2].partition(END)[0]
    lines = [line for line in inside.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def problems(text: str) -> list[str]:
    """What is wrong with the table of a document."""
    rows = {cells[0].strip("`"): cells for cells in shown(text)}
    wanted = {case.id: case for case in CASES}
    found = [f"no row for {name}" for name in wanted if name not in rows]
    found += [f"a row for {name}, which is no case" for name in rows if name not in wanted]
    for name, cells in rows.items():
        said = " ".join(cells).lower()
        found += [f"{name} says {word!r}" for word in FORBIDDEN if word in said]
        if name in wanted and cells[1:3] != [wanted[name].fault, wanted[name].place]:
            found.append(f"{name} is said to be {cells[1:3]}")
        if len(cells) != 5 or not all(cells):
            found.append(f"{name} has an empty cell")
    return found


def main() -> int:
    """Put this run's rows into the document; a case without a row keeps its old one, and fails."""
    text = DOCUMENT.read_text()
    old = {cells[0].strip("`"): "| " + " | ".join(cells) + " |" for cells in shown(text)}
    lines, missing = [], []
    for case in CASES:
        try:
            lines.append(row(case))
        except FileNotFoundError:
            missing.append(case.id)
            lines += [old[case.id]] if case.id in old else []
    body = "\n".join([BEGIN, "", HEAD, "|---|---|---|---|---|", *lines, "", END])
    text = re.sub(re.escape(BEGIN) + ".*" + re.escape(END), lambda _: body, text, flags=re.S)
    DOCUMENT.write_text(text)
    print("\n".join(lines))
    wrong = [f"{name} did not go well, or was not run" for name in missing] + problems(text)
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
