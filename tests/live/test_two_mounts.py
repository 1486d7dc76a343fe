"""Two mounts of one cluster: what one closed the other sees; large directories.

Whatever touches a mount is a program with a timeout: a mount that hangs shall hang nobody else.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live.cluster import Cluster

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two mounts, `mnt` and `other`."""
    one = Cluster(tmp_path_factory.mktemp("two-mounts"))
    try:
        one.start()
        one.mount("mnt")
        one.mount("other")
        yield one
    finally:
        one.close()


def program(*words: object, timeout_s: float = 100, check: bool = True) -> str:
    """Run Python's `words`; what it wrote."""
    done = subprocess.run(
        [sys.executable, "-P", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert not check or done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
    return done.stdout


def shell(where: Path, words: str, timeout_s: float = 60) -> str:
    """A shell's output, run in a directory."""
    done = subprocess.run(
        ["bash", "-c", words], cwd=where, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(400)
def test_many_names(cluster: Cluster) -> None:
    """1,500 entries: made, listed on the other mount too, removed."""
    code = "import os,sys\nfor i in range(1500): os.mknod(f'{sys.argv[1]}/{i:05}')"
    where = cluster.folder / "mnt" / "many"
    shell(cluster.folder, f"mkdir {where}")
    program("-c", code, where, timeout_s=200)
    for mount in ("mnt", "other"):
        assert shell(cluster.folder / mount, "ls many | md5sum") == shell(
            cluster.folder, "seq -f %05.0f 0 1499 | md5sum"
        )
    shell(cluster.folder, f"rm -r {where}", timeout_s=150)


@pytest.mark.soak
def test_very_many_names(cluster: Cluster) -> None:
    """100,000 entries."""
    where = cluster.folder / "mnt" / "very-many"
    shell(cluster.folder, f"mkdir {where}")
    code = "import os,sys\nfor i in range(100000): os.mknod(f'{sys.argv[1]}/{i:06}')"
    program("-c", code, where, timeout_s=1800)
    listed = shell(cluster.folder / "other", "ls -l very-many | wc -l", timeout_s=300)
    assert listed.strip() == "100001"
    shell(cluster.folder, f"rm -r {where}", timeout_s=1800)


# --- two mounts --------------------------------------------------------------------------------


def test_what_was_closed_is_seen_at_open(cluster: Cluster) -> None:
    """Also when the reader had an older content in its kernel's pages."""
    mnt, other = cluster.folder / "mnt", cluster.folder / "other"
    for number in range(12):
        writer, reader = (mnt, other) if number % 2 else (other, mnt)
        text = f"{number} " * (1 + number * 1000)
        shell(writer, f"printf '%s' '{text}' > between")
        assert shell(reader, "cat between") == text


def test_what_is_being_written_is_flushed_for_a_reader(cluster: Cluster) -> None:
    mnt, other = cluster.folder / "mnt", cluster.folder / "other"
    code = (
        "import sys; f = open(sys.argv[1], 'w', 1); f.write('half\\n');"
        "print('x', flush=True); input()"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(mnt / "unclosed")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert writer.stdout is not None and writer.stdout.readline() == b"x\n"
        until(lambda: "unclosed" in shell(other, "ls"), what="the new name is seen")
        assert shell(other, "cat unclosed") == "half\n"
    finally:
        writer.communicate(b"\n", timeout=30)
    assert writer.returncode == 0


def test_names_are_seen_soon(cluster: Cluster) -> None:
    """A rename, a removal, a new mode, within a second or so."""
    mnt, other = cluster.folder / "mnt", cluster.folder / "other"
    shell(mnt, "mkdir soon && echo a > soon/a")
    until(lambda: shell(other, "ls soon 2>&1 || true") == "a\n", 15, "a is seen")
    shell(mnt, "mv soon/a soon/b")
    until(lambda: shell(other, "ls soon; cat soon/b 2>&1 || true") == "b\na\n", 15, "b is seen")
    shell(mnt, "chmod 600 soon/b")
    until(lambda: "rw-------" in shell(other, "ls -l soon/b"), 15, "the mode is seen")
    shell(mnt, "rm -r soon")
    until(lambda: "No such" in shell(other, "cat soon/b 2>&1 || true"), 15, "it is gone")


def test_an_open_file_unlinked_elsewhere(cluster: Cluster) -> None:
    """The other mount's descriptor still reads it."""
    mnt, other = cluster.folder / "mnt", cluster.folder / "other"
    shell(mnt, "echo kept > held")
    words = ["bash", "-c", f"exec 3< {other}/held; echo; read; cat <&3"]
    reader = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert reader.stdout is not None and reader.stdout.readline() == b"\n"
    shell(mnt, "rm held && echo new > held2")
    assert reader.communicate(b"\n", timeout=30)[0] == b"kept\n"


# Says how many names an open file has, now and after each line that it is sent.
COUNT_NAMES = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
print(os.fstat(fd).st_nlink, flush=True)
for _ in sys.stdin:
    print(os.fstat(fd).st_nlink, flush=True)
"""


def test_fstat_of_a_file_unlinked_elsewhere(cluster: Cluster) -> None:
    """It says that no name is left; the name itself is gone here, too."""
    mnt, other = cluster.folder / "mnt", cluster.folder / "other"
    shell(mnt, "echo kept > looked-at")
    holder = subprocess.Popen(
        [sys.executable, "-c", COUNT_NAMES, other / "looked-at"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    out, into = holder.stdout, holder.stdin
    assert out is not None and into is not None

    def names() -> bytes:
        into.write(b"\n")
        into.flush()
        return out.readline()

    try:
        assert out.readline() == b"1\n"
        shell(mnt, "rm looked-at")
        until(lambda: names() == b"0\n", 10, "fstat counts no names")
        until(lambda: "No such" in shell(other, "cat looked-at 2>&1 || true"), 15, "it is gone")
    finally:
        holder.communicate(timeout=30)
    assert holder.returncode == 0


def test_appends_from_two_mounts(cluster: Cluster) -> None:
    """Every line once."""
    code = (
        "import os,sys\nfor i in range(25):\n"
        "    fd=os.open(sys.argv[1],os.O_WRONLY|os.O_APPEND|os.O_CREAT)\n"
        "    os.write(fd,b'%s %04d\\n'%(sys.argv[2].encode(),i)); os.close(fd)"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(cluster.folder / mount / "log"), mount])
        for mount in ("mnt", "other")
    ]
    assert [one.wait(90) for one in writers] == [0, 0]
    lines = shell(cluster.folder / "mnt", "cat log").splitlines()
    assert sorted(lines) == sorted(f"{m} {i:04}" for m in ("mnt", "other") for i in range(25))
