"""What stat and its friends say, who may do what, what is neither file nor directory."""

import ctypes
import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

from live.operations import NOBODY, NS, as_user, fails, opened


def times(top: Path) -> None:
    """utimensat with nanoseconds, NOW and OMIT; who moves which time."""
    libc = ctypes.CDLL(None, use_errno=True)
    now, omit = (1 << 30) - 1, (1 << 30) - 2
    path = top / "f"
    path.touch()

    def utimens(*pairs: tuple[int, int]) -> os.stat_result:
        spec = (ctypes.c_long * 4)(*pairs[0], *pairs[1])
        assert not libc.utimensat(-100, os.fsencode(path), spec, 0), ctypes.get_errno()
        return path.stat()

    found = utimens((12, 123_456_789), (1_700_000_000, 999_999_999))
    assert found.st_atime_ns == 12 * NS + 123_456_789
    assert found.st_mtime_ns == 1_700_000_000 * NS + 999_999_999
    found = utimens((0, omit), (77, 1))
    assert (found.st_atime_ns, found.st_mtime_ns) == (12 * NS + 123_456_789, 77 * NS + 1)
    found = utimens((5, 5), (0, omit))
    assert (found.st_atime_ns, found.st_mtime_ns) == (5 * NS + 5, 77 * NS + 1)
    found = utimens((0, now), (9, 9))
    assert found.st_atime > 1_600_000_000 and found.st_mtime_ns == 9 * NS + 9
    found = utimens((-5, 7), (0, now))
    assert found.st_atime_ns == -5 * NS + 7 and found.st_mtime > 1_600_000_000
    with opened(path, os.O_WRONLY) as fd:
        os.write(fd, b"x")
        os.utime(fd, ns=(3, 4))  # wins over the write before
    assert path.stat().st_mtime_ns == 4
    before = path.stat()
    os.chmod(path, 0o600)
    after = path.stat()
    assert after.st_ctime_ns > before.st_ctime_ns and after.st_mtime_ns == before.st_mtime_ns
    before = top.stat()
    (top / "new").touch()
    assert top.stat().st_mtime_ns > before.st_mtime_ns
    with opened(path, os.O_WRONLY) as fd:
        os.write(fd, b"y")
        assert os.fstat(fd).st_mtime > 1_600_000_000


def modes(top: Path) -> None:
    """chmod, chown, who may; set-id bits go when somebody writes or another owner comes."""
    os.chdir(top)  # nobody may not walk there
    top = Path(".")
    os.chmod(top, 0o755)
    path = top / "f"
    path.write_bytes(b"x")
    for mode in (0o000, 0o7777, 0o4711, 0o2750, 0o1644):
        os.chmod(path, mode)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    os.chmod(path, 0o6777)
    os.chown(path, 1234, 4321)
    found = path.stat()
    assert (found.st_uid, found.st_gid) == (1234, 4321) and found.st_mode & 0o6000 == 0
    os.chown(path, -1, 99)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 99)
    os.symlink("f", top / "s")
    os.chown(top / "s", 7, 8, follow_symlinks=False)
    assert ((top / "s").lstat().st_uid, path.stat().st_uid) == (7, 1234)
    os.chmod(path, 0o6777)

    def write() -> None:
        with opened(path, os.O_WRONLY) as fd:
            os.write(fd, b"y")

    as_user(write, NOBODY, NOBODY, [])
    assert path.stat().st_mode & 0o6000 == 0


def permissions(top: Path) -> None:
    """The nine bits, supplementary groups, setgid and sticky directories, as another user."""
    os.chdir(top)  # nobody may not walk there
    top = Path(".")
    os.chmod(top, 0o755)
    (top / "secret").write_bytes(b"s")
    os.chmod(top / "secret", 0o600)
    (top / "group").write_bytes(b"g")
    os.chown(top / "group", 0, 5000)
    os.chmod(top / "group", 0o060)
    for name, mode, gid in (("setgid", 0o2777, 5000), ("sticky", 0o1777, 0), ("blind", 0o711, 0)):
        os.mkdir(top / name)
        os.chown(top / name, 0, gid)
        os.chmod(top / name, mode)
    (top / "sticky" / "roots").touch()
    (top / "blind" / "f").write_bytes(b"f")

    def nobody() -> None:
        for number, work in (
            (errno.EACCES, lambda: os.open(top / "secret", os.O_RDONLY)),
            (errno.EACCES, lambda: os.open(top / "new", os.O_CREAT | os.O_WRONLY)),
            (errno.EACCES, lambda: os.unlink(top / "secret")),
            (errno.EACCES, lambda: os.listdir(top / "blind")),
            (errno.EPERM, lambda: os.chmod(top / "group", 0o666)),
            (errno.EPERM, lambda: os.chown(top / "group", NOBODY, -1)),
            (errno.EPERM, lambda: os.unlink(top / "sticky" / "roots")),
            (errno.EPERM, lambda: os.rename(top / "sticky" / "roots", top / "sticky" / "x")),
        ):
            with fails(number):
                work()
        assert (top / "group").read_bytes() == b"g"  # through a supplementary group
        assert (top / "blind" / "f").read_bytes() == b"f"
        assert os.access(top / "group", os.W_OK) and not os.access(top / "secret", os.R_OK)
        os.umask(0)
        os.mkdir(top / "setgid" / "d")
        (top / "setgid" / "f").touch()
        (top / "sticky" / "mine").touch()
        os.unlink(top / "sticky" / "mine")

    as_user(nobody, NOBODY, NOBODY, [5000])
    made = (top / "setgid" / "d").stat()
    assert (made.st_uid, made.st_gid) == (NOBODY, 5000) and made.st_mode & stat.S_ISGID
    made = (top / "setgid" / "f").stat()
    assert (made.st_uid, made.st_gid) == (NOBODY, 5000) and not made.st_mode & stat.S_ISGID


def attributes(top: Path) -> None:
    """get, set, list, removexattr on files, directories, by descriptor."""
    path = top / "f"
    path.touch()
    os.setxattr(path, "user.a", b"1")
    os.setxattr(path, "user.b", bytes(range(256)))
    os.setxattr(path, "user.empty", b"")
    os.setxattr(top, "user.dir", b"d")
    assert sorted(os.listxattr(path)) == ["user.a", "user.b", "user.empty"]
    assert os.getxattr(path, "user.b") == bytes(range(256))
    assert os.getxattr(path, "user.empty") == b"" and os.getxattr(top, "user.dir") == b"d"
    with fails(errno.EEXIST):
        os.setxattr(path, "user.a", b"2", os.XATTR_CREATE)
    with fails(errno.ENODATA):
        os.setxattr(path, "user.c", b"2", os.XATTR_REPLACE)
    os.setxattr(path, "user.a", b"2", os.XATTR_REPLACE)
    with opened(path, os.O_RDONLY) as fd:
        assert os.getxattr(fd, "user.a") == b"2"
    with fails(errno.ENODATA):
        os.getxattr(path, "user.none")
    with fails(errno.ENODATA):
        os.removexattr(path, "user.none")
    os.removexattr(path, "user.a")
    os.link(path, top / "g")
    assert sorted(os.listxattr(top / "g")) == ["user.b", "user.empty"]
    with fails(errno.EOPNOTSUPP):
        os.setxattr(path, "nonsense", b"")
    before = path.stat().st_ctime_ns
    os.setxattr(path, "user.z", b"z")
    assert path.stat().st_ctime_ns > before


def special(top: Path) -> None:
    """FIFOs, sockets, device nodes; locks between processes."""
    os.mkfifo(top / "fifo", 0o640)
    assert stat.S_ISFIFO((top / "fifo").stat().st_mode)
    os.mknod(top / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    assert (top / "device").stat().st_rdev == os.makedev(1, 3)
    reader = subprocess.Popen(["cat", str(top / "fifo")], stdout=subprocess.PIPE)
    (top / "fifo").write_bytes(b"through")
    assert reader.communicate(timeout=10)[0] == b"through"
    (top / "f").touch()
    code = "import fcntl,sys\nfcntl.lockf(open(sys.argv[1],'r+'),fcntl.LOCK_EX|fcntl.LOCK_NB)"
    words = [sys.executable, "-c", code, str(top / "f")]
    with open(top / "f", "r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert subprocess.run(words, capture_output=True, timeout=20).returncode == 1
    assert subprocess.run(words, capture_output=True, timeout=20).returncode == 0


def space(top: Path) -> None:
    """statfs: sane numbers."""
    found = os.statvfs(top)
    assert 0 < found.f_bavail <= found.f_bfree <= found.f_blocks and found.f_namemax == 255
    assert found.f_files >= found.f_files - found.f_ffree > 0


OPERATIONS = (
    times,
    modes,
    permissions,
    attributes,
    special,
    space,
)
