"""A full disk under any one node is ENOSPC for the writer, loses nothing, heals without a restart.

Each node's store in turn stands on a small tmpfs.
"""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import zdfs
from tests.conftest import until
from tests.live.cluster import Cluster
from zdfs.limits import BLOCK_BYTES as BLOCK

MIB = 1 << 20
DISK_BYTES = 160 * MIB
META_BYTES = 24 * MIB
HEALS_S = 60.0

# Writes files of SIZE bytes until an error; prints [names and digests acknowledged], errno.
FILL = """
import hashlib, json, os, sys
folder, size, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
done, number = {}, 0
for n in range(count):
    name, data = f"fill{n}", os.urandom(size)
    try:
        with open(f"{folder}/{name}", "wb", buffering=0) as file:
            for at in range(0, size, 1 << 20):
                file.write(data[at : at + (1 << 20)])
            if n % 2:
                os.fsync(file.fileno())
    except OSError as error:
        number = error.errno
        break
    done[name] = hashlib.sha256(data).hexdigest()
print(json.dumps([done, number]))
"""

# Makes directories and links until an error; prints the names acknowledged, errno.  Attributes
# that are large fill most of the disk: names alone would take long.
MAKE = """
import json, os, sys
folder, count = sys.argv[1], int(sys.argv[2])
done, number = [], 0
os.makedirs(f"{folder}/many", exist_ok=True)
large = True
for n in range(count):
    name = f"many/{n:06}" + "x" * 200
    try:
        if n % 3:
            os.symlink("y" * 4000, f"{folder}/{name}")
        else:
            os.mkdir(f"{folder}/{name}")
    except OSError as error:
        number = error.errno
        break
    done.append(name)
    try:
        if large and n % 3 == 0:
            os.setxattr(f"{folder}/{name}", "user.large", bytes(60_000))
    except OSError:
        large = False
print(json.dumps([done, number]))
"""


def run(
    script: str, *words: object, timeout: float = 150
) -> tuple[list[str] | dict[str, str], int]:
    """Run a script on a mount, apart from ourselves."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    names, number = json.loads(done.stdout)
    return names, number


def shell(line: str, timeout: float = 60) -> str:
    """Run a line on a mount, apart from ourselves."""
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


def succeeds(line: str, timeout: float = 60) -> bool:
    """Whether a line works now."""
    try:
        done = subprocess.run(["sh", "-c", line], capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def revive(cluster: Cluster, victim: str) -> None:
    """Start a node again if it has stopped, as it should: with a reason."""
    ended = cluster.nodes[victim]
    if ended.poll() is None:
        return
    assert ended.returncode == 1 and "start it again" in cluster.log(victim), cluster.log(victim)
    assert "Traceback" not in cluster.log(victim)
    if victim == "meta":
        cluster.start_meta()
    else:
        cluster.start_data(0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts small disks; they go away behind the cluster."""
    made: list[Path] = []

    def make(size_bytes: int) -> Path:
        where = tmp_path / f"disk{len(made)}"
        where.mkdir()
        options = f"size={size_bytes}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "zdfs-test", where], check=True)
        made.append(where)
        return where

    yield make
    for where in made:
        subprocess.run(["umount", where], check=True, timeout=30)


@pytest.fixture
def clusters(small_disk: object) -> Iterator[list[Cluster]]:
    """What is put in is closed before the disks go."""
    made: list[Cluster] = []
    yield made
    for cluster in made:
        cluster.close()


def verify(mount: Path, digests: dict[str, str]) -> None:
    """Every acknowledged file is whole."""
    for name, wanted in digests.items():
        assert shell(f"sha256sum < {mount}/{name}").split()[0] == wanted, name


def overwrite_until_full(mount: Path, local: Path) -> None:
    """Overwrite /old until that does not fit; each of its blocks is then whole, old or new.

    Each write stands alone: those before the one that did not fit may have been committed.
    """
    for _ in range(12):
        (local / "new").write_bytes(os.urandom(4 * MIB))
        if not succeeds(f"dd if={local}/new of={mount}/old bs=1M conv=notrunc,fsync"):
            break
        (local / "new").rename(local / "old")
    old, new = (local / "old").read_bytes(), (local / "new").read_bytes()
    shell(f"cat {mount}/old > {local}/seen")
    seen = (local / "seen").read_bytes()
    assert len(seen) == len(old)
    for at in range(0, len(seen), BLOCK):
        part = seen[at : at + BLOCK]
        assert part in (
            old[at : at + BLOCK],
            new[at : at + BLOCK],
        ), f"the block at {at}"
    (local / "seen").rename(local / "old")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("slot", [0, pytest.param(2, marks=pytest.mark.soak)])
def test_a_full_dataserver(
    slot: int,
    clusters: list[Cluster],
    tmp_path: Path,
    small_disk: Callable[[int], Path],
) -> None:
    disk = small_disk(DISK_BYTES)
    cluster = Cluster(tmp_path, 4, stores={slot: disk / "store"})
    clusters.append(cluster)
    mount = cluster.start().mount()
    old = bytes(range(256)) * 4096 * 4
    (tmp_path / "old").write_bytes(old)
    shell(f"cp {tmp_path}/old {mount}/old")
    files, number = run(FILL, mount, 4 * MIB, 100)
    assert number == errno.ENOSPC and isinstance(files, dict) and len(files) > 3
    verify(mount, files)
    overwrite_until_full(mount, tmp_path)
    assert int(shell(f"stat -f -c %a {mount}")) * int(shell(f"stat -f -c %S {mount}")) < 24 * MIB
    # Names and reads go on; deleting heals, without a restart.
    shell(f"mkdir {mount}/d && touch {mount}/d/empty && mv {mount}/d {mount}/e && rm -r {mount}/e")
    gone = sorted(files)[: len(files) // 2]
    shell("rm " + " ".join(f"{mount}/{name}" for name in gone))
    left = {name: digest for name, digest in files.items() if name not in gone}
    new = f"dd if=/dev/urandom of={mount}/new bs=1M count=8 conv=fsync"
    until(lambda: succeeds(new), HEALS_S, "writing works again")
    verify(mount, left)
    assert cluster.states() == ["serving"] * 4
    cluster.unmount(mount)
    cold = cluster.mount("cold")
    verify(cold, left)
    assert shell(f"sha256sum < {cold}/old") == shell(f"sha256sum < {tmp_path}/old")
    cluster.unmount(cold)


# Overwrites blocks of a file at random, COUNT of them; prints what each holds then.
OVERWRITE = """
import json, os, random, sys
path, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
fd = os.open(path, os.O_WRONLY)
blocks = os.fstat(fd).st_size // size
held = {}
for n in range(count):
    block = random.randrange(blocks)
    held[block] = n
    os.pwrite(fd, n.to_bytes(8, "big") * (size // 8), block * size)
    if n % 256 == 255:
        os.fsync(fd)
os.fsync(fd)
print(json.dumps([list(held.items()), 0]))
"""


@pytest.mark.timeout(240)
def test_stores_that_are_nearly_full_are_overwritten_for_long(
    clusters: list[Cluster], tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    """What was overwritten is won back before anybody is told that the disk is full."""
    stores = {slot: small_disk(DISK_BYTES) / "store" for slot in range(4)}
    cluster = Cluster(tmp_path, 4, stores=stores)
    clusters.append(cluster)
    mount = cluster.start().mount()
    room = os.statvfs(mount)
    blocks = int(room.f_bavail * room.f_frsize * 0.7) // BLOCK
    shell(f"head -c {blocks * BLOCK} /dev/zero > {mount}/old")
    held, number = run(OVERWRITE, mount / "old", blocks * 2, BLOCK)
    assert number == 0 and isinstance(held, list)
    cluster.unmount(mount)
    cold = cluster.mount("cold")
    shell(f"cat {cold}/old > {tmp_path}/seen")
    seen = (tmp_path / "seen").read_bytes()
    for block, value in held:
        assert seen[block * BLOCK : (block + 1) * BLOCK] == value.to_bytes(8, "big") * (
            BLOCK // 8
        ), block
    cluster.unmount(cold)


@pytest.mark.timeout(240)
def test_a_full_metaserver(
    clusters: list[Cluster], tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(META_BYTES)
    cluster = Cluster(tmp_path, 3, meta_store=disk / "store")
    clusters.append(cluster)
    mount = cluster.start().mount()
    shell(f"echo before > {mount}/before")
    names, number = run(MAKE, mount, 50_000)
    assert number == errno.ENOSPC and len(names) > 100
    assert shell(f"cat {mount}/before") == "before\n"
    found = shell(f"cd {mount}; find many -mindepth 1 | sort").split()
    assert found == sorted(names)
    shell(f"chmod 700 {mount}/many && mv {mount}/before {mount}/after")
    shell(f"rm -r {mount}/many", 120)
    until(lambda: succeeds(f"echo again > {mount}/again"), HEALS_S, "creating works again")
    names, number = run(MAKE, mount, 50)
    assert number == 0
    cluster.kill("meta")
    cluster.start_meta()
    assert shell(f"cat {mount}/after {mount}/again") == "before\nagain\n"
    cluster.unmount(mount)


@pytest.mark.timeout(240)
def test_who_comes_to_a_full_metaserver_may_delete(
    clusters: list[Cluster], tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    """Who was not there before the disk was full was refused: nobody could come and delete."""
    disk = small_disk(64 * MIB)
    cluster = Cluster(tmp_path, 3, meta_store=disk / "store")
    clusters.append(cluster)
    mount = cluster.start().mount()
    shell(f"mkdir {mount}/d && touch {mount}/d/f")
    cluster.unmount(mount)
    room = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        file.write(
            bytes(room.f_bavail * room.f_frsize - MIB // 2)
        )  # of the reserve, a part is left
    assert cluster.command("zdfs", "du", "/", "--meta", cluster.meta_port).returncode == 0
    late = cluster.mount("late")
    assert not succeeds(f"mkdir {late}/more") and os.listdir(late / "d") == ["f"]
    with zdfs.connect(cluster.meta_address) as fs:
        with pytest.raises(OSError, match="No space"):
            fs.mkdir("/more")
        fs.remove("/d/f")
    shell(f"rmdir {late}/d")
    (disk / "filler").unlink()
    until(lambda: succeeds(f"echo again > {late}/again"), HEALS_S, "creating works again")
    cluster.unmount(late)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("victim", ["meta", "data-0"])
def test_a_disk_that_somebody_else_fills_to_the_last_byte(
    victim: str,
    clusters: list[Cluster],
    tmp_path: Path,
    small_disk: Callable[[int], Path],
) -> None:
    """Not even the reserve is left: the node may stop, with a reason; nothing is lost."""
    disk = small_disk(64 * MIB if victim == "meta" else DISK_BYTES)
    store = disk / "store"
    cluster = (
        Cluster(tmp_path, 3, meta_store=store)
        if victim == "meta"
        else Cluster(tmp_path, 3, stores={0: store})
    )
    clusters.append(cluster)
    mount = cluster.start().mount()
    files, number = run(FILL, mount, MIB, 4)
    assert number == 0 and isinstance(files, dict)
    subprocess.run(["dd", "if=/dev/zero", f"of={disk}/filler", "bs=1M"], capture_output=True)
    more = subprocess.Popen(
        [
            sys.executable,
            "-c",
            FILL.replace("fill{n}", "more{n}"),
            mount,
            str(MIB),
            "60",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        ended = cluster.nodes[victim]
        until(lambda: more.poll() is not None or ended.poll() is not None, 90)
        (disk / "filler").unlink()
        revive(cluster, victim)
        said, _ = more.communicate(timeout=120)
    finally:
        more.kill()
        more.wait(30)
    done, number = json.loads(said)
    assert number in (0, errno.ENOSPC)

    def works() -> bool:
        revive(cluster, victim)  # it may have stopped later, at its next commit
        return succeeds(f"echo again > {mount}/again", 10)

    until(works, HEALS_S, "writing works again")
    verify(mount, files | done)
    cluster.unmount(mount)
    cold = cluster.mount("cold")
    verify(cold, files | done)
    cluster.unmount(cold)
