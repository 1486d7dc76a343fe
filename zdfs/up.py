"""`make run`: a whole file system on one machine, in the foreground.

One metaserver and four dataservers on loopback, their stores under ./zdfs-store, mounted at ./mnt.
Whatever of it dies is started again, after a pause that doubles while it keeps dying.  ^C or
SIGTERM unmounts and then ends everything, by process id; a second run finds the files of the first.

    checked    ports free, ./mnt empty: else a StartError that says what to do
    starting   the servers run; `zdfs status --json` is asked until it has no reason to wait
    mounting   `zdfs-mount -f` runs; it is there when the kernel lists it and statfs answers
    up         one poll every TICK_S; dead children come back
    ending     unmount, wait, SIGTERM to the servers, wait, SIGKILL to what is left

Children run in sessions of their own, so that ^C reaches only this process and the order holds; the
kernel ends them if this process is killed (PR_SET_PDEATHSIG).
"""

import argparse
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from zdfs.errors import StartError

META_PORT = 2222
DATA_PORTS = (3333, 4444, 5555, 6666)
TICK_S = 0.2
READY_S = 60.0  # a cluster founds itself in seconds; a store with a long log takes a while
END_S = 20.0  # dirty data is flushed and logs are synced before a child ends
PAUSE_S = 0.5  # before the first restart; doubled up to PAUSE_MOST_S
PAUSE_MOST_S = 30.0
CALM_S = 60.0  # who lived so long starts again with the shortest pause
PR_SET_PDEATHSIG = 1

_prctl = ctypes.CDLL(None, use_errno=True).prctl


def say(text: str) -> None:
    """A line for people."""
    print(f"zdfs: {text}", flush=True)


def command(name: str) -> str:
    """Where a command is: bin/ of the checkout, else beside the interpreter, else on PATH."""
    here = Path(__file__).resolve().parent.parent / "bin" / name
    beside = Path(sys.executable).parent / name
    for path in (here, beside):
        if path.is_file():
            return str(path)
    found = shutil.which(name)
    if found is None:
        raise StartError(f"the command {name} is missing; run from a checkout, or pip install .")
    return found


def _end_with_parent() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Child:
    """A program that is to run until it is told to end."""

    name: str
    words: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    pause_s: float = PAUSE_S
    due_s: float = 0.0  # when a dead child is started again

    def start(self) -> None:
        """Start it; its output goes to the end of its log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        self.started_s = time.monotonic()

    def status(self) -> int | None:
        """Its exit status; None while it runs (or waits for its restart)."""
        return None if self.process is None else self.process.poll()

    def look_after(self) -> None:
        """Start it again if it died, after its pause."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.due_s:
                self.start()
            return
        status = self.process.poll()
        if status is None:
            return
        if now - self.started_s > CALM_S:
            self.pause_s = PAUSE_S
        why = f" (signal {-status})" if status < 0 else ""
        say(
            f"{self.name} ended with status {status}{why}; started again in {self.pause_s:g} s "
            f"(its log: {self.log})"
        )
        self.process, self.due_s = None, now + self.pause_s
        self.pause_s = min(self.pause_s * 2, PAUSE_MOST_S)

    def tell(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, end_s: float) -> bool:
        """Until it ended, or `end_s` on the clock: then False."""
        if self.process is None:
            return True
        try:
            self.process.wait(max(0.0, end_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True


@dataclass
class House:
    """The whole of it."""

    store: Path
    mount_point: Path
    meta_port: int = META_PORT
    data_ports: Sequence[int] = DATA_PORTS
    servers: list[Child] = field(default_factory=list)
    mount: Child | None = None
    faults: bool = False

    def check(self) -> None:
        """What must be so before anything is started."""
        for port in (self.meta_port, *self.data_ports):
            _check_port(port)
        _check_mount_point(self.mount_point)
        _check_fuse()

    def start_servers(self) -> None:
        """Start the metaserver and the dataservers."""
        logs = self.store / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        node, ports = command("zdfs-node"), [str(port) for port in self.data_ports]
        meta = ["meta", str(self.meta_port), "--store", str(self.store / f"meta-{self.meta_port}")]
        self.servers.append(Child("the metaserver", [node, *meta], logs / "meta.log"))
        for index, port in enumerate(ports):
            words = [node, "data", str(index), *ports, "--meta", str(self.meta_port)]
            words += ["--store", str(self.store / f"data-{port}")]
            self.servers.append(Child(f"dataserver {port}", words, logs / f"data-{port}.log"))
        for child in self.servers:
            child.words += ["--faults"] if self.faults else []
            child.start()

    def wait_for_servers(self) -> None:
        """Until the cluster serves; StartError when a server ends instead, or after READY_S."""
        words = [command("zdfs"), "status", "--json", "--meta", str(self.meta_port)]
        reasons = ["it doesn't answer"]

        def serves() -> bool:
            reasons[0] = _why_not(words)
            return not reasons[0]

        if not self._wait(serves, self.servers):
            logs = self.store / "logs"
            raise StartError(f"not up within {READY_S:g} s: {reasons[0]}; the logs are in {logs}")

    def start_mount(self) -> None:
        """Mount; StartError when that fails or takes longer than READY_S."""
        self.mount_point.mkdir(exist_ok=True)
        ports = [str(port) for port in (self.meta_port, *self.data_ports)]
        words = [command("zdfs-mount"), "-f", str(self.mount_point), *ports]
        self.mount = Child("the mount", words, self.store / "logs" / "mount.log")
        self.mount.start()
        if not self._wait(lambda: _mounted(self.mount_point), [self.mount]):
            raise StartError(f"not mounted within {READY_S:g} s; the log is {self.mount.log}")

    def _wait(self, ready: Callable[[], bool], needed: Sequence[Child]) -> bool:
        end_s = time.monotonic() + READY_S
        while not ready():
            for child in needed:
                status = child.status()
                if status is not None:
                    raise StartError(
                        f"{child.name} ended with status {status}:\n{_tail(child.log)}"
                    )
            if time.monotonic() > end_s:
                return False
            time.sleep(TICK_S)
        return True

    def look_after(self) -> None:
        """Keep all of it running, until a signal ends this."""
        while True:
            for child in [*self.servers, *([self.mount] if self.mount else [])]:
                child.look_after()
            time.sleep(TICK_S)

    def end(self) -> None:
        """Unmount, then end the servers: what the mount still has to flush needs them."""
        if self.mount is not None:
            _unmount(self.mount, self.mount_point)
        for child in self.servers:
            child.tell(signal.SIGTERM)
        end_s = time.monotonic() + END_S
        for child in self.servers:
            if not child.wait(end_s):
                say(f"{child.name} doesn't end; killing it (its store stands that)")
                child.tell(signal.SIGKILL)
                child.wait(end_s + END_S)


# --- looking at the world ----------------------------------------------------------------------


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StartError(
                f"port {port} on loopback is taken ({error.strerror}): is zdfs running already?  "
                f"'ss -ltnp sport = :{port}' says who has it"
            ) from error


def _check_mount_point(where: Path) -> None:
    if _listed(where):
        return  # a mount that died: zdfs-mount detaches it.  A living one holds the ports
    try:
        names = os.listdir(where)
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise StartError(f"{where} is no directory; move it away") from error
    if names:
        raise StartError(f"{where} is not empty: mounting would hide what is in it; move it away")


def _check_fuse() -> None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        raise StartError(
            f"/dev/fuse: {error.strerror}; mounting needs FUSE (as root: modprobe fuse; in a "
            "container: --device /dev/fuse --cap-add SYS_ADMIN)"
        ) from error


def _listed(where: Path) -> bool:
    """Whether the kernel has a FUSE file system there, alive or dead."""
    wanted = os.path.join(os.path.realpath(where.parent), where.name)
    for line in Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines():
        _, there, kind, *_ = line.split(" ")
        if kind.startswith("fuse") and there.encode().decode("unicode_escape") == wanted:
            return True
    return False


def _mounted(where: Path) -> bool:
    """Whether it is there and answers; asked by another process, because a dead one may hang."""
    if not _listed(where):
        return False
    ask = ["stat", "--file-system", str(where)]
    try:
        return subprocess.run(ask, capture_output=True, timeout=5, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _why_not(status: Sequence[str]) -> str:
    """Why the cluster doesn't serve yet; empty: it does."""
    try:
        done = subprocess.run(status, capture_output=True, timeout=10, check=False)
        facts: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    except subprocess.TimeoutExpired:
        return "the metaserver doesn't answer"
    except ValueError:
        return "zdfs status prints no JSON"
    if not facts:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "zdfs status fails"
    return str(facts.get("note") or "")


def _tail(log: Path, lines: int = 5) -> str:
    """The end of a log, for an error message."""
    text = log.read_bytes()[-4000:].decode(errors="replace").splitlines()[-lines:]
    return "\n".join(f"    {line}" for line in text) or f"    (nothing in {log})"


def _unmount(mount: Child, where: Path) -> None:
    """Ask the kernel first: that flushes; then the mount itself; in the end detach it."""
    words = ["umount", str(where)] if os.geteuid() == 0 else ["fusermount3", "-u", str(where)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=END_S, check=False)
        trouble = done.stderr.decode(errors="replace").strip() if done.returncode else ""
    except subprocess.TimeoutExpired:
        trouble = "umount hangs"
    if trouble and _listed(where):
        say(
            f"{trouble.rstrip('.')}; it is detached: who stands in it or has files open gets errors"
        )
        lazy = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
        subprocess.run([*lazy, str(where)], capture_output=True, timeout=END_S, check=False)
        mount.tell(signal.SIGTERM)
    if not mount.wait(time.monotonic() + END_S):
        say("the mount doesn't end; killing it (what close() had returned for is stored)")
        mount.tell(signal.SIGKILL)
        mount.wait(time.monotonic() + END_S)


# --- the command -------------------------------------------------------------------------------


def _stop(number: int, frame: FrameType | None) -> None:
    """SIGINT and SIGTERM alike; a second one changes nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _help(house: House) -> str:
    where = house.mount_point
    return (
        f"{where} is mounted.  Try, in another terminal:\n"
        f"    echo hello > {where}/hello && ls -l {where}\n"
        "    bin/zdfs status               who serves, who waits, what was repaired\n"
        "    bin/zdfs where /hello         which server holds which replica\n"
        f"    kill -9 {house.servers[1].process.pid if house.servers[1].process else 0}"
        f"                  {house.servers[1].name}: it comes back\n"
        f"Files stay in {house.store}, logs in {house.store / 'logs'}.  ^C ends it all."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the house until a signal; 0 when all of it ended as it should, 1 when it can't start."""
    parser = argparse.ArgumentParser(
        prog="python -m zdfs.up",
        description="What `make run` runs: five servers and a mount on this machine, until ^C.",
    )
    parser.add_argument("--store", type=Path, default=Path("zdfs-store"), help="where files stay")
    parser.add_argument("--mount", type=Path, default=Path("mnt"), help="where they are seen")
    parser.add_argument(
        "--faults", action="store_true", help="allow zdfs-corrupt and zdfs faults, for trials"
    )
    chosen = parser.parse_args(arguments)
    os.environ["ZDFS_CONFIG"] = os.devnull  # the children's: a file speaks of another cluster
    house = House(chosen.store.absolute(), chosen.mount.absolute(), faults=chosen.faults)
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    try:
        house.check()
        say("starting a metaserver and four dataservers")
        house.start_servers()
        house.wait_for_servers()
        house.start_mount()
        say(_help(house))
        house.look_after()
    except KeyboardInterrupt:
        say("ending: unmounting, then the servers")
    except StartError as error:
        say(str(error))
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        house.end()
    say("ended; the same command finds everything again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
