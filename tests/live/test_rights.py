"""Keys with fewer rights on real processes: who only reads, who is confined, whose root is nobody.

What a mount's kernel would refuse is not tried here: programs are root, which passes all its
checks, and the servers must say no.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live.cluster import BIN, Cluster
from tests.live.hands import Hand
from zdfs import blockmap, rights, wire
from zdfs.calls import Peer, call
from zdfs.errors import Failure, NoPass
from zdfs.ids import BlockNo, PageNo
from zdfs.keys import Role
from zdfs.link import Link
from zdfs.paths import PathVolume

pytestmark = pytest.mark.shared
SIZE = 300_000  # several blocks


class House(Cluster):
    """A keyed cluster, all nodes with one key directory, and an administrator's mount."""

    def __init__(self, folder: Path):
        super().__init__(folder, 3, keys=folder / "keys")
        self.manage("init", self.keys)
        self.start()
        self.whole = self.mount("whole")
        (self.whole / "in" / "deep").mkdir(parents=True)
        (self.whole / "in" / "deep" / "leaf").write_bytes(b"l" * SIZE)
        (self.whole / "out").write_bytes(b"o" * SIZE)
        (self.whole / "shared").mkdir()
        (self.whole / "shared").chmod(0o1777)

    def manage(self, *words: object) -> None:
        done = self.command("zdfs", "keys", *words)
        assert done.returncode == 0, done.stderr

    def client(self, name: str, given: str) -> Path:
        """A key with these rights, and what a mount under it shows."""
        self.manage("add", self.keys, name, "--rights", given)
        until(lambda: f"{name} (" not in self.refusals(name), 10, "the servers know the key")
        return self.mount(name, "--keys", str(self.given(name)))

    def restrict(self, name: str, rights_: str) -> None:
        """Change what a key may do, as OPERATING says: its line's end."""
        assert self.keys is not None
        lines = (self.keys / "cluster").read_text().splitlines()
        lines = [
            (
                line.partition(" rights=")[0] + f" rights={rights_}"
                if line.startswith(f"{name} ")
                else line
            )
            for line in lines
        ]
        new = self.keys / "new"
        new.write_text("\n".join(lines) + "\n")
        new.chmod(0o600)
        log = len(self.log("meta"))
        new.rename(self.keys / "cluster")
        until(lambda: "keys are allowed" in self.log("meta")[log:], what="it counts")

    def given(self, name: str) -> Path:
        assert self.keys is not None
        return self.keys / "given" / name

    def refusals(self, name: str) -> str:
        """What a command under that key says; nothing once the servers know it."""
        keys = str(self.given(name))
        return self.command("zdfs", "status", "--meta", self.meta_port, "--keys", keys).stderr


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("rights"))
    try:
        yield made
    finally:
        made.close()


def error(*words: object) -> str:
    """What a program says that fails."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0, done.stdout
    return done.stderr


def test_who_only_reads(house: House) -> None:
    mount = house.client("reader", "ro")
    assert (mount / "out").read_bytes() == b"o" * SIZE
    for words in (
        ("touch", mount / "new"), ("rm", mount / "out"), ("mkdir", mount / "d"),
        ("sh", "-c", f"echo x >>{mount}/out"), ("chmod", "600", mount / "out"),
    ):  # fmt: skip
        assert "Read-only file system" in error(*words), words
    house.unmount(mount)


def test_a_subtree_is_all_there_is(house: House) -> None:
    mount = house.client("inside", "root=/in")
    assert sorted(os.listdir(mount)) == ["deep"]
    assert (mount / "deep" / "leaf").read_bytes() == b"l" * SIZE
    (mount / "mine").write_bytes(b"m" * SIZE)
    subprocess.run(["sync", mount / "mine"], check=True, timeout=60)
    assert (house.whole / "in" / "mine").read_bytes() == b"m" * SIZE
    (mount / "mine").rename(mount / "deep" / "mine")
    until(lambda: (house.whole / "in" / "deep" / "mine").exists(), 15)
    with open(mount / "deep" / "mine", "r+b") as file:  # goes on after it was unlinked
        os.unlink(mount / "deep" / "mine")
        file.write(b"n" * SIZE)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        assert file.read() == b"n" * SIZE
    (house.whole / "in" / "later").write_text("later")
    until(lambda: "later" in os.listdir(mount), 15, "it hears of what others do in its root")
    house.unmount(mount)


def test_the_numbers_of_what_is_outside_open_nothing(house: House) -> None:
    """A client that doesn't keep to paths: it asks for an inode, and for its blocks."""
    house.manage("add", house.keys, "burglar", "--rights", "root=/in")
    until(lambda: "may not ask" in house.refusals("burglar"), 10, "the servers know the key")
    facts = house.where("/out")
    with closing(Link(keys=house.given("burglar"))) as link:
        volume = PathVolume(house.meta_address, "(burglar)", link)
        link.run(volume.contact.open())
        outside = facts["inode"]
        with pytest.raises(Failure, match="Stale file handle"):
            link.run(volume.contact.ask(wire.GetAttributes(outside)))
        with pytest.raises(Failure, match="Stale file handle"):
            link.run(volume.contact.ask(wire.ReadMap(outside, PageNo(0), 1)))
        inside = link.run(volume.lookup(b"/deep/leaf"))
        link.run(volume.contact.ask(wire.ReadMap(inside.ino, PageNo(0), 1)))
        permit = volume.contact.permits.of(inside.ino)
        assert permit and not volume.contact.permits.of(outside)
        wanted = _wanted(house, "/out")
        for shown in (b"", permit):
            request = wire.Get(volume.contact.cluster, (wanted,), True, shown)
            slot = facts["blocks"][0]["replicas"][0]["slot"]
            with pytest.raises(NoPass):
                link.run(call(Peer(volume.contact.map.members[slot].address), request))
        link.run(volume.stop())


def _wanted(house: House, path: str) -> wire.Wanted:
    """The first block of a file, as its map names it."""
    with closing(Link(keys=house.admin_keys)) as link:
        volume = PathVolume(house.meta_address, "(test)", link)
        link.run(volume.contact.open())
        attributes, pages = link.run(volume.where(path.encode()))
        link.run(volume.stop())
    entry = blockmap.unpack_page(pages[0].entries)[0]
    assert entry is not None
    name = blockmap.name_of(attributes.ino, BlockNo(0), entry)
    return wire.Wanted(name, entry.seal, attributes.epoch, attributes.start, entry.stored)


def test_root_is_nobody(house: House) -> None:
    mount = house.client("squashed", "root-squash")
    (mount / "shared" / "mine").write_text("mine")
    found = os.stat(house.whole / "shared" / "mine")
    assert (found.st_uid, found.st_gid) == (rights.NOBODY, rights.NOBODY)
    (house.whole / "secret").write_text("secret")
    (house.whole / "secret").chmod(0o600)
    assert "denied" in error("cat", mount / "secret")
    assert (mount / "out").read_bytes() == b"o" * SIZE, "everybody may read that"
    assert "denied" in error("touch", mount / "new")
    assert "not permitted" in error("chown", "0", mount / "shared" / "mine")
    assert "not permitted" in error("chmod", "4755", mount / "out")
    (house.whole / "log").write_text("secret ")
    (house.whole / "log").chmod(0o622)
    assert "denied" in error("cat", mount / "log")
    for _ in range(2):  # the second time, the mount has the grant
        with open(mount / "log", "a") as file:
            file.write("told ")
    assert (house.whole / "log").read_text() == "secret told told "
    (house.whole / "box").mkdir()
    (house.whole / "box").chmod(0o733)
    (mount / "box" / "dropped").write_text("dropped")
    assert "denied" in error("ls", mount / "box")
    house.unmount(mount)


def test_users_have_other_numbers(house: House) -> None:
    mount = house.client("mapped", "uid=0:4000 gid=0:5000")
    (mount / "shared" / "theirs").write_text("theirs")
    assert os.stat(mount / "shared" / "theirs").st_uid == 0
    found = os.stat(house.whole / "shared" / "theirs")
    assert (found.st_uid, found.st_gid) == (4000, 5000)
    house.unmount(mount)


def test_rights_that_are_none_make_no_key(house: House) -> None:
    said = error(BIN / "zdfs", "keys", "add", house.keys, "typo", "--rights", "rot=/in")
    assert "'rot=/in': rights are ro, root=/PATH" in said
    assert not house.given("typo").exists()
    assert rights.parse(Role.CLIENT, "ro root=/in".split()).root == b"/in"


def test_passes_outlive_both_servers(house: House) -> None:
    """A new metaserver signs under another secret; a new dataserver has to hear it first."""
    mount = house.client("patient", "root=/in")
    with open(mount / "deep" / "leaf", "rb") as file:
        assert file.read(10) == b"l" * 10
        house.kill("meta")
        house.start_meta()
        house.kill("data-0")
        house.start_data(0)
        house.wait_serving()
        (mount / "again").write_bytes(b"a" * SIZE)
        subprocess.run(["sync", mount / "again"], check=True, timeout=60)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert file.read() == b"l" * (SIZE - 10)
    house.unmount(mount)


@pytest.mark.parametrize("cut", ["ro", "root=/in", "root-squash"])
def test_rights_that_are_cut_while_something_is_written(house: House, cut: str) -> None:
    """Whoever else writes the file need not wait; the program is told if its bytes are lost."""
    name = f"cut-{cut.partition('=')[0]}"
    mount = house.client(name, "rw")
    victim = house.whole / f"victim-of-{name}"
    victim.write_bytes(b"v" * 1000)
    victim.chmod(0o644)
    until(lambda: (mount / victim.name).exists(), 15)
    with Hand(mount) as hand:
        hand(f"fd = os.open({victim.name!r}, os.O_RDWR)")
        hand("os.pwrite(fd, b'dirty', 100)")
        house.restrict(name, cut)
        subprocess.run(["sh", "-c", f"printf zz >>{victim}"], check=True, timeout=60)
        assert victim.stat().st_size == 1002
        stored = True  # before it was cut
        try:
            hand("os.fsync(fd)")
        except OSError:
            stored = False
        old, new = b"v" * 1000 + b"zz", b"v" * 100 + b"dirty" + b"v" * 895 + b"zz"
        assert victim.read_bytes() == new or (victim.read_bytes() == old and not stored)
    house.unmount(mount)
