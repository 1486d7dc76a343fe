"""The metaserver's store is lost for good: what the dataservers hold becomes files again, nothing
that they hold is dropped before somebody could look, and the cluster goes on."""

import os
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.world.cluster import META, Cluster
from tests.world.mounts import Mount
from tests.world.servers import Server
from tests.world.stores import MemoryBlockStore, MemoryMetaStore
from tests.world.world import Node, World, told
from zdfs import checksum, limits, metacheck, rebuild, salvage, tables
from zdfs.errors import Failure, StartError
from zdfs.ids import ROOT, BlockNo, Epoch, Ino, Name, Slot, Token, Version
from zdfs.meta import Meta
from zdfs.regain import Regain
from zdfs.salvage import Accepted, Made, Plan
from zdfs.wire import Harm

BLOCK = 64
PATIENCE_S = 60.0  # virtual
NOBODY: frozenset[Slot] = frozenset()


class Lost:
    """A cluster with files, and what becomes of it without its metadata."""

    def __init__(self, seed: int, servers: int = 4, meta_copies: int = limits.META_COPIES):
        self.world = World(seed)
        self.cluster = Cluster(self.world, servers, BLOCK, meta_copies=meta_copies)
        self.cluster.mount()
        self.dice = random.Random(seed)
        self.tool = Node(self.world, "tool")
        self.ring = tuple(f"data:{slot}" for slot in range(servers))
        self.truth: dict[Ino, bytes] = {}
        self.mount = self.cluster.mounts[0]

    def write(self, path: bytes, data: bytes) -> Ino:
        """A file, and the truth about it."""
        volume = self.mount.volume
        handle = self.mount.do(volume.create(path, 0o644, 7, 7, os.O_RDWR))
        self.mount.do(volume.write(handle, memoryview(data), 0))
        self.mount.do(volume.fsync(handle))
        self.mount.do(volume.release(handle))
        ino: Ino = self.mount.do(volume.lookup(path)).ino
        self.truth[ino] = data
        return ino

    def fill(self, count: int = 8) -> list[Ino]:
        """Files of all sizes, of more than one map page too."""
        sizes = [1, BLOCK, 70 * BLOCK + 5] + [
            self.dice.randrange(1, 9 * BLOCK) for _ in range(count)
        ]
        return [
            self.write(b"/f%d" % number, self.dice.randbytes(size))
            for number, size in enumerate(sizes)
        ]

    def lose(self) -> None:
        """No metaserver any more, nor a copy of its store; its dataservers notice."""
        self.cluster.rest(3.0)  # superseded versions are dropped
        self.cluster.meta.crash()
        self.lose_copies()
        self.cluster.rest(limits.DOWN_S + 1)

    def lose_copies(self, *slots: int) -> None:
        """Somebody removed copies of the metadata (none named: all).  Of the rounds in the logs a
        part stays: they are worth nothing without the rest."""
        for slot in slots or range(len(self.ring)):
            server = self.cluster.data[slot]
            if server.room is not None:
                server.kill()
                server.store.copy = MemoryMetaStore()
                server.restart()

    def survey(
        self, without: frozenset[Slot] = NOBODY, size: int | None = None,
        accepted: Accepted = Accepted(),
    ) -> Plan:  # fmt: skip
        """Who is there."""
        plan: Plan = self.tool.do(rebuild.survey(self.ring, META, without, size, accepted))
        return plan

    def rebuild(
        self, without: frozenset[Slot] = NOBODY, keep: bool = True, accepted: Accepted = Accepted()
    ) -> tuple[MemoryMetaStore, Made]:
        """A new store; its metadata are whole."""
        plan, store = self.survey(without, None, accepted), MemoryMetaStore()
        made: Made = self.tool.do(rebuild.build(plan, store, keep))
        with store.read() as read:
            assert metacheck.whole(read) == []
        return store, made

    def start(self, store: MemoryMetaStore) -> None:
        """A metaserver on the new store, all dataservers, a mount that remembers nothing."""
        self.cluster.meta = Server(self.world, META, store, self.cluster.meta.make)
        self.cluster.restart()
        self.cluster.heal()
        self.mount = Mount(self.world, "Z", META)
        self.mount.mount()
        self.cluster.mounts = [self.mount]

    def read(self, name: str) -> bytes:
        """A file in lost+found."""
        return self.mount.get(b"/lost+found/" + name.encode())

    def verify(self) -> None:
        """Every file is there, everything is in its place, and one may write."""
        for ino, data in self.truth.items():
            assert self.read(str(ino)) == data
        self.write(b"/new", b"after all that")
        self.cluster.rest(3.0)
        self.cluster.check()

    def stores(self, ino: Ino, block: int) -> list[tuple[Slot, Name, MemoryBlockStore]]:
        """Who has a block, as replicas 0, 1, 2."""
        found = []
        for slot, server in enumerate(self.cluster.data):
            for name, entry in server.store.scan(None, 10_000):
                if (name.ino, name.block) == (ino, block):
                    replica = (slot - entry.start - block) % len(self.ring)
                    found.append((replica, Slot(slot), name, server.store))
        return [one[1:] for one in sorted(found, key=lambda one: one[0])]

    def plant(self, ino: Ino, block: int, data: bytes, copies: int) -> Version:
        """A newer version that a writer has put on some servers, and never committed."""
        there = self.stores(ino, block)
        _, name, store = max(there, key=lambda one: one[1].version)
        entry = store.find(name)
        assert entry is not None
        token, sequence = name.version  # as the holder of the same grant would
        newer = name._replace(version=Version(token, sequence + 1))
        for slot in list(dict.fromkeys(slot for slot, _, _ in there))[:copies]:
            server = self.cluster.data[slot]
            server.store.append(newer, checksum.seal(newer, data), Epoch(1), entry.start, data)
            server.settle()
        self.cluster.rest(1.0)
        return newer.version


@pytest.fixture
def lost(seed: int) -> Iterator[Lost]:
    made = Lost(seed)
    with told(made.world, "tests/sim/test_rebuild.py", seed):
        yield made


def refused(lost: Lost, without: frozenset[Slot] = NOBODY, size: int | None = None) -> str:
    """Why it can't be done."""
    with pytest.raises(StartError) as failure:
        lost.survey(without, size)
    return str(failure.value)


# --- everything comes back -----------------------------------------------------------------------


@pytest.mark.parametrize("servers", [3, 4, 7])
def test_all_files_are_there_by_their_inode_numbers(seed: int, servers: int) -> None:
    lost = Lost(seed, servers)
    lost.fill()
    lost.lose()
    store, made = lost.rebuild()
    assert made.files == len(lost.truth) and made.stored == sum(map(len, lost.truth.values()))
    assert not made.counts and not made.thin and not made.extras
    lost.start(store)
    lost.verify()


def test_dataservers_that_were_killed_too(lost: Lost) -> None:
    lost.fill()
    lost.cluster.rest(3.0)
    for server in (lost.cluster.meta, *lost.cluster.data):
        server.crash()
    for server in lost.cluster.data:
        server.restart()
    lost.lose_copies()
    store, made = lost.rebuild()
    assert not made.counts
    lost.start(store)
    lost.verify()


def test_nothing_is_changed_by_a_rebuild_that_nobody_uses(lost: Lost) -> None:
    ino = lost.fill()[2]
    lost.lose()
    lost.plant(ino, 1, b"unfinished", 1)
    before = [set(server.store._held) for server in lost.cluster.data]
    _, first = lost.rebuild()
    assert first.extras == 1 and first.leftovers == 0
    _, second = lost.rebuild()
    assert (second.files, second.extras) == (first.files, 1) and second.leftovers == 3
    for server, held in zip(lost.cluster.data, before):
        assert held <= set(server.store._held)
    third, _ = lost.rebuild()
    lost.start(third)
    lost.verify()  # with what the first two copied dropped: no file names it


def test_again_after_it_was_used(lost: Lost) -> None:
    lost.fill()
    lost.lose()
    lost.start(lost.rebuild()[0])
    ino = lost.write(b"/later", lost.dice.randbytes(500))
    lost.lose()
    slot, name, blocks = lost.stores(ino, 3)[1]
    blocks.drop([name])
    lost.cluster.data[slot].settle()
    lost.cluster.rest(2.0)
    lost.cluster.data[slot].crash()
    lost.cluster.data[slot].restart()
    for number, said in lost.survey().told.items():  # or the next reconcile would be no news
        assert said.reconcile == lost.cluster.data[number].store.state.reconciled > 0
    store, made = lost.rebuild()
    assert made.files == len(lost.truth) and made.thin == 1
    lost.start(store)
    blocks = lost.cluster.data[slot].store
    assert blocks.find(name), "whoever is said to serve has looked, with the new maps"
    lost.verify()


# --- copies of the metadata ----------------------------------------------------------------------


def test_without_copies_from_the_beginning(seed: int) -> None:
    lost = Lost(seed, meta_copies=0)
    lost.fill()
    lost.cluster.rest(3.0)
    lost.cluster.meta.crash()
    lost.cluster.rest(limits.DOWN_S + 1)
    lost.start(lost.rebuild()[0])
    lost.verify()


def journal(lost: Lost) -> tuple[Slot, ...]:
    """Who keeps copies, all of them whole."""
    lost.cluster.heal()
    room = lost.cluster.meta.room
    assert isinstance(room, Meta) and room.members.copying is not None
    assert room.members.copying.complete()
    return room.members.copying.copies.slots


def test_what_was_rebuilt_is_copied_and_comes_back_from_the_copies(lost: Lost) -> None:
    lost.fill()
    journal(lost)
    lost.lose()
    lost.start(lost.rebuild()[0])
    assert len(journal(lost)) == 3
    kept = lost.write(b"/kept", b"with its name")
    lost.cluster.meta.crash()
    lost.cluster.rest(limits.DOWN_S + 1)
    assert "start zdfs-node meta with an empty --store" in refused(lost)
    lost.start(MemoryMetaStore())
    assert lost.mount.do(lost.mount.volume.lookup(b"/kept")).ino == kept
    del lost.truth[kept]  # for it isn't in lost+found
    lost.verify()


def test_who_gives_copies_up_gets_none_of_the_old_ones_back(lost: Lost) -> None:
    """Though each is whole, and has seen many more rounds than the new store."""
    lost.fill()
    members = journal(lost)
    lost.cluster.meta.crash()
    lost.cluster.rest(limits.DOWN_S + 1)
    assert "are whole on" in refused(lost)
    store, made = lost.rebuild(accepted=Accepted(copies=True))
    assert made.files == len(lost.truth)
    lost.start(store)
    journal(lost)
    lost.verify()
    lost.lose_copies(members[0])
    lost.cluster.heal()
    lost.cluster.meta.crash()
    lost.truth = {ino: data for ino, data in lost.truth.items() if data != b"after all that"}
    lost.start(MemoryMetaStore())
    for ino, data in lost.truth.items():
        assert lost.read(str(ino)) == data


def test_a_copy_that_may_be_old_is_not_given_up_unasked(lost: Lost) -> None:
    lost.fill(1)
    first, *others = journal(lost)
    lost.cluster.meta.crash()
    lost.lose_copies(*others)
    lost.cluster.rest(limits.DOWN_S + 1)
    assert f"is whole on data:{first}, but may not be the newest" in refused(lost)
    lost.start(lost.rebuild(accepted=Accepted(copies=True))[0])
    lost.verify()


# --- servers that are not there ------------------------------------------------------------------


def test_without_a_server_that_comes_back(lost: Lost) -> None:
    lost.fill()
    lost.lose()
    gone = lost.cluster.data[1]
    gone.crash()
    assert "data:1 is silent" in refused(lost) and "--without 1" in refused(lost)
    store, made = lost.rebuild(frozenset({Slot(1)}))
    assert made.files == len(lost.truth) and made.thin and not made.counts
    lost.start(store)  # and with it the server
    lost.verify()


@pytest.mark.parametrize(("servers", "dead"), [(3, {0, 1}), (4, {1, 2}), (4, {0, 2})])
def test_empty_servers_in_the_place_of_lost_ones(seed: int, servers: int, dead: set[int]) -> None:
    lost = Lost(seed, servers)
    lost.fill()
    lost.lose()
    for slot in dead:
        server = lost.cluster.data[slot]
        server.crash()
        server.store = MemoryBlockStore(Slot(slot), lazy_sync=True, uuid=bytes([99, slot] * 8))
        server.restart()
    store, made = lost.rebuild()
    assert made.files == len(lost.truth) and made.thin == made.blocks
    lost.start(store)
    lost.verify()


def test_three_neighbours_are_too_many(lost: Lost) -> None:
    lost.fill()
    lost.lose()
    assert "stood on data:0, data:2, data:3" in refused(lost, frozenset(map(Slot, (0, 2, 3))))


# --- refused -------------------------------------------------------------------------------------


def test_while_there_is_a_metaserver(lost: Lost) -> None:
    lost.fill(1)
    assert f"a metaserver answers at {META}" in refused(lost)
    lost.cluster.meta.crash()
    assert "heard from a metaserver" in refused(lost)


def test_a_metaserver_elsewhere_than_told(lost: Lost) -> None:
    lost.fill(1)
    with pytest.raises(StartError, match=f"a metaserver answers at {META}"):
        lost.tool.do(rebuild.survey(lost.ring, "nowhere:1", NOBODY))


def test_other_ports_or_another_order(lost: Lost) -> None:
    lost.fill(1)
    lost.lose()
    lost.ring = (*lost.ring[:2], lost.ring[3], lost.ring[2])
    assert "was started with the ports data:0 data:1 data:2 data:3" in refused(lost)


def test_the_block_size_is_known(lost: Lost) -> None:
    lost.fill(1)
    lost.lose()
    assert lost.survey().block_bytes == BLOCK
    assert f"--block-size 128: the cluster has {BLOCK}" in refused(lost, NOBODY, 128)


# --- versions that no commit vouches for ---------------------------------------------------------


def test_a_write_that_reached_one_server(lost: Lost) -> None:
    ino = lost.fill()[2]
    lost.lose()
    lost.plant(ino, 1, b"unfinished".ljust(BLOCK, b"."), 1)
    store, made = lost.rebuild()
    assert made.counts == {"unfinished": 1} and made.extras == 1
    lost.start(store)
    lost.verify()  # the old content counts
    assert lost.read(f"{ino}.1") == bytes(BLOCK) + b"unfinished".ljust(BLOCK, b".")


def test_more_than_one_version_that_does_not_count(lost: Lost) -> None:
    ino = lost.fill()[2]
    lost.lose()
    lost.plant(ino, 1, b"second".ljust(BLOCK, b"."), 3)
    lost.plant(ino, 1, b"third".ljust(BLOCK, b"."), 2)
    lost.plant(ino, 2, b"other".ljust(BLOCK, b"."), 1)
    store, made = lost.rebuild()
    assert made.counts == {"older": 1, "unfinished": 1} and made.extras == 2
    lost.start(store)
    old = lost.truth[ino]
    first, second = lost.read(f"{ino}.1"), lost.read(f"{ino}.2")
    assert first == bytes(BLOCK) + b"second".ljust(BLOCK, b".") + b"other".ljust(BLOCK, b".")
    assert second == bytes(BLOCK) + old[BLOCK : 2 * BLOCK]
    lost.truth[ino] = old[:BLOCK] + b"third".ljust(BLOCK, b".") + old[2 * BLOCK :]
    lost.verify()


@pytest.mark.parametrize("copies", [2, 3])
def test_a_write_that_may_have_been_committed(lost: Lost, copies: int) -> None:
    ino = lost.fill()[2]
    lost.lose()
    lost.plant(ino, 1, b"newer".ljust(BLOCK, b"."), copies)
    store, made = lost.rebuild()
    assert made.counts == {"older": 1} and made.doubts[0].readable
    assert made.doubts[0].kept == (b"%d.1" % ino,)
    lost.start(store)
    old = lost.truth[ino]
    assert lost.read(f"{ino}.1") == bytes(BLOCK) + old[BLOCK : 2 * BLOCK]
    lost.truth[ino] = old[:BLOCK] + b"newer".ljust(BLOCK, b".") + old[2 * BLOCK :]
    lost.verify()


def test_versions_that_do_not_count_may_be_let_go(lost: Lost) -> None:
    ino = lost.fill()[2]
    lost.lose()
    lost.plant(ino, 1, b"newer", 2)
    store, made = lost.rebuild(keep=False)
    assert made.counts == {"older": 1} and made.doubts[0].kept == (None,) and not made.extras
    lost.start(store)
    lost.truth[ino] = b"".join(
        [lost.truth[ino][:BLOCK], b"newer".ljust(BLOCK, b"\0"), lost.truth[ino][2 * BLOCK :]]
    )
    lost.verify()


def test_an_older_version_never_stands_in_for_one_that_is_damaged(lost: Lost) -> None:
    """It might be old bytes: EIO, and the older one in a file of its own."""
    ino = lost.fill()[2]
    lost.lose()
    newer = lost.plant(ino, 1, b"newer", 3)
    for _, name, store in lost.stores(ino, 1):
        if name.version == newer:
            store.harm(name, Harm.FLIP, 1)
    made_store, made = lost.rebuild()
    assert made.counts == {"older": 1} and not made.doubts[0].readable
    lost.start(made_store)
    with pytest.raises(Failure):
        lost.read(str(ino))
    assert lost.read(f"{ino}.1")[BLOCK:] == lost.truth[ino][BLOCK : 2 * BLOCK]


def test_a_new_file_that_reached_one_server(lost: Lost) -> None:
    lost.fill(1)
    lost.lose()
    name = Name(Ino((1 << 40) + 999), BlockNo(0), Version(Token((1 << 40) + 999), 1))
    server = lost.cluster.data[0]
    server.store.append(name, checksum.seal(name, b"first"), Epoch(1), Slot(0), b"first")
    server.settle()
    lost.cluster.rest(1.0)
    store, made = lost.rebuild()
    assert made.counts == {"alone": 1} and not made.thin
    lost.start(store)
    lost.truth[name.ino] = b""  # as if it had just been made
    lost.verify()
    assert lost.read(f"{name.ino}.1") == b"first"


def hostile(lost: Lost, name: Name, data: bytes = b"evil", epoch: int = 1, start: int = 0) -> None:
    """What a mount that meant harm has put on all servers, while they took such things."""
    for server in lost.cluster.data:
        server.store.append(name, checksum.seal(name, data), Epoch(epoch), Slot(start), data)
        server.settle()
    lost.cluster.rest(1.0)


@pytest.mark.parametrize("block", [0, 1, 500])
def test_versions_that_can_not_be_stand_in_nobodys_way(lost: Lost, block: int) -> None:
    """They ended the rebuild, so one client could keep a cluster from ever coming back."""
    ino = lost.fill()[2]
    lost.lose()
    best = Name(ino, BlockNo(block), Version(Token(2**64 - 1), 2))
    hostile(lost, best, epoch=999)
    hostile(lost, best._replace(version=Version(Token(2**64 - 1), 3)), start=4)
    hostile(lost, best._replace(version=Version(Token(2**64 - 1), 4)), bytes(BLOCK + 1))
    store, made = lost.rebuild()
    assert made.counts == {"impossible": 1} and made.files == len(lost.truth)
    assert sorted(one or b"" for one in made.doubts[0].kept) == [b"", *(
        b"%d.%d" % (ino, number) for number in (1, 2)
    )]  # fmt: skip
    lost.start(store)
    lost.verify()
    assert lost.read(f"{ino}.1")[-4:] == b"evil"


def test_files_that_can_not_be_stand_in_nobodys_way(lost: Lost) -> None:
    ino = lost.fill()[2]
    lost.lose()
    version = Version(Token(1), 1)
    for name in (
        Name(ROOT, BlockNo(0), version),
        Name(Ino(77), BlockNo(2**64 - 1), version),
        Name(ino, BlockNo(2**63 // BLOCK), version),
    ):
        hostile(lost, name)
    new = Name(Ino((1 << 40) + 999), BlockNo(0), version)
    hostile(lost, new, epoch=999, start=999)
    store, made = lost.rebuild()
    assert made.counts == {"impossible": 4}
    lost.start(store)
    lost.truth[new.ino] = b""
    lost.verify()
    assert lost.read(f"{new.ino}.1") == b"evil"


def test_a_block_size_that_is_only_said_may_be_wrong(lost: Lost) -> None:
    """Then whatever is longer would be left out."""
    lost.fill()
    lost.lose()
    plan = lost.survey()
    told = {slot: replace(one, block_bytes=0) for slot, one in plan.told.items()}
    plan = plan._replace(told=told, block_bytes=BLOCK // 2)
    with pytest.raises(StartError, match="give another --block-size"):
        lost.tool.do(rebuild.build(plan, MemoryMetaStore()), PATIENCE_S)


def test_what_was_cut_off_while_a_server_was_away(lost: Lost) -> None:
    """It still has it when it comes back: old bytes in what was made longer again."""
    ino = lost.fill()[2]
    lost.cluster.rest(3.0)
    away = lost.cluster.data[0]
    away.crash()
    volume, path = lost.mount.volume, b"/f2"
    lost.mount.do(volume.truncate(path, None, BLOCK))
    lost.mount.do(volume.truncate(path, None, 9 * BLOCK))
    lost.truth[ino] = lost.truth[ino][:BLOCK]  # and the hole behind it, of which nothing is left
    lost.lose()
    away.restart()
    assert "is whole on data:0, but may not be the newest" in refused(lost)
    lost.lose_copies(0)
    lost.cluster.rest(1.0)
    store, made = lost.rebuild()
    assert set(made.counts) == {"alone"} and made.extras == 1
    lost.start(store)
    lost.verify()


def test_servers_that_were_being_rebuilt(lost: Lost) -> None:
    """What they lack proves nothing: a block's last copy counts."""
    ino = lost.fill()[2]
    lost.lose()
    for slot, name, blocks in lost.stores(ino, 5)[:2]:
        blocks.drop([name])
        blocks.set_state(replace(blocks.state, wanted=blocks.state.reconciled + 1))
        lost.cluster.data[slot].settle()
    lost.cluster.rest(1.0)
    store, made = lost.rebuild()
    assert not made.counts and made.thin == 1
    lost.start(store)
    lost.verify()


def test_holes_that_may_be_losses_are_accepted_only_when_asked(lost: Lost) -> None:
    ino = lost.write(b"/f", bytes(range(1, 5)) * BLOCK)
    lost.lose()
    gone = frozenset(map(Slot, (0, 2, 3)))
    refused(lost, gone)
    store, made = lost.rebuild(gone, accepted=Accepted(holes=True))
    assert made.files == 1 and made.blocks == 3
    start = lost.stores(ino, 0)[0][0]
    with store.read() as read:
        inode = tables.View(read).inode(ino)
        assert (inode.start, inode.stored) == (start, 3 * BLOCK)


def test_a_server_goes_away_underway(lost: Lost) -> None:
    lost.fill(1)
    lost.lose()
    plan = lost.survey()
    lost.cluster.data[2].crash()
    with pytest.raises(StartError, match="data:2: .*; start over"):
        lost.tool.do(rebuild.build(plan, MemoryMetaStore()), PATIENCE_S)


def test_a_store_that_was_not_finished_founds_nothing(lost: Lost) -> None:
    lost.fill(1)
    lost.lose()
    plan, store = lost.survey(), MemoryMetaStore()
    lost.cluster.data[2].crash()
    with pytest.raises(StartError):
        lost.tool.do(rebuild.build(plan, store), PATIENCE_S)
    lost.cluster.meta = Server(lost.world, META, store, lost.cluster.meta.make)
    lost.cluster.rest(5.0)
    room = lost.cluster.meta.room
    assert isinstance(room, Regain) and "lost for good: zdfs meta rebuild" in room.note
    lost.cluster.meta.crash()
    lost.cluster.data[2].restart()
    lost.cluster.rest(limits.DOWN_S + 1)
    lost.start(lost.rebuild()[0])
    lost.verify()


def test_plans_know_what_they_can_be_sure_of(lost: Lost) -> None:
    lost.fill(1)
    lost.lose()
    plan = lost.survey()
    assert plan.sure and plan.incarnation == plan.promised + 1
    assert salvage.left_over(plan, Ino((plan.incarnation << 40) + 1))
    assert not salvage.left_over(plan, Ino(plan.promised << 40))
    some = lost.survey(frozenset({Slot(0), Slot(2)}))
    assert not some.sure and not salvage.left_over(some, Ino((some.incarnation << 40) + 1))
    assert some.incarnation == plan.incarnation + salvage.UNHEARD
