"""Key directories: who may speak in a cluster, and how each knows that it speaks to the right ones.

    DIR/own       the one key pair that a node, a mount or a command is known by; secret, mode 0600
    DIR/cluster   the public keys of the cluster, a line each: of nodes, and (on nodes) of clients
    DIR/given/    key directories that `zdfs keys add` made, to be carried to whom they are for

A line is `NAME ROLE PUBLIC CREATED`, then, if it applies, `at=ADDRESS,...`, `revoked=TIME`, and
`rights=` up to its end.  `own` holds one such line with `secret=`.  Keys are Z85, times UTC.

Rules:
- Nodes let in whose key stands in `cluster` and is not revoked, whatever its name.  Two lines of
  one name are one holder with two keys: that is how keys are changed while everybody works.
- A server is believed if it has the key of a node that is not revoked: one whose `at` names the
  server's address, or, where none does, one without `at`.
- Both files are looked at again each second.  What can't be read then changes nothing.
- A file ends with a newline.  One that doesn't was not copied to its end: what is missing there may
  be what a key may not, or that it is revoked.
"""

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from zdfs import addresses
from zdfs.errors import StartError

HEADER = "# zdfs keys 1\n"
DOMAIN = b"zdfs"  # of ZAP
SHOWN = 8  # characters of a public key that people are shown
FILE_BYTES = 1 << 24  # 100,000 keys; more is not what we wrote
MARK = "keyed"  # in the store of a node that was started with keys

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_Z85 = (  # rfc.zeromq.org/spec/32
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class Role(StrEnum):
    """What a key's holder is."""

    ADMIN = "admin"
    NODE = "node"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Key:
    """One line of `cluster` or `own`."""

    name: str
    role: Role
    public: str
    created: str
    at: tuple[str, ...] = ()  # of a node: addresses that only this key may answer at
    revoked: str = ""  # when; empty: it counts
    rights: str = ""  # as they were written
    secret: str = ""  # in `own` only

    @property
    def shown(self) -> str:
        """For logs and people: never the whole key."""
        return f"{self.name} ({self.public[:SHOWN]}...)"


@dataclass(frozen=True, slots=True)
class Keys:
    """What a key directory says."""

    own: Key
    cluster: tuple[Key, ...]

    def allowed(self) -> dict[str, Key]:
        """By public key: who is let in."""
        return {key.public: key for key in self.cluster if not key.revoked}

    def nodes(self) -> tuple[Key, ...]:
        """Whom clients believe."""
        return tuple(k for k in self.cluster if k.role is Role.NODE and not k.revoked)

    def pins(self, address: str) -> tuple[str, ...]:
        """The public keys that a server at an address may have, the newest first."""
        nodes = self.nodes()
        there = [key for key in nodes if address in key.at] or [key for key in nodes if not key.at]
        return tuple(key.public for key in reversed(there))


# --- text --------------------------------------------------------------------------------------


def checked_name(name: str) -> str:
    """A name that may stand in a line and be a directory's; StartError."""
    if not _NAME.fullmatch(name):
        raise StartError(f"{name!r} is no name for a key: 1 to 64 letters, digits, '.', '_', '-'")
    return name


def is_key(text: str) -> bool:
    """Whether it is the Z85 of 32 bytes."""
    if len(text) != 40 or set(text) - set(_Z85):
        return False
    groups = (text[place : place + 5] for place in range(0, 40, 5))
    values = (sum(_Z85.index(c) * 85**p for p, c in enumerate(group[::-1])) for group in groups)
    return all(value < 2**32 for value in values)


def line(key: Key) -> str:
    """A key as the files have it."""
    words = [key.name, key.role, key.public, key.created]
    words += [f"at={','.join(key.at)}"] if key.at else []
    words += [f"revoked={key.revoked}"] if key.revoked else []
    words += [f"secret={key.secret}"] if key.secret else []
    words += [f"rights={key.rights}"] if key.rights else []
    return " ".join(words)


def parse_line(text: str) -> Key:
    """The key of a line; ValueError says what is wrong with it."""
    head, mark, rights = text.partition(" rights=")
    words = head.split()
    if len(words) < 4:
        raise ValueError("name, role, key and time are expected")
    name, role, public, created, *more = words
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name")
    if role not in list(Role):
        raise ValueError(f"{role!r} is no role: {', '.join(Role)}")
    if not is_key(public):
        raise ValueError("its third word is no key (40 characters of Z85)")
    if not _TIME.fullmatch(created):
        raise ValueError(f"{created!r} is no time such as 2026-01-31T12:00:00Z")
    key = Key(name, Role(role), public, created, rights=rights.strip())
    for word in more:
        key = _with_option(key, word)
    if mark and not key.rights:
        raise ValueError("its rights are empty")
    return key


def _with_option(key: Key, word: str) -> Key:
    option, _, value = word.partition("=")
    if option == "at" and value:
        try:
            return replace(key, at=tuple(addresses.parse(one) for one in value.split(",")))
        except StartError as error:
            raise ValueError(str(error)) from error
    if option == "revoked" and _TIME.fullmatch(value):
        return replace(key, revoked=value)
    if option == "secret" and is_key(value):
        return replace(key, secret=value)
    raise ValueError(f"{option!r} is no option of a key, or its value is none")


def text_of(keys: Iterable[Key]) -> str:
    """A file's text."""
    return HEADER + "".join(f"{line(key)}\n" for key in keys)


def parse(text: str, shown: str) -> tuple[Key, ...]:
    """The keys of a file; StartError names the line.  A secret is never in the message."""
    if not text.startswith(HEADER):
        raise StartError(f"{shown} is no file of keys: it does not begin with {HEADER.strip()!r}")
    if not text.endswith("\n"):
        raise StartError(
            f"{shown} looks cut off: its last line has no newline at its end; copy it again, whole "
            "(if it was edited by hand and nothing is missing, end that line)"
        )
    keys: list[Key] = []
    for number, row in enumerate(text.splitlines(), 1):
        if row.strip() and not row.startswith("#"):
            try:
                keys.append(parse_line(row))
            except ValueError as error:
                raise StartError(f"{shown}, line {number}: {error}") from error
    publics = [key.public for key in keys]
    if len(set(publics)) != len(publics):
        raise StartError(f"{shown}: a key stands in two lines: keep one of them")
    return tuple(keys)


# --- changes -----------------------------------------------------------------------------------


def added(cluster: Sequence[Key], new: Key, beside: bool) -> tuple[Key, ...]:
    """With one more key; one that is to stand beside another of its name is for the same, with the
    same rights.  StartError: its name has one already, or none."""
    mine = [key for key in cluster if key.name == new.name and not key.revoked]
    if mine and not beside:
        raise StartError(
            f"{new.name} has a key: --another gives it a second one, which counts beside the first "
            f"until 'zdfs keys revoke DIR {new.name} --old'"
        )
    if not mine and beside:
        raise StartError(f"{new.name} has no key that counts: leave --another out")
    if beside:
        new = replace(new, role=mine[-1].role, at=mine[-1].at, rights=mine[-1].rights)
    return (*cluster, new)


def revoked(cluster: Sequence[Key], name: str, old: bool, moment: str) -> tuple[Key, ...]:
    """With the keys of a name revoked, or all but its newest.  StartError: there are none."""
    mine = [key for key in cluster if key.name == name and not key.revoked]
    ended = {key.public for key in (mine[:-1] if old else mine)}
    if not ended:
        which = "no key but its newest that counts" if mine else "no key that counts"
        raise StartError(f"{name} has {which}: see zdfs keys list")
    return tuple(replace(k, revoked=moment) if k.public in ended else k for k in cluster)


# --- who is let in -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer to ZeroMQ's question, and whom it was about, for the log."""

    frames: tuple[bytes, ...]
    refused: str  # who was not let in, in words; empty: nobody


def zap(
    frames: Sequence[bytes], public: str, allowed: Mapping[str, Key], known: Iterable[Key]
) -> Verdict | None:
    """The answer to a request of ZAP (rfc.zeromq.org/spec/27); None: it is none.

    `public` is the last frame's key as text.  Whoever is let in has it as User-Id: the broker looks
    it up with each message, so that a key that is revoked later ends there and then.
    """
    if len(frames) != 7 or frames[0] != b"1.0":
        return None
    if frames[2] == DOMAIN and frames[5] == b"CURVE" and public in allowed:
        return Verdict((b"1.0", frames[1], b"200", b"OK", public.encode(), b""), "")
    once = next((key for key in known if key.public == public), None)
    who = f"{once.shown}, revoked {once.revoked}" if once else f"{public[:SHOWN]}..."
    sender = frames[3].decode(errors="replace") or "this machine"
    refusal = (b"1.0", frames[1], b"400", b"this key is not allowed", b"", b"")
    return Verdict(refusal, f"a key that is not allowed: {who} from {sender}")


# --- files -------------------------------------------------------------------------------------


def load(directory: Path) -> Keys:
    """A key directory.  StartError: what is missing, damaged, or open to others."""
    own = _one(directory / "own")
    return Keys(own, load_cluster(directory))


def load_cluster(directory: Path) -> tuple[Key, ...]:
    """The keys of a directory's cluster.  StartError."""
    return parse(_read(directory / "cluster", 0o022, "write"), str(directory / "cluster"))


def stamp(directory: Path) -> tuple[object, ...]:
    """Differs from an earlier one when a file of the directory may have been changed."""
    stamps: list[object] = []
    for name in ("own", "cluster"):
        try:
            found = os.stat(directory / name)
            stamps.append((found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode))
        except OSError as error:
            stamps.append(error.errno)
    return tuple(stamps)


def write(path: Path, keys: Iterable[Key], mode: int) -> None:
    """Put a file in its place, whole; OSError."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(fd, "w", encoding="ascii") as file:
        file.write(text_of(keys))
        file.flush()
        os.fsync(fd)
    new.rename(path)


def remember(store: Path) -> None:
    """This store is served with keys, from now on; StartError."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        (store / MARK).touch()
    except OSError as error:
        raise StartError(f"{store / MARK}: {error.strerror}") from error


def refuse_plain(store: Path, directory: Path | None) -> None:
    """A store that was once served with keys is never served without; StartError."""
    if directory is None and (store / MARK).exists():
        raise StartError(
            f"{store} belongs to a cluster with keys: start this node with --keys DIR "
            f"(to let everybody in for ever, remove {store / MARK} on every node)"
        )


def _one(path: Path) -> Key:
    found = parse(_read(path, 0o077, "read or write"), str(path))
    if len(found) != 1 or not found[0].secret:
        raise StartError(f"{path}: one line with one key and its secret is what belongs here")
    return found[0]


def _read(path: Path, forbidden: int, what: str) -> str:
    """A file that nobody else may `what`."""
    try:
        with open(path, encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise StartError(f"{path} is no file")
            if mode & forbidden:
                raise StartError(
                    f"others may {what} {path} (mode {mode & 0o777:o}): chmod go-rwx {path}, and "
                    "if it was so for long, give out new keys"
                )
            return file.read(FILE_BYTES)
    except FileNotFoundError as error:
        raise StartError(
            f"{path} is not there: is {path.parent} a directory that 'zdfs keys' made?"
        ) from error
    except UnicodeDecodeError as error:
        raise StartError(f"{path} is no file of keys") from error
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}") from error
