"""zdfs.connect on a real cluster: beside `os` and `open`, in threads, with whatever callers do."""

import contextlib
import doctest
import errno
import gc
import io
import os
import pickle
import re
import shutil
import stat
import threading
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

import zdfs
from tests.conftest import until
from tests.live.cluster import Cluster, started
from zdfs.api import Copied, FileSystem

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("api"), 4) as one:
        yield one


@pytest.fixture(scope="module")
def fs(cluster: Cluster) -> Iterator[FileSystem]:
    with zdfs.connect(cluster.meta_address, umask=0o022) as one:
        yield one


@pytest.fixture(scope="module")
def mount(cluster: Cluster) -> Path:
    return cluster.mount("mnt", "--attr-timeout", "0", "--entry-timeout", "0")


@pytest.fixture
def top(fs: FileSystem) -> str:
    path = f"/{uuid.uuid4().hex}"
    fs.mkdir(path)
    return path


# --- files beside Python's own -----------------------------------------------------------------

OFFSETS = st.integers(0, 200_000)  # two and a half blocks
STEPS = st.one_of(
    st.tuples(st.just("read"), st.sampled_from([0, 1, 7, 4096, 70_000, -1])),
    st.tuples(st.just("write"), st.integers(0, 255), st.sampled_from([0, 1, 100, 66_000])),
    st.tuples(st.just("seek"), OFFSETS, st.just(0)),
    st.tuples(st.just("seek"), st.integers(-100, 100), st.sampled_from([1, 2])),
    st.tuples(st.just("truncate"), OFFSETS | st.none()),
    st.tuples(st.just("readline")),
    st.tuples(st.just("readinto"), st.sampled_from([0, 3, 70_000])),
    st.tuples(st.just("tell")),
    st.tuples(st.just("flush")),
    st.tuples(st.just("open"), st.sampled_from(["rb", "rb+", "wb", "wb+", "ab", "ab+", "xb"]),
              st.sampled_from([-1, 0, 10])),
)  # fmt: skip


def take(file: Any, step: tuple[Any, ...]) -> Any:
    """One step on one file: what it returned, or what it raised."""
    try:
        if step[0] == "write":
            return file.write(bytes([step[1], 10]) * step[2])
        if step[0] == "readinto":
            buffer = bytearray(step[1])
            return file.readinto(buffer), bytes(buffer)
        if step[0] == "readline":
            return file.readline(1000)
        return getattr(file, step[0])(*step[1:])
    except (OSError, ValueError) as error:
        return type(error), getattr(error, "errno", None)


@hypothesis.given(st.lists(STEPS, max_size=25))
@hypothesis.settings(max_examples=40)
def test_a_file_is_as_pythons_own(
    fs: FileSystem, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]
) -> None:
    """Random steps on one of ours and on a local one: results, errors, positions, content."""
    local, path = tmp_path_factory.mktemp("files") / "f", f"/{uuid.uuid4().hex}"
    pair: list[Any] = [fs.open(path, "wb+"), open(local, "wb+")]
    for step in steps:
        if step[0] == "open":
            for file in pair:
                file.close()
            with contextlib.suppress(FileExistsError):
                pair[1] = open(local, step[1], step[2])
            with contextlib.suppress(FileExistsError):
                pair[0] = fs.open(path, step[1], step[2])
        assert pair[0].closed == pair[1].closed
        if not pair[0].closed:
            results = [take(file, step) for file in pair] if step[0] != "open" else []
            assert results[:1] == results[1:], step
            assert pair[0].tell() == pair[1].tell(), step
    for file in pair:
        file.close()
    assert fs.read_bytes(path) == local.read_bytes()
    fs.remove(path)


def test_text_and_lines(fs: FileSystem, top: str) -> None:
    with fs.open(f"{top}/t", "w", encoding="utf-8", newline="\r\n") as file:
        file.writelines(["größe\n", "zwei\n"])
        assert file.mode == "w" and file.buffer.raw.mode == "wb"
    assert fs.read_bytes(f"{top}/t") == "größe\r\nzwei\r\n".encode()
    with fs.open(f"{top}/t", encoding="utf-8") as file:
        assert list(file) == ["größe\n", "zwei\n"]
    with fs.open(f"{top}/t", "a+", encoding="utf-8") as file:
        file.write("drei")
        file.fsync()
        file.seek(0)
        assert file.read() == "größe\nzwei\ndrei"
    for words in ({"mode": "rb", "encoding": "utf-8"}, {"mode": "r", "buffering": 0}):
        with pytest.raises(ValueError):
            fs.open(f"{top}/t", **words)  # type: ignore[arg-type]


def test_huge_reads_and_writes(fs: FileSystem, top: str) -> None:
    data = os.urandom(20 << 20)
    assert fs.write_bytes(f"{top}/h", data) == len(data)
    assert fs.read_bytes(f"{top}/h") == data
    with fs.open(f"{top}/h", "rb", buffering=0) as file:
        assert file.pread(1 << 40, 5) == data[5:] and file.tell() == 0
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
        with pytest.raises(io.UnsupportedOperation):
            file.fileno()
        with pytest.raises(TypeError, match="open it where it is used"):
            pickle.dumps(file)


def test_holes(fs: FileSystem, top: str) -> None:
    with fs.open(f"{top}/s", "wb", buffering=0) as file:
        file.seek(1 << 40)
        file.write(b"end")
    with fs.open(f"{top}/s", "rb", buffering=0) as file:
        assert file.seek(0, os.SEEK_DATA) >= (1 << 40) - fs.block_size
        assert file.seek(0, os.SEEK_HOLE) == 0
        file.seek(-3, os.SEEK_END)
        assert file.read() == b"end"
    assert fs.stat(f"{top}/s").st_blocks * 512 <= 2 * fs.block_size


def test_appends_of_two_connections_both_count(fs: FileSystem, cluster: Cluster, top: str) -> None:
    with zdfs.connect(cluster.meta_address) as other:

        def append(one: FileSystem, mark: bytes) -> None:
            for _ in range(20):
                with one.open(f"{top}/log", "ab") as file:
                    file.write(mark * 100 + b"\n")

        threads = [threading.Thread(target=append, args=pair) for pair in
                   ((fs, b"a"), (other, b"b"), (fs, b"c"))]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines = other.read_bytes(f"{top}/log").splitlines()
    assert sorted(lines) == sorted([mark * 100 for mark in (b"a", b"b", b"c") for _ in range(20)])


def test_what_was_closed_is_what_others_open(
    fs: FileSystem, cluster: Cluster, mount: Path, top: str
) -> None:
    with zdfs.connect(cluster.meta_address) as other:
        with fs.open(f"{top}/f", "w") as file:
            file.write("one")
        assert other.open(f"{top}/f").read() == "one"
        (mount / top[1:] / "f").write_text("two")
        assert other.read_bytes(f"{top}/f") == fs.read_bytes(f"{top}/f") == b"two"
        with other.open(f"{top}/f", "r+") as mine, fs.open(f"{top}/f", "r+") as theirs:
            mine.write("T")  # the grant goes to and fro
            mine.flush()
            theirs.seek(2)
            theirs.write("O")
    assert (mount / top[1:] / "f").read_text() == "TwO"


# --- names and attributes ----------------------------------------------------------------------


def test_names_are_bytes(fs: FileSystem, mount: Path, top: str) -> None:
    names = [b"\xff\xfe", "größe".encode(), b"a b\nc", b"." * 3, b"n" * 255]
    for name in names:
        with fs.open(top.encode() + b"/" + name, "wb") as file:
            file.write(name)
    assert sorted(fs.listdir(top.encode())) == sorted(names)
    assert sorted(os.listdir(os.fsencode(mount / top[1:]))) == sorted(names)
    text = fs.listdir(top)
    assert "\udcff\udcfe" in text
    assert fs.read_bytes(f"{top}/\udcff\udcfe") == b"\xff\xfe"
    for bad in ("a\0b", b"\0"):
        with pytest.raises(ValueError, match="null byte"):
            fs.stat(bad)
    with pytest.raises(TypeError):
        fs.stat(5)  # type: ignore[arg-type]
    for bad, number in (("n" * 256, errno.ENAMETOOLONG), ("", errno.ENOENT),
                        ("x/" * 3000, errno.ENAMETOOLONG)):  # fmt: skip
        with pytest.raises(OSError) as caught:
            fs.open(f"{top}/{bad}" if bad else "", "w")
        assert caught.value.errno == number and caught.value.filename is not None
    assert fs.exists("a\0b") is False


def test_the_tree_as_os_has_it(fs: FileSystem, mount: Path, top: str) -> None:
    fs.makedirs(f"{top}/a/b/c")
    fs.makedirs(f"{top}/a/b/c", exist_ok=True)
    with pytest.raises(FileExistsError):
        fs.makedirs(f"{top}/a/b/c")
    fs.write_bytes(f"{top}/a/f", b"12345")
    fs.symlink("../a/f", f"{top}/a/l")
    fs.symlink("none", f"{top}/broken")
    fs.link(f"{top}/a/f", f"{top}/a/h")
    fs.mkfifo(f"{top}/a/p")
    here = mount / top[1:]
    assert fs.readlink(f"{top}/a/l") == "../a/f" == os.readlink(here / "a/l")
    for name in ("a", "a/f", "a/l", "a/p", "broken"):
        mine, theirs = fs.lstat(f"{top}/{name}"), os.lstat(here / name)
        for one in ("mode", "ino", "nlink", "uid", "gid", "size", "mtime_ns", "ctime_ns", "blocks"):
            assert getattr(mine, f"st_{one}") == getattr(theirs, f"st_{one}"), (name, one)
    strip = len(str(here))
    walked = [(p[len(top) :], sorted(d), sorted(f)) for p, d, f in fs.walk(top)]
    assert sorted(walked) == sorted((p[strip:], sorted(d), sorted(f)) for p, d, f in os.walk(here))
    fs.symlink(f"{top}/a", f"{top}/abs")
    assert fs.read_bytes(f"{top}/abs/l") == b"12345", "a link from the root of ours"
    assert list(fs.glob(f"{top}/a/[fh]")) == [f"{top}/a/f", f"{top}/a/h"]
    assert sorted(fs.glob(f"{top}/**/c")) == [f"{top}/a/b/c"]
    entries = {entry.name: entry for entry in fs.scandir(f"{top}/a")}
    assert entries["l"].is_symlink() and entries["l"].is_file() and not entries["b"].is_file()
    assert entries["l"].stat().st_size == 5 and entries["f"].inode() == entries["h"].inode()
    for call, number in (
        (lambda: fs.open(f"{top}/a"), errno.EISDIR), (lambda: fs.listdir(f"{top}/a/f"), 20),
        (lambda: fs.rmdir(f"{top}/a"), errno.ENOTEMPTY), (lambda: fs.remove(f"{top}/a"), 21),
        (lambda: fs.stat(f"{top}/a/f/"), errno.ENOTDIR), (lambda: fs.rmdir("/"), errno.EBUSY),
        (lambda: fs.open(f"{top}/broken"), errno.ENOENT), (lambda: fs.mkdir("/"), errno.EEXIST),
        (lambda: fs.rename(f"{top}/a", f"{top}/a/b/x"), errno.EINVAL),
        (lambda: fs.open(f"{top}/a/p"), errno.ENXIO), (lambda: fs.open(f"{top}/new/"), 2),
        (lambda: fs.readlink(f"{top}/a/f"), errno.EINVAL),
        (lambda: fs.rename(f"{top}/a/f", f"{top}/abs", overwrite=False), errno.EEXIST),
    ):  # fmt: skip
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno in (number, errno.EISDIR), caught.value
    fs.symlink("loop", f"{top}/loop")
    with pytest.raises(OSError) as caught:
        fs.stat(f"{top}/loop")
    assert caught.value.errno == errno.ELOOP
    fs.write_bytes(f"{top}/broken", b"through the link")
    assert fs.read_bytes(f"{top}/none") == b"through the link"
    fs.rename(f"{top}/a/f", f"{top}/g")
    fs.rmtree(f"{top}/a")
    assert sorted(fs.listdir(top)) == ["abs", "broken", "g", "loop", "none"]
    with pytest.raises(OSError, match="symbolic link"):
        fs.rmtree(f"{top}/abs")


def test_attributes(fs: FileSystem, mount: Path, top: str) -> None:
    path, here = f"{top}/f", mount / top[1:] / "f"
    fs.write_bytes(path, b"x")
    fs.chmod(path, 0o4640)
    fs.utime(path, ns=(1_000_000_001, 2_000_000_002))
    assert os.stat(here).st_mtime_ns == 2_000_000_002 and os.stat(here).st_mode & 0o7777 == 0o4640
    fs.chown(path, 1234, -1)
    assert (os.stat(here).st_uid, os.stat(here).st_gid) == (1234, fs.who.gid)
    assert not os.stat(here).st_mode & stat.S_ISUID, "a new owner ends it"
    fs.setxattr(path, "user.a", b"1")
    os.setxattr(here, "user.b", b"2")
    assert fs.listxattr(path) == ["user.a", "user.b"] and fs.getxattr(path, "user.b") == b"2"
    with pytest.raises(FileExistsError):
        fs.setxattr(path, "user.a", b"", os.XATTR_CREATE)
    fs.removexattr(path, "user.a")
    for name, number in (("user.a", errno.ENODATA), ("strange.a", errno.EOPNOTSUPP)):
        with pytest.raises(OSError) as caught:
            fs.getxattr(path, name)
        assert caught.value.errno == number and caught.value.filename == path
    fs.truncate(path, 5)
    assert here.read_bytes() == b"x\0\0\0\0"
    mine, theirs = fs.statvfs(), os.statvfs(mount)
    assert mine[:3] == theirs[:3] and mine.f_namemax == theirs.f_namemax
    assert fs.access(path, os.R_OK | os.W_OK) and not fs.access(f"{top}/none", os.F_OK)


def test_others_may_what_a_mount_lets_them(fs: FileSystem, cluster: Cluster, top: str) -> None:
    with zdfs.connect(cluster.meta_address, uid=1000, gid=1000, umask=0o027) as user:
        for call in (
            lambda: user.write_bytes(f"{top}/f", b""), lambda: user.chmod(top, 0o777),
            lambda: user.mkdir(f"{top}/d"), lambda: user.utime(top), lambda: user.rmdir(top),
            lambda: user.chown(top, 1000, 1000), lambda: user.setxattr(top, "user.x", b""),
        ):  # fmt: skip
            with pytest.raises(PermissionError) as caught:
                call()
            assert caught.value.filename is not None
        fs.chmod(top, 0o1777)
        until(
            lambda: user.stat(top).st_mode & 0o777 == 0o777
        )  # it may believe what it knew a while
        user.write_bytes(f"{top}/mine", b"content")
        found = user.stat(f"{top}/mine")
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (1000, 1000, 0o640)
        fs.write_bytes(f"{top}/roots", b"secret")
        fs.chmod(f"{top}/roots", 0o600)
        until(lambda: not user.stat(f"{top}/roots").st_mode & 0o077)
        with pytest.raises(PermissionError):
            user.read_bytes(f"{top}/roots")
        with pytest.raises(PermissionError):
            user.remove(f"{top}/roots")  # the directory is sticky
        user.remove(f"{top}/mine")
        user.write_bytes(f"{top}/suid", b"1")
        user.chmod(f"{top}/suid", 0o4755)
        with user.open(f"{top}/suid", "ab") as file:
            file.write(b"2")
        assert not user.stat(f"{top}/suid").st_mode & stat.S_ISUID
        fs.chmod(top, 0o700)
        until(lambda: user.stat(top).st_mode & 0o777 == 0o700)
        with pytest.raises(PermissionError):
            user.stat(f"{top}/roots")


# --- many files --------------------------------------------------------------------------------


def source_tree(where: Path) -> Path:
    """Modes, times, symlinks, holes, an empty directory, strange names."""
    for number in range(60):
        folder = where / f"d{number % 4}" / "sub"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}").write_bytes(os.urandom(number * 97))
    (where / "empty").mkdir()
    (where / "link").symlink_to("d0/sub/0")
    (where / "broken").symlink_to("/none")
    with open(where / "sparse", "wb") as file:
        file.seek(50 << 20)
        file.write(b"end")
        file.truncate(60 << 20)
    os.chmod(where / "d1/sub/1", 0o4751)
    os.chmod(where / "d2", 0o2755)
    Path(os.fsdecode(os.fsencode(where) + b"/\xff")).write_bytes(b"strange")
    os.utime(where / "d3", ns=(1_111_111_111, 2_222_222_222))
    return where


def described(top: Path) -> dict[str, Any]:
    """All that a copy keeps."""
    found = {}
    for folder, names, files in os.walk(top):
        for name in [*names, *files, "."]:
            path = Path(folder, name)
            one = path.lstat()
            content: Any = None
            if stat.S_ISREG(one.st_mode):
                content = path.read_bytes()
            elif stat.S_ISLNK(one.st_mode):
                content = os.readlink(path)
            found[os.path.relpath(path, top)] = (one.st_mode, one.st_mtime_ns, content)
    return found


def test_a_tree_in_and_out(fs: FileSystem, tmp_path: Path, mount: Path, top: str) -> None:
    local = source_tree(tmp_path / "local")
    seen: list[Copied] = []
    done = fs.copy_in(local, f"{top}/t", progress=lambda done, path: seen.append(done))
    assert done == seen[-1] and done.files == len(seen) == 64
    assert described(mount / top[1:] / "t") == described(local)
    assert fs.stat(f"{top}/t/sparse").st_blocks * 512 < 1 << 20
    with pytest.raises(FileExistsError):
        fs.copy_in(local, f"{top}/t")
    assert fs.copy_out(f"{top}/t", tmp_path / "back", threads=3) == done
    assert described(tmp_path / "back") == described(local)
    assert os.stat(tmp_path / "back/sparse").st_blocks * 512 < 1 << 20
    assert fs.copy_out(f"{top}/t/d1/sub/1", tmp_path / "one") == (1, 97)
    assert fs.copy_in(os.fsencode(tmp_path / "one"), f"{top}/one".encode()) == (1, 97)
    assert fs.read_bytes(f"{top}/one") == (local / "d1/sub/1").read_bytes()


def test_what_cant_be_copied_is_told_and_the_rest_is(
    fs: FileSystem, tmp_path: Path, top: str
) -> None:
    local = tmp_path / "local"
    (local / "d").mkdir(parents=True)
    (local / "a").write_bytes(b"a")
    (local / "d/b").write_bytes(b"b")
    os.mkfifo(local / "pipe")
    fs.makedirs(f"{top}/t/a")  # in the way of a file
    with pytest.raises(shutil.Error) as caught:
        fs.copy_in(local, f"{top}/t", exist_ok=True)
    told = sorted((Path(old).name, new.rpartition("/")[2]) for old, new, _ in caught.value.args[0])
    assert told == [("a", "a"), ("pipe", "pipe")]
    assert fs.read_bytes(f"{top}/t/d/b") == b"b"
    with pytest.raises(FileNotFoundError):
        fs.copy_in(tmp_path / "none", f"{top}/none")
    with pytest.raises(FileNotFoundError):
        fs.copy_out(f"{top}/none", tmp_path / "none")
    with pytest.raises(RuntimeError, match="enough"):
        fs.copy_in(local / "d", f"{top}/u", progress=_raise)


def _raise(*_: object) -> None:
    raise RuntimeError("enough")


def test_copy_within(fs: FileSystem, top: str) -> None:
    fs.write_bytes(f"{top}/a", b"12345" * 50_000)
    fs.chmod(f"{top}/a", 0o750)
    fs.write_bytes(f"{top}/b", b"longer" * 100_000)
    fs.copy(f"{top}/a", f"{top}/b")
    assert fs.read_bytes(f"{top}/b") == b"12345" * 50_000
    fs.copy(f"{top}/a", f"{top}/c")
    assert fs.stat(f"{top}/c").st_mode & 0o777 == 0o750
    with pytest.raises(shutil.SameFileError):
        fs.copy(f"{top}/a", f"{top}/a")
    assert fs.stat(f"{top}/a").st_size == 250_000


# --- lives -------------------------------------------------------------------------------------


def test_a_forgotten_file_is_stored(fs: FileSystem, top: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fs.open(f"{top}/f", "w").write("forgotten")
        assert fs.read_bytes(f"{top}/f") == b"forgotten"
        cycle: list[Any] = [fs.open(f"{top}/g", "wb"), fs.open(f"{top}/h", "wb", 0)]
        cycle[0].write(b"in a cycle")
        cycle[1].write(b"in a cycle")
        cycle.append(cycle)
        del cycle
        gc.collect()
    assert any(issubclass(one.category, ResourceWarning) for one in caught)
    until(lambda: fs.read_bytes(f"{top}/g") == fs.read_bytes(f"{top}/h") == b"in a cycle")
    until(lambda: not fs._connection.volume.handles, what="every handle is given back")


def test_finalisers_in_core_code_wait_for_nothing(fs: FileSystem, top: str) -> None:
    """A collection may run while this thread has the volume's lock."""
    connection = fs._connection
    file = fs.open(f"{top}/f", "wb")
    file.write(b"late")

    async def core() -> None:
        nonlocal file
        del file  # its last reference: flushed and closed, here and now

    connection.run(core(), "test", None)
    until(lambda: fs.read_bytes(f"{top}/f") == b"late")
    until(lambda: not connection.volume.handles)


def test_the_end(cluster: Cluster, top: str) -> None:
    one = zdfs.connect(str(cluster.meta_port))
    file = one.open(f"{top}/f", "wb")
    file.write(b"not flushed")
    assert "python:" in str(cluster.told()["mounts"])
    one.close()
    one.close()
    file.close()
    assert file.closed and one.closed
    for call in (lambda: one.stat("/"), lambda: one.open("/x"), lambda: one.exists("/")):
        with pytest.raises(ValueError, match="closed"):
            call()
    with pytest.raises(ValueError):
        file.write(b"x")
    with zdfs.connect(cluster.meta_port) as again:  # type: ignore[arg-type]
        assert again.read_bytes(f"{top}/f") == b"not flushed", "the end flushes"
        again.open(f"{top}/g", "wb", 0).write(b"lost")
        again.abandon()
    assert again.closed


def test_a_fork_is_told(fs: FileSystem, top: str) -> None:
    file = fs.open(f"{top}/f", "wb")
    file.write(b"ours")
    hears, says = os.pipe()
    child = os.fork()
    if not child:
        said = b"nothing"
        try:
            fs.stat("/")
        except OSError as error:
            said = str(error).encode()
        del file
        gc.collect()
        fs.close()  # not ours to close: says nothing, does nothing
        os.write(says, said)
        os._exit(0)
    said = os.read(hears, 1000).decode()
    assert os.waitpid(child, 0)[1] == 0
    assert f"process {os.getpid()} before a fork" in said and "zdfs.connect" in said
    file.close()
    assert fs.read_bytes(f"{top}/f") == b"ours"


def test_many_threads(fs: FileSystem, top: str) -> None:
    wrong: list[Any] = []

    def work(number: int) -> None:
        try:
            for turn in range(10):
                path, data = f"{top}/{number}-{turn}", os.urandom(1000 + 7000 * turn)
                fs.write_bytes(path, data)
                if fs.read_bytes(path) != data or fs.stat(path).st_size != len(data):
                    wrong.append(path)
                fs.rename(path, path + "x")
                if turn % 2:
                    fs.remove(path + "x")
        except (OSError, ValueError, AssertionError) as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(fs.listdir(top)) == 60


def test_makedirs_in_many_threads(fs: FileSystem, top: str) -> None:
    """Who is told that a name is there finds it there."""
    for turn in range(5):
        wrong: list[OSError] = []

        def make(path: str = f"{top}/{turn}/a/b/c") -> None:
            try:
                fs.makedirs(path, exist_ok=True)
            except OSError as error:
                wrong.append(error)

        threads = [threading.Thread(target=make) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_who_connects_to_what_is_no_metaserver(cluster: Cluster) -> None:
    with pytest.raises(ConnectionError, match="is a dataserver: name the metaserver's port"):
        zdfs.connect(str(cluster.ports[0]))
    with pytest.raises(ConnectionError, match="is it running, and is that its address"):
        zdfs.connect("127.0.0.1:1", connect_timeout_s=0.1)
    with pytest.raises(ValueError, match="PORT"):
        zdfs.connect("nonsense")


# --- the documentation -------------------------------------------------------------------------


def test_the_documentation_is_true(cluster: Cluster, tmp_path: Path) -> None:
    """Each example of docs/API.md, in order, with the address and the local folder put in."""
    for name in "123":
        (tmp_path / "site").mkdir(exist_ok=True)
        (tmp_path / "site" / f"{name}.txt").write_text("0123456789")
    text = (Path(__file__).parents[2] / "docs" / "API.md").read_text()
    text = text.replace("host:2222", cluster.meta_address).replace("/tmp/example", str(tmp_path))
    text = text.replace('host="host", port=2222', f"port={cluster.meta_port}")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) > 5
    test = doctest.DocTestParser().get_doctest("".join(blocks), {}, "API.md", None, 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    failed = runner.run(test, out=said.append, clear_globs=False).failed
    test.globs["fs"].close()
    test.globs["remote"].files.close()
    assert not failed, "".join(said)
