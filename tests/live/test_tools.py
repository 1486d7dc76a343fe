"""du, find-open, warmup, bench and bundle on a real cluster; and what each shows while it runs."""

import contextlib
import json
import os
import pty
import random
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import until
from tests.live import files
from tests.live.cluster import BIN, Cluster, started
from tests.live.hands import Hand

BLOCK = 4096
pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for all of these: none of them breaks anything."""
    with started(tmp_path_factory.mktemp("tools"), 3, block_size=BLOCK) as made:
        made.mount()
        yield made


@pytest.fixture
def mount(cluster: Cluster) -> Path:
    """Where it is mounted."""
    return cluster.folder / "mnt"


def facts(cluster: Cluster, *words: object, status: int = 0) -> dict[str, Any]:
    """What a command says as JSON, and nothing beside."""
    done = cluster.command("zdfs", *words, "--json")
    assert (done.returncode, done.stderr) == (status, ""), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_du_says_what_the_kernel_says(cluster: Cluster, mount: Path, dice: random.Random) -> None:
    (mount / "du/sub").mkdir(parents=True)
    for name in ("du/a", "du/sub/b"):
        files.put(mount / name, dice.randbytes(3 * BLOCK))
    os.link(mount / "du/a", mount / "du/sub/again")
    os.truncate(mount / "du/a", 1 << 30)
    found = facts(cluster, "du", mount / "du", "-d", "3")
    assert (found["names"], found["files"], found["directories"]) == (4, 2, 1)
    assert found["bytes"] == (1 << 30) + 3 * BLOCK and found["stored_bytes"] == 6 * BLOCK
    assert found["disk_bytes"] == 18 * BLOCK and found["below"][0]["path"] == "/du/sub"
    kernel = subprocess.run(
        ["du", "-s", "--block-size=1", mount / "du"], capture_output=True, text=True, timeout=30
    )
    assert int(kernel.stdout.split()[0]) == found["stored_bytes"]
    shown = cluster.command("zdfs", "du", "/du", "-s", "--meta", cluster.meta_port)
    assert shown.stdout.splitlines()[-1].endswith("/du") and "24.0 KiB" in shown.stdout
    wrong = cluster.command("zdfs", "du", mount / "nothing")
    assert wrong.returncode == 1 and wrong.stderr == "zdfs: /nothing: No such file or directory\n"


def nobody(cluster: Cluster, path: Path) -> bool:
    """Nobody has anything open there; a close takes a moment to be heard of."""
    return cluster.command("zdfs", "find-open", path).returncode == 0


def test_find_open_names_processes_and_mounts(cluster: Cluster, mount: Path) -> None:
    other = cluster.mount("other")
    (mount / "open/below").mkdir(parents=True)
    files.put(mount / "open/below/f", b"x" * 100)
    until(lambda: nobody(cluster, mount / "open"), what="it is closed")
    with Hand(mount / "open") as near, Hand(cluster.folder) as far:
        near("fd = os.open('below/f', os.O_RDWR); fcntl.flock(fd, fcntl.LOCK_SH)")
        far(f"fd = os.open({str(other / 'open/below/f')!r}, os.O_RDONLY)")
        far("kept = mmap.mmap(fd, 0, prot=mmap.PROT_READ); os.close(fd)")
        found = facts(cluster, "find-open", mount / "open", status=1)
        by_mount = {one["mount"]: one for one in found["open"]}
        assert set(by_mount) == {str(mount), str(other)}
        assert {one["path"] for one in found["open"]} == {"/open/below/f"}
        mine, theirs = by_mount[str(mount)], by_mount[str(other)]
        assert mine["pids"] == mine["lock_pids"] == [near.pid] and mine["locks"] == 1
        assert theirs["pids"] == [far.pid] and not theirs["writes"]
        how = {(one["pid"], one["how"]) for one in found["processes"]}
        assert {(near.pid, "works in it"), (far.pid, "mapped")} < how
        text = cluster.command("zdfs", "find-open", other / "open/below/f").stdout
        assert f"process {near.pid} (" in text and "descriptor" in text
    cluster.unmount(other)  # nobody keeps it busy
    until(lambda: nobody(cluster, mount / "open"), what="all is closed")


def test_warmup_reads_what_is_there(cluster: Cluster, mount: Path, dice: random.Random) -> None:
    (mount / "warm/sub").mkdir(parents=True)
    for number in range(5):
        files.put(mount / f"warm/sub/{number}", dice.randbytes(10 * BLOCK))
    os.link(mount / "warm/sub/0", mount / "warm/again")
    os.symlink("nowhere", mount / "warm/link")
    found = facts(cluster, "warmup", mount / "warm")
    assert (found["how"], found["files"], found["bytes"]) == ("mount", 5, 50 * BLOCK)
    found = facts(cluster, "warmup", mount / "warm", "--servers", "--parallel", "2")
    assert (found["how"], found["files"], found["bytes"]) == ("servers", 5, 150 * BLOCK)
    found = facts(cluster, "warmup", mount / "warm", mount / "nothing", status=1)
    assert found["files"] == 5 and "nothing: No such file" in found["errors"][0]
    block = cluster.where("/warm/sub/1")["blocks"][0]["replicas"][1]
    assert not cluster.command("zdfs-corrupt", block["address"], "/warm/sub/1", 1).returncode
    cluster.damaged = "a copy is flipped"
    done = cluster.command("zdfs", "warmup", "/warm", "--meta", cluster.meta_port)
    assert done.returncode == 1 or cluster.where("/warm/sub/1")  # the scrub may have been there
    if done.returncode:
        assert f"dataserver {block['address']}: copies that are" in done.stdout


def test_bench_leaves_nothing_behind(cluster: Cluster, mount: Path, tmp_path: Path) -> None:
    found = facts(cluster, "bench", mount, "--quick", "--beside", tmp_path)
    assert found["file_system"] == "zdfs" and len(found["rows"]) == 10
    assert all(one["figure"] > 0 and one["beside"] > 0 for one in found["rows"])
    assert {one["verdict"] for one in found["rows"]} <= {"good", "normal", "slow"}
    assert not list(mount.glob(".zdfs-bench*")) and not list(tmp_path.iterdir())
    for number in (signal.SIGINT, signal.SIGTERM):
        running = subprocess.Popen(
            [BIN / "zdfs", "bench", mount],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: list(mount.glob(".zdfs-bench*/*")), 30, "it works")
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
        assert (running.returncode, out, err) == (1, "", "zdfs: stopped\n")
        assert not list(mount.glob(".zdfs-bench*"))


# --- the bundle --------------------------------------------------------------------------------

KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"


def test_nothing_private_is_in_a_bundle(cluster: Cluster, mount: Path, tmp_path: Path) -> None:
    folder, name, content = "Überstunden 2024", "salary of Zbigniew.ods", b"Kontostand: siebzehn"
    (mount / folder).mkdir()
    private = mount / folder / name
    files.put(private, content)
    os.setxattr(private, "user.diagnosis", b"Schnupfen")
    cluster.command("zdfs", "policy", private, "quorum")
    replica = cluster.where(f"/{folder}/{name}")["blocks"][0]["replicas"][0]
    cluster.command("zdfs-corrupt", replica["address"], f"/{folder}/{name}", 0)
    cluster.damaged = "a copy is flipped"
    log = cluster.folder / "Zbigniews.log"
    log.write_text(
        f"2026-11-29 21:00:00.123Z zdfs.mount WARNING /{folder}/{name}: it waits\n"
        f"2026-11-29 21:00:00.123Z zdfs.mount WARNING {name!r} has user.diagnosis, key {KEY}\n"
    )
    logs = [word for one in cluster.folder.glob("*.log") for word in ("--log", one)]
    target = tmp_path / "found.tar.gz"
    words = ("bundle", target, "--meta", cluster.meta_port, *logs)
    listed = cluster.command("zdfs", *words, "--list")
    assert "nothing was written" in listed.stdout and not target.exists(), listed.stderr
    done = cluster.command("zdfs", *words)
    assert done.returncode == 0, done.stderr
    assert target.stat().st_mode & 0o777 == 0o600
    with tarfile.open(target) as tar:
        members = {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
    assert {f"found/{one}" for one in (
        "README.txt", "status.json", "health.json", "events.json", "waits.json", "machine.json",
        "processes.json", "versions.json", "space.json", "servers.json", "measures.json",
        "logs/1.log",
    )} <= set(members)  # fmt: skip
    everything = b"\n".join(members.values()) + "\n".join(members).encode()
    for word in (
        *folder.split()[:1], "salary", "Zbigniew", "ods", "Kontostand", "siebzehn", "diagnosis",
        "Schnupfen", KEY, KEY[:12], os.uname().nodename, *cluster.folder.parts[-2:], str(mount),
    ):  # fmt: skip
        assert word.encode() not in everything, word
    status = json.loads(members["found/status.json"])
    assert [one["state"] for one in status["servers"]] == ["serving"] * 3
    assert b"it waits" in everything and b"--meta" in members["found/processes.json"]
    assert b"left out" in done.stdout.encode() and "look into it" in done.stdout
    again = cluster.command("zdfs", *words)
    assert again.returncode == 1 and "is there already" in again.stderr


# --- while it runs -----------------------------------------------------------------------------

SHOWN = {
    "status": "asking the metaserver",
    "where /": "asking the servers",
    "health --over 0": "asking everybody",
    "why": "asking the metaserver and the mounts",
    "fsck": "asking the metaserver",
    "scrub": "asking the servers",
    "scrub --now": "asking the servers",
    "scrub /": "looking for its files",
    "impact --down 1": "counting",
    "du /": "counting",
    "find-open /": "asking the metaserver",
    "warmup /": "looking for files",
    "policy /": "asking the metaserver",
    "debts": "looking for what is owed",
    "bundle --list": "collecting",
    "drill": "may there be a drill?",
}


class Terminal:
    """A command on a terminal of its own; its output there, and what it says to a script."""

    def __init__(self, *words: object):
        self._near, far = pty.openpty()
        self.seen = b""
        self.process = subprocess.Popen(
            list(map(str, words)), stdin=far, stdout=subprocess.PIPE, stderr=far,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
        )  # fmt: skip
        os.close(far)
        os.set_blocking(self._near, False)

    def shows(self, what: str) -> bool:
        """Whether it has shown that by now."""
        with contextlib.suppress(OSError):  # nothing yet, or nothing any more
            self.seen += os.read(self._near, 65536)
        return what.encode() in self.seen

    def end(self) -> bytes:
        """What a script was told."""
        until(lambda: self.shows("") and self.process.poll() is not None, 60, "its end")
        self.shows("")
        os.close(self._near)
        assert self.process.stdout is not None
        with self.process.stdout as told:
            return told.read()


def shown(lines: dict[str, tuple[object, ...]], words: dict[str, str]) -> None:
    """Each of these shows its words, and says none of it to a script.  One that ends before (the
    machine is busy: it had no time to) is started again."""
    running = {line: Terminal(*command) for line, command in lines.items()}

    def seen(line: str) -> bool:
        if running[line].shows(words[line]):
            return True
        if running[line].process.poll() is not None:
            running[line].end()
            running[line] = Terminal(*lines[line])
        return False

    for line in lines:
        until(lambda: seen(line), 60, f"{line}: {words[line]}")
    for line, terminal in running.items():
        assert words[line].encode() not in terminal.end(), f"{line}: stdout is for scripts"


def test_each_command_shows_that_it_waits(cluster: Cluster, mount: Path) -> None:
    """The metaserver is stopped: every command has to wait for it, with words, on a terminal."""
    at = ("--meta", cluster.meta_port)
    words = SHOWN | {"meta rebuild": "asking the dataservers", "mount": "waiting for the cluster"}
    lines: dict[str, tuple[object, ...]] = {
        line: (BIN / "zdfs", *line.split(), *at) for line in SHOWN
    }
    store, where = cluster.folder / "new", cluster.folder / "third"
    where.mkdir()
    lines["meta rebuild"] = (
        BIN / "zdfs", "meta", "rebuild", *cluster.ports, "--store", store, *at,
    )  # fmt: skip
    lines["mount"] = (BIN / "zdfs-mount", where, cluster.meta_port)
    meta = cluster.nodes["meta"]
    meta.send_signal(signal.SIGSTOP)
    try:
        quiet = Terminal(BIN / "zdfs", "health", "--over", "0", "--json", *at)
        assert json.loads(quiet.end())["state"] == "critical" and not quiet.seen
        names = list(lines)
        for first in range(0, len(names), 4):
            shown({line: lines[line] for line in names[first : first + 4]}, words)
    finally:
        meta.send_signal(signal.SIGCONT)
        cluster.wait_serving()
    assert not os.path.ismount(where) and not store.exists()
