"""Who strikes: draws from the seed which fault of a life comes next, and whom it hits."""

import collections
import copy
import random
from collections.abc import Callable, Iterator

from tests.world.cluster import META, Cluster
from tests.world.faults import Faults
from tests.world.network import Link
from tests.world.servers import Server
from tests.world.world import Node
from zdfs import limits, schema, wire
from zdfs.calls import Ask, Peer
from zdfs.ids import Session, Slot
from zdfs.meta import Meta
from zdfs.wire import Harm

Act = Callable[[], None]

SOON_STEPS = 200  # a doom is at most so many awaits away
ROTTEN = b"iexm"  # kinds of records that may rot: what the metaserver can start without
DRIFT = 0.01
DAY_S = 86_400.0


class Nemesis:
    """Strikes now and then, from `start()` on, until `stop()`."""

    def __init__(self, cluster: Cluster, faults: Faults, seed: int):
        self.cluster, self.world, self.faults = cluster, cluster.world, faults
        self.random = random.Random(seed)
        self.stopped = False
        self.crashed_at = 0.0  # the last time that a server died or stood still
        self.counts: collections.Counter[str] = collections.Counter()
        self.victim = self.random.choice(cluster.data)  # whose blocks rot
        self._kept: dict[str, object] = {}
        self._down: set[str] = set()
        self._full: dict[str, int] = {}
        for server in self._servers():
            server.stopped = lambda server=server: self._later_up(server)  # type: ignore[misc]

    def _servers(self) -> list[Server]:
        return [self.cluster.meta, *self.cluster.data]

    def start(self) -> None:
        """The first strikes are some seconds away."""
        faults = self.faults
        strikes: dict[Act, float] = {
            self._cut_power: faults.powers,
            self._kill: faults.kills,
            self._black_out: faults.blackouts,
            self._kill_mount: faults.mounts,
            self._fail_disk: faults.errors,
            self._rot: faults.rot,
            self._rot_metadata: faults.metarot,
            self._fill: faults.full,
            self._cut: faults.cuts,
            self._clog: faults.clogs,
            self._slow: faults.slow,
            self._clock: faults.clocks,
            self._skip: faults.skips,
        }
        acts, weights = list(strikes), list(strikes.values())
        if any(weights):
            self._again(lambda: self.random.choices(acts, weights)[0](), 2.0, faults.every_s)
        if faults.silence:
            self._again(self._hush, 5.0, 25.0)
        if faults.clocks:
            for node in self.world.nodes.values():
                self._set_clock(node)

    def _again(self, strike: Act, first_s: float, every_s: float) -> None:
        def act() -> None:
            if not self.stopped:
                strike()
                self.world.after(self.random.expovariate(1 / every_s), act)

        self.world.after(first_s, act)

    def stop(self) -> None:
        """From now on all can heal: everybody is up, every message arrives, there is room, nobody
        is skipped.  Clocks go on as they are."""
        self.world.say("faults stop")
        self.stopped = True
        self.world.network.heal()
        for server in self._servers():
            server.doom = None
            self._empty(server)
        for mount in self.cluster.mounts:
            mount.doom = None
        self.cluster.restart()
        if self.faults.skips:
            self._unskip()

    def _said(self, kind: str, text: str) -> None:
        self.counts[kind] += 1
        self.world.say(text)

    # --- servers that end ----------------------------------------------------------------------

    def _cut_power(self) -> None:
        self._end("powers", lambda server: server.crash)

    def _kill(self) -> None:
        self._end("kills", lambda server: server.kill)

    def _end(self, kind: str, how: Callable[[Server], Act]) -> None:
        """Now, or at one of its next awaits."""
        victim = self.random.choice(self._servers())
        if victim.room is None or victim.doom is not None:
            return
        strike = self._ending(victim, kind, how(victim))
        if self.random.random() < 0.5:
            strike()
        else:
            victim.die, victim.doom = strike, self.random.randint(1, SOON_STEPS)

    def _black_out(self) -> None:
        """Of all at once, when one of them comes to one of its next awaits."""
        first = self.random.choice(self._servers())
        if first.room is None or first.doom is not None:
            return
        power = self.random.random() < 0.7

        def strike() -> None:
            self._said(
                "blackouts", "all servers " + ("lose their power" if power else "are killed")
            )
            for server in self._servers():
                if server.room is not None:
                    (server.crash if power else server.kill)()
                    self._later_up(server)

        first.die, first.doom = strike, self.random.randint(1, SOON_STEPS)

    def _ending(self, victim: Server, kind: str, end: Act) -> Act:
        def strike() -> None:
            whole = self.cluster.whole()
            self.counts[kind] += 1
            end()
            self._later_up(victim)
            if whole and victim is self.cluster.meta:
                self._exchange_meta()
            elif whole:
                self._exchange(victim)

        return strike

    def _later_up(self, victim: Server) -> None:
        down_s = self.random.uniform(0.01, 5)
        self.crashed_at = max(self.crashed_at, self.world.now + down_s)
        if self.faults.clocks:
            victim.clock.reset(self.world.now, self.random.uniform(0, DAY_S))
        self.world.after(down_s, victim.restart)

    def _exchange(self, victim: Server) -> None:
        drawn = self.random.random()
        kept = self._kept.get(victim.address)
        if drawn < self.faults.lost_disks:
            self._said("lost_disks", f"{victim.address} loses its disk")
            slot, uuid = Slot(self.cluster.data.index(victim)), self.random.randbytes(16)
            victim.store = self.cluster.disks.block_store(slot, uuid)
            self._kept.pop(victim.address, None)
        elif kept is not None and drawn < self.faults.lost_disks + self.faults.old_stores:
            self._said("old_stores", f"{victim.address} gets an old store")
            victim.store = copy.deepcopy(kept)
        elif kept is None and self.faults.old_stores:
            self._kept[victim.address] = copy.deepcopy(victim.store)

    def _exchange_meta(self) -> None:
        """An empty store, or one of before: half of each, once there is one."""
        meta, kept = self.cluster.meta, self._kept.get(META)
        if self.random.random() < self.faults.lost_metadata:
            old = kept is not None and self.random.random() < 0.5
            how = "gets an old store" if old else "loses its disk"
            self._said("lost_metadata", f"{META} {how}")
            for server in self.cluster.data:
                server.catch_up()
            meta.store = copy.deepcopy(kept) if old else self.cluster.disks.meta_store()
        elif kept is None and self.faults.lost_metadata:
            self._kept[META] = copy.deepcopy(meta.store)

    def _kill_mount(self) -> None:
        """One at a time: its follower must have opened its session."""
        mounts = self.cluster.mounts
        victim = self.random.choice(mounts)
        if not all(mount.ready for mount in mounts) or victim.doom is not None:
            return

        def strike() -> None:
            self.counts["mounts"] += 1
            victim.kill()
            self.world.after(self.random.uniform(0.01, 3), lambda: self.cluster.remount(victim))

        victim.die, victim.doom = strike, self.random.randint(1, SOON_STEPS)

    # --- disks ---------------------------------------------------------------------------------

    def _fail_disk(self) -> None:
        victim = self.random.choice(self._servers())
        if victim.room is not None:
            self._said("errors", f"the disk of {victim.address} is about to answer EIO")
            victim.store.fail(lands=self.random.random() < 0.5)
            self.crashed_at = max(self.crashed_at, self.world.now + 5)

    def _rot(self) -> None:
        victim = self.victim
        if victim.room is None:
            return
        names = [name for name, _ in victim.store.scan(None, 1 << 20)]
        for name in self.random.sample(names, min(len(names), self.random.randint(1, 5))):
            harm = self.random.choice([Harm.FLIP, Harm.FLIP, Harm.TRUNCATE, Harm.LOSE])
            self._said("rot", f"{victim.address}: {harm.name.lower()} of {name}")
            victim.store.harm(name, harm, self.random.randrange(1 << 30))
        victim.settle()

    def _rot_metadata(self) -> None:
        meta = self.cluster.meta
        records = meta.store.records
        keys = [key for key in records.keys if key[0] in ROTTEN]
        if meta.room is None or not keys:
            return
        key = self.random.choice(keys)
        value = bytearray(records.values[key])
        bit = self.random.randrange(8 * len(value))
        value[bit // 8] ^= 1 << bit % 8
        records.values[key] = bytes(value)
        self._said("metarot", f"a bit flips in {schema.describe(key)}")

    def _fill(self) -> None:
        victim = self.random.choice(self._servers())
        if victim.room is not None and victim.address not in self._full:
            self._said("full", f"the disk of {victim.address} is full")
            self._full[victim.address] = victim.store.total_bytes
            victim.store.total_bytes = 0
            self.world.after(self.random.uniform(1, 8), lambda: self._empty(victim))

    def _empty(self, victim: Server) -> None:
        if victim.address in self._full:
            self.world.say(f"the disk of {victim.address} has room")
            victim.store.total_bytes = self._full.pop(victim.address)

    # --- the network ---------------------------------------------------------------------------

    def _cut(self) -> None:
        names = list(self.world.nodes)
        if self.random.random() < 0.5:
            source, target = self.random.sample(names, 2)
            pairs = {(source, target)}
        else:
            here = set(self.random.sample(names, self.random.randint(1, len(names) - 1)))
            pairs = set(_between(here, set(names) - here))
            if self.random.random() < 0.3:
                pairs = {pair for pair in pairs if pair[0] in here}
        self._separate("cuts", pairs, self.random.uniform(0.2, 6))

    def _hush(self) -> None:
        name = self.random.choice(self.cluster.mounts).address
        pairs = {(META, name)}
        if self.random.random() < 0.7:
            pairs.add((name, META))
        self._separate("silence", pairs, self.random.uniform(1, 2 * limits.SESSION_S))

    def _separate(self, kind: str, pairs: set[Link], seconds: float) -> None:
        said = ", ".join(f"{source} -> {target}" for source, target in sorted(pairs))
        self._said(kind, f"cut {said} for {seconds:.2f} s")
        self.world.cuts.update(pairs)

        def heal() -> None:
            self.world.say(f"healed {said}")
            self.world.cuts.difference_update(pairs)

        self.world.after(seconds, heal)

    def _clog(self) -> None:
        source, target = self.random.sample(list(self.world.nodes), 2)
        seconds = self.random.uniform(0.2, 6)
        self._said("clogs", f"clogged {source} -> {target} for {seconds:.2f} s")
        self.world.network.clogs[source, target] = self.world.now + seconds

    def _slow(self) -> None:
        name = self.random.choice([server.address for server in self._servers()])
        extra_s, seconds = self.random.uniform(0.05, 1), self.random.uniform(1, 8)
        self._said("slow", f"{name} is slow by {extra_s:.2f} s for {seconds:.2f} s")
        delays = self.world.network.delays
        delays[name] = extra_s
        self.crashed_at = max(self.crashed_at, self.world.now + seconds)
        self.world.after(seconds, lambda: self._hurry(name))

    def _hurry(self, name: str) -> None:
        self.world.network.delays.pop(name, None)

    # --- clocks --------------------------------------------------------------------------------

    def _clock(self) -> None:
        self._set_clock(self.random.choice(list(self.world.nodes.values())))

    def _set_clock(self, node: Node) -> None:
        node.clock.drift(self.world.now, 1 + self.random.uniform(-DRIFT, DRIFT))
        node.clock.wall_s = self.random.uniform(-DAY_S, DAY_S) * self.random.random() ** 4
        ahead_s = node.clock.wall_s
        self._said(
            "clocks", f"the clock of {node.address}: {node.clock.rate:.4f}, {ahead_s:+.0f} s"
        )

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
        self._said("skips", f"skip {slot} {'on' if on else 'off'}")
        ask = Ask(Peer(META), wire.Skip(slot, on))
        self.world.ask("admin", ask, Session(0), lambda _: None)


def _between(some: set[str], others: set[str]) -> Iterator[Link]:
    """Both ways."""
    for one in some:
        for other in others:
            yield one, other
            yield other, one
