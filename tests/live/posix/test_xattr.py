"""Extended attributes: setxattr, getxattr, listxattr, removexattr; xattr(7), capabilities(7)."""

import ctypes
import errno
import os
import struct

import pytest

from tests.live.posix.linux import ALICE, BOB, checked, fails, libc, make, opened, put, user

pytestmark = pytest.mark.usefixtures("place")

CREATE, REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE
CAPABILITY = "security.capability"
NET_RAW = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw=ep
HERE = "user.here"


def getxattr_into(name: str, attribute: str, size: int) -> int:
    """The raw call: with a buffer of so many bytes."""
    buffer = ctypes.create_string_buffer(size) if size else None
    return checked(libc.getxattr(os.fsencode(name), attribute.encode(), buffer, size), name)


def listxattr_into(name: str, size: int) -> int:
    """Likewise."""
    buffer = ctypes.create_string_buffer(size) if size else None
    return checked(libc.listxattr(os.fsencode(name), buffer, size), name)


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["regular", "directory"])
def test_set_get_list_remove(kind: str) -> None:
    make(kind, "f")
    assert os.listxattr("f") == []
    os.setxattr("f", "user.a", b"1")
    os.setxattr("f", "user.b", bytes(range(256)))
    assert sorted(os.listxattr("f")) == ["user.a", "user.b"]
    assert os.getxattr("f", "user.b") == bytes(range(256))
    os.setxattr("f", "user.a", b"another")
    assert os.getxattr("f", "user.a") == b"another"
    os.removexattr("f", "user.a")
    assert os.listxattr("f") == ["user.b"]
    with fails(errno.ENODATA):
        os.getxattr("f", "user.a")
    with fails(errno.ENODATA):
        os.removexattr("f", "user.a")


def test_an_empty_value_is_one() -> None:
    put("f")
    os.setxattr("f", HERE, b"")
    assert os.getxattr("f", HERE) == b"" and os.listxattr("f") == [HERE]
    assert getxattr_into("f", HERE, 0) == 0


def test_create_and_replace() -> None:
    put("f")
    with fails(errno.ENODATA):
        os.setxattr("f", HERE, b"1", REPLACE)
    os.setxattr("f", HERE, b"1", CREATE)
    with fails(errno.EEXIST):
        os.setxattr("f", HERE, b"2", CREATE)
    os.setxattr("f", HERE, b"3", REPLACE)
    assert os.getxattr("f", HERE) == b"3"
    with fails(errno.EEXIST):
        os.setxattr("f", HERE, b"4", CREATE | REPLACE)
    with fails(errno.ENODATA):
        os.setxattr("f", "user.none", b"4", CREATE | REPLACE)
    with fails(errno.EINVAL):
        os.setxattr("f", HERE, b"5", 4)


def test_buffers() -> None:
    put("f")
    os.setxattr("f", HERE, b"12345")
    assert getxattr_into("f", HERE, 0) == 5
    assert getxattr_into("f", HERE, 5) == 5
    with fails(errno.ERANGE):
        getxattr_into("f", HERE, 4)
    names = len(HERE) + 1
    assert listxattr_into("f", 0) == names and listxattr_into("f", names) == names
    with fails(errno.ERANGE):
        listxattr_into("f", names - 1)
    assert listxattr_into("f", 65536) == names


@pytest.mark.parametrize(
    "name", ["user." + "n" * 250, "user.ä\N{SNOWMAN}", "user.\udcff\udcfe", "user.\n"]
)
def test_names_are_bytes(name: str) -> None:
    put("f")
    os.setxattr("f", name, b"value")
    assert os.getxattr("f", name) == b"value" and os.listxattr("f") == [name]
    os.removexattr("f", name)
    assert os.listxattr("f") == []


def test_names_have_255_bytes() -> None:
    put("f")
    for name in ("user." + "n" * 251, ""):
        with fails(errno.ERANGE):
            os.setxattr("f", name, b"")
        with fails(errno.ERANGE):
            os.getxattr("f", name)
        with fails(errno.ERANGE):
            os.removexattr("f", name)


@pytest.mark.parametrize("name", ["user", "nonsense", "other.name", "system.nonsense", "User.a"])
def test_only_the_namespaces_of_linux(name: str) -> None:
    put("f")
    with fails(errno.EOPNOTSUPP):
        os.setxattr("f", name, b"")
    with fails(errno.EOPNOTSUPP):
        os.getxattr("f", name)
    with fails(errno.EOPNOTSUPP):
        os.removexattr("f", name)


def test_what_is_not_there() -> None:
    for call in (os.listxattr, lambda name: os.getxattr(name, HERE)):
        with fails(errno.ENOENT):
            call("f")
    with fails(errno.ENOENT):
        os.setxattr("f", HERE, b"")


def test_values_larger_than_linux_allows() -> None:
    put("f")
    with fails(errno.E2BIG):
        os.setxattr("f", HERE, bytes(64 * 1024 + 1))


def test_by_descriptor_and_after_unlink() -> None:
    put("f")
    with opened("f", os.O_RDWR) as fd:
        os.setxattr(fd, HERE, b"1")
        os.unlink("f")
        assert os.getxattr(fd, HERE) == b"1"
        os.setxattr(fd, HERE, b"2")
        os.setxattr(fd, "user.more", b"")
        os.removexattr(fd, HERE)
        assert os.listxattr(fd) == ["user.more"]


def test_all_names_of_a_file_have_them() -> None:
    put("f")
    os.link("f", "g")
    assert os.listxattr("f") == os.listxattr("g") == []
    os.setxattr("f", HERE, b"1")
    assert os.getxattr("g", HERE) == b"1"
    os.removexattr("g", HERE)
    with fails(errno.ENODATA):
        os.getxattr("f", HERE)
    os.setxattr("g", HERE, b"2")
    os.rename("g", "h")
    assert os.getxattr("h", HERE) == os.getxattr("f", HERE) == b"2"


def test_a_new_file_has_none_of_the_old_one() -> None:
    put("f")
    os.setxattr("f", HERE, b"1")
    os.unlink("f")
    put("f")
    assert os.listxattr("f") == []


def test_times() -> None:
    put("f")
    before = os.stat("f")
    while os.stat("f").st_ctime_ns == before.st_ctime_ns:
        os.setxattr("f", HERE, b"1")
    middle = os.stat("f")
    while os.stat("f").st_ctime_ns == middle.st_ctime_ns:
        os.setxattr("f", HERE, b"1")
        os.removexattr("f", HERE)
    assert os.stat("f").st_mtime_ns == before.st_mtime_ns


# --- who may -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["symlink", "fifo", "socket", "character"])
def test_user_attributes_are_of_files_and_directories_only(kind: str) -> None:
    make(kind, "f")
    with fails(errno.EPERM):
        os.setxattr("f", HERE, b"", follow_symlinks=False)
    with fails(errno.ENODATA):
        os.getxattr("f", HERE, follow_symlinks=False)
    os.setxattr("f", "trusted.here", b"1", follow_symlinks=False)
    assert os.getxattr("f", "trusted.here", follow_symlinks=False) == b"1"
    assert os.listxattr("f", follow_symlinks=False) == ["trusted.here"]


def test_user_attributes_follow_the_mode() -> None:
    os.chmod(".", 0o755)
    put("f")
    os.setxattr("f", HERE, b"1")
    os.chmod("f", 0o644)
    with user(BOB):
        assert os.getxattr("f", HERE) == b"1"
        with fails(errno.EACCES):
            os.setxattr("f", HERE, b"2")
        with fails(errno.EACCES):
            os.removexattr("f", HERE)
    os.chmod("f", 0o600)
    with user(BOB):
        with fails(errno.EACCES):
            os.getxattr("f", HERE)
        assert os.listxattr("f") == [HERE]  # the names are anybody's


def test_sticky_directories_are_their_owners() -> None:
    os.chmod(".", 0o755)
    os.mkdir("d")
    os.chown("d", ALICE, ALICE)
    os.chmod("d", 0o1777)
    with user(BOB), fails(errno.EPERM):
        os.setxattr("d", HERE, b"")
    with user(ALICE):
        os.setxattr("d", HERE, b"")


def test_trusted_attributes_are_administrators() -> None:
    os.chmod(".", 0o755)
    put("f")
    os.chown("f", ALICE, ALICE)
    os.setxattr("f", "trusted.here", b"1")
    os.setxattr("f", HERE, b"2")
    assert sorted(os.listxattr("f")) == ["trusted.here", HERE]
    with user(ALICE):
        assert os.listxattr("f") == [HERE]
        assert listxattr_into("f", 0) == len(HERE) + 1
        with fails(errno.ENODATA):
            os.getxattr("f", "trusted.here")
        with fails(errno.EPERM):
            os.setxattr("f", "trusted.here", b"3")
        with fails(errno.EPERM):
            os.removexattr("f", "trusted.here")
    assert os.getxattr("f", "trusted.here") == b"1"


def test_security_attributes_are_administrators_to_set() -> None:
    os.chmod(".", 0o755)
    put("f")
    os.chown("f", ALICE, ALICE)
    os.setxattr("f", "security.here", b"1")
    with user(ALICE):
        assert os.getxattr("f", "security.here") == b"1"
        with fails(errno.EPERM):
            os.setxattr("f", "security.here", b"2")
        with fails(errno.EPERM):
            os.removexattr("f", "security.here")


# --- capabilities ------------------------------------------------------------------------------


def capable(name: str = "f") -> bool:
    """Whether a file has capabilities."""
    try:
        return os.getxattr(name, CAPABILITY) == NET_RAW
    except OSError as error:
        assert error.errno == errno.ENODATA
        return False


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY | os.O_APPEND])
def test_capabilities_end_with_a_write(flags: int) -> None:
    put("f", b"program")
    with opened("f", flags) as fd:
        os.write(fd, b"1")
        os.setxattr("f", CAPABILITY, NET_RAW)
        assert capable() and os.listxattr("f") == [CAPABILITY]
        os.write(fd, b"2")
        assert not capable() and os.listxattr("f") == []
        os.write(fd, b"3")


def test_capabilities_end_with_a_new_owner() -> None:
    put("f", b"program")
    os.setxattr("f", CAPABILITY, NET_RAW)
    os.chmod("f", 0o755)
    os.utime("f")
    assert capable()
    os.chown("f", ALICE, -1)
    assert not capable()


def test_capabilities_end_with_truncation() -> None:
    for cut in (lambda: os.truncate("f", 1), lambda: put("f", b"anew")):
        put("f", b"program")
        os.setxattr("f", CAPABILITY, NET_RAW)
        cut()
        assert not capable()


def test_other_security_attributes_stay() -> None:
    put("f", b"program")
    os.setxattr("f", "security.here", b"label")
    put("f", b"changed")
    os.chown("f", ALICE, BOB)
    assert os.getxattr("f", "security.here") == b"label"


def test_what_is_no_capability() -> None:
    put("f")
    with fails(errno.EINVAL):
        os.setxattr("f", CAPABILITY, b"nonsense")
