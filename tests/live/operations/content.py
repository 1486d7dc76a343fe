"""What files hold: writing, cutting, holes, mapping, what is open and unlinked."""

import errno
import mmap
import os
import random
import stat
import subprocess
import sys
from pathlib import Path

from live.operations import GIB, KIB, MIB, fails, opened


def create_and_exclusive(top: Path) -> None:
    """O_CREAT, O_EXCL; the mode obeys the umask; the owner is the caller."""
    os.umask(0o027)
    with opened(top / "a", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666) as fd:
        found = os.fstat(fd)
        assert stat.S_IMODE(found.st_mode) == 0o640 and found.st_uid == os.getuid()
    with fails(errno.EEXIST):
        os.open(top / "a", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.symlink("nowhere", top / "l")
    with fails(errno.EEXIST):
        os.open(top / "l", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with opened(top / "l", os.O_CREAT | os.O_WRONLY):
        assert (top / "nowhere").exists()
    with opened(top / "ro", os.O_CREAT | os.O_RDWR, 0o444) as fd:
        assert os.write(fd, b"x") == 1  # the mode counts from the next open on


def read_and_write(top: Path) -> None:
    """Overwrites at odd places, reads over the end, pread, pwrite, vectors."""
    dice = random.Random(7)
    model = bytearray()
    with opened(top / "f", os.O_CREAT | os.O_RDWR) as fd:
        for _ in range(120):
            at, data = dice.randrange(400_000), dice.randbytes(dice.choice([1, 17, 4096, 70_000]))
            assert os.pwrite(fd, data, at) == len(data)
            model.extend(bytes(max(0, at + len(data) - len(model))))
            model[at : at + len(data)] = data
            at, size = dice.randrange(500_000), dice.randrange(200_000)
            assert os.pread(fd, size, at) == model[at : at + size]
        assert os.fstat(fd).st_size == len(model)
        assert os.pwritev(fd, [b"abc", b"def"], 65_533) == 6
        assert os.pread(fd, 6, 65_533) == b"abcdef"
        with fails(errno.EBADF), opened(top / "f", os.O_RDONLY) as reader:
            os.write(reader, b"x")
        with fails(errno.EBADF), opened(top / "f", os.O_WRONLY) as writer:
            os.read(writer, 1)
    model[65_533:65_539] = b"abcdef"
    assert (top / "f").read_bytes() == model


def truncate(top: Path) -> None:
    """Shrink, grow, shrink and grow again: what was cut never comes back."""
    path = top / "f"
    path.write_bytes(b"x" * 200_000)
    os.truncate(path, 70_000)
    os.truncate(path, 150_000)
    assert path.read_bytes() == b"x" * 70_000 + bytes(80_000)
    with opened(path, os.O_RDWR) as fd:
        os.pwrite(fd, b"y" * 10, 149_990)
        os.ftruncate(fd, 65_536)
        os.ftruncate(fd, 65_537)
        os.pwrite(fd, b"z", 65_540)
        assert os.pread(fd, 100, 65_535) == b"x" + bytes(4) + b"z"
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"end", 5)
        assert os.fstat(fd).st_size == 8
    assert path.read_bytes() == bytes(5) + b"end"
    path.open("wb").close()
    assert path.stat().st_size == 0
    before = path.stat().st_mtime_ns
    os.truncate(path, 10)
    assert path.stat().st_mtime_ns > before
    with fails(errno.EINVAL):
        os.truncate(path, -1)
    with fails(errno.EISDIR):
        os.truncate(top, 0)
    with fails(errno.EINVAL), opened(path, os.O_RDONLY) as fd:
        os.ftruncate(fd, 0)


def sparse(top: Path) -> None:
    """Holes read as zeros, cost nothing, and st_blocks says so."""
    path = top / "f"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"end", 8 * MIB)
        os.fsync(fd)
        found = os.fstat(fd)
        assert found.st_size == 8 * MIB + 3 and 0 < found.st_blocks * 512 <= 128 * KIB
        assert os.pread(fd, 100, 5 * MIB) == bytes(100)
        os.pwrite(fd, b"m" * 200_000, MIB)
        os.fsync(fd)
        grown = os.fstat(fd).st_blocks * 512
        assert 199_000 <= grown - found.st_blocks * 512 <= 5 * 65_536
        os.ftruncate(fd, 0)
        assert os.fstat(fd).st_blocks == 0
    (top / "full").write_bytes(b"x" * MIB)
    assert (top / "full").stat().st_blocks * 512 >= MIB


def huge(top: Path) -> None:
    """Offsets beyond 4 GiB; EFBIG where a file can't reach."""
    with opened(top / "f", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 5 * GIB)
        for at in (0, 2 * GIB - 2, 4 * GIB - 3, 4 * GIB + 12_345, 5 * GIB - 5):
            os.pwrite(fd, b"%010d" % (at % 10**10), at)
        assert os.fstat(fd).st_size == 5 * GIB + 5
        for at in (0, 2 * GIB - 2, 4 * GIB - 3, 4 * GIB + 12_345, 5 * GIB - 5):
            assert os.pread(fd, 10, at) == b"%010d" % (at % 10**10)
        assert os.pread(fd, 1000, 3 * GIB) == bytes(1000)
        assert os.lseek(fd, 0, os.SEEK_END) == 5 * GIB + 5
        with fails(errno.EFBIG, errno.EINVAL):
            os.pwrite(fd, b"x" * 10, 2**63 - 5)
        os.fsync(fd)
    assert (top / "f").stat().st_blocks * 512 < 2 * MIB
    os.truncate(top / "f", 4 * GIB + 12_350)
    with opened(top / "f", os.O_RDONLY) as fd:
        assert os.pread(fd, 100, 4 * GIB + 12_345) == (b"%010d" % (4 * GIB + 12_345))[:5]


def append(top: Path) -> None:
    """O_APPEND from several processes at once: every line once and whole."""
    code = (
        "import os,sys\nfd=os.open(sys.argv[1],os.O_WRONLY|os.O_APPEND|os.O_CREAT)\n"
        "for i in range(150): os.write(fd,b'%s %06d\\n'%(sys.argv[2].encode()*9,i))"
    )
    words = [sys.executable, "-c", code, str(top / "log")]
    writers = [subprocess.Popen([*words, letter]) for letter in "abcd"]
    assert [one.wait(60) for one in writers] == [0] * 4
    lines = (top / "log").read_bytes().splitlines()
    wanted = {
        b"%s %06d" % (letter * 9, i) for letter in (b"a", b"b", b"c", b"d") for i in range(150)
    }
    assert len(lines) == 600 and set(lines) == wanted
    with opened(top / "log", os.O_RDWR | os.O_APPEND) as fd:
        size = os.fstat(fd).st_size
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"end")
        assert os.lseek(fd, 0, os.SEEK_CUR) == size + 3
        first = os.pread(fd, 4, 0)
        os.ftruncate(fd, 4)
        os.write(fd, b"!")
        assert os.pread(fd, 10, 0) == first + b"!"


def map_shared(top: Path) -> None:
    """Shared pages reach the file, private ones don't; a map outlives its descriptor."""
    path = top / "f"
    path.write_bytes(b"a" * 200_000)
    with opened(path, os.O_RDWR) as fd:
        shared = mmap.mmap(fd, 200_000)
        private = mmap.mmap(fd, 200_000, access=mmap.ACCESS_COPY)
    shared[65_530:65_542] = b"hello, world"
    private[0:4] = b"mine"
    assert path.read_bytes()[65_530:65_542] == b"hello, world"
    shared.flush()
    with opened(path, os.O_RDWR) as fd:
        os.pwrite(fd, b"by write", 130_000)
        assert shared[130_000:130_008] == b"by write"
    shared[199_999:] = b"z"
    shared.close()
    assert private[:4] == b"mine"
    private.close()
    data = path.read_bytes()
    assert data[:4] == b"aaaa" and data[-1:] == b"z" and data[130_000:130_008] == b"by write"


def synced(top: Path) -> None:
    """fsync, fdatasync, O_SYNC, sync of a directory, fallocate where there is one."""
    with opened(top / "f", os.O_CREAT | os.O_RDWR | os.O_SYNC) as fd:
        os.write(fd, b"at once")
        os.fsync(fd)
        os.fdatasync(fd)
    with opened(top, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)
    assert (top / "f").read_bytes() == b"at once"


def unlinked_and_open(top: Path) -> None:
    """An unlinked file lives as long as its descriptors, seen by nobody else."""
    path = top / "f"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd, opened(path, os.O_RDONLY) as reader:
        os.write(fd, b"before ")
        os.unlink(path)
        assert not path.exists() and os.listdir(top) == []
        os.write(fd, b"after")
        assert os.fstat(fd).st_nlink == 0 and os.fstat(reader).st_size == 12
        assert os.pread(reader, 100, 0) == b"before after"
        os.ftruncate(fd, 6)
        os.fchmod(fd, 0o600)
        os.utime(fd, ns=(5, 6))
        os.fsync(fd)
        assert os.pread(reader, 100, 0) == b"before" and os.fstat(reader).st_mtime_ns == 6
        path.write_bytes(b"another")
        assert os.pread(reader, 100, 0) == b"before" and path.read_bytes() == b"another"
        assert os.fstat(fd).st_ino != path.stat().st_ino
        os.unlink(path)
    os.mkdir(top / "d")
    with opened(top / "d" / "f", os.O_CREAT | os.O_RDWR) as fd:
        os.unlink(top / "d" / "f")
        os.rename(top / "d", top / "e")
        os.write(fd, b"x")
        assert os.fstat(fd).st_size == 1 and os.listdir(top / "e") == []
        os.rmdir(top / "e")  # nothing hidden stands in the way
        os.pwrite(fd, b"yz", 0)
        assert os.pread(fd, 9, 0) == b"yz"


def stat_in_removed_directory(top: Path) -> None:
    """What is open in a removed directory, and the directory itself, can be looked at."""
    os.mkdir(top / "d")
    with opened(top / "d", os.O_RDONLY) as directory:
        with opened(top / "d" / "f", os.O_CREAT | os.O_RDWR) as fd:
            os.unlink(top / "d" / "f")
            os.rmdir(top / "d")
            assert os.fstat(fd).st_size == 0
        assert os.listdir(directory) == [] and os.fstat(directory).st_nlink == 0


OPERATIONS = (
    create_and_exclusive,
    read_and_write,
    truncate,
    sparse,
    huge,
    append,
    map_shared,
    synced,
    unlinked_and_open,
    stat_in_removed_directory,
)
