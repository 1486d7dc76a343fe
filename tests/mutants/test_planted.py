"""Every mutant still applies, compiles, and names tests that are there; the table is theirs.

Whether each is caught, `make mutants` says.
"""

import ast
import importlib

import pytest

from tests.mutants import planted
from tests.mutants.planted import ROOT, Mutant

TRAPS = planted.traps()
MUTANTS = [mutant for trap in TRAPS for mutant in trap.mutants]


def test_every_trap_is_planted() -> None:
    assert [trap.number for trap in TRAPS] == list(range(1, 26))
    assert all(trap.mutants for trap in TRAPS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_applies_and_compiles(mutant: Mutant) -> None:
    assert mutant.file.startswith("zdfs/"), "a defence of the product, not of a test"
    before = (ROOT / mutant.file).read_text()
    after = mutant.mutated(before)
    assert ast.dump(ast.parse(after)) != ast.dump(ast.parse(before)), "it changes nothing"
    compile(after, mutant.file, "exec")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_catches_it_is_there(mutant: Mutant) -> None:
    words = mutant.caught_by.split()
    if words[0] == "sim":
        played = importlib.import_module(f"tests.sim.{words[1]}")
        assert callable(played.play) and words[2] in played.KINDS, "no such kind of life"
        return
    named = list(planted.tests_named(mutant))
    assert named
    for path, function in named:
        module = ast.parse((ROOT / path).read_text())
        functions = {one.name for one in module.body if isinstance(one, ast.FunctionDef)}
        assert not function or function in functions, f"{path} has no {function}"


def test_the_table_is_theirs() -> None:
    text = planted.DOCUMENT.read_text()
    assert planted.document(text, TRAPS) == text, "docs/TESTING.md is stale: say 'make mutants'"
