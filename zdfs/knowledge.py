"""What a mount remembers of names and attributes, and how long it believes them: pure, told the
time.

    Names     (parent, name) -> inode, inode -> attributes
    Folder    the names of a directory as of one version (its change counter), perhaps all of them
    Promises  whether the metaserver has told us of every change so far

By time: what was learnt is believed for `life_s`.  By promise: the metaserver tells a mount of each
change by others to what it was shown.  It numbers what it tells, and with the answer to a heartbeat
says how far it has come; so once that has come and no number is missing, what was shown before that
heartbeat, and nobody told of, is still so, however old.  That is believed for `life_s` from when
the heartbeat was sent: what is lost on its way costs no more than what was believed by time.

An answer may be overtaken by news that it does not know of.  So what was *asked* for before a
change was heard of is believed by time only; and names are held to a version of their directory: an
answer of another version changes nothing, our own changes lead from one version to the next.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from zdfs import limits
from zdfs.absent import Xattrs
from zdfs.ids import COUNTER_BITS, ROOT, Ino
from zdfs.wire import Attributes

NEVER = float("-inf")
Leads = tuple[bytes, Ino | None]  # where a name leads; None: nowhere
AHEAD = 16  # names that are learnt beside each one that was asked for, at most
USED = 4  # one in so many must have been of use, for more to be learnt
OVERTAKEN = 256  # changes of ours whose predecessors have yet to be heard of


class Promises:
    """What the metaserver has told, and whether that was all."""

    def __init__(self) -> None:
        self.told = 0  # the newest number that came
        self.since = NEVER  # what was asked for before is believed by time only
        self.until = NEVER

    def holds(self, asked: float, now: float) -> bool:
        """Whether what was asked for then, and nobody told of since, is still so."""
        return self.since < asked and now < self.until

    def pushed(self, number: int, now: float) -> None:
        """News came; when some before it didn't, nothing is sure."""
        if number > self.told + 1:
            self.doubt(now)
        self.told = max(self.told, number)

    def confirmed(self, told: int, sent: float, now: float, life_s: float) -> None:
        """A heartbeat that was sent then is answered: so many were told before."""
        if told > self.told:
            self.doubt(now)
            self.told = told
        self.until = max(self.until, sent + life_s)

    def doubt(self, now: float) -> None:
        """Something was lost, or there is a metaserver that has shown us nothing yet."""
        self.since, self.until = now, NEVER


@dataclass(eq=False, slots=True)
class Folder:
    """Names of a directory as of one version of it."""

    version: int
    asked: float  # when the answer was asked for that says so
    complete: bool = False  # there are no others
    reach: bytes | None = None  # all names up to this one are here; None: nobody began
    names: dict[bytes, Ino] = field(default_factory=dict)
    overtaken: dict[int, tuple[Leads, ...]] = field(default_factory=dict)  # ours, of later versions
    misses: int = 0  # names that were asked for one by one
    ahead: int = 0  # ... and so many learnt with the last of them
    hits: int = 0  # names that needed no question since then

    def apply(self, changes: Iterable[Leads]) -> None:
        """Our own changes are in."""
        for name, ino in changes:
            if ino is None:
                self.names.pop(name, None)
            else:
                self.names[name] = ino

    def catch_up(self) -> None:
        """Those of our changes that follow: one by one, and from a metaserver to the next."""
        for version in sorted(self.overtaken):
            if version != self.version + 1 and version & (2**COUNTER_BITS - 1):
                return
            self.version = version
            self.apply(self.overtaken.pop(version))

    def unsettled(self, name: bytes) -> bool:
        """Whether a change of ours may have moved this name meanwhile."""
        return any(name == one for some in self.overtaken.values() for one, _ in some)


class Known(NamedTuple):
    """An inode's attributes; asked for when (NEVER: a change has overtaken them)."""

    attributes: Attributes
    learnt: float
    asked: float


class Names:
    """Names and attributes, each with the time it was learnt, and how long each is believed."""

    def __init__(
        self, name_life_s: float = limits.CACHE_S / 2, attribute_life_s: float = limits.CACHE_S / 2
    ):
        self.name_life_s, self.attribute_life_s = name_life_s, attribute_life_s
        self.promises = Promises()
        self.used = NEVER  # when something was last asked for that a promise could answer
        self.xattrs = Xattrs(attribute_life_s)
        self._names: OrderedDict[tuple[Ino, bytes], tuple[Ino, float]] = OrderedDict()
        self._attributes: OrderedDict[Ino, Known] = OrderedDict()
        self._folders: OrderedDict[Ino, Folder] = OrderedDict()
        self._filed = 0  # names in folders
        self._spoilt: OrderedDict[Ino, float] = OrderedDict()  # by others: not believed from before
        self._moved: OrderedDict[Ino, float] = OrderedDict()  # directories, by us
        self._written: OrderedDict[Ino, float] = OrderedDict()  # by us, attributes likewise
        self._floor = NEVER  # of all three: the newest time that was forgotten
        self._places: dict[Ino, tuple[Ino, bytes]] = {}  # the name each was last learnt under
        self._inside: dict[Ino, dict[bytes, float]] = {}  # names of a directory, when last told

    # --- names ---------------------------------------------------------------------------------

    def find(self, parent: Ino, name: bytes, now: float) -> Ino | None:
        """The inode under a name, if that is fresh knowledge."""
        folder = self._sure(parent, now)
        if folder is not None and name in folder.names and not folder.unsettled(name):
            ino = folder.names[name]
            folder.hits += 1
            if (parent, name) not in self._names:
                self._place(parent, name, ino, NEVER)
            self._inside.setdefault(parent, {})[name] = now
            return ino
        found = self._names.get((parent, name))
        if found is None or now - found[1] >= self.name_life_s:
            return None
        return found[0] if found[1] > self._spoilt.get(parent, NEVER) else None

    def absent(self, parent: Ino, name: bytes, now: float) -> bool:
        """Whether it is fresh knowledge that there is no such name."""
        folder = self._sure(parent, now)
        if folder is None or not folder.complete or name in folder.names:
            return False
        return not folder.unsettled(name)

    def _sure(self, parent: Ino, now: float) -> Folder | None:
        folder = self._folders.get(parent)
        if folder is None or not self.name_life_s:
            return None
        self.used = now
        return folder if self.promises.holds(folder.asked, now) else None

    def missed(self, parent: Ino, version: int, asked: float) -> int:
        """A name of a directory was asked for; how many others are to be learnt with it.  Who looks
        up one after the other is soon to ask for them: twice as many each time, while they are
        used; who asks here and there pays for no more than some for each."""
        if not self._settle(parent, version, asked):
            return 0
        folder = self._folders[parent]
        folder.misses += 1
        again = folder.ahead > 0 and folder.hits * USED >= folder.ahead
        if not again and (folder.misses < 2 or folder.misses & (folder.misses - 1)):
            return 0
        most = max(AHEAD * folder.misses, 2 * folder.ahead)
        folder.ahead, folder.hits = min(limits.LISTING_ENTRIES, most), 0
        return folder.ahead

    def listed(
        self, parent: Ino, version: int, asked: float, names: dict[bytes, Ino],
        after: bytes | None = None, end: bool = False,
    ) -> None:  # fmt: skip
        """Names of a directory as it was at a version: in order, all behind `after` (None: just
        these), and no more follow (`end`).  Complete is what was listed without a gap: a folder may
        have been forgotten between two pages."""
        if not self._settle(parent, version, asked):
            return
        folder = self._folders[parent]
        self._filed -= len(folder.names)
        folder.names.update(names)
        if after is not None and after in (b"", folder.reach):
            folder.reach = next(reversed(names), after)
            folder.complete |= end
        self._file(parent, folder)

    def changed(self, parent: Ino, version: int, now: float, asked: float, *changes: Leads) -> None:
        """A change of ours made a directory this version."""
        self._note(self._moved, parent, now)
        folder = self._folders.get(parent)
        if folder is None or not self.promises.since < folder.asked:
            if not self._settle(parent, version, asked):
                return
            folder = self._folders[parent]
        elif version <= folder.version or version in folder.overtaken:  # it has changed nothing
            return
        elif len(folder.overtaken) >= OVERTAKEN:
            self._discard(parent)
            return
        else:
            folder.overtaken[version] = changes
            changes = ()
        self._filed -= len(folder.names)
        folder.apply(changes)
        folder.catch_up()
        self._file(parent, folder)

    def made(self, ino: Ino, version: int, asked: float) -> None:
        """A directory of ours: it is empty."""
        self.listed(ino, version, asked, {}, b"", True)

    def _settle(self, parent: Ino, version: int, asked: float) -> bool:
        """Whether a directory's folder is of this version, and was asked for in time."""
        if asked <= self._limit(self._spoilt, parent) or not self.name_life_s:
            return False
        folder = self._folders.get(parent)
        if folder is not None and self.promises.since < folder.asked:
            return folder.version == version
        self._discard(parent)
        self._file(parent, Folder(version, asked))
        return True

    def _file(self, parent: Ino, folder: Folder) -> None:
        """Keep a folder; those that were filed longest ago go, for the names that they have."""
        self._folders[parent] = folder
        self._folders.move_to_end(parent)
        self._filed += len(folder.names)
        while self._filed > limits.NAMES_CACHED or len(self._folders) > limits.NAMES_CACHED:
            self._discard(next(iter(self._folders)))

    def _discard(self, parent: Ino) -> None:
        folder = self._folders.pop(parent, None)
        if folder is not None:
            self._filed -= len(folder.names)

    def enter(
        self, parent: Ino, name: bytes, attributes: Attributes, now: float, asked: float,
        told: bool = True,
    ) -> None:  # fmt: skip
        """A name and what it leads to; `told`: the kernel, too.  Not believed if the directory has
        changed since that was asked for."""
        self.learn(attributes, now, asked)
        limit = max(self._limit(self._spoilt, parent), self._limit(self._moved, parent))
        self._place(parent, name, attributes.ino, now if asked > limit else NEVER)
        inside = self._inside.setdefault(parent, {})
        inside[name] = now if told else inside.get(name, NEVER)

    def _place(self, parent: Ino, name: bytes, ino: Ino, learnt: float) -> None:
        """An inode stands there; what was placed longest ago is forgotten."""
        place = (parent, name)
        before = self._names.get(place)
        if before is not None and before[0] != ino and self._places.get(before[0]) == place:
            del self._places[before[0]]
        self._names[place] = (ino, learnt)
        self._names.move_to_end(place)
        self._places[ino] = place
        while len(self._names) > limits.NAMES_CACHED:
            self.forget(*next(iter(self._names)))

    def forget(self, parent: Ino, name: bytes) -> None:
        """A name is gone or leads elsewhere, or there are too many."""
        found = self._names.pop((parent, name), None)
        if found is None:
            return
        if self._places.get(found[0]) == (parent, name):
            del self._places[found[0]]
        inside = self._inside.get(parent, {})
        inside.pop(name, None)
        if not inside:
            self._inside.pop(parent, None)

    def under(self, parent: Ino, name: bytes) -> tuple[Ino, ...]:
        """What a name led to, however long ago."""
        found = self._names.get((parent, name))
        return () if found is None else (found[0],)

    def unsure(self, inos: Iterable[Ino], until: float) -> None:
        """A change of ours may have been made, or may be until then: nobody will tell us."""
        for ino in inos:
            self._attributes.pop(ino, None)
            self.xattrs.forget(ino)
            self._discard(ino)
            self._note(self._spoilt, ino, until)

    def mistaken(self, parent: Ino, name: bytes) -> None:
        """What was believed of a name has turned out wrong."""
        self.forget(parent, name)
        self._discard(parent)

    # --- attributes ----------------------------------------------------------------------------

    def attributes(self, ino: Ino, now: float) -> Attributes | None:
        """An inode's attributes, if they are fresh."""
        found = self._attributes.get(ino)
        if found is None:
            return None
        if now - found.learnt < self.attribute_life_s:
            return found.attributes
        if not self.attribute_life_s:
            return None
        self.used = now
        return found.attributes if self.promises.holds(found.asked, now) else None

    def last_known(self, ino: Ino) -> Attributes | None:
        """An inode's attributes, however old."""
        found = self._attributes.get(ino)
        return found.attributes if found else None

    def learn(self, attributes: Attributes, now: float, asked: float = NEVER) -> None:
        """Attributes from the metaserver; what is older than what we know is passed over."""
        ino = attributes.ino
        known = self._attributes.get(ino)
        if known is not None and known.attributes.change > attributes.change:
            return
        spoilt = self._spoilt.get(ino)
        learnt = now if spoilt is None or asked > spoilt else NEVER
        limit = max(self._limit(self._spoilt, ino), self._limit(self._written, ino))
        self._attributes[ino] = Known(attributes, learnt, asked if asked > limit else NEVER)
        self.xattrs.learn(attributes, now)
        self._attributes.move_to_end(ino)
        if len(self._attributes) > limits.NAMES_CACHED:
            self._attributes.popitem(last=False)

    def forget_inode(self, ino: Ino, now: float) -> None:
        """Attributes have changed in a way we weren't told."""
        self._attributes.pop(ino, None)
        self.xattrs.forget(ino)
        self.unflushed(ino, now)

    def unflushed(self, ino: Ino, now: float) -> None:
        """They are about to change by a commit of ours, which tells how: until then what is known
        is what the metaserver has, and a mount shows what it writes with that."""
        self._note(self._written, ino, now)

    # --- what others do ------------------------------------------------------------------------

    def spoil(self, ino: Ino, now: float) -> Attributes | None:
        """Somebody else has changed an inode; what we knew of it until now."""
        known = self._attributes.pop(ino, None)
        self.xattrs.forget(ino)
        self._discard(ino)
        self._note(self._spoilt, ino, now)
        return known.attributes if known else None

    def spoilt(self, ino: Ino, now: float) -> bool:
        """Whether somebody else has changed an inode so lately that a kernel may have passed over
        what it was told since: it does, of what it asked for before it was made to forget."""
        return now - self._spoilt.get(ino, NEVER) < limits.CACHE_S

    def _note(self, times: OrderedDict[Ino, float], ino: Ino, now: float) -> None:
        times[ino] = now
        times.move_to_end(ino)
        if len(times) > limits.NAMES_CACHED:
            self._floor = max(self._floor, times.popitem(last=False)[1])

    def _limit(self, times: OrderedDict[Ino, float], ino: Ino) -> float:
        """What was asked for until then may not know of a change."""
        return max(self._floor, times.get(ino, NEVER))

    # --- where things are ----------------------------------------------------------------------

    def last_place(self, ino: Ino) -> bytes | None:
        """The path that an inode was last found under, however long ago."""
        names: list[bytes] = []
        while ino != ROOT:
            place = self._places.get(ino)
            if place is None or len(names) > limits.PATH_BYTES:
                return None
            ino, name = place
            names.append(name)
        return b"/" + b"/".join(reversed(names))

    def place(self, ino: Ino) -> tuple[Ino, bytes] | None:
        """The name that an inode was last learnt under."""
        return self._places.get(ino)

    def names_in(self, parent: Ino, since: float) -> list[bytes]:
        """The names of a directory that somebody was told of after a time."""
        return [name for name, told in self._inside.get(parent, {}).items() if told > since]

    def clear(self) -> None:
        """Forget everything."""
        self._names.clear()
        self._attributes.clear()
        self._folders.clear()
        self._filed = 0
        self._places.clear()
        self._inside.clear()
        self.xattrs.clear()
