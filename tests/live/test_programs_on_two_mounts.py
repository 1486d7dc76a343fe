"""Programs on two mounts at once: one follows, lists or takes over what the other does."""

import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live.cluster import Cluster
from tests.live.files import shell

pytestmark = pytest.mark.shared
Tell = Callable[[str], None]
GIT = "git -c user.name=n -c user.email=n@example.org"


@pytest.fixture(scope="module")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Two mounts of a cluster."""
    cluster = Cluster(tmp_path_factory.mktemp("two-mounts"))
    try:
        cluster.start()
        yield cluster.mount("a"), cluster.mount("b")
    finally:
        cluster.close()


class Follower:
    """tail -f."""

    def __init__(self, path: Path):
        self.process = subprocess.Popen(
            ["tail", "-n", "+1", "-s", "0.2", "-f", str(path)], stdout=subprocess.PIPE
        )
        self.seen = b""

    def reach(self, size: int) -> bool:
        """Take what it has printed; whether that are so many bytes."""
        assert self.process.stdout is not None
        while select.select([self.process.stdout], [], [], 0)[0]:
            self.seen += self.process.stdout.read1(65_536)
        return len(self.seen) >= size

    def close(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)


@pytest.mark.parametrize("how", ["opened each time", "kept open"])
def test_tail_f(mounts: tuple[Path, Path], tell: Tell, how: str) -> None:
    """Each line that one mount appends arrives on the other: soon, once and in order."""
    a, b = mounts
    name = "log of " + how
    words = [sys.executable, "-c", APPEND, str(a / name), how]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdin is not None and writer.stdout is not None
        assert writer.stdout.readline() == b"made\n"
        until(lambda: (b / name).exists(), 30, "the file is seen")
        follower, wanted = Follower(b / name), b""
        try:
            for number in range(60):
                line = b"%d %s\n" % (number, b"x" * (number * 37 % 6000))
                writer.stdin.write(line)
                writer.stdin.flush()
                assert writer.stdout.readline() == b"written\n"
                wanted += line
                if number % 4 == 0:
                    size = len(wanted)
                    until(lambda: follower.reach(size), 30, f"line {number} arrives")
                    assert follower.seen == wanted
            until(lambda: follower.reach(len(wanted)), 30, "the last line arrives")
            assert follower.seen == wanted
        finally:
            follower.close()
            writer.kill()
    tell(f"tail -f of a file {how} and appended to elsewhere: 60 lines, each once, in order")


APPEND = """
import os, sys
flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
file = os.open(sys.argv[1], flags, 0o644)
print("made", flush=True)
for line in sys.stdin.buffer:
    os.write(file, line)
    if sys.argv[2] == "kept open":
        os.fsync(file)
    else:
        os.close(file)
        file = os.open(sys.argv[1], flags)
    print("written", flush=True)
"""


def removed(mounts: tuple[Path, Path], folders: int, files: int) -> str:
    """rm -rf of a tree while the other mount lists it: rm succeeds, the lister sees no nonsense."""
    a, b = mounts
    shell(a, f"mkdir -p tree/{{1..{folders}}}", 300)
    make = f"for d in tree/*; do (cd $d; touch name-{{1..{files}}}; ln name-1 link); done"
    shell(a, make, 600)
    total = folders * (files + 1)
    assert shell(b, "find tree -type f | wc -l", 300).strip() == str(total)
    lister = subprocess.Popen(
        ["bash", "-c", f"cd {b}; while ls -lR tree; do :; done; true"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        shell(a, "rm -r tree; test ! -e tree", 600)
        said, wrong = lister.communicate(timeout=120)
    finally:
        lister.kill()
    assert lister.returncode == 0
    known = ("No such file or directory", "Stale file handle")  # it went away meanwhile
    assert all(line.endswith(known) for line in wrong.splitlines()), wrong[:2000]
    until(lambda: "tree" not in shell(b, "ls"), 30, "the other mount sees that it is gone")
    shell(b, "mkdir tree; touch tree/name-1; rm -r tree")
    return f"rm -r of {total} files on one mount while the other ran ls -lR ({len(said):,} bytes)"


def test_rm_while_another_lists(mounts: tuple[Path, Path], tell: Tell) -> None:
    tell(removed(mounts, 8, 40))


@pytest.mark.soak
def test_rm_of_a_large_tree_while_another_lists(mounts: tuple[Path, Path], tell: Tell) -> None:
    tell(removed(mounts, 100, 200))


def test_git_from_both(mounts: tuple[Path, Path], tell: Tell) -> None:
    """Commits made in turn on two mounts of one repository; sound on both."""
    a, b = mounts
    shell(a, "git init -q -b main both; cd both; echo 0 > file; git add file")
    shell(a / "both", f"{GIT} commit -qm 0")
    until(lambda: (b / "both/.git/HEAD").exists(), 30, "the repository is seen")
    for turn in range(1, 9):
        where = mounts[turn % 2] / "both"
        shell(where, f"echo {turn} >> file; {GIT} commit -qam {turn}")
    for mount in mounts:
        assert shell(mount / "both", "git rev-list --count HEAD").strip() == "9"
        assert shell(mount / "both", "cat file").split() == list("012345678")
        shell(mount / "both", "git fsck --full --strict")
        assert shell(mount / "both", "git status --porcelain") == ""
    tell("git: 8 commits made in turn on two mounts; fsck --strict is clean on both")
