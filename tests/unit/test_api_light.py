"""What is loaded when: every command imports zdfs."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def loaded(program: str) -> set[str]:
    program += "; import sys; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_zdfs_alone_loads_nothing() -> None:
    assert not {"zmq", "msgpack", "zdfs.api", "zdfs.link"} & loaded("import zdfs")


def test_connect_loads_no_kernel_and_no_store() -> None:
    found = loaded("import zdfs; zdfs.connect")
    assert "zdfs.api" in found
    assert not {"fsspec", "mfusepy", "lmdb", "zdfs.mount", "zdfs.cli"} & found
