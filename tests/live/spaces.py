"""A cluster whose processes stand in network namespaces of their own, as on machines of their own.

    hub          a bridge, and the test's own questions         10.77.0.254
    meta         the metaserver                                 10.77.0.1
    data-0 ...   the dataservers                                10.77.0.10 ...
    mnt ...      mounts                                         10.77.0.100 ...

Nothing of it is seen outside: the namespaces hang on a process each (`unshare --net`) and end with
it.  What is cut is cut by the packet filter (nf_tables) of the namespace itself; what is to be slow
goes through a `Proxy` to which the filter turns it over.  Needs root, ip, nft, nsenter.
"""

import concurrent.futures
import contextlib
import ctypes
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.conftest import until
from tests.live.cluster import BIN, Cluster
from tests.live.proxy import Proxy

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
META_PORT, DATA_PORT, PROXY_PORT = 2222, 3333, 4444
MARK = 7  # of the proxy's own packets
PATIENCE_S = 30.0
_libc = ctypes.CDLL(None, use_errno=True)


def run(words: Sequence[str], text: str | None = None) -> None:
    """A command that must succeed."""
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, (words, done.stderr)


class Space:
    """One network namespace, held by a process that does nothing."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdin is not None and self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"\n", "unshare --net: is this root?"
        self.path = f"/proc/{self._holder.pid}/ns/net"
        self.words = ["nsenter", f"--net={self.path}", "--"]
        run([*self.words, "ip", "link", "set", "dev", "lo", "up"])

    @property
    def pid(self) -> str:
        return str(self._holder.pid)

    def filter(self, rules: str) -> None:
        """Replace all of this namespace's rules."""
        run([*self.words, "nft", "-f", "-"], "flush ruleset\n" + rules)

    def enter(self) -> None:
        """The calling thread stands in it from here on."""
        with open(self.path, "rb") as file:
            if _libc.setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def close(self) -> None:
        """Let go of it."""
        for pipe in (self._holder.stdin, self._holder.stdout):
            if pipe is not None:
                pipe.close()
        self._holder.kill()
        self._holder.wait(PATIENCE_S)


DROP = """
table ip cut {{
 chain in {{
  type filter hook input priority 0
  {into}
 }}
 chain out {{
  type filter hook output priority 0
  {out}
 }}
}}
"""
BEND = """
table ip bend {{
 chain out {{
  type nat hook output priority -100
  meta mark != {mark} ip daddr {{ {hosts} }} tcp dport {{ {meta}, {data} }} redirect to :{port}
 }}
}}
"""


class SpacedCluster(Cluster):
    """`Cluster`, each process on an address of its own.  Mounts are "mnt", "other", "cold"."""

    def __init__(self, folder: Path, servers: int = 4, **more: Any):
        super().__init__(folder, servers, **more)
        self.hosts = {"hub": "10.77.0.254", "meta": "10.77.0.1"}
        self.hosts |= {f"data-{index}": f"10.77.0.{10 + index}" for index in range(servers)}
        self.hosts |= {
            name: f"10.77.0.{100 + n}" for n, name in enumerate(("mnt", "other", "cold"))
        }
        self.meta_port: Any = f"{self.hosts['meta']}:{META_PORT}"
        self.ports: list[Any] = [
            f"{self.hosts[f'data-{index}']}:{DATA_PORT}" for index in range(servers)
        ]
        self.spaces: dict[str, Space] = {}
        with contextlib.ExitStack() as undo:
            for name in self.hosts:
                self.spaces[name] = Space()
                undo.callback(self.spaces[name].close)
            self._wire()
            self._undo = undo.pop_all()
        self.before = {name: space.words for name, space in self.spaces.items()}

    def _wire(self) -> None:
        hub = self.spaces["hub"].words
        run([*hub, "ip", "link", "add", "name", "bridge0", "type", "bridge"])
        run([*hub, "ip", "link", "set", "dev", "bridge0", "up"])
        run([*hub, "ip", "addr", "add", f"{self.hosts['hub']}/24", "dev", "bridge0"])
        for number, (name, host) in enumerate(self.hosts.items()):
            if name == "hub":
                continue
            space, near = self.spaces[name], f"veth{number}"
            pair = ["type", "veth", "peer", "name", "net0", "netns", space.pid]
            run([*hub, "ip", "link", "add", "name", near, *pair])
            run([*hub, "ip", "link", "set", "dev", near, "master", "bridge0", "up"])
            run([*space.words, "ip", "addr", "add", f"{host}/24", "dev", "net0"])
            run([*space.words, "ip", "link", "set", "dev", "net0", "up"])

    # --- faults ----------------------------------------------------------------------------------

    def cut(self, name: str, others: Sequence[str], ways: Sequence[str]) -> None:
        """Drop every packet between a process and others: "in" to it, "out" of it, or both."""
        hosts = ", ".join(self.hosts[other] for other in others)
        rules = {
            "into": f"ip saddr {{ {hosts} }} drop" if "in" in ways else "",
            "out": f"ip daddr {{ {hosts} }} drop" if "out" in ways else "",
        }
        self.spaces[name].filter(DROP.format(**rules))

    def bend(self, name: str, others: Sequence[str]) -> Proxy:
        """Turn over what a process connects to to a proxy; what is connected already goes on, so
        bend before the process starts, or cut first."""
        space = self.spaces[name]
        proxy = Proxy(space.words, PROXY_PORT, MARK)
        hosts = ", ".join(self.hosts[other] for other in others)
        space.filter(
            BEND.format(mark=MARK, hosts=hosts, meta=META_PORT, data=DATA_PORT, port=PROXY_PORT)
        )
        return proxy

    def mend(self, name: str) -> None:
        """No rules any more."""
        self.spaces[name].filter("")

    # --- questions are asked from the hub --------------------------------------------------------

    def _inside(self, job: Callable[[], T]) -> T:
        with concurrent.futures.ThreadPoolExecutor(1, initializer=self.spaces["hub"].enter) as one:
            return one.submit(job).result()

    def _ask(self, coroutine: Any) -> Any:
        return self._inside(lambda: super(SpacedCluster, self)._ask(coroutine))

    def where(self, path: str) -> dict[str, Any]:
        """What `zdfs where --json` prints."""
        return self._inside(lambda: super(SpacedCluster, self).where(path))

    def why(self, subject: object = None) -> dict[str, Any]:
        """What `zdfs why --json` prints."""
        return self._inside(lambda: super(SpacedCluster, self).why(subject))

    def command(self, name: str, *words: Any, timeout: float = 30) -> Any:
        """Run a command of ours in the hub."""
        return subprocess.run(
            [*self.spaces["hub"].words, str(BIN / name), *map(str, words)],
            capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip

    def close(self) -> None:
        """End everything, the namespaces last."""
        try:
            for name in self.spaces:
                self.mend(name)
            super().close()
        finally:
            self._undo.close()
            until(
                lambda: not any(os.path.exists(space.path) for space in self.spaces.values()),
                PATIENCE_S,
                "the namespaces are gone",
            )
