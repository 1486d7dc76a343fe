"""One life of a simulated cluster: programs on its mounts, under one kind of fault, to the end.

In the end the faults stop.  Every program must come to an end, the cluster must heal by itself
within minutes of its own time, and then what was acknowledged must be there, on every mount; fsck
must find nothing, and every replica be in its place, equal to the others.
"""

import logging
import random
from typing import NamedTuple

from tests.sim.kinds import KINDS
from tests.sim.processes import Process
from tests.sim.programs import CASTS
from tests.sim.rulers import Counter
from tests.world.cluster import Cluster
from tests.world.nemesis import Nemesis
from tests.world.servers import Server
from tests.world.world import Node, World
from zdfs import schema, wire
from zdfs.errors import Failure
from zdfs.ids import ROOT, Policy
from zdfs.meta import Meta
from zdfs.proof import PROVE_EVERY_S

LAST_S = 400.0  # virtual: every call ends so soon after the faults
LAST_LINES = 80
REST_S = 20.0  # sessions end, grants return


class Story(NamedTuple):
    """What a life was like."""

    kind: str
    seed: int
    lines: list[str]
    seconds: float  # virtual
    strikes: dict[str, int]  # by the nemesis
    owed: int  # the most replicas at a time, under quorum
    messages: dict[str, int]  # what the network did to them


class Life:
    """One run of a kind."""

    def __init__(self, name: str, seed: int):
        self.name, self.seed, self.kind = name, seed, KINDS[name]
        kind = self.kind
        self.world = World(seed, loss=kind.loss, doubling=kind.loss)
        self.cluster = Cluster(
            self.world, kind.servers, mounts=kind.mounts, cache_s=kind.cache_s,
            writeback=kind.writeback,
        )  # fmt: skip
        self.nemesis = Nemesis(self.cluster, kind.faults, seed + 1)
        self.dice = random.Random(seed + 2)
        if kind.mixed:
            self._mix()
        self.programs = Node(self.world, "programs")  # where they run: no fault hits them
        self.running: set[Process] = set()
        self.processes: list[Process] = []

    def _mix(self) -> None:
        """Most of them are old; a server may be upgraded whenever it starts again."""
        for node in (self.cluster.meta, *self.cluster.data, *self.cluster.mounts):
            node.speaks = self.dice.choice([wire.PROTOCOL_MIN, wire.PROTOCOL_MIN, wire.PROTOCOL])
            self.world.say(f"{node.address} speaks protocol {node.speaks}")
        for server in (self.cluster.meta, *self.cluster.data):
            server.started = self._upgrade

    def _upgrade(self, server: Server) -> None:
        if server.speaks < wire.PROTOCOL and self.dice.random() < 0.5:
            server.speaks = wire.PROTOCOL
            self.world.say(f"{server.address} is upgraded")

    def _upgrade_all(self) -> None:
        """In the end everybody is new, and so is the store's format, as soon as that is known."""
        for node in (self.cluster.meta, *self.cluster.data, *self.cluster.mounts):
            node.speaks = wire.PROTOCOL
        self.cluster.rest(REST_S)
        room = self.cluster.meta.room
        assert isinstance(room, Meta) and room.ledger.format == schema.META_FORMAT

    def run(self) -> None:
        """From the mounting to the last check."""
        self.cluster.mount()
        if self.kind.policy is not Policy.ALL:
            change = wire.SetPolicy(ROOT, self.kind.policy)
            self.cluster.do(self.cluster.volume.contact.change(change))
        self.processes = self.cast()
        for process in self.processes:
            self._launch(process)
        self.nemesis.start()
        self.cluster.rest(self.kind.seconds)
        self.nemesis.stop()
        self.world.run(lambda: not self.running, LAST_S)
        self.cluster.rest(REST_S)
        self.cluster.heal()
        if self.kind.mixed:
            self._upgrade_all()
        if self.kind.faults.metarot:  # what nobody asks for is found when the store is proven
            self.cluster.rest(1.5 * PROVE_EVERY_S)
        self._check()

    def cast(self) -> list[Process]:
        """Who works, and what they need."""
        return CASTS[self.kind.cast](self.cluster, self.nemesis)

    def most_owed(self) -> int:
        """Replicas, at any moment that somebody looked."""
        return max((one.most_owed for one in self.processes if isinstance(one, Counter)), default=0)

    def _launch(self, process: Process) -> None:
        def done(_: object, error: Failure | None) -> None:
            assert error is None, f"{process.name} ended: {error!r}"
            self.running.remove(process)

        self.running.add(process)
        self.programs.spawn(process.run(), done)

    def _check(self) -> None:
        for mount in self.cluster.mounts:
            for process in self.processes:
                process.check(mount)
        self.cluster.check(rotten=self.kind.faults.rot > 0)

    def story(self) -> Story:
        """So far."""
        counts, messages = self.nemesis.counts, self.world.network.counts
        seconds = self.world.now - self.world.began
        return Story(
            self.name, self.seed, self.world.story, seconds, dict(counts), self.most_owed(),
            dict(messages),
        )  # fmt: skip


class Broken(AssertionError):
    """A life that broke a promise: what, and how to see it again."""


def play(name: str, seed: int, wordy: bool = False, all_lines: bool = False) -> Story:
    """One life, to its end; Broken tells the end of its story (`wordy`: with each message) and the
    command that plays it."""
    random.seed(seed)
    ours = logging.getLogger("zdfs")
    before = ours.level
    ours.setLevel(logging.CRITICAL)
    life = Life(name, seed)
    life.world.wordy = wordy
    try:
        life.run()
    except Exception as error:
        again = f"again: make replay SEED={seed} LIFE={name}"
        said = "\n".join(life.world.story[0 if all_lines else -LAST_LINES :])
        raise Broken(f"{said}\n{error!r}\n{again}") from error
    finally:
        ours.setLevel(before)
    return life.story()
