"""The dataservers that run on this machine, by their command lines: found, and started again."""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from zdfs import addresses
from zdfs.errors import StartError
from zdfs.ids import Slot


@dataclass(frozen=True, slots=True)
class Node:
    """A dataserver's process on this machine."""

    slot: Slot
    pid: int
    words: tuple[str, ...]
    looked_after: bool  # who started it starts it again


def find_nodes(ring: tuple[str, ...]) -> list[Node]:
    """The dataservers of a ring that run here, by their command lines."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        words = _words(int(name))
        ports = _ring_of(words)
        if ports == ring:
            slot = Slot(int(words[words.index("data") + 1]))
            found.append(Node(slot, int(name), tuple(words), _looked_after(int(name))))
    return sorted(found, key=lambda node: node.slot)


def _words(pid: int) -> list[str]:
    try:
        return [os.fsdecode(w) for w in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")][:-1]
    except OSError:
        return []


def _ring_of(words: list[str]) -> tuple[str, ...]:
    """The ring in a dataserver's command line; empty: it is none."""
    if not any("zdfs-node" in word for word in words) or "data" not in words:
        return ()
    ports = []
    for word in words[words.index("data") + 2 :]:
        if word.startswith("-"):
            break
        ports.append(word)
    try:
        return tuple(addresses.parse(port) for port in ports)
    except StartError:
        return ()


def _looked_after(pid: int) -> bool:
    """Whether `make run` started it."""
    try:
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    except OSError:
        return False
    return "zdfs.up" in _words(int(parent))


def start_again(node: Node, folder: str, outputs: tuple[str, str]) -> "subprocess.Popen[bytes]":
    """The same command line, in the same directory, with its output where it was."""
    with open(outputs[0], "ab") as out, open(outputs[1], "ab") as err:
        return subprocess.Popen(
            node.words, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            start_new_session=True,
        )  # fmt: skip


def output(pid: int, number: int) -> str:
    """A file that a process writes to, if it is one that can be opened again."""
    target = os.readlink(f"/proc/{pid}/fd/{number}")
    return target if os.path.isfile(target) else os.devnull


def set_aside(node: Node, folder: str) -> Path:
    """Rename a dead node's store; never deleted here."""
    words = list(node.words)
    if "--store" in words:
        store = Path(folder) / words[words.index("--store") + 1]
    else:
        port = words[words.index("data") + 2 + node.slot]
        store = Path(folder) / "zdfs-store" / f"data-{port.replace(':', '-')}"
    aside = store.with_name(f"{store.name}.drill-{int(time.time())}")
    store.rename(aside)
    return aside
