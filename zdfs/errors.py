"""The tree of failures.

Every failure answers two questions: *whose* (an errno for the kernel) and *did it happen*
(`definite`: the peer said so, trying again changes nothing; otherwise nobody knows and the same
request may be sent again under the same id).  `code` is its name on the wire and never reused.

    Failure
    |- Posix            the operation's own answer: ENOENT, EEXIST, ...
    |- NoSpace          a store has no room; nothing was half stored
    |- Damaged          a stored record or block fails its checksum and no good copy is known
    |- Fenced           the token was passed over; what it had not committed is void
    |- PutAgain         an acknowledgement that a commit quotes is older than the store behind it
    |- BadMessage       the peer sent something that is not our protocol
    |- Foreign          another cluster, another slot, an older store
    |- NoSession        the session is unknown or has died
    |- NoPass           a dataserver wants another word of the metaserver's: ask it again
    |- FaultsForbidden  the node was started without --faults
    |- Outdated         one end is too old for the other, or for what is asked; the text says which
    |- Unavailable      try again: the server is up, but can't answer this yet
    |- Unreachable      try again: no reply in time
    |- Mistrusted       no reply, because of keys; a client's own, never on the wire
    |- Refused          this key may not, or not any more
    |- Silent           nobody who has a block answers just now; a mount's own, never on the wire
    `- Interrupted      the caller was signalled while it waited

`StartError` and `StoreError` are for people: a node or command that can't go on says why.
"""

import errno
import os
from typing import ClassVar


class Failure(Exception):
    """A failure that crosses the wire and ends as an errno."""

    code: ClassVar[int] = 0
    definite: ClassVar[bool] = True
    number: int = errno.EIO

    def __init__(self, text: str = "", details: tuple[int, ...] = ()):
        super().__init__(text or self.__class__.__name__)
        self.text = text
        self.details = details


class Posix(Failure):
    """The operation's own answer; `number` is the errno."""

    code = 1

    def __init__(self, number: int, text: str = "", details: tuple[int, ...] = ()):
        super().__init__(text or os.strerror(number), details)
        self.number = number


class NoSpace(Failure):
    """A store is full (ENOSPC); details: the slots that said so."""

    code = 2
    number = errno.ENOSPC


class Damaged(Failure):
    """A record or every copy of a block is damaged or unprovable (EIO).

    `key` names the stored record where there is one: a walk goes on behind it.
    """

    code = 3

    def __init__(self, text: str = "", details: tuple[int, ...] = (), key: bytes = b""):
        super().__init__(text, details)
        self.key = key


class Fenced(Failure):
    """The write token was passed over: another mount writes the file now (EIO)."""

    code = 4


class PutAgain(Failure):
    """Blocks must be put again on the slots in `details` before the commit counts."""

    code = 5


class BadMessage(Failure):
    """Not our protocol, or beyond a bound of `limits` (EPROTO)."""

    code = 6
    number = errno.EPROTO


class Foreign(Failure):
    """A peer of another cluster or slot, or a store that is an old copy."""

    code = 7


class NoSession(Failure):
    """The session has died or was never born; the mount opens a new one."""

    code = 8


class FaultsForbidden(Failure):
    """Damage on purpose needs a node started with --faults (EPERM)."""

    code = 9
    number = errno.EPERM


class NoPass(Failure):
    """A client showed no pass, one that has ended, or one for something else (EACCES): the
    metaserver gives another to whoever still may."""

    code = 14
    number = errno.EACCES


class Unavailable(Failure):
    """The server answers, but not this, not yet: try again."""

    code = 10
    definite = False
    number = errno.EAGAIN


class Unreachable(Failure):
    """No reply in time: nobody knows whether it happened."""

    code = 11
    definite = False
    number = errno.ETIMEDOUT


class Mistrusted(Unreachable):
    """Who answers at an address isn't known to be our server: it has no keys, or others, or wants
    some; the text says it."""


class Refused(Failure):
    """The server does not let this key in, or not any more (EACCES)."""

    code = 13
    number = errno.EACCES


class Silent(Failure):
    """Every server that may have a block was silent for too long (EIO for a reader)."""

    definite = False


class Interrupted(Failure):
    """The calling program was signalled while it waited (EINTR)."""

    code = 12
    number = errno.EINTR


class Outdated(Failure):
    """One end is too old for the other, or for what was asked of it (EPROTO).  The text says who is
    to be upgraded; details: the oldest and the newest protocol of who answers."""

    code = 15
    number = errno.EPROTO


class StartError(Exception):
    """A command can't do what it was asked; the text says what happened and what to do."""


class DamagedStore(StartError):
    """A store whose files can't be trusted: it is set aside, and filled from copies."""


class StoreError(Exception):
    """A store failed under us (a sync that failed, a file that vanished): the node must stop."""


BY_CODE: dict[int, type[Failure]] = {
    kind.code: kind
    for kind in (
        NoSpace,
        Damaged,
        Fenced,
        PutAgain,
        BadMessage,
        Foreign,
        NoSession,
        FaultsForbidden,
        NoPass,
        Unavailable,
        Unreachable,
        Interrupted,
        Refused,
        Outdated,
    )
}


def revive(code: int, number: int, text: str, details: tuple[int, ...]) -> Failure:
    """The failure that a peer named; an unknown code (a newer peer) becomes Posix."""
    kind = BY_CODE.get(code)
    return Posix(number, text, details) if kind is None else kind(text, details)
