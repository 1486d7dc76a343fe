"""A session of a program that needs no mount: the link, the volume, and who calls.

    the program's threads ---- run(coroutine) ----> link.run, as a mount's workers do
    zdfs-session              heartbeats, recalls, pushes (link.attend)
    zdfs-janitor              what finalisers may not do themselves

**Waiting.**  A call waits as long as the same call on a mount would.  It ends early by ^C (in the
main thread; the signal is held back while core code runs, and raised afterwards), by a time limit
(`within`, `timeout_s`: TimeoutError, which says what it waits for), or by `abandon`.

**Fork.**  Sockets, threads and locks don't survive one: whoever uses a connection in another
process than the one that made it is told so, before anything is touched.

**Finalisers** of files may run in any thread at any moment, also in one that has the volume's lock:
there (`reentered`) they must not wait for anything, and hand to the janitor what they have to do.
"""

import contextlib
import errno
import logging
import math
import os
import queue
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from zdfs import addresses, limits, wire
from zdfs.api.identity import Who
from zdfs.api.operations import Operations
from zdfs.calls import Peer, Trap, call, now, sleep
from zdfs.contact import Contact
from zdfs.errors import Failure, Interrupted, Mistrusted, StartError, Unreachable
from zdfs.link import Link
from zdfs.paths import PathVolume
from zdfs.wire import State

T = TypeVar("T")
log = logging.getLogger("zdfs.api")
GOODBYE_S = 2 * limits.TIMEOUT_S  # the end of a session is told for so long


async def find(meta: str, patience_s: float) -> None:
    """Until a metaserver serves at an address; after so many seconds ConnectionError says why
    not."""
    shown, end = addresses.short(meta), await now() + patience_s
    while True:
        try:
            identity: wire.Identity = await call(Peer(meta), wire.Identify())
        except Mistrusted as error:
            raise ConnectionRefusedError(errno.ECONNREFUSED, error.text) from None
        except Unreachable:
            why = f"no metaserver answers at {shown}: is it running, and is that its address?"
        else:
            if identity.role is not wire.Role.META:
                raise ConnectionRefusedError(
                    errno.ECONNREFUSED, f"{shown} is a dataserver: name the metaserver's port"
                )
            if identity.state is State.SERVING:
                return
            why = f"the metaserver at {shown} can't serve yet: {identity.note}"
        if await now() >= end:
            raise ConnectionRefusedError(errno.ECONNREFUSED, why)
        await sleep(limits.RETRY_S / 4)


def obstacles(contact: Contact, asked: tuple[wire.Asked, ...] = ()) -> str:
    """What a call that did not end waits for, and what to do."""
    if contact.meta_silent:
        shown = addresses.short(contact.meta)
        return f"the metaserver at {shown} does not answer: start it again with its store"
    if contact.blocked:
        named = [f"{addresses.short(contact.peer(s))} (slot {s})" for s in sorted(contact.blocked)]
        return f"writes wait for dataserver {', '.join(named)}, which is down: start it again"
    if asked:
        said = [f"{addresses.short(one.address)} was asked {one.request}" for one in asked]
        return f"{', '.join(said)}: 'zdfs why' says who is in the way"
    return "'zdfs why' says what is in the way"


def told(failure: Failure, path: str | bytes | None, other: str | bytes | None = None) -> OSError:
    """A failure as Python's OSError of its errno, with what zdfs knows beyond that."""
    number = failure.number if failure.number > 0 else errno.EIO
    text = os.strerror(number)
    if failure.text and failure.text not in (text, type(failure).__name__):
        text = f"{text}: {failure.text}"
    if other is not None:
        return OSError(number, text, path, None, other)
    return OSError(number, text, path) if path is not None else OSError(number, text)


class _Here(threading.local):
    """What a thread's call is bounded by."""

    deadline: float | None = None
    since = 0.0
    stopped = False  # ^C
    inside = False  # core code may be running
    stop: threading.Event | None = None


class Connection:
    """One session, for any number of threads of this process."""

    def __init__(
        self, address: str, who: Who, name: str, timeout_s: float | None,
        attr_timeout_s: float, entry_timeout_s: float, keys: Path | None = None,
    ):  # fmt: skip
        try:
            self.meta = addresses.parse(address)
            self.link = Link(self._gives_up, self._gives_up, keys)
        except StartError as error:
            raise ValueError(str(error)) from None
        self.pid = os.getpid()
        self.timeout_s = timeout_s
        self._here = _Here()
        self._abandoned = False
        self.closed = False
        self._closing = threading.Lock()
        self._ending = threading.Lock()
        # No kernel here: its share of the time that things are believed is the volume's.
        self.volume = PathVolume(
            self.meta, name, self.link, 2 * attr_timeout_s, 2 * entry_timeout_s
        )
        self.operations = Operations(self.volume, who)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._janitor = threading.Thread(target=self._tidy, name="zdfs-janitor", daemon=True)

    # --- life ----------------------------------------------------------------------------------

    def open(self, patience_s: float) -> None:
        """Open the session; ConnectionError when no metaserver serves in time."""
        with contextlib.ExitStack() as unless_open:
            unless_open.callback(self.link.close)
            try:
                with self._bounded(None):
                    self.link.run(find(self.meta, patience_s))
                with self._bounded(patience_s):
                    self.link.run(self.volume.start())
            except Interrupted:
                why = self._why("connect", None)
                if isinstance(why, TimeoutError):
                    why = ConnectionRefusedError(errno.ECONNREFUSED, why.strerror)
                raise why from None
            except Failure as failure:
                where = addresses.short(self.meta)
                raise ConnectionError(errno.ECONNREFUSED, f"{where}: {failure}") from failure
            unless_open.pop_all()
        self.link.attend(self.volume, Peer(self.meta))
        self._janitor.start()

    def close(self) -> None:
        """Flush, end the session.  Waits as umount does; when that ends early, the connection stays
        open: close again, or `abandon`.  For one thread at a time: `alone`."""
        done = threading.Event()
        self.later(done.set)
        self.until(done.wait, "close")  # the janitor has done what it was given so far
        self.run(self._settle(), "close", None)
        with self.within(GOODBYE_S):
            try:
                self.run(self.volume.stop(), "close", None)
            except TimeoutError:  # nothing is left to be stored: the session ends by itself
                log.info("the metaserver does not answer: this session ends unsaid")
        self._end()

    @contextlib.contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """No other thread is in here meanwhile; waits for it, bounded as a call."""
        mine = False

        def take(seconds: float) -> bool:
            nonlocal mine
            mine = self._closing.acquire(timeout=seconds)
            return mine

        try:
            self.until(take, what)
            yield
        finally:  # also when ^C came as it was taken
            if mine:
                self._closing.release()

    async def _settle(self) -> None:
        """Everything is flushed that can be; what can't, its file's close has said."""
        writer = self.volume.writer
        for file in list(writer.files.values()):
            try:
                await writer.drain(file)
            except Interrupted:
                raise
            except Failure as error:
                log.error("inode %d was not flushed whole: %s", file.ino, error)

    def abandon(self) -> None:
        """End at once; what was not flushed is lost."""
        if not self.closed and os.getpid() == self.pid:
            self._abandoned = True
            self._end()

    def _end(self) -> None:
        """Once: sockets must not be closed twice.  Who comes second waits for the first."""
        with self._ending:
            if self.closed:
                return
            self.closed = True
            self._jobs.put(None)
            if threading.current_thread() is not self._janitor:
                self._janitor.join(limits.BULK_TIMEOUT_S)
            self.link.close()

    def check(self) -> None:
        """Whether it can be used: ValueError after close, as of files; OSError after a fork."""
        if os.getpid() != self.pid:
            raise OSError(
                errno.EBADF,
                f"this connection was made by process {self.pid} before a fork: "
                "call zdfs.connect in this one, too",
            )
        if self.closed:
            raise ValueError("the connection is closed")

    # --- calls ---------------------------------------------------------------------------------

    def run(
        self, coroutine: Coroutine[Trap, Any, T], what: str, path: str | bytes | None,
        other: str | bytes | None = None,
    ) -> T:  # fmt: skip
        """Drive a coroutine in this thread.  Its failures are OSErrors."""
        try:
            self.check()
        except (OSError, ValueError):
            coroutine.close()
            raise
        try:
            with self._bounded(self.timeout_s):
                return self.link.run(coroutine)
        except Interrupted:
            raise self._why(what, path) from None
        except Failure as failure:
            raise told(failure, path, other) from None  # the way inside is nobody else's

    def until(self, ready: Callable[[float], bool], what: str) -> None:
        """Wait for what other threads do, bounded as a call; `ready` waits so many seconds."""
        with self._bounded(self.timeout_s):
            while not ready(limits.INTERRUPT_POLL_S):
                if self._gives_up():
                    raise self._why(what, None)

    def _why(self, what: str, path: str | bytes | None) -> BaseException:
        here = self._here
        if here.stopped:
            return KeyboardInterrupt()
        if here.stop is not None and here.stop.is_set():
            return InterruptedError(errno.EINTR, f"{what} was stopped", path)
        if self._abandoned or self.closed:
            return ValueError("the connection was closed meanwhile")
        took = self.link.monotonic() - here.since
        asked = self.link.asked.get(threading.get_ident(), ())
        return TimeoutError(
            errno.ETIMEDOUT,
            f"{what} did not end within {took:.1f} s: {obstacles(self.volume.contact, asked)}",
            path,
        )

    def _gives_up(self) -> bool:
        """Whether this thread's call is not to wait any longer."""
        here = self._here
        if here.stopped or self._abandoned or (here.stop is not None and here.stop.is_set()):
            return True
        return here.deadline is not None and self.link.monotonic() >= here.deadline

    @contextlib.contextmanager
    def _bounded(self, timeout_s: float | None) -> Iterator[None]:
        """For one call in this thread: its time limit, and ^C."""
        here = self._here
        here.since = self.link.monotonic()
        before = here.deadline
        if before is None and timeout_s is not None:
            here.deadline = here.since + timeout_s
        try:
            with self._held_back():
                here.inside = True
                yield
        finally:
            here.deadline, here.inside = before, False

    @contextlib.contextmanager
    def _held_back(self) -> Iterator[None]:
        """^C must not break core code in its middle: it ends the wait, and is raised then."""
        mine = threading.current_thread() is threading.main_thread()
        if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        here = self._here
        here.stopped = False

        def stop(*_: object) -> None:
            here.stopped = True

        signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if here.stopped:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def within(self, timeout_s: float | None) -> Iterator[None]:
        """Calls of this thread end within so many seconds in all."""
        here, before = self._here, self._here.deadline
        here.deadline = None if timeout_s is None else self.link.monotonic() + timeout_s
        try:
            yield
        finally:
            here.deadline = before

    def deadline(self) -> float | None:
        """When `within` ends this thread's calls."""
        return self._here.deadline

    def go_on(self, what: str) -> None:
        """For long work of many short calls, none of which waits: raises what would end a call."""
        here = self._here
        if here.stop is not None and here.stop.is_set():
            raise InterruptedError(errno.EINTR, f"{what} was stopped")
        if here.deadline is not None and self.link.monotonic() >= here.deadline:
            contact, text = self.volume.contact, f"{what} did not end in the time that it had"
            if contact.meta_silent or contact.blocked:
                text += f": {obstacles(contact)}"
            raise TimeoutError(errno.ETIMEDOUT, text)

    @contextlib.contextmanager
    def on_behalf(self, stop: threading.Event, deadline: float | None) -> Iterator[None]:
        """Calls of this thread end when the event is set, and at another thread's deadline."""
        here = self._here
        before = here.stop, here.deadline
        here.stop, here.deadline = stop, deadline
        try:
            yield
        finally:
            here.stop, here.deadline = before

    # --- finalisers ----------------------------------------------------------------------------

    def usable(self) -> bool:
        """Whether calls can be made: here, and not after the end."""
        return not self.closed and os.getpid() == self.pid

    def reentered(self) -> bool:
        """Whether this thread may be inside of core code: whoever is called in it must not wait."""
        return self.usable() and (self._here.inside or self.link.ours())

    def later(self, job: Callable[[], None]) -> None:
        """Have the janitor do something; from anywhere, never waits."""
        self._jobs.put(job)

    def _tidy(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                with self.within(math.inf):  # nobody waits for it
                    job()
            except (OSError, ValueError) as error:
                log.error("a file that was not closed could not be stored: %s", error)
            del job  # or it would live until the next one comes
