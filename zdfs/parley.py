"""Which version of the protocol each peer is spoken to in: what a driver remembers.

    unknown --Identify, in the oldest version--> known      an older one: asked again after AGAIN_S
       ^------------- no answer in time ----------'         (it may have been upgraded since)

A peer that was put back to an older release hears nothing of what is said in a newer version: so
silence makes it unknown again.  Pure: told the time, touches no socket.
"""

from zdfs import addresses, wire
from zdfs.calls import Peer
from zdfs.errors import BadMessage, Failure, Outdated

AGAIN_S = 10.0


class Parley:
    """What is known of all peers."""

    def __init__(self) -> None:
        self._known: dict[Peer, tuple[int, float]] = {}

    def version(self, peer: Peer, now: float) -> int | None:
        """What to speak; None: ask who it is first."""
        found = self._known.get(peer)
        newest = wire.spoken().newest
        if found is not None and (found[0] == newest or now - found[1] < AGAIN_S):
            return found[0]
        return newest if newest == wire.PROTOCOL_MIN else None

    def surely(self, peer: Peer) -> int:
        """What to speak when nothing may be asked first."""
        found = self._known.get(peer)
        return wire.PROTOCOL_MIN if found is None else found[0]

    def heard(self, peer: Peer, answer: wire.Reply | Failure, now: float) -> Failure | None:
        """The answer to Identify; what is wrong with it."""
        if isinstance(answer, wire.Identity):
            theirs = wire.protocols_of(answer)
        elif isinstance(answer, Outdated) and len(answer.details) == 2:
            theirs = wire.Protocols(*answer.details)
        elif isinstance(answer, Failure):
            return answer
        else:
            return BadMessage(f"Identify was answered with {type(answer).__name__}")
        version = wire.spoken().common(theirs)
        if version is None:
            return Outdated(wire.cant_meet(addresses.short(peer), theirs), tuple(theirs))
        self._known[peer] = version, now
        return None

    def forget(self, peer: Peer) -> None:
        """It did not answer."""
        self._known.pop(peer, None)
