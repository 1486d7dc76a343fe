"""utimensat, futimens: times to the nanosecond, far away ones, and who may set them."""

import os
from errno import EACCES, EINVAL, ENOENT, EPERM

import pytest

from tests.live.posix.linux import (
    ALICE,
    AT_SYMLINK_NOFOLLOW,
    BOB,
    NS,
    UTIME_NOW,
    UTIME_OMIT,
    each_kind,
    fails,
    libc,
    make,
    opened,
    put,
    times_of,
    touches,
    user,
    utimensat,
)

pytestmark = pytest.mark.usefixtures("place")

NOW, OMIT = (0, UTIME_NOW), (0, UTIME_OMIT)


def ns(time: tuple[int, int]) -> int:
    """(seconds, nanoseconds) as one number."""
    return time[0] * NS + time[1]


@each_kind
def test_of_every_kind(kind: str) -> None:
    make(kind, "x")
    with touches("x", "c", among="c"), touches(".", ""):
        utimensat("x", (12, 123_456_789), (1_700_000_000, 999_999_999), flags=AT_SYMLINK_NOFOLLOW)
    found = times_of(os.lstat("x"))
    assert (found["a"], found["m"]) == (12_123_456_789, 1_700_000_000_999_999_999)


@pytest.mark.parametrize(
    "time",
    [
        (0, 0),
        (0, 1),
        (-1, 0),
        (-1, 999_999_999),
        (-(1 << 31), 0),
        ((1 << 31) - 1, 999_999_999),  # 2038
        (1 << 31, 0),
        ((1 << 32) - 1, 5),  # 2106
        (1 << 32, 5),
        (15_032_385_535, 0),  # 2446, the last that ext4 holds
    ],
    ids=lambda time: f"{time[0]}.{time[1]:09}",
)
def test_far_away(time: tuple[int, int]) -> None:
    put("f")
    utimensat("f", time, time)
    found = times_of(os.stat("f"))
    assert found["a"] == found["m"] == ns(time)


@pytest.mark.parametrize("atime", [(5, 7), NOW, OMIT], ids=["given", "now", "omit"])
@pytest.mark.parametrize("mtime", [(6, 8), NOW, OMIT], ids=["given", "now", "omit"])
def test_now_and_omit(atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    put("f")
    utimensat("f", (1, 2), (3, 4))
    both = atime == mtime == OMIT
    moving = "".join(letter for letter, time in zip("am", (atime, mtime)) if time == NOW)
    given = "".join(letter for letter, time in zip("am", (atime, mtime)) if time[0])
    with touches("f", moving + ("" if both else "c"), among="amc".translate(without(given))):
        utimensat("f", atime, mtime)
    found = times_of(os.stat("f"))
    for letter, time, old in (("a", atime, (1, 2)), ("m", mtime, (3, 4))):
        if time != NOW:
            assert found[letter] == ns(old if time == OMIT else time)


def without(letters: str) -> dict[int, None]:
    """For str.translate."""
    return {ord(letter): None for letter in letters}


def test_by_descriptor_and_of_symlinks() -> None:
    put("f")
    os.symlink("f", "s")
    with opened("f", os.O_RDONLY) as fd:
        os.utime(fd, ns=(ns((1, 1)), ns((2, 2))))
        assert times_of(os.fstat(fd))["m"] == times_of(os.stat("f"))["m"] == ns((2, 2))
    utimensat("s", (3, 3), (4, 4))
    assert times_of(os.stat("f"))["m"] == ns((4, 4)) != times_of(os.lstat("s"))["m"]
    utimensat("s", (5, 5), (6, 6), flags=AT_SYMLINK_NOFOLLOW)
    assert times_of(os.lstat("s"))["m"] == ns((6, 6)) and times_of(os.stat("f"))["m"] == ns((4, 4))


def test_null_means_now() -> None:
    put("f")
    utimensat("f", (1, 1), (1, 1))
    with touches("f", "amc", among="amc"):
        assert libc.utimensat(-100, b"f", None, 0) == 0


def test_it_wins_over_a_write_before() -> None:
    with opened("f", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"x")
        os.utime(fd, ns=(3, 4))
        assert os.fstat(fd).st_mtime_ns == os.stat("f").st_mtime_ns == 4
        os.fsync(fd)
        assert os.fstat(fd).st_mtime_ns == 4
    assert os.stat("f").st_mtime_ns == 4
    with opened("f", os.O_WRONLY) as fd, touches("f", "mc"):
        os.write(fd, b"y")


def test_times_that_cannot_be() -> None:
    put("f")
    for spec in ((0, -1), (0, NS), (0, UTIME_NOW + 1)):
        with fails(EINVAL):
            utimensat("f", spec, (0, 0))
    with fails(EINVAL):
        utimensat("f", NOW, NOW, flags=0x4000)
    with fails(ENOENT):
        utimensat("none", NOW, NOW)
    utimensat("none", OMIT, OMIT)  # nothing is asked, nothing fails


@pytest.mark.parametrize(
    "owner, mode, atime, mtime, number",
    [
        (ALICE, 0o000, (1, 0), (2, 0), 0),
        (ALICE, 0o000, NOW, NOW, 0),
        (BOB, 0o666, NOW, NOW, 0),  # who may write may say "now"
        (BOB, 0o644, NOW, NOW, EACCES),
        (BOB, 0o666, (1, 0), (2, 0), EPERM),
        (BOB, 0o666, NOW, OMIT, EPERM),
        (BOB, 0o666, OMIT, (2, 0), EPERM),
        (BOB, 0o000, OMIT, OMIT, 0),
    ],
)
def test_who_may(
    owner: int, mode: int, atime: tuple[int, int], mtime: tuple[int, int], number: int
) -> None:
    put("f")
    os.chown("f", owner, owner)
    os.chmod("f", mode)
    with user(ALICE):
        if number:
            with fails(number):
                utimensat("f", atime, mtime)
        else:
            utimensat("f", atime, mtime)
