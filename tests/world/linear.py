"""Can a history have happened one operation after the other?  (Herlihy and Wing, 1990.)

A history is what several clients did to one thing, with the order of calls and returns.  It is
linearizable if each operation can be given a moment between its call and its return such that, done
one by one at those moments, all would have answered what they did.  An operation without a return
is **indefinite**: it took effect at some moment after its call, or never.

The search is Wing and Gong's (1993), event by event as in Lowe's "Testing for linearizability"
(2017): of all orders it keeps only *(what the thing is now, which of the open operations are
done)*, each once.  So it costs little as long as few operations are open at once; indefinite ones
stay open.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

State = Hashable
UNKNOWN = object()  # the result of an indefinite operation


@dataclass(eq=False)
class Operation:
    """What one client did: `did[0]` names it, the rest are its arguments."""

    client: str
    did: tuple[Any, ...]
    result: Any = UNKNOWN
    returned: bool = False

    def __str__(self) -> str:
        answer = repr(self.result) if self.returned else "?"
        return f"{self.client}: {self.did[0]}{self.did[1:]!r} -> {answer}"


Step = Callable[[State, Operation], Iterable[State]]
"""What a thing may be after an operation; nothing: it can't have answered so.  Of an indefinite
one: whatever it may have done, also nothing."""


class History:
    """Calls and returns in their order, on one thing."""

    def __init__(self) -> None:
        self.events: list[tuple[bool, Operation]] = []  # whether it is a return

    def call(self, client: str, *did: Any) -> Operation:
        """An operation begins."""
        operation = Operation(client, did)
        self.events.append((False, operation))
        return operation

    def returns(self, operation: Operation, result: Any) -> None:
        """It has answered.  An operation that failed without telling its fate never does."""
        operation.result, operation.returned = result, True
        self.events.append((True, operation))

    def lines(self) -> Iterator[str]:
        """For people."""
        for returned, operation in self.events:
            if returned or not operation.returned:
                yield f"{'returns' if returned else 'calls  '} {operation}"
            else:
                yield f"calls   {operation.client}: {operation.did[0]}{operation.did[1:]!r}"


Config = tuple[State, frozenset[Operation]]


def refuted_by(history: History, step: Step, first: State) -> Operation | None:
    """The first operation whose answer nothing explains; None: the history is linearizable."""
    configs: set[Config] = {(first, frozenset())}
    opened: list[Operation] = []
    for returned, operation in history.events:
        if not returned:
            opened.append(operation)
            continue
        configs = set(_done(configs, operation, opened, step))
        if not configs:
            return operation
        opened.remove(operation)
    return None


def _done(
    configs: set[Config], wanted: Operation, opened: list[Operation], step: Step
) -> Iterator[Config]:
    """Every way to get `wanted` done, other open operations before it; it is forgotten then."""
    seen, todo = set(configs), list(configs)
    while todo:
        state, done = todo.pop()
        if wanted in done:
            yield state, done - {wanted}
            continue
        for operation in opened:
            if operation not in done:
                for after in step(state, operation):
                    config = (after, done | {operation})
                    if config not in seen:
                        seen.add(config)
                        todo.append(config)


# --- things ------------------------------------------------------------------------------------


def register(state: State, operation: Operation) -> Iterator[State]:
    """A value: ("write", new) answers None, ("read",) answers the value."""
    if operation.did[0] == "write":
        yield operation.did[1]
        if not operation.returned:
            yield state
    elif not operation.returned or operation.result == state:
        yield state


Names = frozenset[tuple[bytes, Hashable]]  # each name with what it leads to


def directory(state: Any, operation: Operation) -> Iterator[State]:
    """Names in a directory.  Answers are a number (an inode's), a tuple of names, None, or the
    name of an errno.

    ("make", name) -> inode or EEXIST      ("unlink", name) -> None or ENOENT
    ("rename", old, new) -> None or ENOENT      ("keep", old, new): RENAME_NOREPLACE, also EEXIST
    ("swap", one, other) -> None or ENOENT      ("look", name) -> inode or ENOENT
    ("list",) -> names in order
    """
    names = dict(state)
    for answer, after in _answers(names, operation):
        if not operation.returned or answer == operation.result:
            yield frozenset(after.items())


Outcome = tuple[Any, dict[bytes, Hashable]]


def _answers(names: dict[bytes, Hashable], operation: Operation) -> Iterator[Outcome]:
    verb, *about = operation.did
    if not operation.returned:
        yield None, names  # it never happened
    if verb == "list":
        yield tuple(sorted(names)), names
    elif verb == "make":
        (name,) = about
        made = operation.result if isinstance(operation.result, int) else _Unseen(operation)
        yield ("EEXIST", names) if name in names else (made, {**names, name: made})
    elif verb == "look":
        yield from _look(names, about[0], operation.result)
    elif about[0] not in names:
        yield "ENOENT", names
    elif verb == "unlink":
        yield None, {name: ino for name, ino in names.items() if name != about[0]}
    else:
        yield _moved(names, verb, *about)


@dataclass(frozen=True)
class _Unseen:
    """The inode that an indefinite operation made: the first look at it says its number."""

    maker: Operation


def _look(names: dict[bytes, Hashable], name: bytes, seen: Any) -> Iterator[Outcome]:
    found = names.get(name, "ENOENT")
    if isinstance(found, _Unseen) and isinstance(seen, int) and seen not in names.values():
        yield seen, {one: seen if ino == found else ino for one, ino in names.items()}
    else:
        yield found, names


def _moved(names: dict[bytes, Hashable], verb: str, old: bytes, new: bytes) -> Outcome:
    if verb == "keep" and new in names:
        return "EEXIST", names
    if verb == "swap":
        if new not in names:
            return "ENOENT", names
        return None, {**names, old: names[new], new: names[old]}
    rest = {name: ino for name, ino in names.items() if name != old}
    return None, {**rest, new: names[old]}
