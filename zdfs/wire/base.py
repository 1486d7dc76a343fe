"""What a message is: its base classes, its declaration, the types of its fields."""

import enum
import typing
from dataclasses import dataclass
from typing import Annotated as A
from typing import Any, ClassVar, Generic, TypeVar

from zdfs import limits
from zdfs.checksum import Buffer
from zdfs.records import BULK, Between, Length, Since
from zdfs.wire.versions import FIRST, ONLY_FIRST

NO_SLOT = 0xFFFF
MAP_BYTES = limits.PAGE_BLOCKS * 26

Uuid = A[bytes, Length(16, 16)]
NameBytes = A[bytes, Length(1, limits.NAME_BYTES)]
Text = A[str, Length(0, limits.TEXT_BYTES)]
Address = A[str, Length(1, limits.ADDRESS_BYTES)]
XattrName = A[bytes, Length(1, limits.XATTR_NAME_BYTES)]
XattrValue = A[bytes, Length(0, limits.XATTR_VALUE_BYTES)]
Bulk = A[tuple[Buffer, ...], BULK]
Size = A[int, Between(0, limits.FILE_BYTES)]
Umask = A[int, Between(0, 0o777)]  # applied unless the directory has a default access list
Flag = bool
Permit = A[
    bytes, Length(0, 64), Since(5)
]  # what lets a client at blocks (`passes`); empty: no keys here


class Durability(enum.Enum):
    """What must have happened before a reply leaves."""

    NONE = "nothing: the reply reports no change"
    LOGGED = "every change it reports is synced to the metaserver's disk, and written by its copies"
    SYNCED = "every change it reports is synced to this server's disk, and to those of its copies"


class Message:
    """What travels: a value.  mypy sees to it that none is changed, since making them frozen takes
    three times as long, and so does each class, a tenth of a second of every command's start; for
    the same reason what they have in common stands here."""

    __slots__ = ()
    operation: ClassVar[int]
    durability: ClassVar[Durability] = Durability.NONE
    since: ClassVar[int]  # the version of the protocol that has it
    __match_args__: ClassVar[tuple[str, ...]] = ()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        said = zip(self.__match_args__, self._values())
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in said)})"

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in self.__match_args__])


class Reply(Message):
    """An answer."""

    __slots__ = ()


R = TypeVar("R", bound=Reply)


class Request(Message, Generic[R]):
    """A question; the type parameter is the type of its answer."""

    __slots__ = ()

    @classmethod
    def reply_type(cls) -> type[Reply]:
        """The type of the answer."""
        (base,) = cls.__orig_bases__  # type: ignore[attr-defined]
        kind: type[Reply] = typing.get_args(base)[0]
        return kind


BY_OPERATION: dict[int, type[Message]] = {}
C = TypeVar("C", bound=type[Any])


@typing.dataclass_transform(frozen_default=True)
def message(
    operation: int, durability: Durability = Durability.NONE, since: int | None = None
) -> Any:
    """Declare a message under its operation number.  `since`: the version of the protocol that has
    it; what version 4 had not, came with 5."""
    born = since or (ONLY_FIRST.newest + (operation not in FIRST))

    def declare(cls: Any) -> Any:
        made = dataclass(slots=True, eq=False, repr=False)(cls)
        made.operation, made.durability, made.since = operation, durability, born
        assert operation not in BY_OPERATION, f"operation {operation} is used twice"
        BY_OPERATION[operation] = made
        return made

    return declare
