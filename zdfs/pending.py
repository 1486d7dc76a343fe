"""Matching replies to calls, and deadlines: what a driver of parked coroutines remembers.

Pure: told the time, touches no socket.  A reply that nobody waits for (late, doubled, made up)
finds nothing and is counted by the caller, so it can never be taken for another call's answer.
"""

import heapq
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Pending(Generic[T]):
    """Calls underway, by number."""

    def __init__(self) -> None:
        self._waiting: dict[int, T] = {}
        self._numbers = itertools.count(1)

    def add(self, waiter: T) -> int:
        """A new number for a call."""
        number = next(self._numbers)
        self._waiting[number] = waiter
        return number

    def peek(self, number: int) -> T | None:
        """Who waits for it, and goes on waiting."""
        return self._waiting.get(number)

    def take(self, number: int) -> T | None:
        """Who waits for it; None: nobody (any more)."""
        return self._waiting.pop(number, None)

    def all(self) -> list[T]:
        """Who waits for anything."""
        return list(self._waiting.values())

    def __len__(self) -> int:
        return len(self._waiting)


class Timers:
    """Things to do later, in order of their time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Call `act` once `when` has come."""
        heapq.heappush(self._heap, (when, next(self._order), act))

    def due(self, now: float) -> list[Callable[[], None]]:
        """What is to be done now; each is given once."""
        acts = []
        while self._heap and self._heap[0][0] <= now:
            acts.append(heapq.heappop(self._heap)[2])
        return acts

    def next(self) -> float | None:
        """When the first is due."""
        return self._heap[0][0] if self._heap else None
