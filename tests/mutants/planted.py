"""Each way to lose data that the design knows (its *traps*), planted in the code on purpose.

`traps.toml` has the data: for each trap one or more *mutants*, each of which takes one defence
away: a file of the product, text that stands in it exactly once, and what to put there instead;
beside it the cheapest command that must turn red then.

    caught_by   arguments of pytest: a test; or
                "sim MODULE KIND COUNT": lives of one kind in the simulated world (`lives`)

A mutant that does not apply any more is an error, not a pass: whoever changed that defence says
here how it is taken away now.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = Path(__file__).with_name("traps.toml")
DOCUMENT = ROOT / "docs" / "TESTING.md"
BEGIN = "<!-- the traps: written by `make mutants`, from tests/mutants/traps.toml -->"
END = "<!-- the end of the traps -->"


class DoesNotApply(Exception):
    """The text to be replaced does not stand exactly once in the file."""


@dataclass(frozen=True)
class Mutant:
    """One defence, and how it is taken away."""

    trap: int
    name: str  # the trap's number and a letter
    plants: str  # what the changed code does wrong
    file: str  # below the checkout
    old: str
    new: str
    caught_by: str

    def mutated(self, text: str) -> str:
        """The file's text with the change; DoesNotApply."""
        count = text.count(self.old)
        if count != 1:
            raise DoesNotApply(
                f"mutant {self.name}: its text stands {count} times in {self.file}, not once; "
                f"say in {DATA.name} how this defence is taken away now:\n{self.old}"
            )
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Trap:
    """A way to lose data, by its number in the design."""

    number: int
    text: str
    mutants: tuple[Mutant, ...]


def traps() -> list[Trap]:
    """All of them, in the order of their numbers."""
    found = []
    for trap in tomllib.loads(DATA.read_text())["trap"]:
        number = trap["number"]
        mutants = tuple(
            Mutant(trap=number, name=f"{number}{letter}", **fields)
            for letter, fields in zip("abcdefghijklmnopqrst", trap["mutant"], strict=False)
        )
        assert len(mutants) == len(trap["mutant"]), f"trap {number} has too many mutants"
        found.append(Trap(number, trap["text"], mutants))
    return found


def table(all_traps: list[Trap]) -> str:
    """trap | planted change (file) | what caught it, in Markdown."""
    lines = [
        "| trap | planted change | what turned red |",
        "|---|---|---|",
    ]
    for trap in all_traps:
        title = f"**{trap.number}** {trap.text}"
        for mutant in trap.mutants:
            caught = _shown(mutant.caught_by)
            lines.append(f"| {title} | {mutant.plants} (`{mutant.file}`) | {caught} |")
            title = ""
    return "\n".join(lines)


def _shown(caught_by: str) -> str:
    words = caught_by.split()
    if words[0] == "sim":
        return f"{words[3]} simulated lives: `{words[1]}`, kind `{words[2]}`"
    return f"`{words[0].removeprefix('tests/')}`"


def document(text: str, all_traps: list[Trap]) -> str:
    """The document with the table between its marks; ValueError when it has none."""
    before, _, rest = text.partition(f"{BEGIN}\n")
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{DOCUMENT.name} has no place for the table of the traps")
    return f"{before}{BEGIN}\n{table(all_traps)}\n{END}{after}"


def tests_named(mutant: Mutant) -> Iterator[tuple[str, str]]:
    """File and function of the tests that a mutant's command names (none of a simulation)."""
    for word in mutant.caught_by.split():
        path, _, function = word.partition("::")
        if path.startswith("tests/"):
            yield path, function.partition("[")[0]
