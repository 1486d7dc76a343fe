"""The dataservers that run on this machine, by their command lines: found, and started again."""

import argparse
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


def wipeable(ring: tuple[str, ...], nodes: list[Node]) -> Node:
    """The first whose store may be moved.  By slot: its process may be another one by now."""
    slots = [node.slot for node in nodes if not node.looked_after]
    return next(node for node in find_nodes(ring) if node.slot == slots[0])


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


def store_of(node: Node, folder: str) -> Path:
    """Where a node's store stands, by its command line and its working directory.  StartError."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--store")
    named, _ = parser.parse_known_args(node.words)
    port = node.words[node.words.index("data") + 2 + node.slot]
    default = Path("zdfs-store") / f"data-{port.replace(':', '-')}"
    store = Path(folder) / (named.store or default)
    if not store.is_dir():
        raise StartError(f"{store}: there is no store of dataserver {node.slot}")
    return store


def set_aside(node: Node, folder: str) -> Path:
    """Rename a dead node's store; never deleted here."""
    store = store_of(node, folder)
    aside = store.with_name(f"{store.name}.drill-{int(time.time())}")
    store.rename(aside)
    return aside
