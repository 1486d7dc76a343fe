"""The dataservers that run on this machine, by their command lines: found, and started again.

A command line that names no ports (a configuration file does, as under systemd) is a dataserver of
a ring if its process listens where the ring has its index.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from zdfs import addresses
from zdfs.errors import StartError
from zdfs.ids import Slot

LISTENS = "0A"  # a state in /proc/net/tcp
MAKE_RUN = "make run"
SYSTEMD = "systemd"


@dataclass(frozen=True, slots=True)
class Node:
    """A dataserver's process on this machine."""

    slot: Slot
    pid: int
    words: tuple[str, ...]
    keeper: str  # who starts it again, if it ends: MAKE_RUN, SYSTEMD; empty: nobody
    address: str  # in the ring

    @property
    def looked_after(self) -> bool:
        """Whether somebody starts it again."""
        return bool(self.keeper)


def find_nodes(ring: tuple[str, ...]) -> list[Node]:
    """The dataservers of a ring that run here, by their command lines."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        pid, words = int(name), _words(int(name))
        slot = _slot_of(words)
        if slot is None or slot >= len(ring):
            continue
        ports = _ring_of(words)
        if ports == ring or (not ports and _listens(pid, ring[slot])):
            found.append(Node(slot, pid, tuple(words), _keeper(pid), ring[slot]))
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


def _slot_of(words: list[str]) -> Slot | None:
    """The index in a dataserver's command line; None: it is none."""
    if not any("zdfs-node" in word for word in words) or "data" not in words[:-1]:
        return None
    index = words[words.index("data") + 1]
    return Slot(int(index)) if index.isdecimal() else None


def _ring_of(words: list[str]) -> tuple[str, ...]:
    """The ring in a dataserver's command line; empty: it names none."""
    ports = []
    for word in words[words.index("data") + 2 :]:
        if word.startswith("-"):
            break
        ports.append(word)
    try:
        return tuple(addresses.parse(port) for port in ports)
    except StartError:
        return ()


def _listens(pid: int, address: str) -> bool:
    """Whether a process listens at an address (of IPv4)."""
    host, _, port = address.rpartition(":")
    try:
        packed = socket.inet_aton(socket.gethostbyname(host))
        held = _held(pid)
        rows = [one.split() for one in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    except OSError:  # another user's, or gone meanwhile
        return False
    at = f"{int.from_bytes(packed, sys.byteorder):08X}:{int(port):04X}"  # as the kernel shows it
    return any(row[1] == at and row[3] == LISTENS and f"socket:[{row[9]}]" in held for row in rows)


def _held(pid: int) -> set[str]:
    """What a process has open."""
    found = set()
    for one in os.scandir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile, as segments are all the time
            found.add(os.readlink(one.path))
    return found


def _keeper(pid: int) -> str:
    """Who starts a node again.  systemd says in its environment which process it started."""
    try:
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    if "zdfs.up" in _words(int(parent)):
        return MAKE_RUN
    return SYSTEMD if b"SYSTEMD_EXEC_PID=%d" % pid in environment else ""


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
    parser.add_argument("--stores", default="zdfs-store")
    named, _ = parser.parse_known_args(node.words)
    port = addresses.short(node.address)
    default = Path(named.stores) / f"data-{port.replace(':', '-')}"
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
