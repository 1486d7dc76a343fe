"""Frames that are nearly right: one thing about a good message is changed, drawn by dice.

`frames` changes bytes, frames, or one value somewhere in the head; whoever draws (Hypothesis, the
fuzzer, a test) brings the dice.  Nothing here knows what a message means.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

from zdfs import limits, records, wire
from zdfs.records import BadRecord

Frames = list[bytes]
NUMBERS = (0, 1, 2, 63, 64, 255, 256, 2**15, 2**16 - 1, 2**16, 2**31, 2**32 - 1, 2**32, 2**40,
           2**53, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**31), -(2**63))  # fmt: skip
ODD = (None, True, False, 0.5, float("nan"), b"", "", [], [[]], "/", b"\0", b"a/b", b"..", "\u20ac")
SLOTS = (wire.NO_SLOT, 0, 1, limits.SLOTS - 1, limits.SLOTS)
DEEP = 60  # levels that a change may make


def _bytes(dice: random.Random, frames: Frames) -> Frames:
    """Some bytes of a frame are others."""
    place = dice.randrange(len(frames))
    found = bytearray(frames[place])
    for _ in range(dice.choice([1, 1, 2, 4]) if found else 0):
        found[dice.randrange(len(found))] ^= dice.choice([1, 0x80, dice.randrange(1, 256)])
    return [*frames[:place], bytes(found), *frames[place + 1 :]]


def _length(dice: random.Random, frames: Frames) -> Frames:
    """A frame is cut, or longer than it was."""
    place = dice.randrange(len(frames))
    found = frames[place]
    cut = found[: dice.randrange(len(found) + 1)]
    more = found + dice.randbytes(dice.choice([1, 8, 200]))
    return [*frames[:place], dice.choice([cut, more, found * 2]), *frames[place + 1 :]]


def _count(dice: random.Random, frames: Frames) -> Frames:
    """A frame is missing, is there twice, or is one more."""
    place = dice.randrange(len(frames))
    return dice.choice(
        [
            frames[:place] + frames[place + 1 :],
            frames[:place] + [frames[place]] + frames[place:],
            [*frames, b""],
            [*frames, dice.randbytes(9)],
            [b"", *frames],
            frames + frames,
        ]
    )


def _other(dice: random.Random, value: Any, others: Sequence[Any]) -> Any:
    """Another value in the place of one."""
    kind = type(value)
    if kind is int and dice.random() < 0.7:
        near = value + dice.choice([-1, 1, 64, -64])
        return dice.choice([*NUMBERS, near if -(2**63) <= near < 2**64 else 0])
    if kind in (bytes, str) and value and dice.random() < 0.6:
        half = len(value) // 2
        return dice.choice([value[:half], value * 2, value[::-1], value[:-1]])
    if kind is list and dice.random() < 0.8:
        place = dice.randrange(len(value) + 1)
        more = value[place:place] or [dice.choice([*ODD, *value])]
        return dice.choice([value[:place], value[:place] + more + value[place:], value * 2])
    return dice.choice([*ODD, *NUMBERS, *others])


def _change(dice: random.Random, value: Any, others: Sequence[Any], deep: int = 0) -> Any:
    """The same, with one change somewhere inside."""
    if type(value) is not list or not value or deep > DEEP or dice.random() < 0.2:
        return _other(dice, value, others)
    place = dice.randrange(len(value))
    return [*value[:place], _change(dice, value[place], others, deep + 1), *value[place + 1 :]]


def _opened(frames: Frames) -> list[Any] | None:
    try:
        plain = records.loads(frames[0])
    except BadRecord:
        return None
    return plain if type(plain) is list and len(plain) > 2 else None


def _closed(plain: list[Any], frames: Frames) -> Frames:
    try:
        return [records.dumps(plain), *frames[1:]]
    except (ValueError, OverflowError, RecursionError):  # what no msgpack can say
        return frames


def _value(dice: random.Random, frames: Frames) -> Frames:
    """One value of the body is another."""
    plain = _opened(frames)
    if plain is None:
        return _bytes(dice, frames)
    others = [one for one in plain if type(one) is not list]
    return _closed([*plain[:-1], _change(dice, plain[-1], others)], frames)


def _head(dice: random.Random, frames: Frames) -> Frames:
    """Another protocol, operation, session, slot, sequence, patience or incarnation."""
    plain = _opened(frames)
    if plain is None:
        return _bytes(dice, frames)
    place = dice.randrange(len(plain) - 1)
    usual: dict[int, Sequence[Any]] = {1: list(wire.BY_OPERATION), 3: SLOTS}
    plain[place] = dice.choice([*usual.get(place, NUMBERS), _other(dice, plain[place], ODD)])
    return _closed(plain, frames)


WAYS: Sequence[Callable[[random.Random, Frames], Frames]] = (
    _bytes, _length, _count, _value, _value, _value, _head,
)  # fmt: skip


def frames(dice: random.Random, good: Sequence[bytes]) -> Frames:
    """A message with one thing changed, or two."""
    found = list(good) or [b""]
    for _ in range(dice.choice([1, 1, 1, 2])):
        found = dice.choice(WAYS)(dice, found) or [b""]
    return found
