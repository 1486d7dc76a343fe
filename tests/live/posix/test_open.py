"""open(2): flag by flag."""

import errno
import fcntl
import os
import stat
from errno import EACCES, EBADF, EEXIST, EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR, ENXIO, EPERM

import pytest

from tests.live.posix.linux import (
    ALICE,
    AT_SYMLINK_FOLLOW,
    BOB,
    HERE,
    each_kind,
    fails,
    get,
    linkat,
    make,
    mode_of,
    opened,
    put,
    touches,
    umask,
    user,
)

pytestmark = pytest.mark.usefixtures("place")

R, W, RW = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
CREAT, EXCL, TRUNC, NOFOLLOW = os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_NOFOLLOW


# --- O_CREAT, O_EXCL -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o000, 0o644, 0o666, 0o777, 0o1777, 0o4755, 0o6777], ids=oct)
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777], ids=oct)
def test_a_new_file(mode: int, mask: int) -> None:
    os.chmod(".", 0o777)
    with umask(mask), user(ALICE, BOB), opened("f", CREAT | RW, mode) as fd:
        found = os.fstat(fd)
        assert stat.S_ISREG(found.st_mode) and mode_of(fd) == mode & ~mask
        assert (found.st_uid, found.st_gid) == (ALICE, BOB)
        assert (found.st_size, found.st_nlink, found.st_blocks) == (0, 1, 0)
        assert os.write(fd, b"x") == 1  # the mode counts from the next open on
    assert get("f") == b"x"


def test_creating_moves_the_times_of_the_directory() -> None:
    with touches(".", "mc"):
        put("f")
    with touches(".", ""):
        put("f", b"again")
        os.close(os.open("f", CREAT | RW))
        with fails(EEXIST):
            os.open("f", CREAT | EXCL | W)


def test_a_new_file_has_three_equal_times() -> None:
    put("f")
    found = os.stat("f")
    assert found.st_atime_ns == found.st_mtime_ns == found.st_ctime_ns


@each_kind
def test_exclusive_over_something(kind: str) -> None:
    """Over a dangling symlink too."""
    make(kind, "x")
    with fails(EEXIST):
        os.open("x", CREAT | EXCL | W)
    if kind != "symlink":
        os.symlink("x", "s")
        with fails(EEXIST):
            os.open("s", CREAT | EXCL | W)
    assert not os.path.lexists("nowhere")


def test_create_through_a_dangling_symlink() -> None:
    os.mkdir("d")
    os.symlink("d/new", "s")
    os.close(os.open("s", CREAT | W))
    assert os.listdir("d") == ["new"]
    os.symlink("missing/new", "t")
    with fails(ENOENT):
        os.open("t", CREAT | W)


@pytest.mark.parametrize("name", ["d", "d/", ".", "..", "d/.", "new/"])
def test_creating_a_directory_is_refused(name: str) -> None:
    os.mkdir("d")
    with fails(EISDIR):
        os.open(name, CREAT | W)
    assert os.listdir() == ["d"]


def test_creating_where_one_may_not() -> None:
    os.chmod(".", 0o755)
    with user(ALICE):
        with fails(EACCES):
            os.open("f", CREAT | W)
        with fails(EACCES):
            os.open("f", CREAT | EXCL | W)
    assert os.listdir() == []


def test_ten_processes_create_one_file() -> None:
    """O_EXCL lets one of them win."""
    children = []
    for _ in range(10):
        child = os.fork()
        if child == 0:
            try:
                os.open("f", CREAT | EXCL | W)
            except FileExistsError:
                os._exit(1)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0] + [1] * 9


# --- O_TRUNC -------------------------------------------------------------------------------------


@pytest.mark.parametrize("access", [W, RW])
@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_truncating(access: int, size: int) -> None:
    put("f", b"x" * size)
    with touches("f", "mc"):
        os.close(os.open("f", access | TRUNC))
    assert os.stat("f").st_size == os.stat("f").st_blocks == 0 and get("f") == b""


def test_truncating_needs_write_permission() -> None:
    put("f", b"data")
    os.chmod("f", 0o444)
    with user(ALICE):
        with fails(EACCES):
            os.open("f", W | TRUNC)
        with fails(EACCES):
            os.open("f", R | TRUNC)
    assert get("f") == b"data"


def test_exclusive_truncate_leaves_what_is_there() -> None:
    put("f", b"data")
    with fails(EEXIST):
        os.open("f", CREAT | EXCL | TRUNC | W)
    assert get("f") == b"data"


def test_truncating_is_seen_by_who_has_it_open() -> None:
    put("f", b"data")
    with opened("f", RW) as fd:
        assert os.read(fd, 2) == b"da"
        os.close(os.open("f", W | TRUNC))
        assert os.read(fd, 2) == b"" and os.fstat(fd).st_size == 0
        assert os.write(fd, b"x") == 1
    assert get("f") == b"\0\0x"


# --- O_NOFOLLOW, O_DIRECTORY, O_PATH, O_TMPFILE, O_NOATIME ---------------------------------------


def test_not_through_symlinks() -> None:
    put("f", b"x")
    os.mkdir("d")
    put("d/f")
    os.symlink("f", "s")
    os.symlink("d", "sd")
    os.symlink("nowhere", "dangling")
    for name in ("s", "sd", "dangling"):
        for flags in (R, W, CREAT | W):
            with fails(ELOOP):
                os.open(name, flags | NOFOLLOW)
    with fails(ENOTDIR, ELOOP):
        os.open("sd", NOFOLLOW | os.O_DIRECTORY)
    os.close(os.open("sd/f", R | NOFOLLOW))  # only the last name counts
    os.close(os.open("f", R | NOFOLLOW))


@each_kind
def test_only_a_directory(kind: str) -> None:
    make(kind, "x")
    if kind == "directory":
        with opened("x", os.O_DIRECTORY) as fd:
            assert stat.S_ISDIR(os.fstat(fd).st_mode)
    else:
        with fails(ENOENT if kind == "symlink" else ENOTDIR):
            os.open("x", os.O_DIRECTORY)


@pytest.mark.parametrize("flags", [W, RW, R | TRUNC, W | TRUNC, W | os.O_APPEND])
def test_a_directory_is_not_written(flags: int) -> None:
    os.mkdir("d")
    with fails(EISDIR):
        os.open("d", flags)


def test_a_directory_has_no_bytes() -> None:
    with opened(".", R) as fd:
        with fails(EISDIR):
            os.read(fd, 1)
        with fails(EBADF):
            os.write(fd, b"x")
        with fails(EINVAL):
            os.ftruncate(fd, 0)


@each_kind
def test_path_descriptors(kind: str) -> None:
    """They name something; nothing can be read or changed through them."""
    make(kind, "x")
    with opened("x", os.O_PATH | NOFOLLOW) as fd:
        assert os.fstat(fd).st_ino == os.lstat("x").st_ino
        for work in (
            lambda: os.read(fd, 1),
            lambda: os.write(fd, b"x"),
            lambda: os.fchmod(fd, 0o777),
            lambda: os.fchown(fd, 1, 1),
            lambda: os.ftruncate(fd, 0) if kind != "directory" else os.fsync(fd),
            lambda: os.fsync(fd),
        ):
            with fails(EBADF, EINVAL):
                work()
        if kind == "regular":
            put("x", b"through /proc")
            assert get(f"/proc/self/fd/{fd}") == b"through /proc"
        if kind == "symlink":
            assert os.readlink("", dir_fd=fd) == "nowhere"


def test_path_descriptor_needs_no_permission() -> None:
    put("f")
    os.chmod("f", 0)
    with user(ALICE):
        with fails(EACCES):
            os.open("f", R)
        with opened("f", os.O_PATH) as fd, fails(EACCES):
            os.open(f"/proc/self/fd/{fd}", R)


def test_path_descriptor_of_a_directory() -> None:
    os.mkdir("d")
    with opened("d", os.O_PATH) as fd:
        os.rename("d", "e")
        os.close(os.open("f", CREAT | W, dir_fd=fd))
        os.stat("f", dir_fd=fd)
    assert os.listdir("e") == ["f"]


def test_unnamed_files() -> None:
    """O_TMPFILE: a file without a name, or the refusal that programs know how to take."""
    try:
        fd = os.open(".", os.O_TMPFILE | RW, 0o600)
    except OSError as error:
        assert error.errno in (errno.EOPNOTSUPP, EISDIR)
        assert os.listdir() == []
        return
    assert os.fstat(fd).st_nlink == 0 and mode_of(fd) == 0o600
    assert os.write(fd, b"made whole") == 10
    assert os.listdir() == []
    linkat(HERE, f"/proc/self/fd/{fd}", "f", AT_SYMLINK_FOLLOW)
    assert get("f") == b"made whole" and os.fstat(fd).st_nlink == 1
    os.close(fd)


def test_unnamed_files_where_python_wants_them() -> None:
    import tempfile

    with tempfile.TemporaryFile(dir=".") as file:
        file.write(b"x" * 100_000)
        file.seek(0)
        assert len(file.read()) == 100_000 and os.listdir() == []


def test_noatime_is_the_owners() -> None:
    put("f")
    os.chmod("f", 0o644)
    with user(ALICE), fails(EPERM):
        os.open("f", R | os.O_NOATIME)
    os.chown("f", ALICE, ALICE)
    with user(ALICE):
        os.close(os.open("f", R | os.O_NOATIME))


# --- access --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(8))
@pytest.mark.parametrize("who", ["owner", "group", "other"])
def test_permissions(who: str, bits: int) -> None:
    """The first that fits counts: the owner's, the group's, the others'."""
    shift = {"owner": 6, "group": 3, "other": 0}[who]
    put("f")
    os.chown("f", ALICE if who == "owner" else BOB, ALICE if who != "other" else BOB)
    os.chmod("f", 0o777 & ~(7 << shift) | bits << shift)
    with user(ALICE):
        for flags, wanted in ((R, 4), (W, 2), (RW, 6)):
            if bits & wanted == wanted:
                os.close(os.open("f", flags))
            else:
                with fails(EACCES):
                    os.open("f", flags)


def test_root_may_all() -> None:
    put("f", b"x")
    os.chmod("f", 0)
    assert get("f") == b"x"
    put("f", b"y")


@pytest.mark.parametrize("flags", [R, W, RW])
def test_what_was_opened_stays_open(flags: int) -> None:
    put("f", b"data")
    os.chmod("f", 0o666)
    with user(ALICE):
        fd = os.open("f", flags)
    os.chmod("f", 0)
    with user(ALICE):
        if flags != W:
            assert os.pread(fd, 4, 0) == b"data"
        if flags != R:
            os.pwrite(fd, b"new!", 0)
        with fails(EACCES):
            os.open(f"/proc/self/fd/{fd}", R)


def test_only_as_it_was_opened() -> None:
    put("f", b"x")
    with opened("f", R) as fd, fails(EBADF):
        os.write(fd, b"x")
    with opened("f", W) as fd, fails(EBADF):
        os.read(fd, 1)
    with opened("f", R) as fd, fails(EINVAL):
        os.ftruncate(fd, 0)


def test_closed_descriptors() -> None:
    fd = os.open("f", CREAT | RW)
    os.close(fd)
    for work in (
        lambda: os.read(fd, 1),
        lambda: os.write(fd, b"x"),
        lambda: os.fstat(fd),
        lambda: os.fsync(fd),
        lambda: os.close(fd),
        lambda: os.ftruncate(fd, 0),
        lambda: os.fchmod(fd, 0),
    ):
        with fails(EBADF):
            work()


def test_relative_to_a_file() -> None:
    put("f")
    with opened("f", R) as fd, fails(ENOTDIR):
        os.open("x", CREAT | W, dir_fd=fd)
    with fails(EBADF):
        os.open("x", CREAT | W, dir_fd=999)


# --- descriptors ---------------------------------------------------------------------------------


def test_dup_shares_the_place_and_open_does_not() -> None:
    put("f", b"0123456789")
    with opened("f", RW) as fd, opened("f", RW) as own:
        twin = os.dup(fd)
        assert os.read(fd, 3) == b"012" and os.read(twin, 3) == b"345" and os.read(own, 1) == b"0"
        os.close(twin)
        assert os.read(fd, 1) == b"6"  # still open


def test_flags_are_told_and_changed() -> None:
    with opened("f", CREAT | RW | os.O_APPEND) as fd:
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_APPEND) == RW | os.O_APPEND
        os.write(fd, b"end")
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"E")
        assert get("f") == b"End"
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"!")
        assert get("f") == b"End!"


def test_a_descriptor_goes_to_a_child() -> None:
    with opened("f", CREAT | RW) as fd:
        child = os.fork()
        if child == 0:
            os.write(fd, b"child ")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        os.write(fd, b"parent")  # the place is shared
    assert get("f") == b"child parent"


def test_a_fifo_nobody_reads() -> None:
    os.mkfifo("p")
    with fails(ENXIO):
        os.open("p", W | os.O_NONBLOCK)
    os.close(os.open("p", R | os.O_NONBLOCK))


def test_a_socket_is_not_opened() -> None:
    make("socket", "s")
    with fails(ENXIO):
        os.open("s", RW)


def test_reopening_by_proc() -> None:
    put("f", b"0123")
    with opened("f", R) as fd, opened(f"/proc/self/fd/{fd}", RW) as other:
        assert os.pwrite(other, b"X", 1) == 1
        assert os.pread(fd, 9, 0) == b"0X23"
