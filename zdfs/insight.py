"""What a mount says of itself, to whoever is on its machine and asks why something waits.

It is the extended attribute `NAME` of the mount's root: not listed, never asked of the metaserver,
answered from memory.  The kernel checks no permission for names of `system.` (xattr(7)), so it need
not know the root's attributes first: it answers while the metaserver is silent, and beside a
thousand calls that wait.  Others than root and the mount's own user are told of their own calls.

Calls are noted once they have waited for `limits.INTERRUPT_POLL_S`, by the poll for signals that
every wait makes: those that don't wait pay nothing.
"""

import collections
import errno
import os
import time
import zlib
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, NamedTuple

from zdfs import kernel, limits, records, wire
from zdfs.calls import Trap, clock, now
from zdfs.ids import Ino
from zdfs.link import Link
from zdfs.measures import Meter, Role
from zdfs.ports import Reading
from zdfs.volume import Volume
from zdfs.workers import here

TEXT = 200  # characters of a text
NAME = b"system.zdfs.why"
MEASURES = b"system.zdfs.measures"  # and the name of a metric, to go on behind it
# Answers that say all there is to say: nobody asks why.
PLAIN = frozenset({
    errno.ENOENT, errno.ENODATA, errno.EOPNOTSUPP, errno.ERANGE, errno.EAGAIN, errno.EEXIST,
    errno.ENXIO, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EINVAL,
})  # fmt: skip


class Refused(NamedTuple):
    """An error that a call was answered with."""

    at: float  # monotonic
    operation: str
    ino: Ino
    name: bytes
    pid: int
    uid: int
    number: int
    text: str


_refused: collections.deque[Refused] = collections.deque(maxlen=limits.EXPLAINED)


def refused(operation: str, arguments: Sequence[Any], number: int, text: str) -> None:
    """Inside an operation that is about to be answered with an error."""
    if number not in PLAIN:
        who, about = kernel.caller(), kernel.subject(operation, arguments)
        _refused.append(
            Refused(time.monotonic(), operation, *about, who.pid, who.uid, number, text)
        )


class Insight:
    """What this process knows of its one mount."""

    def __init__(self, volume: Volume, link: Link, meter: Meter | None = None):
        self._volume, self._link = volume, link
        self.meter = meter or Meter(Role.MOUNT)
        self.meter.sources["mount"] = self._readings

    # --- what it does, in numbers --------------------------------------------------------------

    def done(self, operation: str, number: int) -> None:
        """This thread has answered an operation, with that errno."""
        took_s = time.monotonic() - here.since
        error = errno.errorcode.get(number, str(number)) if number else ""
        self.meter.answered(operation, took_s, error)
        self.meter.waited(operation, self._link.spent())

    def _readings(self) -> Iterator[Reading]:
        """What is so anyway.  It may run in any thread: memory only, and copied."""
        contact, reader = self._volume.contact, self._volume.reader
        yield Reading("zdfs_mount_cached_bytes", reader.blocks.bytes)
        yield Reading("zdfs_mount_dirty_bytes", self._volume.writer.dirty_bytes)
        yield Reading("zdfs_mount_blocked_writers", contact.waiting_writers)
        silent = contact.meta_silent_since
        silent_s = self._link.monotonic() - silent if silent else 0.0
        yield Reading("zdfs_mount_metaserver_silent_seconds", silent_s)
        for request, count in list(contact.retried.items()):
            yield Reading("zdfs_mount_retries_total", count, (request,))
        yield Reading("zdfs_mount_cache_hits_total", reader.blocks.hits, ("blocks",))
        yield Reading("zdfs_mount_cache_misses_total", reader.blocks.misses, ("blocks",))
        looks = self._volume.looks
        for cache in ("names", "attributes"):
            yield Reading("zdfs_mount_cache_hits_total", looks[cache, True], (cache,))
            yield Reading("zdfs_mount_cache_misses_total", looks[cache, False], (cache,))

    async def measured(self, after: str) -> bytes:
        """A page of all numbers (`wire.Measures`), packed and compressed: an attribute has 64 KiB,
        and they say the same names again and again."""
        page = self.meter.page((), after, await now(), await clock())
        return zlib.compress(records.pack(page), 1)

    def value(self, name: bytes, uid: int) -> Coroutine[Trap, Any, bytes] | None:
        """One of our two attributes; None: it is neither."""
        if name == NAME:
            return self.said(uid)
        if name.startswith(MEASURES):
            return self.measured(name[len(MEASURES) :].decode(errors="replace").lstrip("."))
        return None

    # --- what waits, and why -------------------------------------------------------------------

    async def said(self, uid: int) -> bytes:
        """For a caller of this user: a packed `wire.Explained`."""
        at, at_ns = await now(), await clock()
        everything = uid in (0, os.geteuid())
        calls = [
            self._underway(thread, call, at)
            for thread, call in sorted(kernel.waiting.copy().items(), key=lambda one: one[1].since)
            if everything or call.uid == uid
        ]
        shown = [
            self._refusal(one, at_ns - int((at - one.at) * 1e9))
            for one in list(_refused)
            if everything or one.uid == uid
        ]
        contact = self._volume.contact
        silent = contact.meta_silent_since
        said = wire.Explained(
            contact.meta, contact.mount[:TEXT], int((at - silent) * 1000) + 1 if silent else 0,
            contact.shown_blocked(at)[: limits.DISPUTES], self._volume.writer.dirty_bytes,
            tuple(calls[: limits.EXPLAINED]), max(0, len(calls) - limits.EXPLAINED),
            tuple(shown), self._paces(at),
        )  # fmt: skip
        return records.pack(said)

    def _underway(self, thread: int, call: kernel.Waits, at: float) -> wire.Underway:
        return wire.Underway(
            call.operation, call.ino, call.name, self._path(call.ino, call.name), call.pid,
            call.uid, int((at - call.since) * 1000), self._link.asked.get(thread, ()),
        )  # fmt: skip

    def _refusal(self, one: Refused, at_ns: int) -> wire.Refusal:
        path = self._path(one.ino, one.name)
        return wire.Refusal(
            at_ns, one.operation, one.ino, one.name, path, one.pid, one.uid, one.number,
            one.text[:TEXT],
        )  # fmt: skip

    def _path(self, ino: Ino, name: bytes) -> bytes:
        above = self._volume.last_place(ino)
        if above is None:
            return b""
        return (above.rstrip(b"/") + b"/" + name if name else above)[-limits.PATH_SHOWN :]

    def _paces(self, at: float) -> tuple[wire.Pace1, ...]:
        return tuple([
            wire.Pace1(
                one.peer, one.kind, int(one.pace.mean_s * 1e6), int(one.others_s * 1e6),
                one.pace.count, max(0, int((at - one.pace.at) * 1000)),
            )
            for one in self._link.paces.slowest()[: limits.EXPLAINED]
        ])  # fmt: skip
