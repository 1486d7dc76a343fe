"""A file unlinked just after its last close left a `.fuse_hidden` name behind for good: libfuse
still took it for open, we did not, and did a real rename."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.cluster import Cluster

PROGRAM = """
import mmap, os
for number in range(300):
    with open("a", "wb") as file:
        file.write(b"x" * 10)
    with open("a", "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 10)
    mapped[:] = b"y" * 10
    mapped.flush()
    mapped.close()
    if number % 3 == 2:
        with open("b", "wb") as file:
            file.write(b"z")
        os.rename("b", "a")
    else:
        os.unlink("a")
print(sorted(os.listdir(".")))
open(".fuse_hidden0123456789abcdef.txt", "w").close()
os.rename(".fuse_hidden0123456789abcdef.txt", ".fuse_hidden0123456789abcdef")
print(sorted(os.listdir(".")))
"""


@pytest.mark.timeout(120)
def test_nothing_hidden_is_left(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    try:
        mount = cluster.start().mount()
        words = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(words, cwd=mount, capture_output=True, text=True, timeout=100)
        assert done.stderr == ""
        left, renamed = done.stdout.splitlines()
        assert left == "['a']"
        assert renamed == "['.fuse_hidden0123456789abcdef', 'a']", "a program may use such a name"
    finally:
        cluster.close()
