"""Passes: what a metaserver signs so that a dataserver knows, without asking, that a client may.

    pass   number (8 bytes), what for (1), inode (8; 0: all files), seal (16)

The seal is a keyed BLAKE2b over all that and the name of the client's key, under a *secret* of the
metaserver's that is known to its dataservers by its number: they hear the present one and the next
with each answer to their reports.  A pass names no time.  It ends when its secret does: a
metaserver takes a new one each `limits.PASS_S`, and a dataserver believes in one that it hears of
no more for so long again.  While no metaserver speaks, nothing ends: open files can still be read.
"""

import hashlib
import hmac
import os
import struct
from typing import NamedTuple

from zdfs.ids import Ino
from zdfs.wire import Secret

SECRET_BYTES = 32
SEAL_BYTES = 16
ALL = Ino(0)  # no file has that number
READ, WRITE = 1, 2
_HEAD = struct.Struct(">QBQ")
PASS_BYTES = _HEAD.size + SEAL_BYTES


class Pass(NamedTuple):
    """A pass that was opened, its seal not looked at."""

    number: int
    uses: int  # READ, WRITE or both
    ino: Ino
    seal: bytes

    def covers(self, ino: Ino, use: int) -> bool:
        """Whether it is for this file, and for that."""
        return self.ino in (ALL, ino) and bool(self.uses & use)


def new_secret(number: int) -> Secret:
    """One that nobody can guess."""
    return Secret(number, os.urandom(SECRET_BYTES))


def _seal(secret: Secret, head: bytes, holder: str) -> bytes:
    return hashlib.blake2b(
        head + holder.encode(), key=secret.key, digest_size=SEAL_BYTES, person=b"zdfs pass"
    ).digest()


def sign(secret: Secret, holder: str, uses: int, ino: Ino = ALL) -> bytes:
    """A pass for the holder of a key."""
    head = _HEAD.pack(secret.number, uses, ino)
    return head + _seal(secret, head, holder)


def opened(text: bytes) -> Pass | None:
    """What a pass says; None: it is none."""
    if len(text) != PASS_BYTES:
        return None
    number, uses, ino = _HEAD.unpack_from(text)
    return Pass(number, uses, Ino(ino), text[_HEAD.size :])


def genuine(secret: Secret, text: bytes, holder: str) -> bool:
    """Whether the metaserver made it for this holder."""
    return hmac.compare_digest(_seal(secret, text[: _HEAD.size], holder), text[_HEAD.size :])


class Known:
    """The secrets that a dataserver believes in: those it heard of last, and for a while those
    before.  Told the time in seconds."""

    def __init__(self, grace_s: float):
        self.grace_s = grace_s
        self._secrets: dict[int, Secret] = {}
        self._ends: dict[int, float] = {}  # of those that are not spoken of any more
        self._right: dict[tuple[bytes, str], None] = {}  # seals that were right, newest last

    def heard(self, told: tuple[Secret, ...], now: float) -> None:
        """The metaserver's, as of now."""
        for secret in told:
            self._secrets[secret.number] = secret
            self._ends.pop(secret.number, None)
        named = {secret.number for secret in told}
        for number in list(self._secrets):
            if number in named:
                continue
            if self._ends.setdefault(number, now + self.grace_s) <= now:
                del self._secrets[number], self._ends[number]
                self._right = {one: None for one in self._right if _number(one[0]) != number}

    def later(self, number: int) -> bool:
        """Whether a secret is one that will be heard of: passes under it can't be judged yet."""
        return number > max(self._secrets, default=-1)

    def genuine(self, text: bytes, number: int, holder: str) -> bool:
        """Whether a pass was made for this holder, under a secret that still counts."""
        if (text, holder) in self._right:
            return True
        secret = self._secrets.get(number)
        if secret is None or not genuine(secret, text, holder):
            return False
        self._right[text, holder] = None
        if len(self._right) > REMEMBERED:
            del self._right[next(iter(self._right))]
        return True


REMEMBERED = 4096  # seals that were looked at: a client shows the same pass a thousand times


def _number(text: bytes) -> int:
    number: int = _HEAD.unpack_from(text)[0]
    return number


class Mint:
    """The metaserver's secrets: the present one, and the next, which dataservers hear of before it
    is used.  Told the time in seconds."""

    def __init__(self, first: int, life_s: float):
        """`first`: a number that no earlier metaserver came to."""
        self.life_s = life_s
        self.present, self.next = new_secret(first), new_secret(first + 1)
        self._since: float | None = None

    def told(self, now: float) -> tuple[Secret, Secret]:
        """What dataservers shall know."""
        if self._since is None:
            self._since = now
        if now - self._since >= self.life_s:
            self.present, self.next = self.next, new_secret(self.next.number + 1)
            self._since = now
        return self.present, self.next

    def sign(self, holder: str, uses: int, ino: Ino = ALL) -> bytes:
        """A pass under the present secret."""
        return sign(self.present, holder, uses, ino)
