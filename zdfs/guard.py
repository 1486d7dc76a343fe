"""Who may do what at the metaserver, where a cluster has keys.

Every request passes here twice.  `welcome`, before anything is done for it, also before a kept
reply is given again: is this key allowed, may its role send this, and is the session its own?  Then
`guarding`, around the handler: a confined client's numbers become ours, each inode that it names
must be below its root, and what belongs to root it has only as far as everybody has.  On the way
back our numbers become its, and a reply that shows where blocks are brings the pass that
dataservers ask for.

A session belongs to the key that opened it: its name stands before the host's, with an @ between.
"""

import dataclasses
import functools
import stat
from collections.abc import Callable, Coroutine, Set
from errno import EACCES, ENOENT, ESTALE
from typing import Any

from zdfs import confined, limits, namespace, passes, wire
from zdfs.calls import Trap, now
from zdfs.errors import Damaged, NoSession, Posix
from zdfs.admission import allowed
from zdfs.ids import ROOT, Ino, Session
from zdfs.keys import Role
from zdfs.ledger import Ledger
from zdfs.ports import Caller, Handler
from zdfs.rights import Rights
from zdfs.sessions import Mount, Sessions
from zdfs.squash import Squash, there
from zdfs.tables import View

OWN = (wire.Beat, wire.CloseSession, wire.ReturnGrant, wire.Unlock, wire.StopWaiting)
"""These reach nothing but what the session has, and name files only: they are never translated."""
DEPTH = 10_000  # directories on the way up; a deeper place is nobody's who is confined

Sound = Callable[[float], None]  # raises Unavailable while the metaserver can't answer
Heal = Callable[[bytes], Coroutine[Trap, Any, int]]  # a record, from the metadata's copies
May = Callable[[Ino], bool]
Unlock = Callable[[Session, May, float], None]  # what it may not have any more


class Guard:
    """The metaserver's."""

    def __init__(
        self, ledger: Ledger, sessions: Sessions, may_read: Sound, heal: Heal, unlock: Unlock
    ):  # fmt: skip
        self.ledger, self.sessions, self.may_read, self.heal = ledger, sessions, may_read, heal
        self.unlock = unlock
        self.mint = passes.Mint(ledger.incarnation << 24, limits.PASS_S)

    def welcome(self, caller: Caller, request: wire.Message) -> None:
        """Posix, NoSession: not this key, or not with this session."""
        if caller.key is not None:
            allowed(caller, request)
            self._owns(caller, caller.key.name)

    def _owns(self, caller: Caller, name: str) -> None:
        mount = self.sessions.mounts.get(caller.head.session)
        if mount is not None and owner(mount.record.host) != name:
            raise NoSession("that session was opened with another key")

    def guarding(self, handler: Handler) -> Handler:
        """A handler for clients that may be confined."""

        async def guarded(request: wire.Message, caller: Caller) -> wire.Reply:
            if caller.key is None:
                return await handler(request, caller)
            found = allowed(caller, request)
            if isinstance(request, wire.Report):
                at = await now()
                told = await handler(request, caller)
                assert isinstance(told, wire.Instructions)
                return dataclasses.replace(told, secrets=self.mint.told(at))
            if found is None or found.role is not Role.CLIENT:
                return await handler(_named(request, caller), caller)
            mount = self._mount(caller, found, await now())
            if isinstance(request, wire.Announce) and not found.write:
                request = dataclasses.replace(request, holdings=())  # it was never granted any
            if not found.translated or isinstance(request, OWN):
                return self._passing(await handler(_named(request, caller), caller), caller, found)
            root, ours = await self._ours(request, caller, found, mount)
            if mount is not None:
                mount.root = root  # what it is told meanwhile has its numbers
            reply = await handler(_named(ours, caller), caller)
            if mount is not None:
                self._reach(mount, ours, reply, root)
            shown = confined.translated(
                self._without_above(reply, ours, root), confined.outward(found, root)
            )
            return self._passing(shown, caller, found)

        return guarded

    def _mount(self, caller: Caller, found: Rights, at: float) -> Mount | None:
        """The caller's.  What it had by other rights, it has no more, and others may have it."""
        mount = self.sessions.mounts.get(caller.head.session)
        if mount is not None and mount.under != found:
            mount.under, mount.root = found, ROOT
            mount.reached.clear()
            mount.fading.clear()
            for ino in self.sessions.held_by(mount.session):
                if not self.may_hold(mount, ino):
                    self.sessions.free(ino)  # a commit is refused to it from now on
            self.unlock(mount.session, lambda ino: self._may(mount, Checking.may_lock, ino), at)
        return mount

    def _without_above(self, reply: wire.Reply, ours: Any, root: Ino) -> wire.Reply:
        """A reply that names nothing above its root."""
        if isinstance(reply, (wire.Listing, wire.NameList)) and ours.ino == root:
            return dataclasses.replace(reply, parent=root)
        if isinstance(reply, wire.PolicyFound):
            with self.ledger.view() as view:
                if not within(view, reply.origin, root, {}):
                    return dataclasses.replace(reply, origin=Ino(0))
        return reply

    def may_hold(self, mount: Mount, ino: Ino) -> bool:
        """Whether a mount may write a file, by the rights that it was last heard with."""
        found = mount.under
        if isinstance(found, Rights) and not found.write:
            return False
        return self._may(mount, Checking.may_hold, ino)

    def _may(self, mount: Mount, may: Callable[["Checking", Ino], bool], ino: Ino) -> bool:
        found = mount.under
        if not isinstance(found, Rights) or not found.translated:
            return True
        try:
            with self.ledger.view() as view:
                holds = functools.partial(self._holds, mount.session)
                return may(Checking(view, found, _root(view, found), mount, holds), ino)
        except (Damaged, Posix):  # its root is gone, or nobody can say
            return False

    async def _ours(
        self, request: wire.Message, caller: Caller, found: Rights, mount: Mount | None
    ) -> tuple[Ino, Any]:
        """Its root, and its request in our numbers; what is damaged on the way comes back first."""
        healed: set[bytes] = set()
        vain: set[bytes] = set()
        while True:
            self.may_read(await now())
            try:
                with self.ledger.view() as view:
                    try:
                        root = _root(view, found)
                    except Posix:
                        if isinstance(request, wire.Announce):  # others wait until it has
                            return ROOT, _emptied(request)
                        raise
                    holds = functools.partial(self._holds, caller.head.session)
                    checking = Checking(view, found, root, mount, holds, vain)
                    return root, checking.checked(request)
            except Damaged as error:
                if error.key in healed or not await self.heal(error.key):
                    if error.key in vain or not isinstance(request, wire.Announce):
                        raise
                    vain.add(error.key)  # what else it holds does not depend on that
                healed.add(error.key)

    def _reach(self, mount: Mount, ours: Any, reply: wire.Reply, root: Ino) -> None:
        """Files that it was shown below its root, wherever they were made.  Of those with several
        names the one that they were made under may go, with its directory, while they are open."""
        if isinstance(reply, wire.Walked):
            shown = reply.steps
        elif isinstance(reply, wire.Listing):
            shown = tuple(entry.attributes for entry in reply.entries)
        elif isinstance(ours, wire.Link) and isinstance(reply, wire.Found):
            shown = (reply.attributes,)
        else:
            return
        files = [one for one in shown if not stat.S_ISDIR(one.mode)]
        if files and root != ROOT:
            known: dict[Ino, bool] = {}
            mount.reached.update(one.ino for one in files if one.nlink > 1)
            inos = [one.ino for one in files if one.nlink <= 1]
            with self.ledger.view() as view:
                mount.reached.update(ino for ino in inos if not within(view, ino, root, known))

    # --- passes ----------------------------------------------------------------------------------

    def _passing(self, reply: wire.Reply, caller: Caller, found: Rights) -> wire.Reply:
        """With the pass for the dataservers: for all files, or, confined, for this one."""
        assert caller.key is not None
        uses = passes.READ | (passes.WRITE if found.write else 0)
        if isinstance(reply, (wire.SessionOpened, wire.Beaten)) and found.whole:
            return dataclasses.replace(reply, permit=self.mint.sign(caller.key.name, uses))
        if isinstance(reply, (wire.MapPages, wire.Opened, wire.Granted)) and not found.whole:
            if not self._holds(caller.head.session, reply.attributes.ino):
                uses &= passes.READ  # who writes has a grant
            return dataclasses.replace(
                reply, permit=self.mint.sign(caller.key.name, uses, reply.attributes.ino)
            )
        return reply

    def _holds(self, session: Session, ino: Ino) -> bool:
        """Whether it may write a file now."""
        held = self.sessions.holder(ino)
        return held is not None and held.session == session


def owner(host: str) -> str:
    """Whose a session is, by the host that its record names."""
    return host.partition("@")[0] if "@" in host else ""


def within(view: View, ino: Ino, root: Ino, known: dict[Ino, bool]) -> bool:
    """Whether an inode stands below a directory.  A file with several names: by the one that it was
    made under, or last moved to.  `known` remembers the way."""
    way: list[Ino] = []
    while ino not in (root, ROOT) and ino not in known:
        inode = view.find(ino)
        if inode is None or len(way) > DEPTH:
            break
        way.append(ino)
        known[ino] = False  # should the way lead back to it
        ino = inode.parent
    found = ino == root or known.get(ino, False)
    known.update((one, found) for one in way)
    return found


class Checking:
    """What one request of a confined client may name."""

    def __init__(
        self, view: View, found: Rights, root: Ino, mount: Mount | None,
        holds: Callable[[Ino], bool], vain: Set[bytes] = frozenset(),
    ):  # fmt: skip
        """`holds`: of which files it has the write grant; `vain`: records that can't be read, nor
        be got back."""
        self.view, self.found, self.root = view, found, root
        self.mount, self.vain = mount, vain
        self.squash = None if found.squash is None else Squash(view, found, holds)
        self.known: dict[Ino, bool] = {}

    def checked(self, request: wire.Message) -> Any:
        """It in our numbers; Posix when it reaches beyond the rights."""
        ours = confined.translated(request, confined.inward(self.found, self.root))
        if isinstance(ours, wire.Announce):
            return self._announced(ours)
        if isinstance(ours, wire.Lookup) and b".." in ours.names:
            raise Posix(EACCES, "a confined client walks downwards")
        if isinstance(ours, wire.Open) and ours.name:
            if there(self.view, ours.parent, ours.name) == ours.ino:
                self._below(ours.parent, ours.ino)
        for ino in confined.inodes(ours):
            self._seen(ino, isinstance(ours, wire.Link))
        if isinstance(ours, wire.Create):
            found = there(self.view, ours.parent, ours.name)
            if found is not None:
                self._below(ours.parent, found)
        if self.squash is not None:
            self.squash.check(ours)
            return self.squash.stripped(ours)
        return ours

    def _seen(self, ino: Ino, named: bool) -> None:
        """ESTALE, as for what is not there: it can't be seen (by a name, if it has to be `named`).
        A mount looks its name up again then, which may show it."""
        inode = self.view.find(ino)
        if inode is None or within(self.view, ino, self.root, self.known):
            return  # what is not there is ESTALE, says the handler; 0 is none
        if self.mount is not None:
            if ino in self.mount.reached:
                return
            if ino in self.mount.fading and ino in self.mount.openings and not named:
                return
        raise Posix(ESTALE)

    def _below(self, parent: Ino, ino: Ino) -> None:
        """What a name below the root leads to, wherever it was made, is below it."""
        if self.mount is not None and within(self.view, parent, self.root, self.known):
            if not within(self.view, ino, self.root, self.known):
                self.mount.reached.add(ino)

    def _announced(self, request: wire.Announce) -> wire.Announce:
        """What may be had open and held: files."""
        return dataclasses.replace(
            request,
            openings=tuple(one for one in request.openings if self._file(one.ino)),
            holdings=tuple(one for one in request.holdings if self.may_hold(one.ino)),
            locks=tuple(one for one in request.locks if self.may_lock(one.ino)),
        )

    def may_hold(self, ino: Ino) -> bool:
        """Whether it may write a file."""
        return self._file(ino) and (self.squash is None or self.squash.may_write(ino))

    def may_lock(self, ino: Ino) -> bool:
        """Whether it may have a lock on it."""
        return self._file(ino) and (self.squash is None or self.squash.may_lock(ino))

    def _file(self, ino: Ino) -> bool:
        try:
            inode = self.view.find(ino)
            regular = inode is not None and stat.S_ISREG(inode.mode)
            return regular and within(self.view, ino, self.root, self.known)
        except Damaged as error:
            if error.key not in self.vain:
                raise
            return False


def _named(request: Any, caller: Caller) -> Any:
    """A new session is named for its key."""
    if caller.key is not None and isinstance(request, wire.OpenSession):
        return dataclasses.replace(request, host=f"{caller.key.name}@{request.host}")
    return request


def _emptied(request: wire.Announce) -> wire.Announce:
    """Nothing is open or held."""
    return dataclasses.replace(request, openings=(), holdings=(), locks=())


def _root(view: View, found: Rights) -> Ino:
    names = [name for name in found.root.split(b"/") if name]
    steps, number, _ = namespace.walk(view, ROOT, names)
    if number or (steps and not stat.S_ISDIR(steps[-1].mode)):
        shown = found.root.decode(errors="backslashreplace")
        raise Posix(number or ENOENT, f"{shown}, which this key is confined to, is no directory")
    return steps[-1].ino if steps else ROOT
