"""What stat says of itself: numbers that stay, sizes, blocks, devices; statfs."""

import os
import stat

import pytest

from tests.live.cluster import Cluster
from tests.live.posix.linux import KINDS, each_kind, make, opened, put

here = pytest.mark.usefixtures("place")


@here
@each_kind
def test_every_way_says_the_same(kind: str) -> None:
    make(kind, "x")
    os.symlink("x", "s")
    found = os.lstat("x")
    with opened("x", os.O_PATH | os.O_NOFOLLOW) as fd, opened(".", os.O_RDONLY) as top:
        assert os.fstat(fd) == found == os.stat("x", dir_fd=top, follow_symlinks=False)
    if kind != "symlink":
        assert os.stat("s") == found
    with os.scandir() as entries:
        (entry,) = [one for one in entries if one.name == "x"]
    assert entry.inode() == found.st_ino and entry.stat(follow_symlinks=False) == found


@here
def test_numbers_are_of_one_each() -> None:
    for kind in KINDS:
        make(kind, kind)
        os.mkdir(f"d-{kind}")
    numbers = {os.lstat(name).st_ino for name in os.listdir()}
    assert len(numbers) == 2 * len(KINDS) and 0 not in numbers
    assert {os.lstat(name).st_dev for name in os.listdir()} == {os.stat(".").st_dev}


@here
def test_a_number_stays() -> None:
    put("f")
    ino = os.stat("f").st_ino
    os.rename("f", "g")
    put("g", b"content")
    os.chmod("g", 0)
    os.link("g", "h")
    os.mkdir("d")
    os.rename("g", "d/x")
    assert os.stat("d/x").st_ino == os.stat("h").st_ino == ino


@here
def test_dots() -> None:
    os.makedirs("d/e")
    assert os.stat("d/e/.").st_ino == os.stat("d/e").st_ino
    assert os.stat("d/e/..").st_ino == os.stat("d").st_ino
    assert os.stat("d/e/../..").st_ino == os.stat(".").st_ino


@here
def test_sizes() -> None:
    os.mkdir("d")
    os.symlink("target", "s")
    put("f", b"x" * 12_345)
    assert os.lstat("s").st_size == 6 and os.stat("f").st_size == 12_345
    assert os.stat("f").st_blksize >= 4096 and os.stat("f").st_blksize % 512 == 0
    put("empty")
    assert os.stat("empty").st_size == os.stat("empty").st_blocks == 0


@here
def test_blocks_are_what_is_stored() -> None:
    mib = 1 << 20
    put("full", b"x" * mib)
    assert mib <= os.stat("full").st_blocks * 512 <= 2 * mib
    with opened("sparse", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"end", 8 * mib)
        os.fsync(fd)
        found = os.fstat(fd)
        assert found.st_size == 8 * mib + 3 and 0 < found.st_blocks * 512 <= mib // 8
        os.pwrite(fd, b"m" * 200_000, mib)
        os.fsync(fd)
        grown = (os.fstat(fd).st_blocks - found.st_blocks) * 512
        assert 199_000 <= grown <= 5 * 65_536
        os.ftruncate(fd, 0)
        assert os.fstat(fd).st_blocks == 0


@here
def test_the_file_system() -> None:
    found = os.statvfs(".")
    assert 0 < found.f_bavail <= found.f_bfree <= found.f_blocks and found.f_namemax == 255
    assert found.f_frsize and found.f_bsize >= 512
    assert 0 < found.f_ffree <= found.f_files
    with opened(".", os.O_RDONLY) as fd:
        assert os.fstatvfs(fd).f_blocks == found.f_blocks


@pytest.mark.shared
def test_another_mount_says_the_same(posix_cluster: Cluster) -> None:
    """Numbers, types and times are of the file, not of a mount: tar and rsync depend on it."""
    mnt = posix_cluster.folder / "mnt"
    (mnt / "remounted").mkdir()
    for kind in KINDS:
        make(kind, str(mnt / "remounted" / kind))
    put(str(mnt / "remounted" / "regular"), b"x" * 1000)
    other = posix_cluster.mount("again")
    try:
        for kind in (*KINDS, "."):
            one, two = (os.lstat(where / "remounted" / kind) for where in (mnt, other))
            assert one[:2] == two[:2] and one[3:] == two[3:] and one.st_mtime_ns == two.st_mtime_ns
            assert one.st_rdev == two.st_rdev and one.st_blocks == two.st_blocks
        assert stat.S_ISFIFO((other / "remounted" / "fifo").lstat().st_mode)
    finally:
        posix_cluster.unmount(other)
