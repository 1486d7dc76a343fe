"""Files on a mount, read and written by other programs: a mount that hangs must not hang pytest."""

import os
import subprocess
from pathlib import Path

from tests.live.cluster import Cluster

PATIENCE_S = 60.0


def put(path: Path, data: bytes, patience_s: float = PATIENCE_S) -> None:
    """Write a file anew, and have it synced."""
    done = subprocess.run(
        ["dd", f"of={path}", "bs=1M", "conv=fsync", "status=none"],
        input=data,
        capture_output=True,
        timeout=patience_s,
    )
    assert done.returncode == 0, done.stderr.decode()


def get(path: Path, patience_s: float = PATIENCE_S) -> bytes:
    """A file's bytes."""
    done = subprocess.run(["cat", str(path)], capture_output=True, timeout=patience_s)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def attempt(path: Path, patience_s: float = PATIENCE_S) -> tuple[bytes, str]:
    """What of a file can be read, and the words of the error (or "")."""
    done = subprocess.run(["cat", str(path)], capture_output=True, timeout=patience_s)
    return done.stdout, done.stderr.decode() if done.returncode else ""


def do(*words: object, patience_s: float = PATIENCE_S) -> str:
    """Run a program that must succeed; what it printed."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=patience_s
    )
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def shell(where: Path, words: str, patience_s: float = 100.0) -> str:
    """What a shell's commands printed, run in a directory; the first that fails, fails."""
    # The directory is entered inside: a mount that hangs shall not hang Popen.
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"cd '{where}'\n{words}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=patience_s,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def replicas(facts: dict[str, object]) -> list[dict[str, object]]:
    """Every replica that `zdfs where --json` shows."""
    blocks = facts["blocks"]
    assert isinstance(blocks, list)
    return [replica for block in blocks for replica in block["replicas"]]


def whole(facts: dict[str, object]) -> bool:
    """Whether every replica of a file is intact."""
    return all(one["state"] == "ok" for one in replicas(facts))


def all_whole(cluster: Cluster, truth: dict[str, bytes]) -> bool:
    """Every replica of every file is intact."""
    return all(whole(cluster.where(f"/{path}")) for path in truth)


def verify(cluster: Cluster, truth: dict[str, bytes], name: str) -> None:
    """Every byte is right, seen from a mount that remembers nothing."""
    mount = cluster.mount(name)
    for path, data in truth.items():
        assert get(mount / path) == data, path
    cluster.unmount(mount)
