"""Which processes of this machine keep a mount busy, from proc(5).

A process does by an open descriptor, by a mapping (which stays when the descriptor is closed), or
by its working or root directory.  Nothing here touches what is mounted: it may hang.  Who may not
look at a process (another user's) is told how many those are.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from zdfs.ids import Ino
from zdfs.processes import Mounted

GONE = " (deleted)"
_MAP = re.compile(r"\S+ (\S+) \S+ ([0-9a-f]+):([0-9a-f]+) (\d+) +(/.*)")
MODES = {os.O_RDONLY: "reads", os.O_WRONLY: "writes", os.O_RDWR: "reads and writes"}


class Holder(NamedTuple):
    """A process, and one thing that it has of a mount."""

    pid: int
    name: str
    uid: int
    how: str
    directory: str  # of the mount
    path: str  # as the kernel shows it; also when it is removed
    ino: Ino | None  # None: the kernel doesn't say


class Found(NamedTuple):
    """All of them, and how many processes nobody let us look at."""

    holders: list[Holder]
    hidden: int


def holders(mounts: Mapping[int, Mounted]) -> Found:
    """Who keeps these mounts busy, by the kernel's number of each; this process is left out."""
    found, hidden = [], 0
    for name in filter(str.isdecimal, os.listdir("/proc")):
        if int(name) == os.getpid():
            continue
        try:
            found += list(_of_process(int(name), mounts))
        except PermissionError:
            hidden += 1
        except (FileNotFoundError, ProcessLookupError):  # it ended just now
            continue
    return Found(sorted(found), hidden)


def _of_process(pid: int, mounts: Mapping[int, Mounted]) -> Iterator[Holder]:
    here = f"/proc/{pid}"
    who = pid, _text(f"{here}/comm").strip(), os.stat(here).st_uid
    for link, how in (("cwd", "works in it"), ("root", "has it for a root directory")):
        target = os.readlink(f"{here}/{link}")
        mount = _under(target, mounts)
        if mount is not None:
            yield Holder(*who, how, mount.directory, target, None)
    for number in sorted(map(int, os.listdir(f"{here}/fd"))):
        try:
            mount, ino, flags = described(_text(f"{here}/fdinfo/{number}"), mounts)
            if mount is not None:
                how = f"descriptor {number}, {MODES.get(flags & os.O_ACCMODE, 'opened')}"
                target = os.readlink(f"{here}/fd/{number}")
                yield Holder(*who, how, mount.directory, target.removesuffix(GONE), ino)
        except FileNotFoundError:  # closed just now
            continue
    for mount, ino, path in dict.fromkeys(mapped(_text(f"{here}/maps"), mounts)):
        yield Holder(*who, "mapped", mount.directory, path, ino)


def _text(path: str) -> str:
    with open(path, errors="surrogateescape") as file:
        return file.read()


def _under(path: str, mounts: Mapping[int, Mounted]) -> Mounted | None:
    """The mount that a path is on, by its text; the innermost."""
    path = path.removesuffix(GONE)
    on = [one for one in mounts.values() if f"{path}/".startswith(f"{one.directory}/")]
    return max(on, key=lambda one: len(one.directory), default=None)


def described(info: str, mounts: Mapping[int, Mounted]) -> tuple[Mounted | None, Ino | None, int]:
    """What fdinfo says of a descriptor: the mount, if it is one of these, the inode (kernels before
    5.14 don't say) and the flags."""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    number, ino = fields.get("mnt_id", "").strip(), fields.get("ino", "").strip()
    mount = mounts.get(int(number)) if number.isdecimal() else None
    flags = int(fields.get("flags", "0").strip(), 8)
    return mount, Ino(int(ino)) if ino else None, flags


def mapped(text: str, mounts: Mapping[int, Mounted]) -> Iterator[tuple[Mounted, Ino, str]]:
    """The files of these mounts in a process's maps."""
    devices = {one.device: one for one in mounts.values()}
    for line in text.splitlines():
        match = _MAP.fullmatch(line)
        if match is not None:
            major, minor = int(match[2], 16), int(match[3], 16)
            mount = devices.get(f"{major}:{minor}")
            if mount is not None:
                yield mount, Ino(int(match[4])), match[5].removesuffix(GONE)
