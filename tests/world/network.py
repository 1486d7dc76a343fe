"""The network of the simulated world: each message is one event that may come late, twice or never.

A link is a pair (source, target): what the first says to the second.  A **cut** link loses all that
would arrive meanwhile.  A **clogged** one holds it back and lets all of it go at once.  A node with
a **delay** is slow to hear and slow to be heard.
"""

import collections
import random
from collections.abc import Callable

Link = tuple[str, str]
Act = Callable[[], None]

USUAL_S = 0.0005  # mean
LATE_S = (0.001, 0.1, 2.0)  # means, one of them: how late the second of a doubled message may be


class Network:
    """Decides when a message arrives, and whether."""

    def __init__(self, dice: random.Random, loss: float, doubling: float):
        self.random = dice
        self.loss, self.doubling = loss, doubling
        self.cuts: set[Link] = set()
        self.clogs: dict[Link, float] = {}  # until when
        self.delays: dict[str, float] = {}  # of a node: seconds more, in the mean
        self.counts: collections.Counter[str] = collections.Counter()

    def heal(self) -> None:
        """From now on every message arrives, once; what is held back by a clog comes in time."""
        self.loss = self.doubling = 0.0
        self.cuts.clear()
        self.clogs.clear()
        self.delays.clear()

    def arrivals(self, now: float, link: Link) -> list[float]:
        """After how many seconds each copy of a message arrives that is sent now."""
        self.counts["messages"] += 1
        if self.random.random() < self.loss:
            self.counts["messages lost"] += 1
            return []
        found = [self.random.expovariate(1 / USUAL_S)]
        if self.random.random() < self.doubling:
            self.counts["messages doubled"] += 1
            found.append(self.random.expovariate(1 / self.random.choice(LATE_S)))
        return [self._held_back(now, link, seconds) for seconds in found]

    def _held_back(self, now: float, link: Link, seconds: float) -> float:
        if self.delays:
            slow = sum(self.delays.get(name, 0.0) for name in link)
            if slow:
                self.counts["messages delayed"] += 1
                seconds += self.random.uniform(0.5, 1.5) * slow
        until = self.clogs.get(link, 0.0)
        if until > now:
            self.counts["messages held back"] += 1
            return max(seconds, until - now)
        return seconds

    def passes(self, link: Link) -> bool:
        """Whether what arrives now is let through."""
        if link in self.cuts:
            self.counts["messages cut off"] += 1
            return False
        return True
