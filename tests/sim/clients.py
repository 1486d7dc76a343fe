"""Clients whose histories must be linearizable, each on a mount of its own.

What zdfs promises (docs/CONSISTENCY.md), and so exactly what is checked:

- **Names**, on mounts with `--entry-timeout 0`: make, unlink, rename (with its flags), lookup and
  listing of one directory, on any mounts, are linearizable.
- **Attributes**, with `--attr-timeout 0`: chmod and stat of an inode likewise.
- **Content**: open-write-close and open-read-close are, as wholes, writes and reads of a register,
  between mounts (close-to-open, and fresher).  Within a mount a reader sees what is not committed
  yet, which another mount's open need not wait for longer than a second: so each mount has one
  client, which reads while it does not write.  A write is of one block: those of several blocks
  may be committed in two steps.

A call that fails without telling its fate (the mount was killed, the session ended) is indefinite:
it may take effect at any later time, or never.
"""

import os
import stat
from abc import abstractmethod
from collections.abc import Coroutine
from errno import EEXIST, ENOENT
from typing import Any

from tests.sim.processes import Process
from tests.world.cluster import Cluster
from tests.world.linear import History, Operation, State, Step, directory, refuted_by, register
from tests.world.mounts import Mount
from tests.world.nemesis import Nemesis
from zdfs.errors import Failure, Posix, Silent
from zdfs.ids import ROOT, Ino
from zdfs.calls import Trap

TURN_S = 6.0  # after so long they all go on with something new: indefinite operations pile up
THINGS = 8
NAMES = (b"a", b"b", b"c")
TOLD = {EEXIST: "EEXIST", ENOENT: "ENOENT"}
FLAGS = {"rename": 0, "keep": 1, "swap": 2}  # renameat2's
FIRST_MODE = 0o400


class Histories:
    """What everybody does, by thing; made with the things, before the faults begin."""

    def __init__(self, cluster: Cluster):
        self.world, self.began = cluster.world, cluster.world.now
        self.files = [self._make(cluster, b"/file%d" % n, stat.S_IFREG) for n in range(THINGS)]
        self.places = [self._make(cluster, b"/place%d" % n, stat.S_IFDIR) for n in range(THINGS)]
        self.modes = [self._make(cluster, b"/mode%d" % n, stat.S_IFREG) for n in range(THINGS)]
        self.of: dict[Ino, History] = {}
        self.values = 0

    def _make(self, cluster: Cluster, path: bytes, kind: int) -> Ino:
        mode = kind | FIRST_MODE
        made = cluster.do(cluster.volume.make_at(ROOT, path[1:], mode, 0, 0))
        number: Ino = made.ino
        return number

    def turn(self, things: list[Ino]) -> Ino:
        """The thing that is in use now."""
        return things[int((self.world.now - self.began) / TURN_S) % len(things)]

    def history(self, ino: Ino) -> History:
        """Of one thing."""
        return self.of.setdefault(ino, History())

    def value(self) -> int:
        """One that was never written."""
        self.values += 1
        return self.values

    def judge(self, things: list[Ino], step: Step, first: State) -> None:
        """Each history can have happened."""
        for ino in things:
            history = self.history(ino)
            wrong = refuted_by(history, step, first)
            assert wrong is None, "\n".join(
                [f"nothing explains {wrong}, inode {ino}:", *history.lines()]
            )


class Client(Process):
    """Sits on one place; each call is a line of a history."""

    rest_s = 0.7

    def __init__(self, place: int, histories: Histories, mounts: list[Mount], nemesis: Nemesis):
        super().__init__(f"{type(self).__name__.lower()}{place}", mounts, nemesis)
        self.place, self.histories = place, histories

    def places(self) -> range:
        """Its own."""
        return range(self.place, self.place + 1)

    async def done(
        self, mount: Mount, ino: Ino, call: Coroutine[Trap, Any, Any], *did: Any
    ) -> Operation:
        """An operation, to its end; raises what left it indefinite."""
        operation = self.histories.history(ino).call(self.name, *did)
        try:
            result = await mount.call(call)
        except Posix as error:
            if error.number not in TOLD:
                raise
            result = TOLD[error.number]
        self.histories.history(ino).returns(operation, result)
        self.say(mount, f"{did} of {ino}: {result}")
        return operation

    def check(self, mount: Mount) -> None:
        """All of them, once."""
        if self.place == 0 and mount is self.mounts[0]:
            self.judge()

    @abstractmethod
    def judge(self) -> None:
        """The histories of this kind of client."""


class Lister(Client):
    """Names in one directory."""

    async def round(self, mount: Mount) -> None:
        """One operation."""
        ino = self.histories.turn(self.histories.places)
        volume, name = mount.volume, self.random.choice(NAMES)
        verb = self.random.choice(["make", "unlink", "rename", "keep", "swap", "look", "list"])
        if verb == "make":
            await self.done(mount, ino, self._make(mount, ino, name), verb, name)
        elif verb == "unlink":
            await self.done(mount, ino, volume.unlink_at(ino, name), verb, name)
        elif verb == "look":
            await self.done(mount, ino, self._look(mount, ino, name), verb, name)
        elif verb == "list":
            await self.done(mount, ino, self._list(mount, ino), verb)
        else:
            other = self.random.choice([one for one in NAMES if one != name])
            call = volume.rename_at(ino, name, ino, other, FLAGS[verb])
            await self.done(mount, ino, call, verb, name, other)

    async def _make(self, mount: Mount, ino: Ino, name: bytes) -> int:
        made = await mount.volume.make_at(ino, name, stat.S_IFREG | 0o600, 0, 0)
        return int(made.ino)

    async def _look(self, mount: Mount, ino: Ino, name: bytes) -> int:
        return int((await mount.volume.lookup_at(ino, name)).ino)

    async def _list(self, mount: Mount, ino: Ino) -> tuple[bytes, ...]:
        volume = mount.volume
        handle = await volume.opendir_ino(ino)
        found = await volume.readdir(handle, 0)
        await volume.releasedir(handle)
        return tuple(sorted(one.name for one in found if one.name not in (b".", b"..")))

    def judge(self) -> None:
        self.histories.judge(self.histories.places, directory, frozenset())


class Moder(Client):
    """The mode of an inode."""

    async def round(self, mount: Mount) -> None:
        """One operation."""
        ino = self.histories.turn(self.histories.modes)
        if self.random.random() < 0.5:
            mode = self.histories.value() & 0o7777
            await self.done(mount, ino, self._set(mount, ino, mode), "write", mode)
        else:
            await self.done(mount, ino, self._get(mount, ino), "read")

    async def _set(self, mount: Mount, ino: Ino, mode: int) -> None:
        await mount.volume.set_ino(ino, mode=mode)

    async def _get(self, mount: Mount, ino: Ino) -> int:
        return stat.S_IMODE((await mount.volume.stat_ino(ino)).mode)

    def judge(self) -> None:
        self.histories.judge(self.histories.modes, register, FIRST_MODE)


class Filer(Client):
    """The content of a file: a number."""

    def expected(self, error: Failure) -> bool:
        """A read may find nobody who has the block."""
        return super().expected(error) or isinstance(error, Silent)

    async def round(self, mount: Mount) -> None:
        """One operation."""
        ino = self.histories.turn(self.histories.files)
        if self.random.random() < 0.5:
            value = self.histories.value()
            await self.done(mount, ino, self._write(mount, ino, value), "write", value)
        else:
            await self.done(mount, ino, self._read(mount, ino), "read")

    async def _write(self, mount: Mount, ino: Ino, value: int) -> None:
        volume = mount.volume
        handle, _ = await volume.open_ino(ino, os.O_WRONLY)
        try:
            await volume.write(handle, b"%20d" % value, 0)
            await self.pause(0.2, 1.0)
            if self.random.random() < 0.5:
                await volume.fsync(handle)
            await volume.flush(handle)
        finally:
            mount.spawn(volume.release(handle))

    async def _read(self, mount: Mount, ino: Ino) -> int:
        volume = mount.volume
        handle, _ = await volume.open_ino(ino, os.O_RDONLY)
        try:
            return int(bytes(await volume.read(handle, 100, 0)) or b"0")
        finally:
            mount.spawn(volume.release(handle))

    def judge(self) -> None:
        self.histories.judge(self.histories.files, register, 0)
