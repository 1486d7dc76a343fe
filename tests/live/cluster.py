"""A real cluster for a test: processes on loopback, stores in a temporary directory, mounts.

Every node is started by its command line, exactly as a user would, and killed by its id.  `close`
starts what is down, has fsck look at everything, and ends what the test left running; the leak
check of conftest watches.  A test that leaves damage says so: `cluster.damaged = "why"` if fsck
must be able to mend it, else `cluster.unchecked = "why"`.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests import conftest
from tests.conftest import until
from zdfs import addresses, fsck, wire
from zdfs.calls import Trap
from zdfs.errors import Failure, StartError
from zdfs.findings import GARBAGE, Report, text
from zdfs.link import Link
from zdfs.paths import PathVolume
from zdfs.tools import admin, scrub, why

T = TypeVar("T")
BIN = Path(__file__).parents[2] / "bin"
READY_S = 30.0
SWEPT_S = 60.0  # a start, a rebuild, a scrub and a sweep of what a test stores


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now, below those that the kernel gives to clients: one of a
    node that is down for a while must not become the near end of some connection, nor that of
    a node of another worker's, so each worker of a test run has ports of its own."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    span = 20_000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports: set[int] = set()
    while len(ports) < count:
        port = 10_000 + worker * span + secrets.randbelow(span)
        if port in _given:  # to another cluster of this test run
            continue
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            ports.add(port)
            _given.add(port)
    return list(ports)


_given: set[int] = set()


class Cluster:
    """One metaserver, N dataservers, mounts."""

    def __init__(
        self,
        folder: Path,
        servers: int = 4,
        *,
        block_size: int | None = None,
        faults: bool = True,
        stores: dict[int, Path] | None = None,
        meta_store: Path | None = None,
        more: Sequence[str] = (),
        meta_more: Sequence[str] = (),
        keys: Path | None = None,
    ):
        self.folder, self.faults, self.block_size, self.more = folder, faults, block_size, more
        self.meta_more, self.keys = meta_more, keys
        self.keys_of: dict[str, Path] = {}  # of nodes that have a key directory of their own
        self.meta_port, *self.ports = free_ports(servers + 1)
        self.stores = {i: folder / f"data-{i}" for i in range(servers)} | (stores or {})
        self.meta_store = meta_store or folder / "meta"
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.started: dict[str, float] = {}
        self.mounts: dict[Path, subprocess.Popen[bytes]] = {}
        self.before: dict[str, list[str]] = {}  # words before a node's or a mount's command line
        self.damaged = ""  # why fsck may find something at the end: it must be able to mend it
        self.was_whole = False  # once: so it can be again
        self.unchecked = ""  # why it may find what can't be mended

    # --- nodes ---------------------------------------------------------------------------------

    def _start(self, name: str, words: Sequence[str]) -> None:
        log = open(self.folder / f"{name}.log", "ab")  # noqa: SIM115 (the child's from here on)
        self.nodes[name] = subprocess.Popen(
            [*self.before.get(name, ()), *map(str, words)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        log.close()
        self.started[name] = time.monotonic()

    @property
    def admin_keys(self) -> Path | None:
        """Under which commands and mounts speak, where there are keys."""
        return self.keys / "given" / "admin" if self.keys else None

    @property
    def meta_address(self) -> str:
        """Where the metaserver listens, as HOST:PORT."""
        return addresses.parse(str(self.meta_port))

    def key_words(self, name: str = "") -> list[str]:
        """What a node ("data-0"), a mount or a command is told of keys."""
        directory = self.keys_of.get(name, self.keys if name else self.admin_keys)
        return ["--keys", str(directory)] if directory else []

    def meta_words(self) -> list[str]:
        """The metaserver's command line."""
        words = [BIN / "zdfs-node", "meta", self.meta_port, "--store", self.meta_store]
        words += [*self.meta_more, *self.key_words("meta")]
        words += ["--block-size", self.block_size] if self.block_size else []
        return [str(word) for word in words + (["--faults"] if self.faults else [])]

    def data_words(self, index: int) -> list[str]:
        """A dataserver's command line."""
        words = [BIN / "zdfs-node", "data", index, *self.ports, "--meta", self.meta_port]
        words += ["--store", self.stores[index], *self.more, *self.key_words(f"data-{index}")]
        return [str(word) for word in words + (["--faults"] if self.faults else [])]

    def start_meta(self) -> None:
        """Start the metaserver."""
        self._start("meta", self.meta_words())

    def start_data(self, *indices: int) -> None:
        """Start dataservers."""
        for index in indices:
            self._start(f"data-{index}", self.data_words(index))

    def start(self) -> "Cluster":
        """Start everything and wait until all serve."""
        self.start_meta()
        self.start_data(*range(len(self.ports)))
        self.wait_serving()
        return self

    def kill(self, *names: str, number: int = signal.SIGKILL) -> None:
        """Signal nodes ("meta", "data-0", ...) all at once, and wait for their end."""
        victims = [self.nodes.pop(name) for name in names]
        for victim in victims:
            victim.send_signal(number)
        for victim in victims:
            victim.wait(timeout=30)

    def log(self, name: str) -> str:
        """What a node wrote."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    # --- commands ------------------------------------------------------------------------------

    def command(
        self, name: str, *words: Any, timeout: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of ours; its output as text."""
        return subprocess.run(
            [str(BIN / name), *map(str, words)], capture_output=True, text=True, timeout=timeout
        )

    def status(self) -> dict[str, Any]:
        """What `zdfs status --json` prints; {} when it fails."""
        try:
            return self._ask(admin.status(self.meta_address))
        except (Failure, StartError):
            return {}

    def told(self) -> dict[str, Any]:
        """The same from a metaserver that may be busy."""
        return until(self.status, READY_S, "a status")

    def answers(self, server: str) -> bool:
        """Whether a dataserver says who it is."""
        try:
            return self._ask(admin.find_data(server)).role is wire.Role.DATA
        except StartError:
            return False

    def _ask(self, coroutine: Coroutine[Trap, Any, T]) -> T:
        """Drive a coroutine from here: starting a command takes half a second."""
        link = Link(keys=self.admin_keys)
        try:
            return link.run(coroutine)
        finally:
            link.close()

    def states(self) -> list[str]:
        """The state of each server."""
        return [server["state"] for server in self.status().get("servers", [])]

    def where(self, path: str) -> dict[str, Any]:
        """What `zdfs where --json` prints."""
        link = Link(keys=self.admin_keys)
        try:
            volume = PathVolume(self.meta_address, "(test)", link)
            link.run(volume.contact.open())
            facts = link.run(admin.where(volume, path.encode()))
            link.run(volume.stop())
            return facts
        finally:
            link.close()

    def why(self, subject: object = None) -> dict[str, Any]:
        """What `zdfs why --json` prints."""
        link = Link(keys=self.admin_keys)
        try:
            return why.why(link, None if subject is None else str(subject), self.meta_address)
        finally:
            link.close()

    def wait_serving(self, deadline_s: float = READY_S, *, down: Sequence[int] = ()) -> None:
        """Until the metaserver serves and every server that should, does."""
        wanted = ["down" if i in down else "serving" for i in range(len(self.ports))]

        def ready() -> bool:
            facts = self.status()
            servers = facts.get("servers", [])
            states = [server["state"] for server in servers]
            return states == wanted and not facts["note"] and all(map(self._news, servers))

        try:
            until(ready, deadline_s, f"servers {wanted}")
            self.was_whole |= not down
        except pytest.fail.Exception:
            print(self.status())
            print(*(f"{name}: {self.log(name)[-500:]}" for name in self.nodes), sep="\n")
            raise

    def wait_report(self, index: int) -> None:
        """Until the metaserver has heard from a dataserver what it did up to now."""
        now = time.monotonic()

        def heard() -> bool:
            seen = self.told()["servers"][index]["last_seen_s"]
            return seen is not None and time.monotonic() - seen > now + 0.1

        until(heard, READY_S, f"a report of data-{index}")

    def _news(self, server: dict[str, Any]) -> bool:
        """Whether what is said of a server was heard from the process that runs now."""
        started = self.started.get(f"data-{server['slot']}", 0.0)
        seen = server["last_seen_s"]
        up = server["state"] != "down"
        return not up or (seen is not None and time.monotonic() - seen > started + 0.1)

    # --- mounts --------------------------------------------------------------------------------

    def mount(self, name: str = "mnt", *words: str) -> Path:
        """Mount; returns the directory."""
        where = self.folder / name
        with contextlib.suppress(FileExistsError):  # perhaps with a dead mount on it
            where.mkdir()
        log = open(self.folder / f"{name}.log", "ab")  # noqa: SIM115
        line = [str(BIN / "zdfs-mount"), "-f", str(where), str(self.meta_port), *words]
        line += self.key_words() if "--keys" not in words else []
        self.mounts[where] = subprocess.Popen(
            [*self.before.get(name, ()), *line],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        log.close()
        until(lambda: os.path.ismount(where), READY_S, f"{where} is mounted")
        return where

    def unmount(self, where: Path) -> None:
        """umount, and wait for the process's clean end."""
        done = subprocess.run(["umount", str(where)], capture_output=True, timeout=30)
        assert done.returncode == 0, done.stderr
        assert self.mounts.pop(where).wait(timeout=30) == 0

    # --- the end -------------------------------------------------------------------------------

    def close(self) -> None:
        """End everything, the mounts first; in between everything must be in its place."""
        checked = self.was_whole and not self.unchecked and not conftest.failed
        try:
            if checked:
                self._revive()
            self._detach_all()
            if checked:
                self.check()
        finally:
            self._detach_all()
            self._end_nodes()

    def _revive(self) -> None:
        """Whatever was killed serves again."""
        alive = {name for name, node in self.nodes.items() if node.poll() is None}
        if "meta" not in alive:
            self.start_meta()
        self.start_data(*[i for i in range(len(self.ports)) if f"data-{i}" not in alive])
        self.wait_serving(SWEPT_S)

    def _detach_all(self) -> None:
        while self.mounts:
            where, process = self.mounts.popitem()
            _detach(where)
            _end(process)

    def check(self) -> None:
        """fsck finds nothing, once recovery is done and what was left of crashes is swept."""
        end = time.monotonic() + SWEPT_S

        def settled() -> Report | None:
            if self.damaged:
                report = self._ask(fsck.check_and_repair(self.meta_address))[1]
            else:
                report = self._ask(fsck.check(self.meta_address))
            garbage = not set(report.counts) - GARBAGE
            if report.counts and garbage:  # its own passes rest for longer than a test may take
                self._ask(scrub.everything(self.meta_address, lambda stage, done, total: None))
            passing = report.unfinished or garbage
            waits = report.status and passing and time.monotonic() < end
            return None if waits else report

        report = until(settled, 2 * SWEPT_S, "a whole cluster")
        if report is not None and report.status:
            pytest.fail(f"at the end of the test:\n{text(report)}")

    def _end_nodes(self) -> None:
        for process in self.nodes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.nodes.values():
            _end(process)


@contextlib.contextmanager
def started(folder: Path, servers: int = 4, **more: Any) -> Iterator[Cluster]:
    """A cluster that serves, made as `Cluster` is; closed in the end, however the test ends."""
    made = Cluster(folder, servers, **more)
    try:
        yield made.start()
    finally:
        made.close()


def _detach(where: Path) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(["umount", str(where)], capture_output=True, timeout=30)
    if os.path.ismount(where):
        subprocess.run(["umount", "-l", str(where)], capture_output=True, timeout=30)


def _end(process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 10
    try:
        process.wait(timeout=max(0.1, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=30)
