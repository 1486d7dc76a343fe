"""A real mount with --writeback: programs find what they made, and so do others, and a crash leaves
each file as it was, whole, or without what no fsync waited for."""

import os
import shutil
import signal
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live import files
from tests.live.cluster import Cluster
from tests.live.files import shell
from tests.live.hands import Hand

pytestmark = pytest.mark.shared
SOON_S = 20.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two mounts: "a" with --writeback, "b" without."""
    one = Cluster(tmp_path_factory.mktemp("writeback"), meta_more=["--session-life", "3"])
    try:
        one.start()
        one.mount("a", "--writeback")
        one.mount("b")
        yield one
    finally:
        one.close()


def look(top: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """All files below a directory: mode, size, mtime, content."""
    found = {}
    for folder, _, names in os.walk(top):
        for name in names:
            path = Path(folder) / name
            had = path.lstat()
            data = path.read_bytes() if path.is_file() else os.readlink(os.fsencode(path))
            shown = (had.st_mode, had.st_size, had.st_mtime_ns, data)
            found[str(path.relative_to(top))] = shown
    return found


def test_a_tree_that_tar_and_rsync_and_git_make(cluster: Cluster, tmp_path: Path) -> None:
    a, b = cluster.folder / "a", cluster.folder / "b"
    source = tmp_path / "source"
    shutil.copytree(Path(sysconfig.get_paths()["stdlib"]) / "json", source)
    shutil.copytree(Path(sysconfig.get_paths()["stdlib"]) / "email", source / "email")
    os.chmod(source / "decoder.py", 0o444)
    shell(tmp_path, "tar --format=posix -cf source.tar source")
    shell(a, f"tar -xpf {tmp_path}/source.tar; rsync -a {source}/ synced")
    wanted = look(source)
    assert look(a / "source") == wanted == look(a / "synced")
    until(lambda: look(b / "source") == wanted == look(b / "synced"), SOON_S)
    shell(
        a,
        "git init -q one; cp -r source one; cd one; git add .; git -c user.name=a -c user.email=a@b"
        ' commit -qm all; cd ..; git clone -q one two; cd two; test -z "$(git status -s)"; '
        "git fsck --strict",
    )
    cluster.unmount(a)  # everything is flushed
    shell(b, 'cd two; git fsck --strict; test -z "$(git status -s)"; diff -r source ../one/source')
    assert look(b / "synced") == wanted
    cluster.mount("a", "--writeback")


def test_a_mount_that_is_killed(cluster: Cluster) -> None:
    """What was synced or renamed is whole; of the rest nothing is wrong."""
    a, b = cluster.folder / "a", cluster.folder / "b"
    files.put(b / "kept", b"old")
    with Hand(a) as hand:
        hand(
            "for n in range(200):\n"
            " open(f'f{n}', 'wb').write(b'%d' % n)\n"
            "fd = os.open('fsynced', os.O_CREAT | os.O_WRONLY)\n"
            "os.write(fd, b'yes'); os.utime(fd, (5, 5)); os.fsync(fd)\n"
            "open('kept.new', 'wb').write(b'new'); os.rename('kept.new', 'kept')"
        )
        cluster.mounts[a].send_signal(signal.SIGKILL)
        hand.kill()
    cluster.mounts.pop(a).wait(timeout=30)
    shell(cluster.folder, f"umount -l {a}")
    assert files.get(b / "fsynced") == b"yes" and (b / "fsynced").stat().st_mtime == 5
    assert files.get(b / "kept") == b"new"
    for number in range(200):
        assert files.get(b / f"f{number}") in (b"", b"%d" % number)
        files.put(b / f"f{number}", b"again")
    cluster.mount("a", "--writeback")
    assert files.get(a / "f199") == b"again"


def test_a_server_that_does_not_answer_is_not_waited_for(cluster: Cluster) -> None:
    """As long as nobody knows; then the next write waits, and says so, as everywhere (P4)."""
    a, b = cluster.folder / "a", cluster.folder / "b"
    server = cluster.nodes["data-1"]
    with Hand(a) as hand, Hand(a) as other:
        hand("f = open('waiting', 'wb')")
        server.send_signal(signal.SIGSTOP)
        try:
            hand("f.write(b'one'); f.close()")
            assert hand("open('waiting', 'rb').read()") == b"one"
            other.start("fd = os.open('waiting', os.O_RDWR); os.fsync(fd)")
            assert other.waits(0.5)
        finally:
            server.send_signal(signal.SIGCONT)
        other.end()
    assert files.get(b / "waiting") == b"one"
