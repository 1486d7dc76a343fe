"""mount.zdfs: what mount(8) calls for `mount -t zdfs HOST:PORT DIR` and for a line of fstab.

    mount.zdfs SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]

Options of three kinds come in one list.  What is for mount(8), fstab or systemd is left out here
(`_netdev`, `nofail`, `x-...`); what is a long option of zdfs-mount goes to it (`attr-timeout=0`);
the rest goes to FUSE, which refuses what it doesn't know.

`remount` is the kernel's business alone: it changes ro, rw, noexec and their like on the mount that
is there; all else stays as it was mounted.

`nofail` is for systemd and mount(8), which go on; that nothing is mounted is said here all the
same, with an exit status: a program that was told 0 would write into the empty directory.

The source that a mount shows is the SPEC as it is written, so that `mount -a` knows it again.

Exit status, as mount(8) has it: 0 done; 1 the call is wrong; 32 it can't be mounted.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zdfs import addresses, journal, starting
from zdfs.errors import Failure, StartError

WRONG = 1  # MNT_EX_USAGE; 2 would be an error of the system
FAILED = 32  # MNT_EX_FAIL of libmount
CONFIGURED = ("none", "zdfs")  # as SPEC: the metaserver is the configuration's
NOT_OURS = {  # for mount(8), fstab(5), systemd.mount(5); or what holds anyway
    "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev",
    "relatime", "diratime", "loud", "silent", "remount", "nostrictatime", "nolazytime",
}  # fmt: skip
NOT_OURS_NAMED = ("comment", "user", "helper", "uhelper")
FLAGS = {  # what the kernel changes on a mount that is there
    "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "atime",
    "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "dirsync",
}  # fmt: skip
KNOWN = FLAGS | {  # to FUSE; what -s leaves
    "allow_other", "allow_root", "auto_unmount", "default_permissions", "fsname", "subtype",
    "max_read", "context", "fscontext", "defcontext", "rootcontext", "clone_fd", "debug",
}  # fmt: skip

Mount = Callable[[Sequence[str]], int]  # zdfs-mount, by its words


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for."""

    spec: str
    directory: Path
    options: tuple[str, ...]
    fake: bool = False
    sloppy: bool = False
    verbose: bool = False
    namespace: str | None = None

    def has(self, option: str) -> bool:
        """Whether an option is among them."""
        return option in self.options


def parser(
    kind: type[argparse.ArgumentParser] = argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """The arguments, as mount(8) passes them."""
    made = kind(prog="mount.zdfs", description="Mount a zdfs file system, for mount(8).")
    made.add_argument("spec", help="the metaserver's HOST:PORT; none: as configured")
    made.add_argument("directory", type=Path, help="an empty directory")
    made.add_argument("-o", action="append", default=[], metavar="OPT,...", help="options")
    made.add_argument("-f", dest="fake", action="store_true", help="look at it all, mount nothing")
    made.add_argument("-s", dest="sloppy", action="store_true", help="leave out unknown options")
    made.add_argument("-n", action="store_true", help="(there is no mtab to be written)")
    made.add_argument("-v", dest="verbose", action="store_true", help="say what is run")
    made.add_argument("-N", dest="namespace", metavar="NS", help="mount in another namespace")
    made.add_argument("-t", metavar="TYPE", help="(zdfs, whatever is said)")
    return made


def order(chosen: argparse.Namespace) -> Order:
    """The arguments as an order."""
    options = tuple(one for text in chosen.o for one in split(text))
    return Order(
        chosen.spec, chosen.directory, options, chosen.fake, chosen.sloppy, chosen.verbose,
        chosen.namespace,
    )  # fmt: skip


# --- options -----------------------------------------------------------------------------------


def split(text: str) -> list[str]:
    """At commas that are not inside double quotes (SELinux contexts have commas)."""
    found, quoted = [""], False
    for char in text:
        if char == '"':
            quoted = not quoted
        if char == "," and not quoted:
            found.append("")
        else:
            found[-1] += char
    return [one for one in found if one]


def words(asked: Order, own: Mapping[str, bool], log: str | None) -> list[str]:
    """The command line of zdfs-mount.  `own`: its long options, and whether each has a value;
    `log`: where to write, unless the options say so."""
    meta = metaserver(asked.spec)
    found, fuse = [str(asked.directory)], []
    found += [meta] if meta else []
    if meta == asked.spec:
        fuse.append(f"fsname={meta}")
    said = set()
    for option in asked.options:
        name, equals, value = option.partition("=")
        known = name.replace("_", "-")
        if known in own:
            said.add(known)
            found += _own(option, known, value if equals else None, own[known])
        elif not _not_ours(name, equals) and (name in KNOWN or not asked.sloppy):
            fuse.append(option)
    if log is not None and "log" not in said:
        found += ["--log", log]
    return found + (["-o", ",".join(fuse)] if fuse else [])


def _not_ours(name: str, equals: str) -> bool:
    if name.startswith(("x-", "X-")) or name in NOT_OURS:
        return True
    return bool(equals) and name in NOT_OURS_NAMED


def _own(option: str, name: str, value: str | None, wants: bool) -> list[str]:
    if wants and not value:
        raise StartError(f"the option {option} wants a value: {name}=...")
    if not wants and value is not None:
        raise StartError(f"the option {name} has no value, and {option} gives it one")
    return [f"--{name}={value}"] if wants else [f"--{name}"]


def metaserver(spec: str) -> str | None:
    """Its address, by the first field of fstab; None: the configuration says it."""
    if spec in CONFIGURED:
        return None
    address = spec.removeprefix("zdfs:")
    head, colon, path = address.partition(":/")
    if colon and path:
        raise StartError(
            f"{spec}: only the root can be mounted, as {head}; bind a directory of it "
            f"where you want it (mount --bind, or a second line with the option bind)"
        )
    return addresses.parse(head)


def remounting(asked: Order, now: str) -> list[str]:
    """The command that has the kernel change the flags of a mount; `now`: those that it has, for
    what is not named would be gone, nosuid too."""
    flags = [one for one in (*split(now), *asked.options) if one in FLAGS]
    return ["mount", "-i", "-o", ",".join(["remount", *flags]), "--", str(asked.directory)]


# --- doing it ----------------------------------------------------------------------------------


def run(asked: Order, own: Mapping[str, bool], mount: Mount) -> int:
    """Do what was asked for; exit status as mount(8) has it."""
    try:
        if asked.namespace is not None:
            return _elsewhere(asked)
        if asked.has("remount"):
            return _remount(asked)
        found = words(asked, own, str(journal.WORD) if os.path.exists(journal.SOCKET) else None)
    except StartError as error:
        print(f"mount.zdfs: {error}", file=sys.stderr)
        return WRONG
    if asked.verbose:
        print(f"mount.zdfs: zdfs-mount {' '.join(found)}", flush=True)
    if asked.fake:
        return 0
    try:
        status = mount([*found, "--grouped"])  # autofs may have called
    except (StartError, Failure) as error:
        print(f"mount.zdfs: {error}", file=sys.stderr)
        status = 1
    return FAILED if status else 0


def _remount(asked: Order) -> int:
    line = starting.mounted_on(asked.directory)
    if line is None or line.kind != starting.KIND:
        raise StartError(f"{asked.directory} is no mount of zdfs: nothing to remount")
    if asked.verbose:
        print(f"mount.zdfs: {' '.join(remounting(asked, line.flags))}", flush=True)
    if asked.fake:
        return 0
    return FAILED if subprocess.run(remounting(asked, line.flags), check=False).returncode else 0


def _elsewhere(asked: Order) -> int:
    """The same in another mount namespace, which must have this interpreter and this code, too."""
    name = str(asked.namespace)
    path = f"/proc/{name}/ns/mnt" if name.isdecimal() else name
    again = starting.again("helper") + [asked.spec, str(asked.directory)]
    again += ["-o", ",".join(asked.options)] if asked.options else []
    again += [f"-{letter}" for letter, on in _switches(asked) if on]
    os.execvp("nsenter", ["nsenter", f"--mount={path}", "--", *again])


def _switches(asked: Order) -> list[tuple[str, bool]]:
    return [("f", asked.fake), ("s", asked.sloppy), ("v", asked.verbose)]
