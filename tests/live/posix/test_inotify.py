"""inotify: what happens on a mount is told to who watches there."""

import ctypes
import os
import select
import struct

import pytest

from tests.live.posix.linux import checked, libc, opened, put

pytestmark = pytest.mark.usefixtures("place")

EVENTS = {
    0x2: "MODIFY",
    0x4: "ATTRIB",
    0x8: "CLOSE_WRITE",
    0x10: "CLOSE_NOWRITE",
    0x20: "OPEN",
    0x40: "MOVED_FROM",
    0x80: "MOVED_TO",
    0x100: "CREATE",
    0x200: "DELETE",
    0x400: "DELETE_SELF",
    0x800: "MOVE_SELF",
}
CHANGES = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800


class Watch:
    """The changes below a directory, or of a file, since the last look."""

    def __init__(self, path: str):
        self._fd = checked(libc.inotify_init1(os.O_NONBLOCK))
        checked(libc.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(CHANGES)))

    def told(self) -> list[tuple[str, str]]:
        """(event, name), in order.  Events are queued by the time that a call returns."""
        found = []
        while select.select([self._fd], [], [], 0)[0]:
            data = os.read(self._fd, 65_536)
            while data:
                _, mask, _, length = struct.unpack_from("iIII", data)
                name = data[16 : 16 + length].rstrip(b"\0").decode()
                found += [(word, name) for bit, word in EVENTS.items() if mask & bit]
                data = data[16 + length :]
        return found


def test_names_come_and_go() -> None:
    os.mkdir("other")
    watch = Watch(".")
    os.mkdir("d")
    os.symlink("x", "s")
    os.mkfifo("p")
    os.rename("s", "t")
    os.rename("t", "other/t")
    os.rename("other/t", "u")
    os.unlink("u")
    os.rmdir("d")
    assert watch.told() == [
        ("CREATE", "d"),
        ("CREATE", "s"),
        ("CREATE", "p"),
        ("MOVED_FROM", "s"),
        ("MOVED_TO", "t"),
        ("MOVED_FROM", "t"),
        ("MOVED_TO", "u"),
        ("DELETE", "u"),
        ("DELETE", "d"),
    ]


def test_content_changes() -> None:
    put("f", b"x")
    watch = Watch(".")
    with opened("f", os.O_RDWR) as fd:
        os.write(fd, b"y")
        assert watch.told() == [("MODIFY", "f")]
        os.ftruncate(fd, 0)
        assert ("MODIFY", "f") in watch.told()
        os.read(fd, 1)
        assert watch.told() == []
    assert watch.told() == [("CLOSE_WRITE", "f")]


def test_attributes_change() -> None:
    put("f", b"x")
    watch = Watch("f")
    for change in (
        lambda: os.chmod("f", 0o600),
        lambda: os.chown("f", 1, 1),
        lambda: os.utime("f"),
        lambda: os.link("f", "g"),
        lambda: os.setxattr("f", "user.a", b"1"),
    ):
        change()
        assert watch.told() == [("ATTRIB", "")]


def test_the_watched_file_itself() -> None:
    put("f")
    watch = Watch("f")
    os.rename("f", "g")
    assert watch.told() == [("MOVE_SELF", "")]
    os.unlink("g")
    assert ("ATTRIB", "") in watch.told()


@pytest.mark.parametrize("count", [200])
def test_in_order(count: int) -> None:
    watch = Watch(".")
    for number in range(count):
        os.mkfifo(f"{number}")
    assert watch.told() == [("CREATE", f"{number}") for number in range(count)]
