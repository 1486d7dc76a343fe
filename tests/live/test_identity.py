"""A file is itself under any name, under none, and whatever other mounts do with its names.

On two mounts that believe what they know for a minute, so what is seen was told, not asked again.
"""

from collections.abc import Iterator
from errno import ENOENT, EWOULDBLOCK

import pytest

from tests.conftest import until
from tests.live.cluster import Cluster
from tests.live.hands import Hand

pytestmark = pytest.mark.shared

LONG = ("--attr-timeout", "120", "--entry-timeout", "120")
SOON_S = 20  # much less than that


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two mounts."""
    one = Cluster(tmp_path_factory.mktemp("identity"))
    try:
        one.start()
        one.mount("a", *LONG)
        one.mount("b", *LONG)
        yield one
    finally:
        one.close()


@pytest.fixture
def folder(cluster: Cluster, request: pytest.FixtureRequest) -> str:
    """A directory of the test's own, as both mounts name it."""
    name: str = request.node.name.replace("[", "-").replace("]", "")
    with Hand(cluster.folder / "a") as hand:
        hand(f"os.mkdir({name!r})")
    return name


@pytest.fixture
def a(cluster: Cluster, folder: str) -> Iterator[Hand]:
    with Hand(cluster.folder / "a" / folder) as hand:
        yield hand


@pytest.fixture
def b(cluster: Cluster, folder: str) -> Iterator[Hand]:
    with Hand(cluster.folder / "b" / folder) as hand:
        yield hand


def write(hand: Hand, name: str, text: str) -> None:
    hand(f"open({name!r}, 'w').write({text!r}) and None")


def inodes(hand: Hand, where: str) -> int:
    """How many are used: free ones are as many as the disk has room for, which others use too."""
    total, free = hand(f"(lambda s: (s.f_files, s.f_ffree))(os.statvfs({where}))")
    return int(total - free)


def read(hand: Hand, name: str) -> str:
    text: str = hand(f"open({name!r}).read()")
    return text


def missing(hand: Hand, name: str) -> bool:
    return not hand(f"os.path.lexists({name!r})")


# --- replaced and removed elsewhere --------------------------------------------------------------


def test_replaced_elsewhere_while_open(a: Hand, b: Hand) -> None:
    """The old descriptor, its mapping and its size stay the old file's; the name is the new's."""
    write(b, "f", "old" * 3000)
    a("fd = os.open('f', os.O_RDONLY)")
    a("old = mmap.mmap(fd, 0, prot=mmap.PROT_READ)")
    assert a("old[:3], os.pread(fd, 3, 0), os.fstat(fd).st_size") == (b"old", b"old", 9000)
    write(b, "new", "NEW" * 5000)
    b("os.rename('new', 'f')")
    until(lambda: read(a, "f") == "NEW" * 5000, SOON_S, "the name leads to the new file")
    a("new = mmap.mmap(os.open('f', os.O_RDONLY), 0, prot=mmap.PROT_READ)")
    assert a("new[:]") == b"NEW" * 5000 and a("old[:]") == b"old" * 3000
    assert a("os.pread(fd, 20000, 0)") == b"old" * 3000
    assert a("os.fstat(fd).st_size, os.stat('f').st_size") == (9000, 15000)
    assert a("os.fstat(fd).st_ino != os.stat('f').st_ino")
    until(lambda: a("os.fstat(fd).st_nlink") == 0, SOON_S, "the old file has no name")


def test_replaced_elsewhere_again_and_again(a: Hand, b: Hand) -> None:
    """Readers of a file that is replaced by rename see one content or the next, whole."""
    write(b, "f", "0" * 10)
    for turn in range(30):
        write(b, "new", f"{turn % 10}" * (100 + 611 * turn))
        b("os.rename('new', 'f')")
        text = read(a, "f")
        assert len(set(text)) == 1 and len(text) in (10, 100 + 611 * turn, 100 + 611 * (turn - 1))
        until(lambda: len(read(a, "f")) == 100 + 611 * turn, SOON_S, "the new content")


def test_unlinked_elsewhere_while_open(a: Hand, b: Hand) -> None:
    write(b, "f", "text")
    a("fd = os.open('f', os.O_RDWR)")
    b("os.unlink('f')")
    until(lambda: missing(a, "f"), SOON_S, "the name is gone")
    assert a("os.fstat(fd).st_size, os.fstat(fd).st_nlink") == (4, 0)
    a("os.pwrite(fd, b'more', 4), os.fchmod(fd, 0o600), os.ftruncate(fd, 6)")
    assert a("os.pread(fd, 10, 0), oct(os.fstat(fd).st_mode)") == (b"textmo", "0o100600")
    assert a("open(f'/proc/self/fd/{fd}').read()") == "textmo", "opened again, without a name"
    write(b, "f", "another")
    until(lambda: not missing(a, "f") and read(a, "f") == "another", SOON_S, "the next file")
    assert a("os.pread(fd, 10, 0)") == b"textmo"


def test_names_that_others_move(a: Hand, b: Hand) -> None:
    """Long before this kernel would have asked again."""
    write(a, "f", "f")
    assert b("sorted(os.listdir('.'))") == ["f"] and read(b, "f") == "f"
    a("os.rename('f', 'g')")
    until(lambda: missing(b, "f") and read(b, "g") == "f", SOON_S, "moved")
    a("os.mkdir('d')")
    write(a, "d/x", "x")
    until(lambda: not missing(b, "d/x"), SOON_S, "made")
    a("os.rename('d', 'e')")
    until(lambda: missing(b, "d/x") and read(b, "e/x") == "x", SOON_S, "the directory moved")
    a("os.unlink('e/x'), os.rmdir('e')")
    until(lambda: missing(b, "e"), SOON_S, "removed")
    write(a, "e", "a file now")
    until(lambda: not missing(b, "e") and read(b, "e") == "a file now", SOON_S, "another type")


def test_in_a_directory_that_others_move(a: Hand, b: Hand, folder: str) -> None:
    a("os.mkdir('d')")
    until(lambda: not missing(b, "d"), SOON_S, "made")
    b("os.chdir('d')")
    a("os.rename('d', 'e'), os.mkdir('d')")
    write(b, "here", "x")
    assert a("os.listdir('e'), os.listdir('d')") == (["here"], [])
    assert b("os.stat('.').st_ino") == a("os.stat('e').st_ino")


# --- several names -------------------------------------------------------------------------------


@pytest.fixture
def twins(a: Hand) -> Hand:
    """`one` and `two` are one file."""
    write(a, "one", "text" * 2000)
    a("os.link('one', 'two')")
    return a


def test_two_names_share_pages_and_attributes(twins: Hand) -> None:
    twins("fd = os.open('one', os.O_RDWR)")
    twins("one = mmap.mmap(fd, 0); two = mmap.mmap(os.open('two', os.O_RDWR), 0)")
    twins("one[:4] = b'ONE.'")
    assert twins("two[:8]") == b"ONE.text", "one mapping under two names"
    twins("os.pwrite(os.open('two', os.O_WRONLY), b'TWO.', 4)")
    assert twins("one[:8], os.pread(fd, 8, 0)") == (b"ONE.TWO.", b"ONE.TWO.")
    twins("os.chmod('two', 0o640), os.truncate('two', 3)")
    shown = "(os.stat('{0}').st_ino, os.stat('{0}').st_mode, os.stat('{0}').st_size)"
    assert twins(shown.format("one")) == twins(shown.format("two"))
    assert twins("os.stat('one').st_size, os.fstat(fd).st_nlink") == (3, 2)
    twins("os.unlink('two')")
    assert twins("os.stat('one').st_nlink, os.fstat(fd).st_nlink") == (1, 1)


def test_two_names_share_locks(twins: Hand, cluster: Cluster, folder: str) -> None:
    with Hand(cluster.folder / "a" / folder) as other:
        twins("fcntl.flock(os.open('one', os.O_RDWR), fcntl.LOCK_EX)")
        other("fd = os.open('two', os.O_RDWR)")
        with pytest.raises(OSError) as refused:
            other("fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)")
        assert refused.value.errno == EWOULDBLOCK


def test_two_names_share_watchers(twins: Hand) -> None:
    twins("import ctypes; libc = ctypes.CDLL(None); watch = libc.inotify_init1(os.O_NONBLOCK)")
    assert twins("libc.inotify_add_watch(watch, b'one', 2)") == 1  # IN_MODIFY
    twins("os.write(os.open('two', os.O_WRONLY), b'x') and None")
    assert len(twins("os.read(watch, 4096)")) >= 16


# --- no name -------------------------------------------------------------------------------------


def test_a_removed_directory(a: Hand) -> None:
    """As on a local file system."""
    a("os.mkdir('d'); os.chdir('d'); d = os.open('.', os.O_RDONLY)")
    before = inodes(a, "'.'")
    a("os.rmdir('../d')")
    until(lambda: inodes(a, "d") < before, SOON_S, "the metaserver has let go of it")
    assert a("os.stat('.').st_nlink, os.fstat(d).st_nlink") == (0, 0)
    for step in ("os.listdir(d)", "os.open('f', os.O_CREAT | os.O_RDWR)", "os.stat('f')"):
        with pytest.raises(OSError) as refused:
            assert a(step) == [], "an empty listing, or none"
            raise OSError(ENOENT, "an empty listing")
        assert refused.value.errno == ENOENT
    a("os.chdir('..')")
    assert a("os.listdir('.')") == []


def test_a_removed_file_that_a_path_descriptor_holds(a: Hand) -> None:
    write(a, "f", "text")
    a("fd = os.open('f', os.O_PATH)")
    before = inodes(a, "'.'")
    a("os.unlink('f')")
    until(lambda: inodes(a, "'.'") < before, SOON_S, "the metaserver has let go of it")
    assert a("os.fstat(fd).st_nlink, os.fstat(fd).st_size") == (0, 4)


def test_an_open_file_is_unlinked_and_nothing_else(a: Hand, b: Hand) -> None:
    """No other name stands in for it, here or elsewhere, and its directory can go."""
    a("os.mkdir('d')")
    write(a, "d/f", "text")
    a("fd = os.open('d/f', os.O_RDWR)")
    a("os.unlink('d/f')")
    assert a("os.listdir('d')") == []
    until(lambda: b("os.listdir('d')") == [], SOON_S, "nothing there for others either")
    b("os.rmdir('d')")
    assert a("os.write(fd, b'TEXT'), os.pread(fd, 9, 0), os.fstat(fd).st_nlink") == (4, b"TEXT", 0)


def test_replacing_an_open_file(a: Hand) -> None:
    write(a, "f", "old")
    write(a, "new", "new")
    a("fd = os.open('f', os.O_RDONLY)")
    a("os.rename('new', 'f')")
    assert read(a, "f") == "new" and a("os.pread(fd, 9, 0), os.fstat(fd).st_nlink") == (b"old", 0)
    assert a("os.listdir('.')") == ["f"]
