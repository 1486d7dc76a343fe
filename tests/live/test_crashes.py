"""kill -9 of anything, at any time, under load: what was acknowledged is there, applied once.

Writers (`churn.py`) journal outside of the mount.  Each round kills something, starts it again by
the same command line, and waits until every writer has had changes acknowledged since.  At the end
a cold mount must show exactly what the journals say.
"""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live import churn
from tests.live.cluster import Cluster

SCRIPT = Path(churn.__file__)
PROGRESS_S = 60.0


class Writers:
    """Programs that change directories of a mount of their own."""

    def __init__(self, cluster: Cluster, mount: Path, count: int, seed: str, folder: str = "w"):
        self.cluster, self.count = cluster, count
        self.stop_file = cluster.folder / f"stop-{folder}"
        self.folders = [f"{folder}{number}" for number in range(count)]
        self.journals = {name: cluster.folder / f"{name}.journal" for name in self.folders}
        subprocess.run(["mkdir", *(mount / name for name in self.folders)], check=True, timeout=60)
        self.programs = [
            subprocess.Popen(
                [sys.executable, SCRIPT, mount / name, self.journals[name], seed + name,
                 self.stop_file],
            )
            for name in self.folders
        ]  # fmt: skip

    def acknowledged(self) -> list[int]:
        """Changes so far, of each."""
        found = [churn.expected(journal) for journal in self.journals.values()]
        assert not any(one.error for one in found), found
        return [one.acknowledged for one in found]

    def wait_for_progress(self, since: list[int], more: int = 2) -> None:
        """Until each has had more changes acknowledged."""
        until(
            lambda: all(new >= old + more for old, new in zip(since, self.acknowledged())),
            PROGRESS_S,
            "changes are acknowledged again",
        )

    def stop(self) -> None:
        """Let each finish its change."""
        self.stop_file.touch()
        for program in self.programs:
            assert program.wait(PROGRESS_S) == 0, [
                j.read_text()[-300:] for j in self.journals.values()
            ]

    def kill(self) -> None:
        """End them now, whatever they are at."""
        for program in self.programs:
            program.kill()
        for program in self.programs:
            program.wait(30)

    def compare(self, mount: Path) -> None:
        """A mount shows what the journals say."""
        for name, journal in self.journals.items():
            done = subprocess.run(
                [sys.executable, SCRIPT, "check", mount / name], capture_output=True, timeout=120
            )
            assert done.returncode == 0, done.stderr.decode()[-2000:]
            found, wanted = json.loads(done.stdout), churn.expected(journal)
            for path in found.keys() | wanted.names.keys():
                if path not in wanted.open:
                    assert found.get(path) == wanted.names.get(path), f"{name}/{path}"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.close()


def victims(dice: random.Random, cluster: Cluster) -> list[str]:
    """Who dies in this round."""
    servers = [f"data-{index}" for index in range(len(cluster.ports))]
    kind = dice.choice(["data", "data", "several", "meta", "meta", "both", "all"])
    if kind == "data":
        return [dice.choice(servers)]
    if kind == "several":
        return dice.sample(servers, 2)
    if kind == "meta":
        return ["meta"]
    return ["meta", dice.choice(servers)] if kind == "both" else ["meta", *servers]


def restart(cluster: Cluster, names: list[str]) -> None:
    """Their command lines again."""
    for name in names:
        if name == "meta":
            cluster.start_meta()
        else:
            cluster.start_data(int(name.removeprefix("data-")))


def crash_rounds(cluster: Cluster, dice: random.Random, rounds: int) -> None:
    """The whole story."""
    cluster.start()
    mount = cluster.mount()
    writers = Writers(cluster, mount, 3, str(dice.random()))
    try:
        for _ in range(rounds):
            since = writers.acknowledged()
            writers.wait_for_progress(since)
            names = victims(dice, cluster)
            cluster.kill(*names)
            back = time.monotonic() + dice.choice([0.0, 0.0, 0.3, 1.5])
            until(lambda: time.monotonic() >= back, 5)
            since = writers.acknowledged()
            restart(cluster, names)
            writers.wait_for_progress(since)
        writers.stop()
    finally:
        writers.kill()
    writers.compare(mount)
    cluster.unmount(mount)
    cold = cluster.mount("cold")
    writers.compare(cold)
    cluster.unmount(cold)


@pytest.mark.timeout(300)
def test_kill_anything_under_load(cluster: Cluster, dice: random.Random) -> None:
    crash_rounds(cluster, dice, 6)


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_kill_anything_a_hundred_times(cluster: Cluster, dice: random.Random) -> None:
    crash_rounds(cluster, dice, 100)


def test_the_mount_itself_dies_and_is_mounted_again_over_the_dead_one(
    cluster: Cluster, dice: random.Random
) -> None:
    """What fsync or close acknowledged is there; the dead mount is detached by the new one."""
    cluster.start()
    mount = cluster.mount()
    for number in range(2):
        writers = Writers(cluster, mount, 2, str(dice.random()), f"r{number}-")
        try:
            writers.wait_for_progress(writers.acknowledged(), 20)
            process = cluster.mounts.pop(mount)
            process.kill()
            process.wait(30)
        finally:
            writers.kill()
        done = cluster.command("zdfs-mount", mount, cluster.meta_port, timeout=60)
        assert done.returncode == 0, done.stderr
        writers.compare(mount)
        subprocess.run(["umount", mount], check=True, timeout=30)
        mount = cluster.mount()
    cluster.unmount(mount)


def test_two_mounts_take_turns_across_a_restart_of_the_metaserver(cluster: Cluster) -> None:
    """Close-to-open, with grants held by both when the metaserver dies."""
    cluster.start()
    one, two = cluster.mount("one"), cluster.mount("two")
    for turn in range(6):
        here, there = (one, two)[:: 1 if turn % 2 else -1]
        for name in ("a", "b"):
            text = f"{name} turn {turn}\n" * 50
            _shell(f"printf %s '{text}' > {here}/{name}", 60)
            assert _shell(f"cat {there}/{name}", 30) == text
        if turn % 2 == 0:
            _shell(f"echo {turn} >> {there}/c", 60)  # a grant held on the other side
            cluster.kill("meta")
            cluster.start_meta()
    assert _shell(f"cat {one}/c", 30) == "0\n2\n4\n"
    cluster.unmount(one)
    cluster.unmount(two)


def test_a_holder_that_was_killed_is_waited_out(cluster: Cluster) -> None:
    """Its unflushed bytes are void, its grant is passed on."""
    cluster.start()
    one, two = cluster.mount("one"), cluster.mount("two")
    _shell(f"echo old > {one}/f", 30)
    process = cluster.mounts.pop(one)
    process.kill()
    process.wait(30)
    _shell(f"echo new >> {two}/f", 60)
    assert _shell(f"cat {two}/f", 30) == "old\nnew\n"
    subprocess.run(["umount", "-l", one], check=True, timeout=30)
    cluster.unmount(two)


def test_a_frozen_mount_is_fenced_and_carries_on(cluster: Cluster) -> None:
    """Stopped for longer than its session lives, then woken: another has written meanwhile."""
    cluster.start()
    one, two = cluster.mount("one"), cluster.mount("two")
    _shell(f"echo old > {one}/f", 30)
    process = cluster.mounts[one]
    process.send_signal(signal.SIGSTOP)
    _shell(f"echo new > {two}/f", 60)
    process.send_signal(signal.SIGCONT)
    until(lambda: "opening a new one" in cluster.log("one"), 30)
    until(lambda: _shell(f"cat {one}/f", 30, check=False) == "new\n", 30)
    _shell(f"echo again > {one}/f", 60)
    assert _shell(f"cat {two}/f", 30) == "again\n"
    cluster.unmount(one)
    cluster.unmount(two)


def _shell(line: str, timeout: float, check: bool = True) -> str:
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=timeout)
    assert not check or done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout
