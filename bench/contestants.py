"""Who races: what every contestant can do, the local disk, and zdfs.

A contestant works below a folder of its own and shows its files in one directory.  All of them run
at once, on one disk; those whose turn it isn't are idle.  A contestant that hangs is revived: its
mount's process is killed, which frees whoever waits for it, and it is mounted again.
"""

import contextlib
import json
import subprocess
from pathlib import Path

import pytest

import zdfs
from tests.live.cluster import Cluster

REPLICAS = 3
SERVERS = 4
COMMAND_S = 60.0  # for a command of a contestant's own


class RaceError(Exception):
    """The race can't be held, in words for people."""


def is_mounted(where: Path) -> bool:
    """Whether something is mounted there, without asking what is."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return any(line.split()[1] == str(where) for line in lines)


def detach(where: Path) -> None:
    """Unmount; what doesn't go at once goes when its last user does."""
    for words in (["umount"], ["umount", "-l"]):
        if is_mounted(where):
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run([*words, str(where)], capture_output=True, timeout=30)


class Contestant:
    """A directory with a name."""

    title = ""  # of its column
    note = ""  # what it leaves unsynced
    copies_wanted = REPLICAS

    def __init__(self, folder: Path):
        self.folder = folder
        self.top = folder / "mnt"

    def version(self) -> str:
        """Of the software."""
        return ""

    def start(self) -> None:
        """Servers and a mount at `top`."""
        self.top.mkdir()

    def present(self) -> bool:
        """Whether `top` is what it should be, not the empty directory below a lost mount."""
        return True

    def remount(self) -> None:
        """A new mount, which has nothing cached."""

    def revive(self) -> None:
        """A new mount at the place of one that hangs, or that died."""

    def copies(self, name: str, content: bytes) -> int:
        """How many servers hold this synced file, all of it."""
        return int((self.top / name).read_bytes() == content)

    def close(self) -> None:
        """End what was started."""


class Local(Contestant):
    """A plain directory."""

    title = "local disk"
    note = "local disk: one copy; what is not synced by fsync is not synced, names neither"
    copies_wanted = 1


class Zdfs(Contestant):
    """Four dataservers, all defaults."""

    title = "zdfs"
    note = (
        "zdfs: fsync, and close of what was written, return when the data is on three servers' "
        "disks, and its metadata on three, too; a change of names (create, rename, mkdir, unlink) "
        "when it is on the metaserver's disk and in the logs of two others"
    )

    options: tuple[str, ...] = ()  # of zdfs-mount

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.cluster = Cluster(folder, SERVERS, faults=False)
        self.cluster.unchecked = "tests see to that; a race only measures"
        self.nodes = ["meta", *(f"data-{index}" for index in range(SERVERS))]
        for name in [*self.nodes, "mnt"]:  # ^C in a terminal is not for them
            self.cluster.before[name] = ["setsid"]

    def version(self) -> str:
        return zdfs.__version__

    def start(self) -> None:
        self.cluster.start()
        self.mount()

    def mount(self) -> None:
        """With its own options."""
        self.cluster.mount("mnt", *self.options)

    def present(self) -> bool:
        return is_mounted(self.top)

    def remount(self) -> None:
        self.cluster.unmount(self.top)
        self.mount()

    def revive(self) -> None:
        if process := self.cluster.mounts.pop(self.top, None):
            process.kill()
            process.wait(timeout=10)
        detach(self.top)
        self.mount()

    def copies(self, name: str, content: bytes) -> int:
        words = ["where", "--json", "--meta", self.cluster.meta_address, f"/{name}"]
        words += self.cluster.key_words()
        done = self.cluster.command("zdfs", *words, timeout=COMMAND_S)
        blocks = json.loads(done.stdout)["blocks"]
        assert sum(block["length"] for block in blocks) == len(content)
        slots = [{one["slot"] for one in b["replicas"] if one["state"] == "ok"} for b in blocks]
        return min(map(len, slots))

    def close(self) -> None:
        self.cluster.close()


UNSYNCED = """
int fsync(int fd) { (void)fd; return 0; }
int fdatasync(int fd) { (void)fd; return 0; }
"""


class Unsynced(Zdfs):
    """zdfs whose servers' syncs do nothing, by a library put before libc's.

    It exists for comparison alone: what it acknowledges, a power cut may take.
    """

    title = "zdfs unsynced"
    note = (
        "zdfs unsynced: zdfs whose servers' fsync and fdatasync do nothing, as MooseFS's; only the "
        "race can run it so"
    )

    def start(self) -> None:
        source, library = self.folder / "unsynced.c", self.folder / "unsynced.so"
        source.write_text(UNSYNCED)
        words = ["gcc", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(words, check=True, timeout=COMMAND_S)
        for name in self.nodes:
            self.cluster.before[name] += ["env", f"LD_PRELOAD={library}"]
        super().start()


class Keyed(Zdfs):
    """zdfs with keys: everything between its processes is encrypted."""

    title = "zdfs with keys"
    note = "zdfs with keys: zdfs whose nodes and mount were started with --keys"

    def start(self) -> None:
        self.cluster.keys = self.folder / "keys"
        words = ["zdfs", "keys", "init", self.cluster.keys]
        self.cluster.command(*words, timeout=COMMAND_S).check_returncode()
        super().start()


class Writeback(Zdfs):
    """zdfs whose close waits for nothing."""

    title = "zdfs writeback"
    note = "zdfs writeback: zdfs, mounted with --writeback: what no fsync waited for is underway"
    options = ("--writeback",)


FAILURES = (OSError, subprocess.SubprocessError, AssertionError, ValueError, pytest.fail.Exception)
