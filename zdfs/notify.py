"""What a service manager is told: that it serves, how it is, that it still turns (sd_notify(3)).

    READY=1      the port answers, or the mount is there
    STATUS=...   in `systemctl status`: what it waits for, if anything
    WATCHDOG=1   from the main loop itself, twice in WATCHDOG_USEC: one that is stuck says nothing
    STOPPING=1   it was told to end

A datagram to the socket that NOTIFY_SOCKET names; without one nothing is said to anybody.  Nobody
waits for a manager that doesn't listen: what its queue has no room for is said with the next word.
"""

import logging
import socket
from collections.abc import Callable, Mapping

from zdfs.pending import Timers

log = logging.getLogger("zdfs.notify")

STATUS_S = 1.0  # a changed status is told after so long at most


class Notifier:
    """Tells the service manager; knows how often it wants to hear (None: never)."""

    def __init__(self, address: str | None, period_s: float | None = None):
        self.period_s = period_s
        self._socket = None if address is None else socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._address = (address or "").replace("@", "\0", 1) if address else ""
        self._status = ""
        self._owed: dict[str, str] = {}  # what is to be said, by the word before "="

    @property
    def listens(self) -> bool:
        """Whether anybody wants to know."""
        return self._socket is not None

    def tell(self, *lines: str) -> None:
        """Say it, whoever may not hear it: no service ends because of that."""
        if self._socket is None:
            return
        self._owed |= {line.partition("=")[0]: line for line in lines}
        words = "\n".join(self._owed.values()).encode()
        try:
            self._socket.sendto(words, socket.MSG_DONTWAIT, self._address)
        except BlockingIOError:
            return
        except OSError as error:
            log.warning("the service manager can't be told %s: %s", lines[0], error)
        self._owed.clear()

    def ready(self, status: str = "") -> None:
        """It serves."""
        self._status = status
        self.tell("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """How it is, if that is news."""
        if text != self._status:
            self._status = text
            self.tell(f"STATUS={text}")

    def alive(self) -> None:
        """The main loop turns."""
        if self.period_s is not None:
            self.tell("WATCHDOG=1")

    def stopping(self) -> None:
        """It was told to end."""
        self.tell("STOPPING=1")


def from_environment(environment: Mapping[str, str], pid: int) -> Notifier:
    """As systemd has set it for this process."""
    address = environment.get("NOTIFY_SOCKET")
    micros, whose = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    asked = micros.isdecimal() and int(micros) > 0 and whose in ("", str(pid))
    period_s = int(micros) / 2e6 if asked else None
    if address is not None and not address.startswith(("/", "@")):
        log.warning("NOTIFY_SOCKET is %r, neither a path nor abstract: nobody is told", address)
        address = None
    return Notifier(address, period_s)


def attend(
    timers: Timers, now: Callable[[], float], notifier: Notifier, status: Callable[[], str]
) -> None:
    """Have a loop tell how it is, from its own timers: READY on its first turn."""
    if not notifier.listens:
        return
    pause_s = min(STATUS_S, notifier.period_s or STATUS_S)

    def again() -> None:
        notifier.status(status())
        notifier.alive()
        timers.at(now() + pause_s, again)

    def first() -> None:
        notifier.ready(status())
        again()

    timers.at(now(), first)
