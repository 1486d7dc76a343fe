"""What the kernel says of a process that is stuck: its threads, their system calls and files.

From proc(5), without touching the file that it is stuck on: `syscall` has the call's number and
arguments, `fdinfo` the mount and the inode number of a descriptor, which on a mount of ours is the
inode's.  Who may not look (another user's process) is told so.
"""

import os
import platform
from pathlib import Path
from typing import NamedTuple

from zdfs import addresses
from zdfs.errors import StartError
from zdfs.ids import Ino

# Calls on a descriptor (their first argument), by unistd_64.h of x86-64; elsewhere only numbers.
ON_DESCRIPTORS = {
    0: "read", 1: "write", 3: "close", 5: "fstat", 8: "lseek", 16: "ioctl", 17: "pread64",
    18: "pwrite64", 19: "readv", 20: "writev", 40: "sendfile", 72: "fcntl", 73: "flock",
    74: "fsync", 75: "fdatasync", 77: "ftruncate", 78: "getdents", 91: "fchmod", 93: "fchown",
    217: "getdents64", 277: "sync_file_range", 285: "fallocate", 295: "preadv", 296: "pwritev",
    306: "syncfs", 326: "copy_file_range", 327: "preadv2", 328: "pwritev2",
}  # fmt: skip
BY_PATH = {
    2: "open", 4: "stat", 6: "lstat", 21: "access", 76: "truncate", 80: "chdir", 82: "rename",
    83: "mkdir", 84: "rmdir", 85: "creat", 86: "link", 87: "unlink", 88: "symlink",
    89: "readlink", 90: "chmod", 257: "openat", 258: "mkdirat", 262: "newfstatat",
    263: "unlinkat", 264: "renameat", 265: "linkat", 266: "symlinkat", 267: "readlinkat",
    268: "fchmodat", 269: "faccessat", 280: "utimensat", 316: "renameat2", 332: "statx",
    437: "openat2", 439: "faccessat2",
}  # fmt: skip


class Thread(NamedTuple):
    """A thread, and what it is doing."""

    tid: int
    name: str
    state: str  # R running, S sleeping, D in a call that no signal ends, T stopped, ...
    call: str  # its system call; "": none, or nobody may look
    descriptor: int | None
    mount: str | None  # where the descriptor's file is mounted
    ino: Ino | None
    wchan: str  # where in the kernel


class Mounted(NamedTuple):
    """A zdfs mount as mountinfo has it."""

    directory: str
    source: str  # the metaserver's address
    device: str = ""  # major:minor, as maps and stat have it


def unescaped(text: str) -> str:
    """A path as mountinfo writes it."""
    for code, char in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(code, char)
    return text


def mounts(pid: int | str = "self") -> dict[int, Mounted]:
    """The zdfs mounts that a process sees, by the kernel's number; not those whose source somebody
    named (`-o fsname=files`), so that it says no metaserver: these are nobody's (`nameless`)."""
    return {number: one for number, one in _all(pid).items() if _names(one.source)}


def nameless() -> dict[str, str]:
    """The other zdfs mounts: what their source is instead, by directory."""
    return {one.directory: one.source for one in _all("self").values() if not _names(one.source)}


def _names(source: str) -> bool:
    try:
        addresses.parse(source)
    except StartError:
        return False
    return True


def _all(pid: int | str) -> dict[int, Mounted]:
    found = {}
    text = _read(f"/proc/{pid}/mountinfo")
    for line in text.splitlines():
        front, _, back = line.partition(" - ")
        number, _, device, _, where, *_ = front.split(" ")
        kind, source, *_ = back.split(" ")
        if kind == "fuse.zdfs":
            directory, address = unescaped(where), source.removeprefix("zdfs:")
            found[int(number)] = Mounted(directory, address, device)
    return found


def _read(path: str) -> str:
    """A file of proc; "": gone, or not for us."""
    try:
        return Path(path).read_text(errors="surrogateescape")
    except OSError:
        return ""


def threads(pid: int) -> list[Thread]:
    """All of a process; empty: there is none."""
    try:
        numbers = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return []
    seen = mounts(pid)
    return [_thread(pid, tid, seen) for tid in numbers]


def _thread(pid: int, tid: int, seen: dict[int, Mounted]) -> Thread:
    here = f"/proc/{pid}/task/{tid}"
    after = _read(f"{here}/stat").rpartition(")")[2].split()
    name, state = _read(f"{here}/comm").strip(), after[0] if after else "?"
    words = _read(f"{here}/syscall").split()
    call, descriptor = named(words, platform.machine())
    mount, ino = None, None
    if descriptor is not None:
        number, ino = _file(_read(f"/proc/{pid}/fdinfo/{descriptor}"))
        known = seen.get(number) if number is not None else None
        mount = known.directory if known else None
    return Thread(tid, name, state, call, descriptor, mount, ino, _read(f"{here}/wchan").strip())


def named(words: list[str], machine: str) -> tuple[str, int | None]:
    """A line of /proc/PID/syscall: the call, and the descriptor that it is about."""
    if not words or not words[0].lstrip("-").isdigit() or int(words[0]) < 0:
        return "", None
    number = int(words[0])
    if machine != "x86_64":
        return f"system call {number}", None
    if number in ON_DESCRIPTORS and len(words) > 1:
        return ON_DESCRIPTORS[number], int(words[1], 16) & 0xFFFFFFFF
    return BY_PATH.get(number, f"system call {number}"), None


def _file(info: str) -> tuple[int | None, Ino | None]:
    """Mount and inode number, from fdinfo."""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    mount, ino = fields.get("mnt_id", "").strip(), fields.get("ino", "").strip()
    return int(mount) if mount else None, Ino(int(ino)) if ino else None
