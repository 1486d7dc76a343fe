"""What happens to a cluster while it works, drawn from a seed, until `stop()`."""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.world.cluster import META, Cluster
from tests.world.servers import Server
from tests.world.stores import MemoryBlockStore
from zdfs import limits, wire
from zdfs.calls import Ask, Peer
from zdfs.ids import Session, Slot
from zdfs.meta import Meta

Act = Callable[[], None]


@dataclass(frozen=True)
class Faults:
    """Which ones.  Loss of messages is the world's own."""

    crashes: bool = False  # of servers, with loss of power
    lost_disks: float = 0.0  # of the crashes of a dataserver, while all else is well
    old_stores: float = 0.0  # so many come back with the store of an earlier day
    skips: bool = False  # writes go on without one server
    cuts: bool = False  # somebody does not hear somebody else, for seconds
    silence: bool = False  # a mount and the metaserver don't, until the session dies
    every_s: float = 3.0

    @property
    def may_fail(self) -> bool:
        """Whether a mount may lose its session, and a call its sense."""
        return self.cuts or self.silence


class Nemesis:
    """Strikes now and then, from `start()` on."""

    def __init__(self, cluster: Cluster, faults: Faults, seed: int):
        self.cluster, self.world, self.faults = cluster, cluster.world, faults
        self.random = random.Random(seed)
        self.stopped = False
        self.crashed_at = 0.0  # the last time that a server died or stood still
        self._kept: dict[str, MemoryBlockStore] = {}

    def start(self) -> None:
        """The first strikes are some seconds away."""
        faults = self.faults
        strikes: list[Act] = []
        strikes += [self._crash] if faults.crashes else []
        strikes += [self._cut] if faults.cuts else []
        strikes += [self._skip] if faults.skips else []
        if strikes:
            self._again(lambda: self.random.choice(strikes)(), 2.0, faults.every_s)
        if faults.silence:
            self._again(self._hush, 5.0, 25.0)

    def _again(self, strike: Act, first_s: float, every_s: float) -> None:
        def act() -> None:
            if not self.stopped:
                strike()
                self.world.after(self.random.expovariate(1 / every_s), act)

        self.world.after(first_s, act)

    def stop(self) -> None:
        """From now on all can heal: everybody is up, every message arrives, nobody is skipped."""
        self.world.say("faults stop")
        self.stopped = True
        self.world.loss = self.world.doubling = 0.0
        self.world.cuts.clear()
        self.cluster.restart()
        if self.faults.skips:
            self._unskip()

    # --- crashes -------------------------------------------------------------------------------

    def _crash(self) -> None:
        victim = self.random.choice([self.cluster.meta, *self.cluster.data])
        whole = self.cluster.whole()
        if victim.room is None:
            return
        victim.crash()
        down_s = self.random.uniform(0.01, 5)
        self.crashed_at = self.world.now + down_s
        if whole and victim is not self.cluster.meta:
            self._exchange(victim)
        self.world.after(down_s, victim.restart)

    def _exchange(self, victim: Server) -> None:
        drawn = self.random.random()
        kept = self._kept.get(victim.address)
        if drawn < self.faults.lost_disks:
            self.world.say(f"{victim.address} loses its disk")
            slot, uuid = Slot(self.cluster.data.index(victim)), self.random.randbytes(16)
            victim.store = MemoryBlockStore(slot, lazy_sync=True, uuid=uuid)
            self._kept.pop(victim.address, None)
        elif kept is not None and drawn < self.faults.lost_disks + self.faults.old_stores:
            self.world.say(f"{victim.address} gets an old store")
            victim.store = copy.deepcopy(kept)
        elif kept is None and self.faults.old_stores:
            self._kept[victim.address] = copy.deepcopy(victim.store)

    # --- the network ---------------------------------------------------------------------------

    def _cut(self) -> None:
        names = list(self.world.nodes)
        source, target = self.random.sample(names, 2)
        self._separate({(source, target)}, self.random.uniform(0.2, 6))

    def _hush(self) -> None:
        name = self.random.choice(self.cluster.mounts).address
        pairs = {(META, name)}
        if self.random.random() < 0.7:
            pairs.add((name, META))
        self._separate(pairs, self.random.uniform(1, 2 * limits.SESSION_S))

    def _separate(self, pairs: set[tuple[str, str]], seconds: float) -> None:
        said = ", ".join(f"{source} -> {target}" for source, target in sorted(pairs))
        self.world.say(f"cut {said} for {seconds:.2f} s")
        self.world.cuts |= pairs

        def heal() -> None:
            self.world.say(f"healed {said}")
            self.world.cuts -= pairs

        self.world.after(seconds, heal)

    # --- skip ----------------------------------------------------------------------------------

    def _skipped(self) -> set[Slot] | None:
        """As the metaserver knows; None: it does not serve."""
        meta = self.cluster.meta.room
        if not isinstance(meta, Meta) or not meta.members.granted:
            return None
        return {slot for slot, server in meta.ledger.servers.items() if server.skipped}

    def _skip(self) -> None:
        """One at a time, from a whole cluster; or no longer."""
        skipped = self._skipped()
        slot = Slot(self.random.randrange(len(self.cluster.data)))
        if skipped is None:
            return
        if slot in skipped:
            self._say_skip(slot, False)
        elif not skipped and self.cluster.whole():
            self._say_skip(slot, True)

    def _unskip(self) -> None:
        skipped = self._skipped()
        for slot in sorted(skipped or ()):
            self._say_skip(slot, False)
        if skipped != set():
            self.world.after(1.0, self._unskip)

    def _say_skip(self, slot: Slot, on: bool) -> None:
        self.world.say(f"skip {slot} {'on' if on else 'off'}")
        ask = Ask(Peer(META), wire.Skip(slot, on))
        self.world.ask("admin", ask, Session(0), lambda _: None)
