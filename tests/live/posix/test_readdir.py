"""Listings: each entry that stays is returned exactly once, whatever comes and goes meanwhile."""

import ctypes
import os
import random
import stat
from collections.abc import Iterator
from errno import EACCES, EBADF, ENOTDIR

import pytest

from tests.live.posix.linux import (
    ALICE,
    KINDS,
    TYPES,
    checked,
    fails,
    libc,
    make,
    opened,
    put,
    user,
)

pytestmark = pytest.mark.usefixtures("place")


class Dirent(ctypes.Structure):
    """struct dirent of 64-bit Linux."""

    _fields_ = [
        ("ino", ctypes.c_uint64),
        ("off", ctypes.c_int64),
        ("length", ctypes.c_uint16),
        ("type", ctypes.c_uint8),
        ("name", ctypes.c_char * 256),
    ]


class Stream:
    """An open directory of libc's: readdir, telldir, seekdir, rewinddir."""

    def __init__(self, path: str):
        self._dir = ctypes.c_void_p(libc.opendir(os.fsencode(path)))
        assert self._dir.value, path

    def read(self) -> tuple[bytes, int, int] | None:
        """(name, inode number, type) of the next entry; None at the end."""
        ctypes.set_errno(0)
        entry = libc.readdir(self._dir)
        if not entry:
            if ctypes.get_errno():
                checked(-1, "readdir")
            return None
        found = Dirent.from_address(entry)
        return found.name, found.ino, found.type

    def rest(self) -> Iterator[bytes]:
        """The names from here to the end."""
        while (entry := self.read()) is not None:
            yield entry[0]

    def tell(self) -> int:
        """The place, for seek."""
        return checked(libc.telldir(self._dir))

    def seek(self, place: int) -> None:
        """Go on from a place that was told."""
        libc.seekdir(self._dir, ctypes.c_long(place))

    def rewind(self) -> None:
        """From the start, as the directory is now."""
        libc.rewinddir(self._dir)

    def close(self) -> None:
        """End it."""
        checked(libc.closedir(self._dir))


def fill(count: int, where: str = ".") -> set[str]:
    """So many empty files."""
    names = {f"{number:05d}" for number in range(count)}
    for name in names:
        os.mknod(f"{where}/{name}")
    return names


def test_an_empty_one() -> None:
    stream = Stream(".")
    assert sorted(stream.rest()) == [b".", b".."]
    assert stream.read() is None
    stream.close()


def test_types_and_numbers() -> None:
    """d_type and d_ino are what lstat says; "." and ".." too."""
    os.makedirs("d")
    for kind in KINDS:
        make(kind, f"d/{kind}")
    stream = Stream("d")
    found = {}
    while (entry := stream.read()) is not None:
        found[os.fsdecode(entry[0])] = entry[1:]
    stream.close()
    assert set(found) == {*KINDS, ".", ".."}
    for name, (ino, kind) in found.items():
        seen = os.lstat(f"d/{name}")
        assert kind == stat.S_IFMT(seen.st_mode) >> 12, name
        assert ino == seen.st_ino, name
    assert {kind: found[kind][1] << 12 for kind in KINDS} == TYPES


@pytest.mark.parametrize("size", [1, 2, 100, 600])
def test_every_name_once(size: int) -> None:
    names = fill(size)
    assert sorted(os.listdir()) == sorted(names)
    seen = {entry.name: entry.inode() for entry in os.scandir()}
    assert set(seen) == names and len(set(seen.values())) == size


@pytest.mark.timeout(200)
def test_while_others_come_and_go() -> None:
    """1,500 entries: of those that stay each once, of the others at most once."""
    names = fill(1500)
    dice = random.Random(3)
    gone, come = set(), set()
    seen: list[str] = []
    with os.scandir() as entries:
        for entry in entries:
            seen.append(entry.name)
            if len(seen) % 8 == 0:
                victim = f"{dice.randrange(1500):05d}"
                if victim not in gone:
                    os.unlink(victim)
                    gone.add(victim)
                new = f"{dice.randrange(1500):05d}-new"
                if new not in come:
                    os.mknod(new)
                    come.add(new)
    assert len(seen) == len(set(seen)), "an entry was returned twice"
    assert names - gone <= set(seen), "an entry that stayed was not returned"
    assert set(seen) <= names | come
    assert set(os.listdir()) == names - gone | come


def test_while_everything_goes() -> None:
    """rm -r: what is listed is removed while the listing goes on."""
    fill(700)
    with os.scandir() as entries:
        for entry in entries:
            os.unlink(entry.name)
    assert os.listdir() == []


def test_while_everything_is_renamed() -> None:
    names = fill(500)
    stream = Stream(".")
    seen = [stream.read() for _ in range(100)]
    for name in names:
        os.rename(name, f"x{name}")  # behind what is being read
    found = [entry[0] for entry in seen if entry] + list(stream.rest())
    stream.close()
    assert len(found) == len(set(found))
    assert sorted(os.listdir()) == sorted(f"x{name}" for name in names)


def test_telldir_and_seekdir() -> None:
    fill(700)
    stream = Stream(".")
    places, names = [], []
    while True:
        place = stream.tell()
        entry = stream.read()
        if entry is None:
            break
        places.append(place)
        names.append(entry[0])
    assert len(names) == 702
    for index in random.Random(1).sample(range(702), 40):
        stream.seek(places[index])
        again = stream.read()
        assert again is not None and again[0] == names[index]
        following = stream.read()
        assert (following[0] if following else None) == (names + [None])[index + 1]
    stream.seek(places[350])
    assert list(stream.rest()) == names[350:]
    stream.close()


def test_seekdir_after_names_went() -> None:
    """What stays is found from an old place on, once."""
    fill(300)
    stream = Stream(".")
    first = [entry[0] for entry in (stream.read() for _ in range(100)) if entry]
    place = stream.tell()
    rest = list(stream.rest())
    for name in (*first[10:90:7], *rest[::3]):
        if name not in (b".", b".."):
            os.unlink(name)
    stream.seek(place)
    left = [name for name in rest if os.path.lexists(name)]
    found = list(stream.rest())
    stream.close()
    assert [name for name in found if name in left] == left
    assert set(found) <= set(rest)


def test_rewinddir_sees_what_is_new() -> None:
    fill(20)
    stream = Stream(".")
    before = set(stream.rest())
    put("new")
    os.unlink("00005")
    stream.rewind()
    after = set(stream.rest())
    stream.close()
    assert after - before == {b"new"} and before - after == {b"00005"}


def test_two_readers_of_one_directory() -> None:
    fill(600)
    one, two = Stream("."), Stream(".")
    first = [next(one.rest()) for _ in range(300)]
    assert sorted([*first, *one.rest()]) == sorted(two.rest())
    one.close()
    two.close()


def test_a_directory_that_moves_while_it_is_read() -> None:
    os.mkdir("d")
    fill(600, "d")
    stream = Stream("d")
    seen = [next(stream.rest()) for _ in range(10)]
    os.rename("d", "e")
    seen += stream.rest()
    stream.close()
    assert len(set(seen)) == len(seen) == 602


def test_who_may() -> None:
    """Reading wants r, walking wants x; each without the other."""
    os.mkdir("d")
    put("d/f", b"x")
    os.chmod("d", 0o711)
    with user(ALICE):
        with fails(EACCES):
            os.listdir("d")
        assert os.stat("d/f").st_size == 1
    os.chmod("d", 0o744)
    with user(ALICE):
        assert os.listdir("d") == ["f"]
        with fails(EACCES):
            os.stat("d/f")


def test_what_is_no_directory() -> None:
    put("f")
    with fails(ENOTDIR):
        os.listdir("f")
    with opened("f", os.O_RDONLY) as fd, fails(ENOTDIR):
        os.listdir(fd)
    with fails(EBADF):
        os.listdir(999)


def test_a_small_buffer() -> None:
    """getdents into room for one or two entries at a time."""
    names = {f"{number:03d}" + "n" * 200 for number in range(40)}
    for name in names:
        put(name)
    buffer = ctypes.create_string_buffer(600)
    found = []
    with opened(".", os.O_RDONLY) as fd:
        while (size := checked(libc.syscall(217, fd, buffer, 600))) > 0:
            at = 0
            while at < size:
                entry = Dirent.from_buffer_copy(buffer.raw[at : at + 280].ljust(280, b"\0"))
                found.append(os.fsdecode(entry.name))
                at += entry.length
    assert sorted(found) == sorted([*names, ".", ".."])
