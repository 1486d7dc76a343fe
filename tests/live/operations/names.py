"""Names: renaming, linking, directories, listings."""

import ctypes
import errno
import os
import stat
from pathlib import Path

from live.operations import fails, opened

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


def rename_files(top: Path) -> None:
    """Over a file, over an open file, over another name of itself."""
    (top / "a").write_bytes(b"a")
    (top / "b").write_bytes(b"b")
    ino = (top / "a").stat().st_ino
    with opened(top / "b", os.O_RDWR) as fd, opened(top / "a", os.O_RDWR) as mover:
        os.rename(top / "a", top / "b")
        assert os.pread(fd, 9, 0) == b"b" and os.fstat(fd).st_nlink == 0
        os.pwrite(fd, b"still here", 0)
        assert os.pread(fd, 99, 0) == b"still here"
        os.pwrite(mover, b"moved", 0)
    assert os.listdir(top) == ["b"] and (top / "b").read_bytes() == b"moved"
    assert (top / "b").stat().st_ino == ino
    os.link(top / "b", top / "c")
    os.rename(top / "b", top / "c")
    assert sorted(os.listdir(top)) == ["b", "c"]
    with fails(errno.ENOENT):
        os.rename(top / "none", top / "x")
    os.mkdir(top / "d")
    with fails(errno.EISDIR):
        os.rename(top / "b", top / "d")
    with fails(errno.ENOTDIR):
        os.rename(top / "d", top / "b")
    with fails(errno.ENOTDIR):
        os.rename(top / "b", top / "c" / "x")


def rename_directories(top: Path) -> None:
    """With what is below, over empty ones, never below itself."""
    os.makedirs(top / "a" / "deep" / "er")
    (top / "a" / "deep" / "f").write_bytes(b"f")
    os.mkdir(top / "b")
    with opened(top / "a" / "deep" / "f", os.O_RDWR) as fd:
        os.rename(top / "a", top / "b")
        os.pwrite(fd, b"g", 0)
    assert (top / "b" / "deep" / "f").read_bytes() == b"g" and not (top / "a").exists()
    assert (top.stat().st_nlink, (top / "b").stat().st_nlink) == (3, 3) or top.stat().st_nlink == 1
    os.makedirs(top / "c" / "full")
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rename(top / "b", top / "c")
    with fails(errno.EINVAL):
        os.rename(top / "b", top / "b" / "deep" / "x")
    os.rename(top / "b" / "deep", top / "c" / "full")
    assert sorted(os.listdir(top / "c" / "full")) == ["er", "f"]
    assert os.stat(top / "c" / "full" / "..").st_ino == (top / "c").stat().st_ino


def rename_flags(top: Path) -> None:
    """renameat2: RENAME_NOREPLACE, RENAME_EXCHANGE."""
    libc = ctypes.CDLL(None, use_errno=True)

    def renameat2(old: Path, new: Path, flags: int) -> None:
        if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
            raise OSError(ctypes.get_errno(), str(new))

    (top / "a").write_bytes(b"a")
    os.mkdir(top / "d")
    with fails(errno.EEXIST):
        renameat2(top / "a", top / "d", RENAME_NOREPLACE)
    renameat2(top / "a", top / "d", RENAME_EXCHANGE)
    assert (top / "d").read_bytes() == b"a" and (top / "a").is_dir()
    renameat2(top / "d", top / "e", RENAME_NOREPLACE)
    with fails(errno.ENOENT):
        renameat2(top / "e", top / "none", RENAME_EXCHANGE)
    assert sorted(os.listdir(top)) == ["a", "e"]


def directories(top: Path) -> None:
    """mkdir, rmdir and what they refuse."""
    os.mkdir(top / "d", 0o751)
    assert stat.S_IMODE((top / "d").stat().st_mode) == 0o751 & ~0o022
    assert (top / "d").stat().st_nlink in (1, 2)
    (top / "d" / "f").touch()
    for number, work in (
        (errno.EEXIST, lambda: os.mkdir(top / "d")),
        (errno.ENOENT, lambda: os.mkdir(top / "no" / "d")),
        (errno.ENOTDIR, lambda: os.mkdir(top / "d" / "f" / "x")),
        (errno.ENOTEMPTY, lambda: os.rmdir(top / "d")),
        (errno.ENOTDIR, lambda: os.rmdir(top / "d" / "f")),
        (errno.ENOENT, lambda: os.rmdir(top / "none")),
        (errno.EINVAL, lambda: os.rmdir(f"{top}/d/.")),
        (errno.EISDIR, lambda: os.unlink(top / "d")),
        (errno.EISDIR, lambda: os.open(top / "d", os.O_WRONLY)),
        (errno.ENOTDIR, lambda: os.open(top / "d" / "f", os.O_RDONLY | os.O_DIRECTORY)),
        (errno.ENOTDIR, lambda: os.listdir(top / "d" / "f")),
    ):
        with fails(number):
            work()
    (top / "d" / "f").unlink()
    with opened(top / "d", os.O_RDONLY) as fd:
        os.rmdir(top / "d")
        with fails(errno.ENOENT, errno.ESTALE):
            os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)


def links(top: Path) -> None:
    """Symlinks, hard links: two names, one inode, one size."""
    os.symlink("target/of any\nkind", top / "s")
    assert os.readlink(top / "s") == "target/of any\nkind"
    assert (top / "s").lstat().st_size == 18 and stat.S_ISLNK((top / "s").lstat().st_mode)
    with fails(errno.EEXIST):
        os.symlink("x", top / "s")
    os.symlink("t" * 4095, top / "long")
    assert len(os.readlink(top / "long")) == 4095
    os.symlink("loop", top / "loop")
    with fails(errno.ELOOP):
        (top / "loop").stat()
    os.link(top / "s", top / "s2", follow_symlinks=False)
    assert (top / "s2").is_symlink()


def hard_links(top: Path) -> None:
    """Whatever happens under one name is seen under the others at once."""
    (top / "a").write_bytes(b"one")
    with fails(errno.EINVAL):
        os.readlink(top / "a")
    os.link(top / "a", top / "b")
    assert (top / "a").read_bytes() == (top / "b").read_bytes() == b"one"
    with opened(top / "a", os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b" two")
        assert (top / "b").stat().st_size == os.fstat(fd).st_size == 7  # unflushed, too
        assert (top / "b").read_bytes() == b"one two"
        os.pwrite(fd, b"!", 0)
        assert (top / "b").read_bytes() == b"one two!" == (top / "a").read_bytes()
    os.link(top / "b", top / "c")
    for name in "abc":
        assert (top / name).stat().st_nlink == 3 and (top / name).stat() == (top / "a").stat()
    with opened(top / "c", os.O_RDWR) as fd, opened(top / "b", os.O_RDWR | os.O_APPEND) as other:
        os.truncate(top / "a", 3)
        assert os.fstat(fd).st_size == 3 and os.pread(fd, 9, 0) == b"one"
        os.write(other, b"ly")
        os.pwrite(fd, b"ONE", 0)
        assert os.pread(other, 9, 0) == b"ONEly"
    os.chmod(top / "c", 0o640)
    os.utime(top / "b", ns=(1, 2))
    assert stat.S_IMODE((top / "a").stat().st_mode) == 0o640
    assert (top / "c").stat().st_mtime_ns == 2
    os.unlink(top / "a")
    assert (top / "b").stat().st_nlink == (top / "c").stat().st_nlink == 2
    (top / "d").touch()
    os.rename(top / "d", top / "c")
    assert (top / "b").stat().st_nlink == 1
    with fails(errno.EPERM):
        os.link(top, top / "d")
    with fails(errno.EEXIST):
        os.link(top / "b", top / "c")


def names(top: Path) -> None:
    """Names are bytes: all of them, 255 long; longer ones are refused everywhere."""
    here = os.fsencode(top)
    wanted = [
        b"\xff\xfe\x80",
        b"a\nb\tc",
        b" ",
        b"...",
        b"-rf",
        b"*?",
        b"n" * 255,
        b"\xc3\xa4" * 127,
    ]
    wanted += [bytes([number]) for number in range(1, 256) if number not in b"/." and number != 32]
    for name in wanted:
        with opened(here + b"/" + name, os.O_CREAT | os.O_EXCL | os.O_WRONLY) as fd:
            os.write(fd, name)
    assert sorted(os.listdir(here)) == sorted(wanted)
    for name in wanted:
        with opened(here + b"/" + name, os.O_RDONLY) as fd:
            assert os.read(fd, 300) == name
    long = here + b"/" + b"n" * 256
    (top / "f").touch()
    for work in (
        lambda: os.open(long, os.O_CREAT | os.O_WRONLY),
        lambda: os.stat(long),
        lambda: os.mkdir(long),
        lambda: os.symlink(b"x", long),
        lambda: os.rename(here + b"/f", long),
        lambda: os.link(here + b"/f", long),
        lambda: os.unlink(long),
        lambda: os.stat(b"/" + b"d/" * 2100 + here),
    ):
        with fails(errno.ENAMETOOLONG):
            work()


def deep(top: Path) -> None:
    """A tree deeper than one question can ask for, and than a path can say."""
    before = os.getcwd()
    os.chdir(top)
    for _ in range(30):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    Path("bottom").write_bytes(b"b")
    with opened(".", os.O_RDONLY) as fd:
        assert os.listdir(fd) == ["bottom"]
    os.chdir(before)
    place = top
    for number in range(100):
        place = place / f"{number}"
    os.makedirs(place)
    (place / "f").write_bytes(b"f")
    assert (place / "f").read_bytes() == b"f"


def listing(top: Path, count: int = 2000) -> None:
    """Every name once, also while others come and go; seekdir by a second reader."""
    for number in range(count):
        os.close(os.open(top / f"{number:06d}", os.O_CREAT | os.O_WRONLY))
    seen = []
    for entry in os.scandir(top):
        seen.append(entry.name)
        if len(seen) % 10 == 0 and len(seen) < count:
            os.close(os.open(top / f"{entry.name}-new", os.O_CREAT | os.O_WRONLY))
            if len(seen) > 20 and not seen[-15].endswith("new"):
                os.unlink(top / seen[-15])
    old = [name for name in seen if not name.endswith("new")]
    assert sorted(old) == [f"{number:06d}" for number in range(count)]
    assert len(set(seen)) == len(seen)
    assert {entry.inode() for entry in os.scandir(top)} == {
        (top / name).lstat().st_ino for name in os.listdir(top)
    }
    for name in os.listdir(top):
        os.unlink(top / name)
    assert os.listdir(top) == []


OPERATIONS = (
    rename_files,
    rename_directories,
    rename_flags,
    directories,
    links,
    hard_links,
    names,
    deep,
    listing,
)
