"""The DEALERs of clients, and of servers to one another; and why nobody answers.

ZeroMQ connects again and again and tells nobody when a server refuses us, or isn't who we think:
it looks as if that server were dead.  So whoever has waited for an answer for a moment asks here
for a **verdict**.  It is found out beside, by connections of their own whose handshake is watched;
so that nothing is watched, and nothing is paid, while servers answer.  Whether a server has keys
at all its first bytes say (ZeroMQ's events don't, if the server is the first to hang up).

    REFUSED   the server is ours, and does not let our key in: definite
    OTHER     whoever answers there has no key that is pinned
    KEYED     it wants keys, and we have none
    PLAIN     it has no keys, and we were told to use ours

All but the first count as "no answer": our server may be back there in a moment.
"""

import logging
import socket
import threading
import time
from enum import Enum
from pathlib import Path
from typing import Any

import zmq
import zmq.utils.monitor

from zdfs import addresses, keys, limits
from zdfs.calls import Peer
from zdfs.errors import Failure, Mistrusted, Refused, StartError, Unreachable

log = logging.getLogger("zdfs.keys")

DOUBT_S = 0.3  # an answer that is not here after so long may never come
LOOK_S = 1.0  # a change of our key directory counts after so long at most
PROBE_S = 1.0  # for one handshake
BRIEF_S = 0.5  # for one without keys, which a server of ours ends at once
AGAIN_S = 1.0  # a bad verdict is renewed so often
AGAIN_PLAIN_S = 5.0  # ... where there are no keys: a server that hangs counts who hangs up on it
GOOD_S = 3.0  # a good one
PLAIN_S = 60.0  # a good one where there are no keys: only that could be wrong, and it was not
ROUNDS = 3  # each pinned key is tried so often: a server that ends closes connections, too
GREETING = (
    b"\xff" + bytes(8) + b"\x7f\x03\x00"
)  # of ZMTP (rfc.zeromq.org/spec/23), up to its version
GREETED = 32  # up to the name of its mechanism

EVENTS = (
    zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.CLOSED  # nobody listens
)


class Found(Enum):
    """What a connection came to."""

    OURS = "ours"
    ABSENT = "absent"  # nobody listens, or nobody says anything
    REFUSED = "refused"
    OTHER = "other"
    KEYED = "keyed"
    PLAIN = "plain"


NO_VERDICT = (float("-inf"), Found.ABSENT, None)


def mechanism(greeting: bytes) -> str:
    """What a server's greeting names: "NULL", "CURVE", ...; empty: it is no greeting of ZMTP."""
    if len(greeting) < GREETED or greeting[0] != 0xFF or greeting[9] != 0x7F:
        return ""
    return greeting[12:GREETED].rstrip(b"\0").decode("ascii", errors="replace")


def judged(event: int) -> Found:
    """What an event of a connection's monitor means, where both ends have keys."""
    if event == zmq.Event.HANDSHAKE_SUCCEEDED:
        return Found.OURS
    if event == zmq.Event.HANDSHAKE_FAILED_AUTH:
        return Found.REFUSED
    return Found.ABSENT if event == zmq.Event.CLOSED else Found.OTHER


def failure(found: Found, peer: Peer, own: keys.Key | None) -> Failure | None:
    """What it means to whoever waits; None: nothing that a server in trouble would not, too."""
    shown = addresses.short(peer)
    ours = own.shown if own else ""
    if found is Found.REFUSED:
        return Refused(
            f"the server at {shown} refused our key {ours}: it was revoked, or its allow-list does "
            "not have it yet: ask who keeps the cluster's keys (zdfs keys list, zdfs keys add)"
        )
    if found is Found.OTHER:
        return Mistrusted(
            f"the server at {shown} has another key than those that are pinned for it: it is not "
            "ours, or its key was changed, or the list names its address otherwise (at=): get the "
            "cluster's new list of keys (file 'cluster')"
        )
    if found is Found.KEYED:
        return Mistrusted(f"the server at {shown} wants keys: give --keys DIR")
    if found is Found.PLAIN:
        return Mistrusted(
            f"the server at {shown} has no keys, but --keys was given: is it the right server, and "
            "was it started with --keys?"
        )
    return None


def _sound(directory: Path) -> keys.Keys:
    """A key directory whose own key is a pair; StartError."""
    found = keys.load(directory)
    if zmq.curve_public(found.own.secret.encode()).decode() != found.own.public:
        raise StartError(f"{directory / 'own'}: the secret is not that of the public key beside it")
    return found


class Dialer:
    """Makes the DEALERs of one context."""

    def __init__(self, context: zmq.Context[Any], directory: Path | None = None):
        """StartError: the key directory's fault."""
        self.context, self.directory = context, directory
        self.generation = 0  # a socket of an earlier one has a key that may soon be no good
        self._stamp = keys.stamp(directory) if directory else ()
        self._keys = _sound(directory) if directory else None
        self._looked = time.monotonic()
        self._nobody = zmq.curve_keypair()[0].decode() if directory else ""  # a pin of no server
        self._pinned: dict[Peer, str] = {}  # which of several it has
        self._verdicts: dict[Peer, tuple[float, Found, Failure | None]] = {}
        self._said: dict[Peer, str] = {}
        self._probes: dict[Peer, threading.Thread] = {}
        self._starting = threading.Lock()
        self._closing = False

    def close(self) -> None:
        """Wait for what is being found out; before the context ends."""
        self._closing = True
        for probe in list(self._probes.values()):
            probe.join()

    # --- sockets -------------------------------------------------------------------------------

    def dealer(self, peer: Peer, endpoint: str = "") -> zmq.Socket[bytes]:
        """A connected one; ZMQError."""
        if self._unsettled(peer):
            self.doubt(peer)
        dealer = self._dressed(self._pin(peer))
        dealer.setsockopt(zmq.RECONNECT_IVL, 50)
        dealer.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        try:
            dealer.connect(endpoint or addresses.tcp(peer))
        except zmq.ZMQError:
            dealer.close(0)
            raise
        return dealer

    def _dressed(self, pin: str) -> zmq.Socket[bytes]:
        dealer: zmq.Socket[bytes] = self.context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.MAXMSGSIZE, limits.SEALED_BYTES)
        dealer.setsockopt(zmq.SNDHWM, limits.PEERS_QUEUED)
        if self._keys is not None:
            dealer.setsockopt(zmq.CURVE_PUBLICKEY, self._keys.own.public.encode())
            dealer.setsockopt(zmq.CURVE_SECRETKEY, self._keys.own.secret.encode())
            dealer.setsockopt(zmq.CURVE_SERVERKEY, pin.encode())
        return dealer

    def _pins(self, peer: Peer) -> tuple[str, ...]:
        return (self._keys.pins(peer) or (self._nobody,)) if self._keys else ("",)

    def _pin(self, peer: Peer) -> str:
        return self._pinned.get(peer) or self._pins(peer)[0]

    def settle(self, peer: Peer) -> None:
        """Where a server may have one of several keys, find out which; takes a moment, once."""
        if self._unsettled(peer):
            self.doubt(peer)
            probe = self._probes.get(peer)
            if probe is not None:
                probe.join(PROBE_S)

    def _unsettled(self, peer: Peer) -> bool:
        return self._keys is not None and peer not in self._pinned and len(self._pins(peer)) > 1

    def refresh(self) -> int:
        """The generation that counts now, after a look at the key directory now and then."""
        if self.directory is None or time.monotonic() - self._looked < LOOK_S:
            return self.generation
        self._looked = time.monotonic()
        stamp = keys.stamp(self.directory)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._take(_sound(self.directory))
            except StartError as error:
                log.error("%s; the keys as they were count on", error)
        return self.generation

    def _take(self, found: keys.Keys) -> None:
        """Go by a changed directory from now on.  Clients' keys are nothing to us."""
        assert self._keys is not None
        if (found.own, found.nodes()) != (self._keys.own, self._keys.nodes()):
            log.info("%s: our key is %s", self.directory, found.own.shown)
            self._pinned.clear()
            self._verdicts.clear()
            self.generation += 1
        self._keys = found

    # --- verdicts ------------------------------------------------------------------------------

    def verdict(self, peer: Peer, since: float = 0.0) -> Failure | None:
        """Why a server that was asked at `since` does not answer (0: as far as is known); None: not
        known, or not yet.  Never waits: it is found out beside."""
        at, found, told = self._verdicts.get(peer, NO_VERDICT)
        if told is not None and at >= since:
            return told
        self.doubt(peer)
        return None

    def last_word(self, peer: Peer, since: float) -> Failure | None:
        """The same when the time for an answer is up.  The first verdict on a server is worth a
        moment more: a busy one may only seem to be silent, and wants keys."""
        probe = self._probes.get(peer)
        if probe is not None and peer not in self._verdicts:
            probe.join(PROBE_S)
        at, _, told = self._verdicts.get(peer, NO_VERDICT)
        return told if at >= since else None

    def doubt(self, peer: Peer) -> None:
        """Begin to find out, unless that was done just now."""
        at, found, _ = self._verdicts.get(peer, NO_VERDICT)
        rest = AGAIN_S if self._keys is not None or found is Found.KEYED else AGAIN_PLAIN_S
        if found is Found.OURS:
            rest = PLAIN_S if self._keys is None else GOOD_S
        with self._starting:
            if peer in self._probes or self._closing or time.monotonic() - at < rest:
                return
            self._probes[peer] = threading.Thread(
                target=self._probe, args=(peer,), name="zdfs-probe", daemon=True
            )
            self._probes[peer].start()

    def heard(self, peer: Peer) -> None:
        """A server's own word that our key does not count any more."""
        self._tell(peer, failure(Found.REFUSED, peer, self._keys.own if self._keys else None))

    def _probe(self, peer: Peer) -> None:
        try:
            found, pin = self._find(peer)
            told = failure(found, peer, self._keys.own if self._keys else None)
            self._tell(peer, told)
            if found is Found.OURS and pin != self._pin(peer):
                self.generation += 1  # what was sent under the other key never arrives
                told = Unreachable(f"the server at {addresses.short(peer)} has its next key")
            if found is Found.OURS:
                self._pinned[peer] = pin
            self._verdicts[peer] = (time.monotonic(), found, told)
        except zmq.ZMQError as error:
            log.debug("%s: %s", peer, error)
        finally:
            self._probes.pop(peer, None)

    def _tell(self, peer: Peer, told: Failure | None) -> None:
        """In the log, once for each change of it."""
        text = told.text if told else ""
        if text and self._said.get(peer) != text:
            log.warning("%s", text)
        elif not text and self._said.get(peer):
            log.info("the server at %s knows us again", addresses.short(peer))
        self._said[peer] = text

    def _find(self, peer: Peer) -> tuple[Found, str]:
        """Try each key that it may have, the likely one first."""
        first = self._pin(peer)
        if self._keys is None:  # whether keys are wanted is the only question
            # First a whole handshake: a server counts those that are broken off as strangers.
            if self._shake(peer, first, BRIEF_S) is Found.OURS:
                return Found.OURS, first
            keyed = mechanism(_greeting(peer)) == "CURVE"  # which that is slow to say, if at all
            return Found.KEYED if keyed else Found.ABSENT, first
        found = self._shake(peer, first)
        if found in (Found.OURS, Found.REFUSED):
            return found, first
        spoken = mechanism(_greeting(peer))
        if spoken != "CURVE":
            return Found.PLAIN if spoken else Found.ABSENT, first
        if found is Found.ABSENT:
            return found, first
        pin = first
        for pin in (*[one for one in self._pins(peer) if one != first], first) * ROUNDS:
            found = self._shake(peer, pin)
            if found is not Found.OTHER or self._closing:
                break
        return found, pin

    def _shake(self, peer: Peer, pin: str, patience_s: float = PROBE_S) -> Found:
        """One handshake."""
        dealer = self._dressed(pin)
        monitor = dealer.get_monitor_socket(int(EVENTS))
        try:
            dealer.connect(addresses.tcp(peer))
            if not monitor.poll(int(patience_s * 1000)):
                return Found.ABSENT
            return judged(zmq.utils.monitor.recv_monitor_message(monitor)["event"])
        finally:
            dealer.disable_monitor()
            monitor.close(0)
            dealer.close(0)


def _greeting(peer: Peer) -> bytes:
    """The first bytes that a server says; few or none: it is down, or busy, or no server of ours.
    It speaks before it knows whether we have keys."""
    host, _, port = peer.rpartition(":")
    said, end = b"", time.monotonic() + PROBE_S
    try:
        with socket.create_connection((host, int(port)), PROBE_S) as raw:
            raw.sendall(GREETING)
            while len(said) < GREETED and (more := raw.recv(GREETED - len(said))):
                said += more
                raw.settimeout(max(0.001, end - time.monotonic()))  # not for each byte anew
    except OSError:
        return b""
    return said
