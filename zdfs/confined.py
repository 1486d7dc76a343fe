"""A confined client's requests in our numbers, and our replies in its: pure.

To a client that is confined to a directory, that is the root: number 1.  Its users and groups may
be other numbers here.  Where inodes, owners and groups stand in messages is read from their
annotations once, so a new message is translated like all others.
"""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

from zdfs.ids import ROOT, Ino
from zdfs.rights import Rights
from zdfs.wire import Attributes

Change = Callable[[Any, "Numbers"], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Numbers:
    """What numbers become, in one direction."""

    inos: dict[int, int]
    uids: dict[int, int]
    gids: dict[int, int]


def inward(rights: Rights, root: Ino) -> Numbers:
    """Of a request: theirs to ours.  Root is squashed here, and nowhere else."""
    uids, gids = dict(rights.uids), dict(rights.gids)
    if rights.squash is not None:
        uids.setdefault(0, rights.squash[0])
        gids.setdefault(0, rights.squash[1])
    return Numbers({ROOT: root}, uids, gids)


def outward(rights: Rights, root: Ino) -> Numbers:
    """Of a reply: ours to theirs."""
    return Numbers(
        {root: ROOT},
        {ours: theirs for theirs, ours in rights.uids},
        {ours: theirs for theirs, ours in rights.gids},
    )


def translated(message: Any, numbers: Numbers) -> Any:
    """A message, or a part of one, in other numbers."""
    changes = {}
    for name, change in _changes(type(message)):
        before = getattr(message, name)
        after = change(before, numbers)
        if after is not before and after != before:
            changes[name] = after
    if not changes:
        return message
    if dataclasses.is_dataclass(message):
        return dataclasses.replace(message, **changes)  # type: ignore[type-var]
    return message._replace(**changes)


_known: dict[type[Any], tuple[tuple[str, Change], ...]] = {}


def _changes(kind: type[Any]) -> tuple[tuple[str, Change], ...]:
    """The fields of a message or part that may be changed, and how."""
    if kind not in _known:
        _known[kind] = _look(kind)
    return _known[kind]


def _look(kind: type[Any]) -> tuple[tuple[str, Change], ...]:
    found = []
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        change = _by_name(kind, name) or _change(hint)
        if change is not None and name in _fields(kind):
            found.append((name, change))
    return tuple(found)


def _fields(kind: type[Any]) -> tuple[str, ...]:
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    return tuple(getattr(kind, "_fields", ()))


def _by_name(kind: type[Any], name: str) -> Change | None:
    """Owners and groups are plain numbers: known by their names."""
    if name == "uid":
        return lambda value, numbers: numbers.uids.get(value, value)
    if name == "gid":
        return lambda value, numbers: numbers.gids.get(value, value)
    return None


def _change(hint: Any) -> Change | None:
    if hint is Ino:
        return lambda value, numbers: numbers.inos.get(value, value)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _change(arguments[0])
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        one = _change(arguments[0])
        if one is None:
            return None
        return lambda values, numbers: tuple([one(value, numbers) for value in values])
    if type(None) in arguments:
        (inner,) = [_change(one) for one in arguments if one is not type(None)][:1]
        if inner is None:
            return None
        return lambda value, numbers: None if value is None else inner(value, numbers)
    if isinstance(hint, type) and _fields(hint) and (hint is Attributes or _changes(hint)):
        return translated
    return None


class _Gathered(dict[int, int]):
    """Keeps what it is asked for, and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[Ino] = set()

    def get(self, key: int, default: Any = None) -> Any:
        """As it is."""
        self.seen.add(Ino(key))
        return default


def inodes(message: Any) -> set[Ino]:
    """All inodes that a request names."""
    gathered = _Gathered()
    translated(message, Numbers(gathered, {}, {}))
    return gathered.seen
