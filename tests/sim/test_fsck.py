"""Every kind of defect, planted behind the software's back in a simulated cluster: named with the
right kind, path and exit status; mended where that is no guess; then gone.  And none under load."""

import os
import random
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.sim import processes
from tests.sim.processes import Appender, Namer, Owner, Rewriter, Watcher
from tests.world.cluster import META, Cluster
from tests.world.faults import Faults
from tests.world.nemesis import Nemesis
from tests.world.stores import MemoryBlockStore
from tests.world.world import World, told
from zdfs import blockmap, checksum, findings, fsck, records, schema
from zdfs.findings import Report
from zdfs.ids import BlockNo, Epoch, Ino, Name, PageNo, Slot, Token, Version
from zdfs.ports import Listed, Transaction
from zdfs.schema import Dirent, Inode, Orphan, Totals
from zdfs.tables import Tables, decode
from zdfs.wire import Harm

FILE = b"/d/e/f"
BLOCKS = 5


class Planted:
    """A small tree of directories and a file of some blocks, at rest."""

    def __init__(self, seed: int):
        self.world = World(seed)
        self.cluster = Cluster(self.world, meta_copies=0)  # plants behind the chain
        self.cluster.mount()
        self.do, self.volume = self.cluster.do, self.cluster.volume
        self.write, self.read = self.cluster.mounts[0].put, self.cluster.mounts[0].get
        for path in (b"/d", b"/d/e", b"/other"):
            self.do(self.volume.make(path, stat.S_IFDIR | 0o755, 0, 0))
        self.data = random.Random(seed).randbytes(BLOCKS * 64)
        self.write(FILE, self.data)
        self.write(b"/d/g", b"short")
        self.do(self.volume.link(FILE, b"/other/link"))
        self.rest()
        assert self.check().status == 0

    def rest(self) -> None:
        """Grants return, attributes are forgotten."""
        self.cluster.rest(3.0)

    def check(self) -> Report:
        """fsck, changing nothing."""
        report: Report = self.do(fsck.check(META))
        assert not report.unfinished
        return report

    def ino(self, path: bytes) -> Ino:
        """Whose name it is."""
        number: Ino = self.do(self.volume.lookup(path)).ino
        return number

    # --- planting

    @contextmanager
    def records(self) -> Iterator[Transaction]:
        """The metaserver's store, changed behind its back."""
        with self.cluster.meta.store.write() as txn:
            yield txn
        self.cluster.meta.store.end_round()

    def edit(self, ino: Ino, **fields: object) -> None:
        """An inode with other fields, soundly sealed."""
        with self.records() as txn:
            key = schema.inode_key(ino)
            inode = decode(Inode, key, txn.get(key) or b"")
            txn.put(key, records.pack(replace(inode, **fields)))  # type: ignore[arg-type]

    def unlist(self, parent: Ino, name: bytes) -> None:
        """A name vanishes, and its directory knows it: as if the inode were forgotten."""
        with self.records() as txn:
            tables = Tables(txn)
            tables.set_entry(parent, name, None)
            tables.save()

    def enlist(self, parent: Ino, name: bytes, entry: Dirent) -> None:
        """A name too many, soundly counted."""
        with self.records() as txn:
            tables = Tables(txn)
            tables.set_entry(parent, name, entry)
            tables.save()

    def place(self, block: int, replica: int) -> tuple[Slot, Name]:
        """Where a replica of the file stands, and its name; replica 3: where none does."""
        ino = self.ino(FILE)
        with self.cluster.meta.store.read() as read:
            data = read.get(schema.page_key(ino, PageNo(0)))
            inode = decode(Inode, schema.inode_key(ino), read.get(schema.inode_key(ino)) or b"")
        assert data is not None
        entry = blockmap.entry_at(data, block)
        assert entry is not None
        slot = Slot((inode.start + block + replica) % len(self.cluster.data))
        return slot, Name(ino, BlockNo(block), entry.version)

    def put(self, slot: Slot, name: Name, data: bytes, start: Slot) -> None:
        """A version that nobody asked this server to keep."""
        store = self.cluster.data[slot].store
        store.append(name, checksum.seal(name, data), Epoch(1), start, data)
        self.cluster.data[slot].settle()


@pytest.fixture
def planted(seed: int) -> Iterator[Planted]:
    """Before anything is planted."""
    made = Planted(seed)
    with told(made.world, "tests/sim/test_fsck.py", seed):
        yield made


def one(report: Report, kind: str, status: int, path: bytes | None) -> findings.Finding:
    """The one finding of a report."""
    assert report.counts == {kind: 1}, findings.text(report)
    (found,) = report.findings
    assert (found.kind, found.path, report.status) == (kind, path, status), found
    shown = findings.facts(report)
    assert shown["status"] == status and shown["counts"] == {kind: 1}
    assert kind in findings.text(report)
    return found


def repaired(planted: Planted, kind: str) -> None:
    """--repair mends what was planted, says so, and the next check finds nothing."""
    found, left = planted.do(fsck.check_and_repair(META))
    assert found.counts[kind] and found.mended >= found.counts[kind], findings.text(found)
    assert left.status == 0, findings.text(left, found)
    planted.rest()
    assert planted.check().status == 0


# --- replicas ----------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", [Harm.FLIP, Harm.TRUNCATE, Harm.LOSE])
@pytest.mark.parametrize("both", [False, True])
def test_a_replica_that_is_not_good(planted: Planted, harm: Harm, both: bool) -> None:
    for replica in (0, 2) if both else (1,):
        slot, name = planted.place(3, replica)
        planted.cluster.data[slot].store.harm(name, harm, 1)
    report = planted.check()
    kind = "missing" if harm is Harm.LOSE else "damaged"
    assert report.counts == {kind: 2 if both else 1} and report.status == 1
    for found in report.findings:
        assert found.path in (FILE, b"/other/link") and found.block == 3
        assert f"{2 - both} other good" in found.text
    assert slot in {found.slot for found in report.findings}
    repaired(planted, kind)
    assert planted.read(FILE) == planted.data


def test_a_block_that_nobody_has(planted: Planted) -> None:
    for replica, harm in enumerate([Harm.FLIP, Harm.LOSE, Harm.TRUNCATE]):
        slot, name = planted.place(0, replica)
        planted.cluster.data[slot].store.harm(name, harm, 1)
    report = planted.check()
    assert report.counts == {"lost": 3} and report.status == 2
    found, left = planted.do(fsck.check_and_repair(META))
    assert found.mended == 0 and left.counts == {"lost": 3} and left.status == 2


# --- what is too much --------------------------------------------------------------------------


def test_a_version_that_another_took_the_place_of(planted: Planted) -> None:
    slot, name = planted.place(2, 0)
    old = name._replace(version=Version(Token(1), 7))
    planted.put(slot, old, b"old", Slot((slot - 2) % 4))
    found = one(planted.check(), "superseded", 1, planted.check().findings[0].path)
    assert (found.slot, found.block, found.version) == (slot, 2, "1.7")
    assert found.path in (FILE, b"/other/link")
    repaired(planted, "superseded")
    assert planted.read(FILE) == planted.data


def test_a_block_of_a_file_that_is_gone(planted: Planted) -> None:
    planted.put(Slot(2), Name(Ino(77), BlockNo(0), Version(Token(9), 1)), b"gone", Slot(1))
    found = one(planted.check(), "ownerless", 1, None)
    assert (found.slot, found.ino) == (2, 77)
    repaired(planted, "ownerless")


def test_a_copy_on_a_server_of_others(planted: Planted) -> None:
    slot, name = planted.place(1, 3)
    planted.put(slot, name, planted.data[64:128], Slot((slot - 1 - 3) % 4))
    found = one(planted.check(), "surplus", 1, planted.check().findings[0].path)
    assert (found.slot, found.block) == (slot, 1)
    repaired(planted, "surplus")
    assert planted.read(FILE) == planted.data


def test_a_surplus_copy_stays_as_long_as_it_may_be_needed(planted: Planted) -> None:
    slot, name = planted.place(1, 3)
    planted.put(slot, name, planted.data[64:128], Slot((slot - 1 - 3) % 4))
    for replica in range(3):
        at, _ = planted.place(1, replica)
        planted.cluster.data[at].store.harm(name, Harm.FLIP, 1)
    _, left = planted.do(fsck.check_and_repair(META))
    assert left.counts == {"lost": 3, "surplus": 1} and left.status == 2
    assert planted.cluster.data[slot].store.find(name) is not None


def test_what_a_writer_may_still_commit_is_no_finding(planted: Planted) -> None:
    do, volume = planted.do, planted.volume
    handle, _ = do(volume.open(b"/d/g", os.O_RDWR))
    do(volume.write(handle, memoryview(b"long"), 0))
    ino = planted.ino(b"/d/g")
    with planted.cluster.meta.store.read() as read:
        token = decode(Inode, b"", read.get(schema.inode_key(ino)) or b"").token
    for slot in map(Slot, range(4)):
        planted.put(slot, Name(ino, BlockNo(0), Version(token, 2**31)), b"put", Slot(slot))
    assert planted.check().status == 0


@pytest.mark.parametrize("disk", ["old", "new"])
def test_a_server_is_through_with_drops_that_are_not_for_it(planted: Planted, disk: str) -> None:
    """Else what it holds too much could never be told from what waits to be dropped."""
    planted.do(planted.volume.unlink(b"/d/g"))
    planted.rest()
    server = planted.cluster.data[2]
    planted.cluster.meta.crash()
    if disk == "new":
        server.crash()
        server.store = MemoryBlockStore(Slot(2), lazy_sync=True, uuid=bytes(16))
    planted.cluster.restart()
    planted.cluster.heal()
    planted.rest()
    planted.put(Slot(2), Name(Ino(77), BlockNo(0), Version(Token(9), 1)), b"gone", Slot(1))
    one(planted.check(), "ownerless", 1, None)


# --- metadata ----------------------------------------------------------------------------------


def test_a_wrong_link_count(planted: Planted) -> None:
    ino = planted.ino(FILE)
    planted.edit(ino, nlink=7)
    report = planted.check()
    found = one(report, "links", 1, report.findings[0].path)
    assert found.ino == ino and found.path in (FILE, b"/other/link")
    repaired(planted, "links")
    assert planted.do(planted.volume.lookup(FILE)).nlink == 2


def test_a_directory_that_counts_its_subdirectories_wrongly(planted: Planted) -> None:
    planted.edit(planted.ino(b"/d"), nlink=9)
    one(planted.check(), "links", 1, b"/d")
    repaired(planted, "links")
    assert planted.do(planted.volume.lookup(b"/d")).nlink == 3


def test_a_file_without_a_name(planted: Planted) -> None:
    ino = planted.ino(b"/d/g")
    planted.unlist(planted.ino(b"/d"), b"g")
    planted.rest()
    assert one(planted.check(), "nameless", 1, None).ino == ino
    repaired(planted, "nameless")
    assert planted.read(b"/lost+found/#%d" % ino) == b"short"
    assert planted.do(planted.volume.lookup(b"/lost+found")).mode == stat.S_IFDIR | 0o700


def test_a_directory_without_a_name(planted: Planted) -> None:
    ino = planted.ino(b"/d/e")
    planted.unlist(planted.ino(b"/d"), b"e")
    planted.edit(planted.ino(b"/d"), nlink=2)
    planted.rest()
    assert planted.check().counts == {"nameless": 1}
    repaired(planted, "nameless")
    assert planted.read(b"/lost+found/#%d/f" % ino) == planted.data
    assert planted.do(planted.volume.lookup(b"/lost+found")).nlink == 3


def test_a_second_lost_file_finds_its_place(planted: Planted) -> None:
    for path, parent, name in ((b"/d/g", b"/d", b"g"), (b"/other/x", b"/other", b"x")):
        if path != b"/d/g":
            planted.write(path, b"more")
        ino = planted.ino(path)
        planted.unlist(planted.ino(parent), name)
        planted.rest()
        repaired(planted, "nameless")
        assert planted.ino(b"/lost+found/#%d" % ino) == ino


@pytest.mark.parametrize("mode", [stat.S_IFREG, stat.S_IFDIR])
def test_a_name_that_leads_nowhere(planted: Planted, mode: int) -> None:
    parent = planted.ino(b"/d")
    planted.enlist(parent, b"ghost", Dirent(Ino(4444), mode))
    if mode == stat.S_IFDIR:
        planted.edit(parent, nlink=4)
    found = one(planted.check(), "dangling", 2, b"/d/ghost")
    assert (found.ino, found.name) == (parent, b"ghost")
    repaired(planted, "dangling")
    names = [entry.name for entry in listed(planted, b"/d")]
    assert sorted(names) == [b".", b"..", b"e", b"g"]


def listed(planted: Planted, path: bytes) -> list[Listed]:
    """readdir."""
    handle = planted.do(planted.volume.opendir(path))
    shown = list(planted.do(planted.volume.readdir(handle, 0)))
    planted.do(planted.volume.releasedir(handle))
    return shown


def test_a_name_of_another_type(planted: Planted) -> None:
    parent = planted.ino(b"/d")
    ino = planted.ino(b"/d/g")
    planted.unlist(parent, b"g")
    planted.enlist(parent, b"g", Dirent(ino, stat.S_IFLNK))
    one(planted.check(), "dangling", 2, b"/d/g")
    repaired(planted, "dangling")
    assert planted.read(b"/d/g") == b"short"


def test_a_directory_that_is_named_twice(planted: Planted) -> None:
    other = planted.ino(b"/other")
    planted.enlist(other, b"again", Dirent(planted.ino(b"/d/e"), stat.S_IFDIR))
    planted.edit(other, nlink=3)
    report = planted.check()
    assert report.status == 1 and set(report.counts) == {"parent", "links"}
    assert b"/other/again" in {found.path for found in report.findings}
    repaired(planted, "parent")
    assert planted.read(FILE) == planted.data


def test_a_directory_that_says_it_stands_elsewhere(planted: Planted) -> None:
    planted.edit(planted.ino(b"/d/e"), parent=planted.ino(b"/other"))
    one(planted.check(), "parent", 1, b"/d/e")
    repaired(planted, "parent")


def test_a_lost_name_whose_file_is_there(planted: Planted) -> None:
    ino = planted.ino(b"/d/g")
    with planted.records() as txn:
        txn.delete(schema.entry_key(planted.ino(b"/d"), b"g"))
    report = planted.check()
    assert report.counts == {"entries": 1, "nameless": 1} and report.status == 2
    repaired(planted, "entries")
    assert planted.read(b"/lost+found/#%d" % ino) == b"short"


@pytest.mark.parametrize("what", ["forgotten", "no orphan", "not removed", "not there"])
def test_orphans(planted: Planted, what: str) -> None:
    ino = planted.ino(b"/d/g")
    contents = planted.cluster.meta.room.contents  # type: ignore[union-attr]
    if what in ("forgotten", "no orphan"):
        planted.unlist(planted.ino(b"/d"), b"g")
        planted.edit(ino, nlink=0)
        planted.rest()
    with planted.records() as txn:
        about = Ino(4444) if what == "not there" else ino
        if what != "no orphan":
            txn.put(schema.number_key(b"o", about), records.pack(Orphan(1)))
    assert ino not in contents.orphans
    path = b"/d/g" if what == "not removed" else None
    one(planted.check(), "orphan", 1, path)
    repaired(planted, "orphan")
    with planted.cluster.meta.store.read() as read:
        gone = read.get(schema.inode_key(ino)) is None
    assert gone == (what in ("forgotten", "no orphan"))


def test_a_removed_file_that_is_named(planted: Planted) -> None:
    """Its name wins: nothing of it is let go of."""
    planted.edit(planted.ino(b"/d/g"), nlink=0)
    report = planted.check()
    assert set(report.counts) == {"links"} and b"/d/g" in {one.path for one in report.findings}
    _, left = planted.do(fsck.check_and_repair(META))
    assert left.status == 0
    planted.rest()
    assert planted.read(b"/d/g") == b"short"


def test_wrong_sums(planted: Planted) -> None:
    with planted.records() as txn:
        txn.put(schema.TOTALS, records.pack(Totals(99, 99)))
    one(planted.check(), "totals", 1, None)
    repaired(planted, "totals")
    with planted.records() as txn:
        txn.delete(schema.TOTALS)
    one(planted.check(), "totals", 1, None)
    repaired(planted, "totals")


def test_a_wrong_sum_of_stored_bytes(planted: Planted) -> None:
    planted.edit(planted.ino(b"/d/g"), stored=1)
    report = planted.check()
    assert set(report.counts) == {"stored", "totals"} and report.status == 1
    repaired(planted, "stored")


def test_what_can_not_be_mended_stays_and_is_named(planted: Planted) -> None:
    g = planted.ino(b"/d/g")
    planted.edit(g, size=1)
    one(planted.check(), "map", 2, b"/d/g")
    planted.edit(g, size=5, xattrs=1)
    one(planted.check(), "children", 2, b"/d/g")
    planted.edit(g, xattrs=0)
    key = schema.page_key(planted.ino(FILE), PageNo(0))
    values = planted.cluster.meta.store.records.values
    sound, values[key] = values[key], values[key][:-1] + bytes([values[key][-1] ^ 1])
    report = planted.check()
    assert report.status == 2 and {"record", "stored"} <= set(report.counts)
    assert {one.path for one in report.findings} <= {FILE, b"/other/link"}
    found, left = planted.do(fsck.check_and_repair(META))
    assert found.mended == 0 and left.counts == report.counts, "no zeros are made of a lost map"
    values[key] = sound
    assert planted.check().status == 0


# --- what could not be looked at ---------------------------------------------------------------


def test_a_server_that_is_down_is_named(planted: Planted) -> None:
    planted.cluster.data[1].crash()
    report = planted.do(fsck.check(META))
    assert report.status == 2 and "data:1" in " ".join(report.unfinished)
    planted.cluster.rest(5.0)
    report = planted.do(fsck.check(META))
    assert report.status == 2 and report.unfinished == ["the dataserver data:1 (slot 1) is down"]
    assert not report.counts and not findings.facts(report)["finished"]


def test_a_metaserver_that_starts_again_ends_the_walk(planted: Planted) -> None:
    def strike(stage: str, done: int, total: int) -> None:
        if stage == "metadata" and planted.cluster.meta.room is not None and not struck:
            struck.append(done)
            planted.cluster.meta.crash()
            planted.cluster.meta.restart()

    struck: list[int] = []
    for number in range(600):  # more records than one step looks at
        planted.do(planted.volume.make(b"/other/%d" % number, stat.S_IFREG | 0o600, 0, 0))
    report = planted.do(fsck.check(META, False, strike))
    assert struck and report.status == 2 and "start the check again" in report.unfinished[0]
    assert planted.check().status == 0


# --- under load --------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "repair"), [(0.0, False), (0.02, True)])
def test_no_false_alarm_while_programs_work(seed: int, loss: float, repair: bool) -> None:
    world = World(seed, loss=loss, doubling=loss)
    cluster = Cluster(world, mounts=2)
    cluster.mount()
    nemesis = Nemesis(cluster, Faults(), seed)
    with told(world, "tests/sim/test_fsck.py::test_no_false_alarm_while_programs_work", seed):
        for path in (processes.SHARED, processes.LOG, processes.ROWS):
            handle = cluster.do(cluster.volume.create(path, 0o644, 0, 0, os.O_RDWR))
            cluster.do(cluster.volume.flush(handle))
            cluster.do(cluster.volume.release(handle))
        running = [
            *(Owner(number, cluster.mounts, nemesis) for number in range(5)),
            *(Appender(number, cluster.mounts, nemesis) for number in range(3)),
            Rewriter(cluster.mounts, nemesis),
            *(Watcher(f"watcher{number}", cluster.mounts, nemesis) for number in range(2)),
            *(Namer(f"namer{number}", cluster.mounts, nemesis) for number in range(2)),
        ]
        for process in running:
            cluster.mounts[0].spawn(process.run())
        seen = 0
        for _ in range(12):
            report = cluster.mounts[1].do(fsck.check(META, repair))
            assert not report.unfinished or loss  # what was lost on the way is "down"
            seen += report.replicas
            assert not set(report.counts) - findings.GARBAGE, findings.text(report)
            assert not report.counts or loss, findings.text(report)
            cluster.rest(0.5)
        assert seen > 100
        nemesis.stop()
        cluster.rest(30.0)
        cluster.heal()
        for mount in cluster.mounts:
            for process in running:
                process.check(mount)
        cluster.check()
