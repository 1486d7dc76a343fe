"""A simulated cluster with a mount that means well, and a stranger who says whatever he likes.

The rooms are the production ones; what a stranger sends arrives as at the ROUTER (`servers`).  Any
exception but a declared Failure leaves the world, and so fails the test.  Every cluster is made the
same, so that what was recorded in one (`recorded`: a message of nearly every type, as real nodes
send them) means something in the next: only the cluster's own name is drawn anew, and a stand-in
takes its place in frames.
"""

import functools
import os
import stat
from collections.abc import Callable, Sequence
from typing import Any

from tests.world.cluster import META, Cluster
from tests.world.world import World
from zdfs import wire
from zdfs.calls import Peer, call
from zdfs.errors import BadMessage
from zdfs.ids import BlockNo, Incarnation, Ino, Policy, Session, Slot
from zdfs.locks import END
from zdfs.meta import Meta
from zdfs.ports import Owner
from zdfs.wire import LockKind, Span

SEED = 7
SERVERS = 4
OURS = b"the cluster here"  # stands for its name, which is as long
STRANGER = b"stranger"
PRIVATE = b"/private"  # no stranger is told of it: nobody may ever touch it
SECRET = b"what the mount wrote" * 9
FILES = (b"/a", b"/d/b", b"/orphan")
OUTCOMES_S = 12.0  # sessions of strangers end, parked requests tire

Frames = Sequence[bytes]
Asked = tuple[int, wire.Request[Any]]
Recorded = tuple["Siege", dict[type, list[Asked]], dict[type, list[wire.Reply]], bytes]


class Watched(World):
    """A world that remembers what its nodes ask one another."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.seen: dict[type, list[tuple[str, wire.Request[Any]]]] = {}
        self.told: dict[type, list[wire.Reply]] = {}

    def send(self, link: tuple[str, str], act: Callable[[], None], what: object = None) -> None:
        """Deliver it, as ever."""
        if isinstance(what, wire.Request):
            self.seen.setdefault(type(what), []).append((link[1], what))
        elif isinstance(what, wire.Reply):
            self.told.setdefault(type(what), []).append(what)
        super().send(link, act, what)


class Siege:
    """One cluster, one mount, one stranger with a session of his own."""

    def __init__(self) -> None:
        self.world = Watched(SEED)
        self.cluster = Cluster(self.world, SERVERS)
        self.cluster.mount()
        self.mount = self.cluster.mounts[0]
        self.servers = [self.cluster.meta, *self.cluster.data]
        self.answers: list[wire.Reply] = []
        self.inos = [Ino(1), *self._furnish()]
        self.cluster.heal()
        ours = self.meta.ledger.cluster
        assert ours is not None
        self.uuid = ours.uuid
        self.session = self._enter()

    @property
    def meta(self) -> Meta:
        """The metaserver, serving."""
        room = self.cluster.meta.room
        assert isinstance(room, Meta)
        return room

    def _furnish(self) -> list[Ino]:
        """Something of everything; the numbers of the inodes."""
        volume, do = self.mount.volume, self.mount.do
        do(volume.make(b"/d", stat.S_IFDIR | 0o755, 0, 0))
        for path in (*FILES, PRIVATE):
            self.mount.put(path, SECRET if path == PRIVATE else path * 99)
        do(volume.make(b"/link", stat.S_IFLNK | 0o777, 0, 0, target=b"a"))
        do(volume.setxattr(b"/a", b"user.x", b"value", 0))
        shown = [do(volume.lookup(path)).ino for path in (b"/d", *FILES, b"/link")]
        self.opened = do(volume.open(b"/orphan", os.O_RDONLY))[0]
        do(volume.unlink(b"/orphan"))
        return shown

    def _enter(self) -> Session:
        """The stranger's session."""
        head = wire.RequestHead(Session(0), wire.NO_SLOT, 1, 2000, Incarnation(0))
        self.send(0, wire.encode_request(head, wire.OpenSession(b"the stranger 16b", "h", "m")))
        self.world.run(lambda: bool(self.answers), 10)
        opened = self.answers.pop()
        assert isinstance(opened, wire.SessionOpened), opened
        return opened.session

    # --- the stranger --------------------------------------------------------------------------

    def send(self, target: int, frames: Sequence[Any], as_server: bool = False) -> None:
        """A message for a server, 0: the metaserver; what was answered is added to `answers`.

        Reports in the name of a dataserver that is here are swallowed, unless `as_server`: who can
        say what a dataserver does is believed, and only keys keep him from it."""
        said = [bytes(frame).replace(OURS, self.uuid) for frame in frames]

        def back(reply: Frames) -> None:
            self.answers.append(wire.decode_reply(reply)[1])

        if not as_server and self._forged(said):
            return
        self.servers[target % len(self.servers)].request(said, back, STRANGER)

    def _forged(self, frames: Frames) -> bool:
        try:
            _, message = wire.decode_request(frames)
        except BadMessage:
            return False
        ours = [one.store.state.uuid for one in self.cluster.data]
        return isinstance(message, wire.Report) and message.uuid in ours

    def play(self, messages: Sequence[tuple[int, Frames]]) -> None:
        """One after the other, a moment between them."""
        for target, frames in messages:
            self.send(target, frames)
            self.cluster.rest(0.01)

    # --- the others ----------------------------------------------------------------------------

    def serves(self) -> None:
        """A mount that means well is served, now."""
        self.mount.put(b"/new", b"something new" * 20)
        assert self.mount.get(b"/new") == b"something new" * 20
        self.mount.do(self.mount.volume.rename(b"/new", b"/newer"))
        assert self.mount.get(PRIVATE) == SECRET
        self.mount.do(self.mount.volume.unlink(b"/newer"))

    def ends(self) -> None:
        """The stranger goes, and all is well: metadata, blocks, copies."""
        self.cluster.rest(OUTCOMES_S)
        self.cluster.heal()
        for slot, server in self.meta.ledger.servers.items():
            if server.skipped:  # as he may with --faults
                self.mount.do(call(Peer(META), wire.Skip(slot, False)))
        self.cluster.heal()
        self.serves()
        self.cluster.check()


def _busy(siege: Siege) -> None:
    """A day on which nearly every message is sent once."""
    cluster, mount, volume, do = siege.cluster, siege.mount, siege.mount.volume, siege.mount.do
    handle, _ = do(volume.open(b"/a", os.O_RDWR))
    do(volume.write(handle, memoryview(b"x" * 300), 0))
    do(volume.fsync(handle))
    do(volume.fallocate(handle, 3, 64, 128))
    do(volume.lseek(handle, 0, os.SEEK_DATA))
    do(volume.truncate(b"/a", handle, 5000))
    owner, span = Owner(LockKind.POSIX, 1, 1), Span(0, END, True)
    do(volume.lock(handle, owner, span, False))
    do(volume.test_lock(handle, Owner(LockKind.POSIX, 2, 2), span))
    do(volume.unlock(handle, owner, span))
    do(volume.fsyncdir())
    do(volume.release(handle))
    do(volume.link(b"/a", b"/d/hard"))
    do(volume.readlink(b"/link"))
    do(volume.getxattr(b"/a", b"user.x"))
    do(volume.listxattr(b"/a"))
    do(volume.removexattr(b"/a", b"user.x"))
    do(volume.set_attributes(b"/a", None, mode=0o600))
    do(volume.make(b"/gone", stat.S_IFDIR | 0o755, 0, 0))
    do(volume.rmdir(b"/gone"))
    cluster.check()
    _people(siege)
    change = wire.SetPolicy(Ino(1), Policy.QUORUM)
    do(volume.contact.change(change))
    cluster.data[0].kill()
    cluster.rest(5.0)
    mount.put(b"/owed", b"owed" * 99)
    do(call(Peer(META), wire.ListDebts(None, Ino(0), BlockNo(0))))
    cluster.meta.kill()
    cluster.restart()
    cluster.heal()
    cluster.check()


def _people(siege: Siege) -> None:
    """What tools ask."""
    ino = siege.inos[2]
    for request in (
        wire.Identify(), wire.GetStatus(), wire.GetEvents(0, 5, 0), wire.Dispute(Ino(0)),
        wire.Foresee((Slot(0), Slot(1)), (), 3, Ino(0), -1), wire.GetPolicy(ino),
        wire.Skip(Slot(1), True), wire.Skip(Slot(1), False), wire.ListEntries(Ino(1), b""),
        wire.StatFs(), wire.ListNames(Ino(1), b""), wire.ReadDirectory(Ino(1), b"", 9),
    ):  # fmt: skip
        siege.mount.do(call(Peer(META), request))
    for request in (wire.Recollect(), wire.Scrub(siege.uuid, bytes(16))):
        siege.mount.do(call(Peer("data:0"), request))


@functools.cache
def recorded() -> Recorded:
    """A cluster as every siege finds it, what is asked on a busy day there, by type, with the
    number of whom it was asked, what was answered, and what that cluster is called."""
    siege, busy = Siege(), Siege()
    _busy(busy)
    numbers = {server.address: number for number, server in enumerate(busy.servers)}
    seen = {
        kind: [(numbers[address], request) for address, request in _some(found)]
        for kind, found in busy.world.seen.items()
    }
    told = {kind: _some(found) for kind, found in busy.world.told.items()}
    return siege, seen, told, busy.uuid


def _some(found: list[Any], most: int = 8) -> list[Any]:
    """From the first to the last."""
    return found[:: max(1, len(found) // most)][:most]
