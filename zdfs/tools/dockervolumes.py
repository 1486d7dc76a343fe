"""Docker's volumes on a file system: a directory each, below one that is theirs.

    /volumes/NAME                    a volume, for every machine that has this plugin
    STATE/mnt                        the file system, mounted while a container here uses a volume
    STATE/uses.json                  who uses what here: a volume's name to ids of Docker's

A volume's directory is made, found and removed without a mount.  The mount is one for all volumes
and is a process of its own: neither it nor what is known of its users ends with the plugin.  STATE
belongs on a file system that is empty after a boot, as then nobody uses anything.
"""

import json
import logging
import os
import re
import secrets
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from zdfs import addresses, limits, starting
from zdfs.api import FileSystem, connect
from zdfs.errors import StartError

log = logging.getLogger("zdfs.docker")
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")
OPTIONS = ("mode", "uid", "gid")
PATIENCE_S = 15.0  # the cluster's, for a call of Docker's, which itself waits for longer
Uses = dict[str, list[str]]


class Refused(Exception):
    """What can't be done, for the one who asked Docker for it."""


# --- decisions ---------------------------------------------------------------------------------


def checked(name: Any) -> str:
    """A name as Docker has them."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Refused(
            f"{name!r} is no volume's name: letters, digits, '_', '.' and '-', 255 at most"
        )
    return name


def attributes(options: Mapping[str, Any]) -> tuple[int, int, int]:
    """Mode, uid and gid of a new volume (-1: as it comes)."""
    strange = sorted(set(options) - set(OPTIONS))
    if strange:
        raise Refused(f"unknown option {strange[0]!r}: zdfs volumes have {', '.join(OPTIONS)}")
    try:
        mode = int(str(options.get("mode", "755")), 8)
        uid, gid = (int(str(options.get(one, -1))) for one in ("uid", "gid"))
    except ValueError:
        raise Refused("mode is an octal number, uid and gid are decimal ones") from None
    if not (0 <= mode <= 0o7777 and -1 <= uid < 2**32 - 1 and -1 <= gid < 2**32 - 1):
        raise Refused("mode goes up to 7777, uid and gid to 4294967294")
    return mode, uid, gid


def taken(uses: Uses, name: str, user: str) -> Uses:
    """One more user; the same twice is one."""
    known = [one for one in uses.get(name, []) if one != user]
    return {**uses, name: [*known, user]}


def given_back(uses: Uses, name: str, user: str) -> Uses:
    """One user less."""
    left = [one for one in uses.get(name, []) if one != user]
    others = {one: users for one, users in uses.items() if one != name}
    return {**others, name: left} if left else others


def remembered(text: str) -> Uses:
    """Uses as they were written; ValueError."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("no object")
    for name, users in found.items():
        if not isinstance(users, list) or not all(isinstance(one, str) for one in users):
            raise ValueError(f"the users of {name!r} are no list of words")
    return found


# --- the mount ---------------------------------------------------------------------------------


class Mounted:
    """The one mount of a machine's volumes."""

    def __init__(self, state: Path, meta: str, keys: Path | None):
        self.directory = state / "mnt"
        self._log, self._meta, self._keys = state / "mount.log", meta, keys

    @property
    def there(self) -> bool:
        """Whether something is mounted and answers."""
        return starting.mounted_on(self.directory) is not None and starting.answers(self.directory)

    def need(self) -> None:
        """Mount, if it isn't; one that died is replaced."""
        if self.there:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        code = "import sys; from zdfs import cli; sys.argv[0] = 'zdfs-mount'; sys.exit(cli.mount())"
        words = [sys.executable, "-P", "-c", code, str(self.directory), self._meta]
        words += ["--log", str(self._log)] + (["--keys", str(self._keys)] if self._keys else [])
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise Refused(done.stderr.strip() or f"zdfs-mount failed, see {self._log}")

    def end(self) -> None:
        """Unmount; what is busy stays."""
        if starting.mounted_on(self.directory) is None:
            return
        done = subprocess.run(
            ["umount", str(self.directory)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            log.warning("%s stays mounted: %s", self.directory, done.stderr.strip())


# --- volumes -----------------------------------------------------------------------------------


class Volumes:
    """What Docker may ask; each answer is what the protocol wants beside `Err`."""

    def __init__(
        self, connect: Callable[[], FileSystem], below: str, state: Path, mounted: Mounted
    ):
        self._connect, self._below, self._state = connect, below.rstrip("/"), state
        self._mounted = mounted
        self._fs: FileSystem | None = None
        self._one_at_a_time = threading.Lock()
        self.uses = self._read()
        self.answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "Create": self._create, "Remove": self._remove, "Mount": self._mount,
            "Unmount": self._unmount, "Path": self._path, "Get": self._get, "List": self._list,
            "Capabilities": lambda asked: {"Capabilities": {"Scope": "global"}},
        }  # fmt: skip

    def answer(self, verb: str, asked: dict[str, Any]) -> dict[str, Any]:
        """One question; what can't be done is said in `Err`."""
        try:
            with self._one_at_a_time:
                found = self.answers[verb](asked)
        except (Refused, StartError) as error:
            return {"Err": str(error)}
        except OSError as error:
            return {"Err": f"zdfs: {error}"}
        return {**found, "Err": ""}

    def resume(self) -> None:
        """After a start: what was in use before goes on being so."""
        if self.uses:
            try:
                self._mounted.need()
            except (Refused, StartError) as error:
                log.error("volumes are in use and can't be mounted: %s", error)

    def close(self) -> None:
        """End the session; the mount stays for those who use it."""
        if self._fs is not None:
            with suppress(OSError):
                self._fs.close()
            self._fs.abandon()

    # --- the state -----------------------------------------------------------------------------

    def _read(self) -> Uses:
        file = self._state / "uses.json"
        try:
            return remembered(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (ValueError, OSError) as error:
            raise StartError(
                f"{file} can't be read ({error}): it says which volumes are in use here; "
                "remove it if no container runs"
            ) from error

    def _write(self, uses: Uses) -> None:
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = self._state / "uses.json.new"
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(uses, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._state / "uses.json")
        self.uses = uses

    @property
    def _files(self) -> FileSystem:
        if self._fs is None or self._fs.closed:
            self._fs = self._connect()
        return self._fs

    def _place(self, name: str) -> str:
        return f"{self._below}/{name}"

    def _known(self, asked: dict[str, Any]) -> str:
        """The name of a volume that is there."""
        name = checked(asked.get("Name"))
        if not self._files.isdir(self._place(name)):
            raise Refused(f"there is no volume {name!r} below {self._below or '/'}")
        return name

    def _described(self, name: str) -> dict[str, Any]:
        users = self.uses.get(name, [])
        where = str(self._mounted.directory) + self._place(name) if users else ""
        return {"Name": name, "Mountpoint": where, "Status": {"users": len(users)}}

    # --- answers -------------------------------------------------------------------------------

    def _create(self, asked: dict[str, Any]) -> dict[str, Any]:
        """One that is there is fine: another machine made it."""
        name = checked(asked.get("Name"))
        mode, uid, gid = attributes(asked.get("Opts") or {})
        fs, path = self._files, self._place(name)
        fs.makedirs(self._below or "/", 0o755, exist_ok=True)
        try:
            fs.mkdir(path, mode)
        except FileExistsError:
            return {}
        fs.chmod(path, mode)  # whatever the umask
        fs.chown(path, uid, gid)
        return {}

    def _remove(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Out of sight in one step; a removal that was cut short is finished by the next one."""
        name = self._known(asked)
        if name in self.uses:
            raise Refused(f"volume {name!r} is in use by {', '.join(self.uses[name])}")
        fs = self._files
        fs.rename(self._place(name), f"{self._below}/.removed-{secrets.token_hex(8)}")
        for entry in list(fs.scandir(self._below or "/")):
            if entry.name.startswith(".removed-"):
                fs.rmtree(entry.path)
        return {}

    def _mount(self, asked: dict[str, Any]) -> dict[str, Any]:
        name, user = self._known(asked), str(asked.get("ID", ""))
        self._mounted.need()
        self._write(taken(self.uses, name, user))
        return {"Mountpoint": self._described(name)["Mountpoint"]}

    def _unmount(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Needs no cluster: containers end also while it is away."""
        name, user = checked(asked.get("Name")), str(asked.get("ID", ""))
        if user not in self.uses.get(name, []):
            raise Refused(f"volume {name!r} is not used by {user!r}")
        self._write(given_back(self.uses, name, user))
        if not self.uses:
            self._mounted.end()
        return {}

    def _path(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = checked(asked.get("Name"))
        return {"Mountpoint": self._described(name)["Mountpoint"]}

    def _get(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"Volume": self._described(self._known(asked))}

    def _list(self, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            entries = list(self._files.scandir(self._below or "/"))
        except FileNotFoundError:  # nobody has made one yet
            entries = []
        names = [
            entry.name
            for entry in entries
            if stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode)
            and NAME.fullmatch(entry.name)
        ]
        return {"Volumes": [self._described(name) for name in names]}


def connector(meta: str, keys: Path | None) -> Callable[[], FileSystem]:
    """How to get at the file system."""

    def connected() -> FileSystem:
        return connect(
            meta, keys=keys, timeout_s=PATIENCE_S, connect_timeout_s=limits.TIMEOUT_S,
            name=f"docker-plugin:{addresses.short(meta)}", umask=0,
        )  # fmt: skip

    return connected
