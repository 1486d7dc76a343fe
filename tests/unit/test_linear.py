"""The checker of histories says yes to those that can have happened, and no to the others."""

import itertools
import random
from typing import Any

import pytest
from world.linear import History, Operation, State, Step, directory, refuted_by, register

EMPTY: State = frozenset()


def history(*lines: tuple[Any, ...]) -> History:
    """("a", "write", 1): a calls; ("a", "=", 7): a's call returns 7."""
    made, opened = History(), {}
    for client, *rest in lines:
        if rest[0] == "=":
            made.returns(opened[client], rest[1])
        else:
            opened[client] = made.call(client, *rest)
    return made


def judge(step: Step, first: State, *lines: tuple[Any, ...]) -> bool:
    return refuted_by(history(*lines), step, first) is None


W1, R = ("a", "write", 1), ("b", "read")

REGISTERS = {
    "one after the other": (True, W1, ("a", "=", None), R, ("b", "=", 1)),
    "an old value after a write has returned": (False, W1, ("a", "=", None), R, ("b", "=", 0)),
    "either value while it is written": (True, W1, R, ("b", "=", 0), ("a", "=", None)),
    "the new value while it is written": (True, W1, R, ("b", "=", 1), ("a", "=", None)),
    "new, then old again": (
        False, W1, R, ("b", "=", 1), ("c", "read"), ("c", "=", 0), ("a", "=", None),
    ),
    "a value that nobody wrote": (False, R, ("b", "=", 9)),
    "indefinite, never": (True, W1, R, ("b", "=", 0)),
    "indefinite, later": (True, W1, R, ("b", "=", 0), ("c", "read"), ("c", "=", 1)),
    "indefinite, and undone": (
        False, W1, R, ("b", "=", 1), ("c", "read"), ("c", "=", 0),
    ),
    "indefinite, twice": (
        False, W1, R, ("b", "=", 1), ("c", "write", 2), ("c", "=", None), ("d", "read"),
        ("d", "=", 1),
    ),
    "before it was called": (False, R, ("b", "=", 1), W1, ("a", "=", None)),
}  # fmt: skip


@pytest.mark.parametrize("name", REGISTERS)
def test_registers(name: str) -> None:
    verdict, *lines = REGISTERS[name]
    assert judge(register, 0, *lines) is verdict


MADE = (("a", "make", b"x"), ("a", "=", 5))

DIRECTORIES = {
    "made, found, listed": (
        True, *MADE, ("b", "look", b"x"), ("b", "=", 5), ("c", "list"), ("c", "=", (b"x",)),
    ),
    "made and not there": (False, *MADE, ("b", "look", b"x"), ("b", "=", "ENOENT")),
    "made twice": (False, *MADE, ("b", "make", b"x"), ("b", "=", 6)),
    "removed twice": (
        False, *MADE, ("a", "unlink", b"x"), ("b", "unlink", b"x"), ("a", "=", None),
        ("b", "=", None),
    ),
    "one of two removes it": (
        True, *MADE, ("a", "unlink", b"x"), ("b", "unlink", b"x"), ("a", "=", None),
        ("b", "=", "ENOENT"),
    ),
    "a rename that is seen half done": (
        False, *MADE, ("a", "rename", b"x", b"y"), ("b", "list"), ("b", "=", (b"x", b"y")),
        ("a", "=", None),
    ),
    "a rename that answers a repeat with ENOENT": (
        False, *MADE, ("a", "rename", b"x", b"y"), ("a", "=", "ENOENT"),
    ),
    "a rename onto another": (
        True, *MADE, ("b", "make", b"y"), ("b", "=", 6), ("a", "rename", b"x", b"y"),
        ("a", "=", None), ("c", "look", b"y"), ("c", "=", 5),
    ),
    "one that must not replace, does": (
        False, *MADE, ("b", "make", b"y"), ("b", "=", 6), ("a", "keep", b"x", b"y"),
        ("a", "=", None),
    ),
    "a swap": (
        True, *MADE, ("b", "make", b"y"), ("b", "=", 6), ("a", "swap", b"x", b"y"),
        ("a", "=", None), ("c", "look", b"x"), ("c", "=", 6),
    ),
    "an indefinite make has one inode": (
        False, ("a", "make", b"x"), ("b", "look", b"x"), ("b", "=", 5), ("c", "look", b"x"),
        ("c", "=", 6),
    ),
    "an indefinite make, found under its new name": (
        True, ("a", "make", b"x"), ("b", "rename", b"x", b"y"), ("b", "=", None),
        ("c", "look", b"y"), ("c", "=", 5), ("c", "look", b"y"), ("c", "=", 5),
    ),
    "an indefinite remove, late": (
        True, *MADE, ("a", "unlink", b"x"), ("b", "look", b"x"), ("b", "=", 5),
        ("c", "list"), ("c", "=", ()),
    ),
    "an indefinite remove that hits twice": (
        False, *MADE, ("a", "unlink", b"x"), ("b", "list"), ("b", "=", ()), ("b", "make", b"x"),
        ("b", "=", 6), ("c", "list"), ("c", "=", ()),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIRECTORIES)
def test_directories(name: str) -> None:
    verdict, *lines = DIRECTORIES[name]
    assert judge(directory, EMPTY, *lines) is verdict


def brute_force(made: History, first: State) -> bool:
    """Every order of every choice of operations, tried."""
    calls = {op: at for at, (back, op) in enumerate(made.events) if not back}
    ends = {op: at for at, (back, op) in enumerate(made.events) if back}
    maybe = [op for op in calls if op not in ends]
    for count in range(len(maybe) + 1):
        for chosen in itertools.combinations(maybe, count):
            for order in itertools.permutations([*ends, *chosen]):
                pairs = itertools.combinations(order, 2)
                if any(ends.get(late, 99) < calls[soon] for soon, late in pairs):
                    continue
                if _replays(order, first):
                    return True
    return False


def _replays(order: tuple[Operation, ...], value: State) -> bool:
    for op in order:
        if op.did[0] == "write":
            value = op.did[1]
        elif op.returned and op.result != value:
            return False
    return True


def test_it_agrees_with_trying_everything(dice: random.Random) -> None:
    verdicts = set()
    for _ in range(300):
        made, opened = History(), list[Operation]()
        for number in range(dice.randint(2, 5)):
            verb: tuple[Any, ...] = dice.choice([("write", dice.randint(1, 2)), ("read",)])
            opened.append(made.call(str(number), *verb))
            while opened and dice.random() < 0.5:
                op = opened.pop(dice.randrange(len(opened)))
                if dice.random() < 0.8:
                    made.returns(op, None if op.did[0] == "write" else dice.randint(0, 2))
        verdict = refuted_by(made, register, 0) is None
        assert verdict == brute_force(made, 0), "\n".join(made.lines())
        verdicts.add(verdict)
    assert verdicts == {True, False}
