"""Which extended attributes inodes lack, as a mount remembers it: pure, told the time.

The kernel asks for security.capability before each write and for access control lists at each
permission check, and there are hardly ever any.  So attributes say how many an inode has, and of
one that has some it is remembered for which it was asked in vain; each for as long as attributes
are believed.  What is there is asked for each time.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from zdfs import limits
from zdfs.ids import Ino
from zdfs.wire import Attributes


@dataclass(eq=False, slots=True)
class _Lack:
    """What is known of an inode's extended attributes."""

    change: int = -1  # of the attributes that said so
    count: int = 0
    at: float = float("-inf")
    absent: dict[bytes, float] = field(default_factory=dict)  # asked for in vain, when
    turn: int = 0  # another one whenever we know that something may have been set


class Xattrs:
    """Of each inode, how many it has and which it lacks."""

    def __init__(self, life_s: float):
        self.life_s = life_s
        self._turns = 0
        self._lacks: OrderedDict[Ino, _Lack] = OrderedDict()

    def learn(self, attributes: Attributes, now: float) -> None:
        """How many an inode has; what is older than what we know is passed over."""
        known = self._lacks.setdefault(attributes.ino, _Lack())
        if known.change <= attributes.change:
            if known.count != attributes.xattrs:
                known.absent.clear()
            known.change, known.count, known.at = attributes.change, attributes.xattrs, now
            self._lacks.move_to_end(attributes.ino)
            if len(self._lacks) > limits.NAMES_CACHED:
                self._lacks.popitem(last=False)

    def count(self, ino: Ino, now: float) -> int | None:
        """How many an inode has, if that is fresh knowledge."""
        known = self._lacks.get(ino)
        return known.count if known and now - known.at < self.life_s else None

    def lacks(self, ino: Ino, name: bytes, now: float, life_s: float | None = None) -> bool:
        """Whether it is fresh knowledge that an inode hasn't this one."""
        known = self._lacks.get(ino)
        if known is None:
            return False
        life_s = self.life_s if life_s is None else life_s
        if now - known.at < life_s and not known.count:
            return True
        return now - known.absent.get(name, float("-inf")) < life_s

    def turn(self, ino: Ino) -> int:
        """To be quoted to `missed`: asking takes time, and one may be set meanwhile."""
        known = self._lacks.get(ino)
        return known.turn if known else 0

    def missed(self, ino: Ino, name: bytes, turn: int, now: float) -> None:
        """One was asked for, at a turn, and isn't there."""
        known = self._lacks.get(ino)
        if known is not None and known.turn == turn:
            if len(known.absent) >= limits.XATTRS_MISSED:
                known.absent.clear()
            known.absent[name] = now

    def forget(self, ino: Ino) -> None:
        """Some were or may have been changed."""
        known = self._lacks.get(ino)
        if known is not None:
            self._turns += 1
            known.at, known.turn = float("-inf"), self._turns
            known.absent.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._lacks.clear()
