"""The peers: GlusterFS and MooseFS, from Debian's packages, each in a network namespace of its own.

MooseFS refuses servers at 127.0.0.1, and neither peer shall be reached from, or reach, anything
else.  So each gets a network of one loopback device with one more address.  Processes enter it by
`nsenter`, which leaves mounts alone: the file system is seen, and worked on, from outside.  Who is
in the namespace is who must end before it is removed, whatever started it; that is how daemons
that GlusterFS forks are found.

Configuration, stores, logs and sockets stand below the contestant's folder.  The one exception:
GlusterFS is built to put the sockets of its bricks into /run/gluster; they are removed at the end.
All options are the defaults of Debian's packages but for addresses, paths and the user, root.
"""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from bench.contestants import COMMAND_S, REPLICAS, SERVERS, Contestant, detach, is_mounted
from tests.conftest import until

READY_S = 60.0
ENDED_S = 15.0
ADDRESS = "10.77.0.1"


class Namespace:
    """A network namespace with one address, and all that runs in it."""

    def __init__(self, name: str):
        self.name = name

    def open(self) -> None:
        """Make it."""
        for words in (
            ["netns", "add", self.name],
            ["-n", self.name, "link", "set", "lo", "up"],
            ["-n", self.name, "address", "add", f"{ADDRESS}/32", "dev", "lo"],
        ):
            subprocess.run(["ip", *words], check=True, timeout=COMMAND_S)

    def words(self, *words: str | Path) -> list[str]:
        """A command line, inside."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *map(str, words)]

    def run(self, *words: str | Path) -> str:
        """Run a command inside; its output.  CalledProcessError: it failed."""
        done = subprocess.run(
            self.words(*words), capture_output=True, text=True, timeout=COMMAND_S, check=True
        )
        return done.stdout

    def pids(self) -> list[int]:
        """Who is in it."""
        words = ["ip", "netns", "pids", self.name]
        done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_S)
        return [int(word) for word in done.stdout.split()]

    def close(self) -> None:
        """End all that is in it, and remove it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            with contextlib.suppress(pytest.fail.Exception):
                until(lambda: not self.pids(), ENDED_S, f"{self.name} is empty")
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, timeout=COMMAND_S)


class Peer(Contestant):
    """Servers and a mount in a namespace."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.space = Namespace(f"zdfs-race-{os.getpid()}-{folder.name}")
        self.running: list[subprocess.Popen[bytes]] = []
        self.mounting: subprocess.Popen[bytes] | None = None

    def spawn(self, name: str, *words: str | Path) -> subprocess.Popen[bytes]:
        """A process in the foreground, with its log; ^C in a terminal is not for it."""
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                self.space.words(*words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def start(self) -> None:
        super().start()
        self.space.open()
        self.serve()
        self.mount()

    def serve(self) -> None:
        """Start the servers."""
        raise NotImplementedError

    def mount_words(self) -> list[str | Path]:
        """The command line of a mount in the foreground."""
        raise NotImplementedError

    def mount(self) -> None:
        """Mount, and wait until it is there."""
        mounting = self.mounting = self.spawn("mnt", *self.mount_words())

        def mounted() -> bool:
            assert mounting.poll() is None, f"{self.title} can't be mounted"
            return is_mounted(self.top)

        until(mounted, READY_S, f"{self.title} is mounted")

    def present(self) -> bool:
        return is_mounted(self.top)

    def remount(self) -> None:
        subprocess.run(["umount", str(self.top)], check=True, capture_output=True, timeout=30)
        assert self.mounting is not None
        self.mounting.wait(timeout=30)
        self.mount()

    def revive(self) -> None:
        if self.mounting is not None:
            self.mounting.kill()
            self.mounting.wait(timeout=10)
        detach(self.top)
        self.mount()

    def close(self) -> None:
        detach(self.top)
        self.space.close()
        for process in self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)


# --- GlusterFS -----------------------------------------------------------------------------------

GLUSTERD = """volume management
    type mgmt/glusterd
    option working-directory {folder}/state
    option run-directory {folder}/run
    option logging-directory {folder}/log
    option glusterd-sockfile {folder}/run/glusterd.socket
    option transport-type socket
    option transport.socket.bind-address {address}
    option transport.socket.keepalive-time 10
    option transport.socket.keepalive-interval 2
    option transport.socket.read-fail-log off
    option transport.socket.listen-port 24007
    option ping-timeout 0
    option event-threads 1
    option max-port 60999
end-volume
"""
SOCKETS = Path("/run/gluster")


class Gluster(Peer):
    """One volume, replica 3, on three bricks."""

    title = "GlusterFS"
    note = (
        "GlusterFS: fsync reaches the disks of all three bricks; what was closed without it, and "
        "every change of names, is in their kernels' memory when the call returns"
    )

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.bricks = [folder / f"brick-{number}" for number in range(REPLICAS)]
        self.sockets: set[Path] = set()

    def version(self) -> str:
        done = subprocess.run(["glusterd", "--version"], capture_output=True, text=True)
        return done.stdout.split()[1]  # "glusterfs 10.3 ..."

    def serve(self) -> None:
        self.sockets = set(SOCKETS.glob("*.socket"))
        for path in [*self.bricks, *(self.folder / name for name in ("state", "run", "log"))]:
            path.mkdir()
        volfile = self.folder / "glusterd.vol"
        volfile.write_text(GLUSTERD.format(folder=self.folder, address=ADDRESS))
        log = self.folder / "log" / "glusterd.log"
        pid_file = self.folder / "run" / "glusterd.pid"
        self.spawn("glusterd", "glusterd", "-N", "-f", volfile, "-l", log, "-p", pid_file)
        socket = self.folder / "run" / "glusterd.socket"
        until(socket.exists, READY_S, "glusterd listens")
        until(lambda: self.answers("volume", "list"), READY_S, "glusterd answers")
        bricks = [f"{ADDRESS}:{brick}" for brick in self.bricks]
        # "force": the bricks stand on one machine and on the disk of its root
        self.command("volume", "create", "race", "replica", str(REPLICAS), *bricks, "force")
        self.command("volume", "start", "race")

    def command(self, *words: str) -> str:
        """A command of gluster's."""
        options = [f"--glusterd-sock={self.folder}/run/glusterd.socket"]
        options += [f"--log-file={self.folder}/log/cli.log"]
        return self.space.run("gluster", "--mode=script", *options, *words)

    def answers(self, *words: str) -> bool:
        """Whether a command succeeds by now."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.command(*words)
            return True
        return False

    def mount_words(self) -> list[str | Path]:
        log = self.folder / "log" / "mnt.log"
        words: list[str | Path] = ["glusterfs", "-N", "-s", ADDRESS, "--volfile-id=race"]
        return [*words, "-l", log, "-p", self.folder / "run" / "mnt.pid", self.top]

    def copies(self, name: str, content: bytes) -> int:
        files = [brick / name for brick in self.bricks]
        return sum(file.is_file() and file.read_bytes() == content for file in files)

    def close(self) -> None:
        super().close()
        for path in set(SOCKETS.glob("*.socket")) - self.sockets:
            path.unlink(missing_ok=True)


# --- MooseFS -------------------------------------------------------------------------------------

MASTER = """WORKING_USER = root
WORKING_GROUP = root
DATA_PATH = {folder}/master
EXPORTS_FILENAME = {folder}/master/exports
MATOML_LISTEN_HOST = {address}
MATOCS_LISTEN_HOST = {address}
MATOCL_LISTEN_HOST = {address}
"""
CHUNKSERVER = """WORKING_USER = root
WORKING_GROUP = root
DATA_PATH = {folder}
HDD_CONF_FILENAME = {folder}/disks
MASTER_HOST = {address}
CSSERV_LISTEN_HOST = {address}
CSSERV_LISTEN_PORT = {port}
"""
FIRST_PORT = 9432  # of the chunkservers; MooseFS's own end at 9425


class Moose(Peer):
    """A master and four chunkservers, goal 3 for all files."""

    title = "MooseFS"
    note = (
        "MooseFS: fsync and close return when the data is in the memory of three chunkservers' "
        "kernels (HDD_FSYNC_BEFORE_CLOSE = 0) and its metadata in that of one master, whose "
        "changelog is written later and not synced (CHANGELOG_SAVE_MODE = 0), as are names; "
        "its processes run at nice -19"
    )

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.stores = [folder / f"chunkserver-{number}" for number in range(SERVERS)]

    def version(self) -> str:
        done = subprocess.run(["mfsmaster", "-v"], capture_output=True, text=True)
        return (done.stdout + done.stderr).split()[1]  # "version: 3.0.117-1 ; build: ..."

    def serve(self) -> None:
        master = self.folder / "master"
        master.mkdir()
        (master / "metadata.mfs").write_bytes(b"MFSM NEW")
        (master / "exports").write_text("* / rw,alldirs,admin,maproot=0:0\n")
        options = master / "mfsmaster.cfg"
        options.write_text(MASTER.format(folder=self.folder, address=ADDRESS))
        self.spawn("master", "mfsmaster", "-f", "-c", options, "start")
        until(lambda: "initialized" in self.log("master"), READY_S, "mfsmaster serves")
        for number, store in enumerate(self.stores):
            (store / "chunks").mkdir(parents=True)
            (store / "disks").write_text(f"{store}/chunks\n")
            options = store / "mfschunkserver.cfg"
            port = FIRST_PORT + number
            options.write_text(CHUNKSERVER.format(folder=store, address=ADDRESS, port=port))
            self.spawn(store.name, "mfschunkserver", "-f", "-c", options, "start")
        for store in self.stores:
            until(lambda: "connected to Master" in self.log(store.name), READY_S, store.name)

    def log(self, name: str) -> str:
        """What a server wrote."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def start(self) -> None:
        super().start()
        self.space.run("mfssetgoal", str(REPLICAS), self.top)

    def mount_words(self) -> list[str | Path]:
        return ["mfsmount", "-f", "-H", ADDRESS, self.top]

    def copies(self, name: str, content: bytes) -> int:
        return sum(any(self.chunks(store, content)) for store in self.stores)

    def chunks(self, store: Path, content: bytes) -> list[Path]:
        """A chunkserver's chunks that hold this content: one file each, after a header."""
        sizes = range(len(content), len(content) + 64 * 1024)
        files = [path for path in store.glob("chunks/*/chunk_*") if path.stat().st_size in sizes]
        return [path for path in files if content in path.read_bytes()]
