"""Who works in lives under policy `quorum`: one changes the policy, one counts copies and debts."""

from tests.sim.processes import Process
from tests.world.cluster import Cluster
from tests.world.mounts import Mount
from tests.world.nemesis import Nemesis
from zdfs import blockmap, limits, placement, schema, wire
from zdfs.calls import Sleep
from zdfs.ids import ROOT, BlockNo, Policy, Slot
from zdfs.meta import Meta
from zdfs.tables import View

LAST_COUNT_S = 60.0  # virtual: debts are collected so soon after the faults


class Ruler(Process):
    """Changes the policy of everything now and then; in the end it is `quorum`."""

    rest_s = 4.0

    async def round(self, mount: Mount) -> None:
        """One change."""
        chosen = self.random.choice([Policy.ALL, Policy.QUORUM])
        if self.nemesis.stopped:
            chosen = Policy.QUORUM
        self.say(mount, f"gives {chosen.name.lower()}")
        await mount.call(mount.volume.contact.change(wire.SetPolicy(ROOT, chosen)))


class Counter(Process):
    """Twice a second: two servers have whatever counts, as long as no disk is lost; and how much
    is owed, which in the end is nothing."""

    rest_s = 1.0

    def __init__(self, cluster: Cluster, nemesis: Nemesis):
        super().__init__("counter", cluster.mounts, nemesis)
        self.cluster, self.most_owed = cluster, 0
        faults = nemesis.faults
        self.keeps = not (faults.lost_disks or faults.old_stores or faults.skips)

    async def seat(self) -> Mount:
        """Any: it looks at the stores."""
        return self.mounts[0]

    async def round(self, mount: Mount) -> None:
        """One look."""
        await Sleep(0.1)
        self.most_owed = max(self.most_owed, self.owed() or 0)
        if self.keeps:
            self._count_copies()

    def owed(self) -> int | None:
        """How many replicas; None: the metaserver is down."""
        room = self.cluster.meta.room
        if not isinstance(room, Meta) or room.ledger.cluster is None:
            return None
        with room.ledger.view() as view:
            slots = [Slot(number) for number in range(len(self.cluster.data))]
            return sum(view.account(slot).replicas for slot in slots)

    def _count_copies(self) -> None:
        servers = self.cluster.data
        if self.cluster.meta.room is None:  # what is in its store now may be undone by a restart
            return
        with self.cluster.meta.store.read() as read:
            for key, page in read.scan(b"m", schema.after(b"m")):
                ino, number = schema.page_of_key(key)
                start = View(read).inode(ino).start
                for place, entry in enumerate(blockmap.unpack_page(page)):
                    if entry is None:
                        continue
                    block = BlockNo(number * limits.PAGE_BLOCKS + place)
                    name = blockmap.name_of(ino, block, entry)
                    slots = placement.slots(start, block, len(servers))
                    copies = sum(servers[slot].store.find(name) is not None for slot in slots)
                    assert copies >= limits.QUORUM, f"{name} stands on {copies} servers"

    def check(self, mount: Mount) -> None:
        """Nobody is owed anything, soon."""
        self.world.run(lambda: self.owed() == 0, LAST_COUNT_S)
