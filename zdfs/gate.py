"""The gate of a keyed server: who may connect, asked by ZeroMQ's handshakes, in its own thread.

ZeroMQ asks in this process, by a protocol called ZAP, and waits for the answer; without anybody to
ask it would let every key in.  The thread depends on nothing but the allow-list, so connections are
made also while the server's loop is busy.  Once a second it looks whether the files of the key
directory were changed.  A list that can't be read is said in the log, and the last one counts on.
"""

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import zmq
import zmq.utils.z85

from zdfs import keys
from zdfs.errors import StartError

log = logging.getLogger("zdfs.keys")

LOOK_S = 1.0  # a change of the files counts after so long at most
ENDPOINT = "inproc://zeromq.zap.01"


class Gate:
    """The allow-list of one server, and the thread that answers by it."""

    def __init__(self, context: zmq.Context[Any], directory: Path):
        """StartError: the directory's fault."""
        self.directory = directory
        self._stamp = keys.stamp(directory)
        self._set(keys.load(directory))
        if self.keys.own.role is not keys.Role.NODE:
            raise StartError(
                f"{directory} is for the role {self.keys.own.role}: a node needs one of "
                "'zdfs keys init', or of 'zdfs keys add DIR NAME --role node'"
            )
        self.refusal = ""  # of whom was refused last
        self._questions = context.socket(zmq.REP)
        self._questions.setsockopt(zmq.LINGER, 0)
        self._questions.bind(ENDPOINT)
        self._ending = os.eventfd(0, os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._answer, name="zdfs-gate", daemon=True)
        self._thread.start()

    def _set(self, found: keys.Keys) -> None:
        """Swapped whole: the broker reads these from its own thread."""
        self.keys, self.allowed = found, found.allowed()

    def dress(self, router: zmq.Socket[bytes]) -> None:
        """Make a socket a server that only keys of the list reach; before it is bound."""
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, self.keys.own.secret.encode())
        router.setsockopt(zmq.ZAP_DOMAIN, keys.DOMAIN)
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def holder(self, frame: zmq.Frame) -> keys.Key | None:
        """Whose message this is a frame of; None: of nobody who is still allowed."""
        return self.allowed.get(str(frame.get("User-Id")))

    def text(self, frame: zmq.Frame) -> str:
        """The same for a refusal: who it was."""
        public = str(frame.get("User-Id"))
        names = [key.shown for key in self.keys.cluster if key.public == public]
        return names[0] if names else f"{public[: keys.SHOWN]}..."

    def close(self) -> None:
        """End the thread; nobody may connect any more."""
        os.eventfd_write(self._ending, 1)
        self._thread.join()
        self._questions.close(0)
        os.close(self._ending)

    def _answer(self) -> None:
        poller = zmq.Poller()
        poller.register(self._questions, zmq.POLLIN)
        poller.register(self._ending, zmq.POLLIN)
        looked = time.monotonic()
        while True:
            events = dict(poller.poll(int(LOOK_S * 1000)))
            if self._ending in events:
                return
            if time.monotonic() - looked >= LOOK_S:
                looked = time.monotonic()
                self._look()
            if self._questions in events:
                self._reply()

    def _reply(self) -> None:
        frames = self._questions.recv_multipart()
        key = frames[-1] if len(frames[-1]) == 32 else bytes(32)
        public = zmq.utils.z85.encode(key).decode()
        if public not in self.allowed:  # it may have been added just now
            self._look()
        verdict = keys.zap(frames, public, self.allowed, self.keys.cluster)
        if verdict is None:  # ZeroMQ's own mistake: it lets nobody in for such an answer
            log.error("a question of ZeroMQ that is none: %r", [len(one) for one in frames])
            self._questions.send_multipart([b"1.0", *frames[1:2], b"500", b"", b"", b""])
            return
        self.refusal = verdict.refused or self.refusal
        self._questions.send_multipart(verdict.frames)

    def _look(self) -> None:
        stamp = keys.stamp(self.directory)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            found = keys.load(self.directory)
        except StartError as error:
            log.error("%s; the keys as they were count on", error)
            return
        gone = [key.shown for public, key in self.allowed.items() if public not in found.allowed()]
        log.info(
            "%s: %d keys are allowed%s", self.directory / "cluster", len(found.allowed()),
            f"; no longer: {', '.join(gone)}" if gone else "",
        )  # fmt: skip
        self._set(found)
