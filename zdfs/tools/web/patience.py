"""Whoever connects and does not say what he wants is let go: uvicorn itself would wait for ever,
and as many of them as may be here at once would keep everybody else out."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S = 5.0  # from the first byte of a request, or from the connection, to the request's end


class Impatient(H11Protocol):
    """uvicorn's protocol, with an end to a request that does not end."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody is here."""
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        """He says something."""
        super().data_received(data)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """He has gone."""
        super().connection_lost(exc)
        self._stop()

    def _look(self) -> None:
        """The clock runs while there is less than a whole request; more bytes don't set it back."""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(REQUEST_S, self._late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self.transport.abort()
