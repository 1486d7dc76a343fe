"""mknod, mkfifo, bind: what is neither file nor directory, and really used."""

import os
import select
import socket
import stat
from errno import EACCES, EADDRINUSE, ECONNREFUSED, EEXIST, EINVAL, ENOENT, EPERM

import pytest

from tests.live.posix.differences import differs
from tests.live.posix.linux import (
    ALICE,
    BOB,
    TYPES,
    each_kind,
    fails,
    get,
    make,
    mode_of,
    opened,
    put,
    times_of,
    touches,
    umask,
    user,
)

pytestmark = pytest.mark.usefixtures("place")

NODES = ("regular", "fifo", "socket", "character", "block")


@pytest.mark.parametrize("kind", NODES)
@pytest.mark.parametrize("device", [(0, 0), (1, 3), (7, 255), (4095, 1048575)])
def test_a_new_node(kind: str, device: tuple[int, int]) -> None:
    os.chmod(".", 0o777)
    with touches(".", "mc"), umask(0o027):
        os.mknod("x", TYPES[kind] | 0o666, os.makedev(*device))
    found = os.lstat("x")
    assert stat.S_IFMT(found.st_mode) == TYPES[kind] and mode_of("x") == 0o640
    assert (found.st_nlink, found.st_size) == (1, 0) and len(set(times_of(found).values())) == 1
    if kind in ("character", "block"):
        assert found.st_rdev == os.makedev(*device)
    else:
        assert found.st_rdev == 0


def test_without_a_type_it_is_a_file() -> None:
    os.mknod("f", 0o600)
    assert stat.S_ISREG(os.stat("f").st_mode)


def test_types_that_cannot_be() -> None:
    with fails(EPERM):
        os.mknod("x", stat.S_IFDIR | 0o755)
    with fails(EINVAL):
        os.mknod("x", stat.S_IFLNK | 0o777)
    assert os.listdir() == []


@each_kind
def test_over_something(kind: str) -> None:
    make(kind, "x")
    for work in (lambda: os.mkfifo("x"), lambda: os.mknod("x")):
        with fails(EEXIST):
            work()
    with socket.socket(socket.AF_UNIX) as one, fails(EADDRINUSE):
        one.bind("x")


@pytest.mark.parametrize("kind", NODES)
def test_who_may(kind: str) -> None:
    """Devices are root's."""
    os.mkdir("p")
    os.chmod("p", 0o777)
    with user(ALICE, BOB):
        with fails(EACCES):
            os.mknod("x", TYPES[kind] | 0o666, os.makedev(1, 3))
        if kind in ("character", "block"):
            with fails(EPERM):
                os.mknod("p/x", TYPES[kind] | 0o666, os.makedev(1, 3))
        else:
            os.mknod("p/x", TYPES[kind] | 0o666)
            assert (os.lstat("p/x").st_uid, os.lstat("p/x").st_gid) == (ALICE, BOB)


# --- FIFOs ---------------------------------------------------------------------------------------


def test_a_fifo_between_two_processes() -> None:
    os.mkfifo("p")
    data = bytes(range(256)) * 1000  # more than fits in at once
    child = os.fork()
    if child == 0:
        with open("p", "wb") as file:
            file.write(data)
        os._exit(0)
    assert get("p") == data
    assert os.waitpid(child, 0)[1] == 0
    assert os.stat("p").st_size == 0


def test_a_fifo_under_two_names() -> None:
    os.mkfifo("p")
    os.link("p", "q")
    with opened("p", os.O_RDWR) as fd, opened("q", os.O_RDWR) as other:
        os.write(fd, b"x")
        ready, _, _ = select.select([fd], [], [], 0)
        assert ready == [fd] and os.fstat(other).st_nlink == 2


def test_a_fifo_is_permitted_like_a_file() -> None:
    os.mkfifo("p")
    os.chmod("p", 0o422)
    with user(ALICE):
        with fails(EACCES):
            os.open("p", os.O_RDONLY | os.O_NONBLOCK)
        with fails(EACCES):
            os.open("p", os.O_RDWR)


# --- sockets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_a_socket_is_connected_to(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_UNIX, kind) as server, touches(".", "mc"):
        server.bind("s")
        server.listen()
        assert stat.S_ISSOCK(os.lstat("s").st_mode) and mode_of("s") == 0o755
        with socket.socket(socket.AF_UNIX, kind) as client:
            client.connect("s")
            peer, _ = server.accept()
            client.send(b"through")
            assert peer.recv(99) == b"through"
            peer.close()
        os.rename("s", "t")
        with socket.socket(socket.AF_UNIX, kind) as client:
            client.connect("t")
    with socket.socket(socket.AF_UNIX, kind) as client, fails(ECONNREFUSED):
        client.connect("t")  # nobody listens any more
    os.unlink("t")
    with socket.socket(socket.AF_UNIX, kind) as client, fails(ENOENT):
        client.connect("t")


def test_datagrams() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("s")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(b"one", "s")
            client.sendto(b"two", "s")
        assert server.recv(99) == b"one" and server.recv(99) == b"two"


def test_a_socket_of_somebody_else() -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        server.listen()
        os.chmod("s", 0o700)
        with user(ALICE), socket.socket(socket.AF_UNIX) as client, fails(EACCES):
            client.connect("s")
        os.chmod("s", 0o722)
        with user(ALICE), socket.socket(socket.AF_UNIX) as client:
            client.connect("s")


def test_a_socket_is_no_file() -> None:
    put("f")
    with socket.socket(socket.AF_UNIX) as client, fails(ECONNREFUSED):
        client.connect("f")


# --- devices -------------------------------------------------------------------------------------


@differs("device nodes")
def test_a_device_is_opened() -> None:
    os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with opened("null", os.O_RDWR) as fd:
        assert os.read(fd, 9) == b"" and os.write(fd, b"gone") == 4
