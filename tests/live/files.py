"""Files on a mount, read and written by other programs: a mount that hangs must not hang pytest."""

import subprocess
from pathlib import Path

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


def replicas(facts: dict[str, object]) -> list[dict[str, object]]:
    """Every replica that `zdfs where --json` shows."""
    blocks = facts["blocks"]
    assert isinstance(blocks, list)
    return [replica for block in blocks for replica in block["replicas"]]


def whole(facts: dict[str, object]) -> bool:
    """Whether every replica of a file is intact."""
    return all(one["state"] == "ok" for one in replicas(facts))
