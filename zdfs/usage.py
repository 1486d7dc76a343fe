"""How much stands in a directory (`zdfs du`), and who has something open (`zdfs find-open`).

Both answer slice by slice, so that nobody waits for long: a directory by names, what is open by
(session, inode).  A cluster at work moves meanwhile; what is said is what each slice found.

What is open belongs below a directory if the parents of its inode lead there.  An inode has one
parent; what has more names may stand below by another one, which only a walk over names finds: such
files are told, too, and marked.
"""

import stat
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from zdfs import limits, schema, wire
from zdfs.calls import now
from zdfs.errors import Damaged
from zdfs.ids import ROOT, Ino, Session
from zdfs.ledger import Ledger
from zdfs.locks import Locks
from zdfs.membership import Membership
from zdfs.ports import Caller
from zdfs.schema import Dirent, Inode
from zdfs.sessions import Mount, Sessions
from zdfs.tables import View, decode, is_directory, scan_past_damage
from zdfs.wire import LockKind

MOST = 2**64 - 1  # sparse files may pretend to be larger, all together


@dataclass(slots=True)
class _Sum:
    """A slice of a directory."""

    names: int = 0
    files: int = 0
    size_bytes: int = 0
    stored_bytes: int = 0
    damaged: int = 0
    named_bytes: int = 0
    below: list[wire.Below] = field(default_factory=list)
    shared: list[wire.Shared] = field(default_factory=list)

    def add(self, name: bytes, ino: Ino, inode: Inode) -> None:
        """One name."""
        regular = stat.S_ISREG(inode.mode)
        self.names += 1
        if is_directory(inode):
            self.below.append(wire.Below(ino, name))
            self.named_bytes += len(name)
        elif inode.nlink > 1:
            self.shared.append(wire.Shared(ino, regular, inode.size, inode.stored))
        else:
            self.files += regular
            self.size_bytes = min(MOST, self.size_bytes + inode.size)
            self.stored_bytes = min(MOST, self.stored_bytes + inode.stored)

    @property
    def full(self) -> bool:
        """Whether the answer is large enough, or took long enough."""
        looked = self.names + self.damaged
        return looked >= limits.SUMMED or self.named_bytes >= limits.LISTING_BYTES


class Usage:
    """Answers `SumDirectory` and `FindOpen`."""

    def __init__(self, ledger: Ledger, sessions: Sessions, members: Membership, locks: Locks):
        self.ledger, self.sessions = ledger, sessions
        self.members, self.locks = members, locks

    # --- how much ------------------------------------------------------------------------------

    async def sum_directory(self, request: wire.SumDirectory, caller: Caller) -> wire.DirectorySum:
        """A slice of a directory.  ENOTDIR, ESTALE."""
        self.members.may_read(await now())
        total, after, end = _Sum(), request.after, True
        prefix = schema.entry_key(request.ino, b"")
        first = prefix + request.after + b"\0" if request.after else prefix
        with self.ledger.view() as view:
            view.directory(request.ino)
            for key, payload in scan_past_damage(view.read, first, schema.after(prefix)):
                if total.full:
                    end = False
                    break
                after = key[len(prefix) :]
                _count(view, total, key, after, payload)
        return wire.DirectorySum(
            total.names, total.files, total.size_bytes, total.stored_bytes,
            tuple(total.below), tuple(total.shared), total.damaged, end, after,
        )  # fmt: skip

    # --- who has it open -----------------------------------------------------------------------

    async def find_open(self, request: wire.FindOpen, caller: Caller) -> wire.OpenFiles:
        """A slice of what is open."""
        at = await now()
        self.members.may_read(at)
        found: list[wire.OpenFile] = []
        cursor, end, looked = (request.session, request.ino), True, 0
        with self.ledger.view() as view:
            way = _Way(view, request.top)
            for mount, ino in self._openings(*cursor):
                if looked == limits.OPEN_EXAMINED or len(found) == limits.OPEN_TOLD:
                    end = False
                    break
                looked, cursor = looked + 1, (mount.session, ino)
                inode = _readable(view, ino)
                below = way.leads(ino, inode)
                if below or (inode is not None and inode.nlink > 1 and request.top != ino):
                    found.append(self._open_file(mount.session, ino, inode, below))
        sessions = {one.session for one in found}
        mounts = [self._opener(self.sessions.mounts[one], at) for one in sorted(sessions)]
        settled = self.sessions.all_announced()
        return wire.OpenFiles(tuple(found), tuple(mounts), settled, end, *cursor)

    def _openings(self, session: Session, ino: Ino) -> Iterator[tuple[Mount, Ino]]:
        """What is open, in order, from behind a place."""
        for number in sorted(one for one in self.sessions.mounts if one >= session):
            mount = self.sessions.mounts[number]
            inos = sorted(mount.openings)
            begin = bisect_right(inos, ino) if number == session else 0
            for one in inos[begin:]:
                yield mount, one

    def _open_file(
        self, session: Session, ino: Ino, inode: Inode | None, below: bool
    ) -> wire.OpenFile:
        held = self.sessions.holder(ino)
        mine = held if held is not None and held.session == session else None
        locked = [
            one
            for kind in LockKind
            for owner, one in self.locks.files.get((ino, kind), {}).items()
            if owner.session == session
        ]
        pids = sorted({one.pid for one in locked if one.pid})[: limits.LOCKERS]
        return wire.OpenFile(
            session, ino, inode.parent if inode else Ino(0), below, inode.nlink if inode else 0,
            mine is not None, len(mine.wanted) if mine else 0,
            sum(len(one.spans) for one in locked), tuple(pids),
        )  # fmt: skip

    def _opener(self, mount: Mount, at: float) -> wire.Opener:
        silent_ms = int((at - min(mount.heard, at)) * 1000)
        return wire.Opener(mount.session, mount.record.host, mount.record.mount, silent_ms)


def _count(view: View, total: _Sum, key: bytes, name: bytes, payload: bytes | Damaged) -> None:
    """One entry, or one more record that can't be read."""
    try:
        if isinstance(payload, Damaged):
            raise payload
        ino = decode(Dirent, key, payload).ino
        total.add(name, ino, view.inode(ino))
    except Damaged:
        total.damaged += 1


def _readable(view: View, ino: Ino) -> Inode | None:
    """An inode, if there is one that can be read."""
    try:
        return view.find(ino)
    except Damaged:
        return None


class _Way:
    """Whether parents lead to a directory; remembers those that it has gone along."""

    def __init__(self, view: View, top: Ino):
        self._view, self._top = view, top
        self._known: dict[Ino, bool] = {top: True}

    def leads(self, ino: Ino, inode: Inode | None) -> bool:
        """Of an inode that is no directory, perhaps the one that was asked for.  All leads to the
        root: also what has lost its directory."""
        if self._top in (ROOT, ino):
            return True
        passed: list[Ino] = []
        at = inode.parent if inode is not None else Ino(0)
        while at not in self._known:
            self._known[at] = False  # also where they go round
            passed.append(at)
            above = _readable(self._view, at)
            if above is None or at == ROOT:
                break
            at = above.parent
        answer = self._known[at]
        for one in passed:
            self._known[one] = answer
        return answer
