"""What the kernel doesn't tell of who asks: capabilities and groups, from proc(5).

For decisions that other file systems make inside of the kernel.  Whoever can't be looked at (gone,
or of another pid namespace) has nothing but its user and group.
"""

import os
from pathlib import Path

FSETID, SYS_ADMIN = 4, 21  # linux/capability.h


def _status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status that count here."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs if name in ("CapEff", "Groups")}


def _ours(pid: int) -> bool:
    """Whether a process is of our user namespace: capabilities of another one mean nothing here."""
    try:
        return os.readlink(f"/proc/{pid}/ns/user") == os.readlink("/proc/self/ns/user")
    except OSError:
        return False


def capable(uid: int, pid: int, capability: int) -> bool:
    """Whether the caller has a capability (a number of linux/capability.h)."""
    effective = _status(pid).get("CapEff")
    if effective is None:
        return uid == 0
    return bool(int(effective, 16) >> capability & 1) and _ours(pid)


def in_group(gid: int, pid: int, group: int) -> bool:
    """Whether the caller is of a group, by its own or one of its others."""
    return gid == group or str(group) in _status(pid).get("Groups", "").split()
