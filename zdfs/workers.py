"""The threads of a mount: they read the kernel's requests and run them.

Python threads, because libfuse's own stop at ten, and because a thread that Python did not make
costs 2.4 times as much per call.  *Idle* are those that are reading.  Whoever makes that zero by
taking a request starts another one first, so somebody always reads and blocked operations never
block the mount, up to limits.FUSE_WORKERS of them; whoever comes back and finds limits.FUSE_IDLE
others idle ends.  Each has a buffer of libfuse's, touched only as far as its requests reach.
"""

import ctypes
import errno
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

from zdfs import limits
from zdfs.errors import StartError

log = logging.getLogger("zdfs.workers")


class Buffer(ctypes.Structure):
    """struct fuse_buf of libfuse3, with room for what 3.17 added."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("mem", ctypes.c_void_p),
        ("fd", ctypes.c_int),
        ("pos", ctypes.c_longlong),
        ("more", ctypes.c_size_t * 4),
    ]


class Here(threading.local):
    """What this thread is doing."""

    request: int = 0  # libfuse's request that is not answered yet; 0: none
    closing: bool = False  # ... which is close(2)
    since: float = 0.0  # when it began
    operation: str = ""  # and what it is
    arguments: Sequence[Any] = ()


here = Here()


class Workers:
    """All threads of one session."""

    def __init__(self, library: Any, session: int, ended: Callable[[], None]):
        self._receive = library.fuse_session_receive_buf
        self._process = library.fuse_session_process_buf
        self._exited = library.fuse_session_exited
        self._receive.argtypes = self._process.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._free = ctypes.CDLL(None).free
        self._free.argtypes = [ctypes.c_void_p]
        self._session = session
        self._ended = ended
        self._lock = threading.Lock()
        self._idle = 0
        self._threads: set[threading.Thread] = set()

    def first(self) -> None:
        """Run the first request here: it is FUSE_INIT, and nothing else comes before its answer."""
        buffer = Buffer()
        if self._take(buffer):
            self._process(self._session, ctypes.byref(buffer))
        if buffer.mem:
            self._free(buffer.mem)
        if self._exited(self._session):
            raise StartError("the kernel and libfuse can't agree: the mount ended at once")

    def start(self) -> None:
        """Another worker."""
        with self._lock:
            if len(self._threads) >= limits.FUSE_WORKERS:
                return
            thread = threading.Thread(target=self._work, name="fuse", daemon=True)
            self._threads.add(thread)
            self._idle += 1
        try:
            thread.start()
        except RuntimeError as error:  # the system's limit of threads
            log.error("no further FUSE worker, operations may have to wait: %s", error)
            with self._lock:
                self._threads.discard(thread)
                self._idle -= 1

    def join(self) -> bool:
        """Wake and await all after the session's end; False: one is stuck in an operation."""
        waits = int(limits.MOUNT_JOIN_S / limits.INTERRUPT_POLL_S)
        for _ in range(waits):
            with self._lock:  # whoever stands in the set can't leave now: signalling it is safe
                threads = list(self._threads)
                for ident in (thread.ident for thread in threads):
                    if ident is not None:
                        signal.pthread_kill(ident, signal.SIGUSR1)
            if not threads:
                return True
            threads[0].join(limits.INTERRUPT_POLL_S)
        log.error("%d operations did not end with the mount; going on without", len(threads))
        return False

    def _work(self) -> None:
        buffer = Buffer()
        place = ctypes.byref(buffer)
        try:
            while self._take(buffer):
                with self._lock:
                    self._idle -= 1
                    alone = self._idle == 0
                if alone:
                    self.start()
                self._process(self._session, place)
                with self._lock:
                    if self._idle >= limits.FUSE_IDLE:
                        return
                    self._idle += 1
            self._ended()
        finally:
            if buffer.mem:
                self._free(buffer.mem)
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _take(self, buffer: Buffer) -> bool:
        """Read a request; False at the session's end."""
        while True:
            got: int = self._receive(self._session, ctypes.byref(buffer))
            if got > 0:
                return True
            if got not in (-errno.EINTR, -errno.EAGAIN):
                if got:
                    log.error("/dev/fuse fails, the mount ends: %s", os.strerror(-got))
                return False
            if self._exited(self._session):
                return False
