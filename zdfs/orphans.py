"""Which inodes lost their last name and are to be let go of: pure.

They are let go of *from below*: a removed directory stays as long as something removed that stood
in it, which some mount may have open.  So the way up from an open file leads on to where the file
was, also after a restart of the metaserver: a client that is confined to a directory gets its open
files back by it (`guard`).  A removed thing never moves, so it is told once where it stood.
"""

from collections import Counter
from collections.abc import Iterator

from zdfs.ids import Ino


class Orphans:
    """Inodes without a name, the one that was looked at longest ago first."""

    def __init__(self) -> None:
        self._stood: dict[Ino, Ino] = {}  # each in its directory, which may be gone
        self._holding: Counter[Ino] = Counter()  # how many stood in a directory

    def __contains__(self, ino: Ino) -> bool:
        return ino in self._stood

    def __iter__(self) -> Iterator[Ino]:
        return iter(self._stood)

    def __len__(self) -> int:
        return len(self._stood)

    def add(self, ino: Ino, parent: Ino) -> None:
        """It lost its last name; `parent` is its record's (0: that can't be told)."""
        self.discard(ino)
        self._stood[ino] = parent
        self._holding[parent] += 1

    def discard(self, ino: Ino) -> None:
        """It is gone, or has a name again."""
        parent = self._stood.pop(ino, None)
        if parent is not None:
            self._holding[parent] -= 1
            if not self._holding[parent]:
                del self._holding[parent]

    def turn(self, ino: Ino) -> None:
        """It was looked at: the others come first."""
        self._stood[ino] = self._stood.pop(ino)

    def holds(self, ino: Ino) -> bool:
        """Whether another orphan stood in this one."""
        return ino in self._holding
