"""What each message of a protocol version was on the wire, and what it said: made once, kept.

    .venv/bin/python -m tests.unit.golden > tests/unit/protocol-N.json

is said by whoever is about to raise PROTOCOL, before any message is changed: from then on these
bytes are what a peer of version N sends and takes (`test_versions`).
"""

import dataclasses
import enum
import json
import random
import sys
import types
import typing
from typing import Any

from zdfs import wire
from zdfs.ids import Incarnation, Round, Session
from zdfs.records import BULK, I64, U64, Between, Length

HEAD = wire.RequestHead(Session(2**63 + 7), 3, 12, 2000, Incarnation(4))
REPLY_HEAD = wire.ReplyHead(Session(2**63 + 7), 3, 12, 23, Incarnation(4), Round(99))
SAMPLES = 2  # of each message


def fields(kind: type) -> list[str]:
    """The names of a record's fields, in their order."""
    if dataclasses.is_dataclass(kind):
        return [one.name for one in dataclasses.fields(kind)]
    return list(getattr(kind, "_fields", ()))


def told(value: Any, version: int) -> Any:
    """What a message says, as JSON, in the words of a version: younger fields are left out."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "0x" + bytes(value).hex()
    if isinstance(value, enum.Enum):
        return int(value.value)
    if dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
        hints = typing.get_type_hints(type(value), include_extras=True)
        old = [name for name in fields(type(value)) if _since(hints.get(name)) <= version]
        return {name: told(getattr(value, name), version) for name in old}
    if isinstance(value, tuple):
        return [told(one, version) for one in value]
    return value


def _since(hint: Any) -> int:
    """The version that a field exists since; 0: always."""
    return max((getattr(mark, "since", 0) for mark in getattr(hint, "__metadata__", ())), default=0)


def _number(bounds: Between, dice: random.Random) -> int:
    small = min(bounds.high, max(bounds.low, 0) + 300)
    return dice.choice([*bounds, dice.randint(max(bounds.low, 0), small)])


def _sized(base: Any, bounds: Length, dice: random.Random) -> Any:
    length = min(bounds.high, max(bounds.low, dice.randint(0, 3)))
    if typing.get_origin(base) is tuple:
        return tuple(drawn(typing.get_args(base)[0], dice) for _ in range(length))
    return dice.randbytes(length) if base is bytes else "näme of"[:length].ljust(length, "x")


def drawn(hint: Any, dice: random.Random) -> Any:
    """A value of a field with this annotation."""
    if typing.get_origin(hint) is typing.Annotated:
        base, *marks = typing.get_args(hint)
        if BULK in marks:
            return tuple(dice.randbytes(5) for _ in range(dice.randint(0, 2)))
        for mark in marks:
            if isinstance(mark, Between):
                return _number(mark, dice)
            if isinstance(mark, Length):
                return _sized(base, mark, dice)
        return drawn(base, dice)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return drawn(dice.choice(typing.get_args(hint)), dice)
    if isinstance(hint, typing.NewType) or hint in (int, bool):
        return dice.random() < 0.5 if hint is bool else _number(I64 if hint is int else U64, dice)
    if hint is type(None):
        return None
    if issubclass(hint, enum.IntEnum):
        return dice.choice(list(hint))
    hints = typing.get_type_hints(hint, include_extras=True)
    return hint(*[drawn(hints[name], dice) for name in fields(hint)])


def main() -> None:
    """Print all of them."""
    found = []
    for operation, kind in sorted(wire.BY_OPERATION.items()):
        dice = random.Random(operation)
        for _ in range(SAMPLES):
            value = drawn(kind, dice)
            request = isinstance(value, wire.Request)
            frames = (
                wire.encode_request(HEAD, value)
                if request
                else wire.encode_reply(REPLY_HEAD, value)
            )
            said = [bytes(frame).hex() for frame in frames]
            found.append([kind.__name__, said, told(value, wire.PROTOCOL)])
    rows = ",\n".join(json.dumps(row, separators=(",", ":"), ensure_ascii=False) for row in found)
    sys.stdout.write(f"[\n{rows}\n]\n")


if __name__ == "__main__":
    main()
