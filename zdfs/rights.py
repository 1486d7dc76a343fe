"""What a key may do, where a cluster has keys: pure.

A key has a *role*.  A node's is a server's; an administrator's may do everything; a client's
mounts, and may be *confined* by words that the allow-list keeps and `zdfs keys add` takes:

    ro                   nothing is changed
    root=/home/ada       what is not below that directory is not there; "/" of its mounts is that
    root-squash          nobody on its machines is root: what its root makes belongs to 65534, and
    root-squash=UID:GID  what belongs to root it has only as far as everybody has
    uid=LOCAL:OURS       its user LOCAL is our user OURS, both ways; as often as is needed
    gid=LOCAL:OURS       its group likewise

`NEEDS` says of each request who may send it.  What isn't there needs an administrator.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from errno import EACCES, EROFS

from zdfs import wire
from zdfs.errors import Posix
from zdfs.ids import NOTHING
from zdfs.keys import Key, Role

NOBODY = 65534
IDS = 2**32 - 1  # the last is "none" (chown)


class Need(enum.Enum):
    """Who may send a request."""

    ANYBODY = "any key"
    LOOK = "a client"
    CHANGE = "a client that may write"
    TOOL = "a client that sees all of the file system, an administrator or a node"
    SERVER = "an administrator or a node"
    ADMIN = "an administrator"


@dataclass(frozen=True, slots=True)
class Rights:
    """A key's role, and what confines a client's."""

    role: Role = Role.CLIENT
    write: bool = True
    root: bytes = b"/"
    squash: tuple[int, int] | None = None  # whom root is taken for
    uids: tuple[tuple[int, int], ...] = ()  # (theirs, ours)
    gids: tuple[tuple[int, int], ...] = ()

    @property
    def whole(self) -> bool:
        """Whether all files are there for it, as their modes say."""
        return self.root == b"/" and self.squash is None

    @property
    def translated(self) -> bool:
        """Whether requests and replies are not passed on as they are."""
        return self.role is Role.CLIENT and (
            self.root != b"/" or self.squash is not None or bool(self.uids or self.gids)
        )


# --- words -------------------------------------------------------------------------------------


def parse(role: Role, words: Iterable[str]) -> Rights:
    """The rights that words give; ValueError, for people, says which is none."""
    found = Rights(role)
    for word in words:
        if role is not Role.CLIENT:
            raise ValueError(
                f"{word!r}: only a client is confined, and this is a key of role {role}"
            )
        found = _given(found, word)
    return found


_known: dict[tuple[Role, str], Rights] = {}


def of(key: Key) -> Rights:
    """A key's; Posix when a hand wrote what is none."""
    found = _known.get((key.role, key.rights))
    if found is None:
        try:
            found = parse(key.role, key.rights.split())
        except ValueError as error:
            raise Posix(EACCES, f"the rights of the key {key.name}: {error}") from error
        _known[key.role, key.rights] = found
    return found


def _given(rights: Rights, word: str) -> Rights:
    key, _, value = word.partition("=")
    if word in ("ro", "rw"):
        return _with(rights, write=word == "rw")
    if key == "root" and value.startswith("/"):
        return _with(rights, root=_path(value))
    if key == "root-squash":
        return _with(rights, squash=_pair(word, value) if value else (NOBODY, NOBODY))
    if key == "uid":
        return _with(rights, uids=_mapped(word, rights.uids, _pair(word, value)))
    if key == "gid":
        return _with(rights, gids=_mapped(word, rights.gids, _pair(word, value)))
    raise ValueError(
        f"{word!r}: rights are ro, root=/PATH, root-squash, root-squash=UID:GID, uid=LOCAL:OURS, "
        "gid=LOCAL:OURS"
    )


def _with(rights: Rights, **changes: object) -> Rights:
    names = Rights.__slots__
    values = {name: getattr(rights, name) for name in names} | changes
    return Rights(**values)


def _path(text: str) -> bytes:
    names = [name for name in text.encode(errors="surrogateescape").split(b"/") if name]
    if b".." in names or b"." in names:
        raise ValueError(f"root={text}: name it without . and ..")
    return b"/" + b"/".join(names)


def _pair(word: str, value: str) -> tuple[int, int]:
    first, colon, second = value.partition(":")
    if not (colon and first.isdecimal() and second.isdecimal()):
        raise ValueError(f"{word!r}: two numbers with a colon between them")
    pair = int(first), int(second)
    if max(pair) >= IDS:
        raise ValueError(f"{word!r}: numbers below {IDS}")
    return pair


def _mapped(
    word: str, pairs: tuple[tuple[int, int], ...], pair: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    """Both ways it must be clear who is who."""
    if any(pair[0] == theirs or pair[1] == ours for theirs, ours in pairs):
        raise ValueError(f"{word!r}: one of the two is mapped already")
    return (*pairs, pair)


# --- who may send what -------------------------------------------------------------------------

NEEDS: dict[type[wire.Message], Need] = {
    wire.Identify: Need.ANYBODY,
    **dict.fromkeys(
        (
            wire.OpenSession, wire.CloseSession, wire.Beat, wire.Announce, wire.Lookup,
            wire.GetAttributes, wire.ReadLink, wire.ReadDirectory, wire.ListNames, wire.GetXattr,
            wire.ListXattr, wire.StatFs, wire.Sync, wire.ReadMap, wire.Seek, wire.Open, wire.Lock,
            wire.Unlock, wire.StopWaiting, wire.TestLock, wire.ReturnGrant, wire.GetPolicy,
            wire.Get, wire.SumDirectory,
        ),
        Need.LOOK,
    ),
    **dict.fromkeys(
        (
            wire.SetAttributes, wire.Make, wire.Create, wire.Unlink, wire.RemoveDirectory,
            wire.Rename, wire.Link, wire.SetXattr, wire.RemoveXattr, wire.Grant, wire.Commit,
            wire.Truncate, wire.Punch, wire.Put,
        ),
        Need.CHANGE,
    ),
    **dict.fromkeys(
        (
            wire.GetStatus, wire.GetEvents, wire.Foresee, wire.Dispute, wire.ListDebts,
            wire.ListEntries, wire.Examine, wire.Check, wire.ListVersions, wire.Recollect,
            wire.GetMeasures, wire.FindOpen,
        ),
        Need.TOOL,
    ),
    **dict.fromkeys(
        (
            wire.Report, wire.Inventory, wire.TakeDrops, wire.Judge, wire.Settle, wire.Fetch,
            wire.Append, wire.AppendSynced, wire.AppendPiece, wire.Fill, wire.ReadCopy,
            wire.ReadRounds,
        ),
        Need.SERVER,
    ),
    **dict.fromkeys(
        (wire.SetPolicy, wire.Skip, wire.Corrupt, wire.Scrub, wire.Discard), Need.ADMIN
    ),
}  # fmt: skip


def needed(request: wire.Message) -> Need:
    """Who may send this one."""
    need = NEEDS.get(type(request), Need.ADMIN)
    if isinstance(request, wire.Open) and (request.write or request.truncate):
        return Need.CHANGE
    if isinstance(request, wire.Check) and all(one.name == NOTHING for one in request.blocks):
        return Need.LOOK  # does the server serve?
    if isinstance(request, wire.Examine) and request.mend:
        return Need.ADMIN
    return need


def refusal(key: str, rights: Rights, request: wire.Message) -> Posix | None:
    """Why this key may not send this; None: it may."""
    need = needed(request)
    if need is Need.ANYBODY or rights.role is Role.ADMIN:
        return None
    if rights.role is Role.NODE:
        fits = need in (Need.SERVER, Need.TOOL)
    elif need is Need.TOOL:
        fits = not rights.translated
    else:
        fits = need in (Need.LOOK, Need.CHANGE)
    if not fits:
        name = type(request).__name__
        return Posix(EACCES, f"the key {key} may not ask for {name}: that needs {need.value}")
    if need is Need.CHANGE and not rights.write:
        return Posix(EROFS, f"the key {key} may only read")
    return None
