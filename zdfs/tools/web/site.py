"""What the browser is answered: a page, its parts, and facts as JSON; nothing here changes anything
but `/api/scrub`, which is there only if it was asked for.

    /                the page; its parts in /static/
    /api/live        a snapshot each second (Server-Sent Events)
    /api/hour        throughput and latency
    /api/events      ?after=NUMBER
    /api/look        ?path=KEY, a directory (&after=KEY) or a file (&first=BLOCK&down=2,3)
    /api/cost        ?down=2,3: what an outage would cost
    /api/scrub       POST, with the token that was printed at the start

What asks the cluster runs in threads, for our `Link` blocks; only the waiting for the next snapshot
is the event loop's.
"""

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from errno import EACCES, EROFS
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zdfs import limits
from zdfs.errors import Failure, Posix, StartError
from zdfs.ids import Slot
from zdfs.tools.web import doors, names
from zdfs.tools.web.browse import Browser
from zdfs.tools.web.history import STEP_S
from zdfs.tools.web.poller import Board

KINDS = {
    ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml",
}  # fmt: skip
EVENTS = 200  # in one answer


@dataclass(frozen=True, slots=True)
class Site:
    """What the page is made of."""

    board: Board
    browser: Browser
    scrub: Callable[[], None] | None = None  # an action; None: it is not offered
    token: str = ""  # that actions want
    known: Collection[str] = field(default_factory=tuple)  # names of this machine

    def app(self) -> ASGIApp:
        """For a server."""
        routes = [
            Route("/", _part("index.html")),
            *[Route(f"/static/{name}", _part(name)) for name in _parts() if name != "index.html"],
            Route("/api/live", self.live),
            Route("/api/hour", self.hour),
            Route("/api/events", self.events),
            Route("/api/look", self.look),
            Route("/api/cost", self.cost),
        ]
        if self.scrub is not None:
            routes.append(Route("/api/scrub", self.start_scrub, methods=["POST"]))
        failed: Any = {Failure: _failure, StartError: _failure, HTTPException: _refusal}
        return Guard(Starlette(routes=routes, exception_handlers=failed), self.known)

    # --- answers -------------------------------------------------------------------------------

    async def live(self, request: Request) -> Response:
        """Snapshots, until one of us goes."""
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(self._frames(), media_type="text/event-stream", headers=headers)

    async def _frames(self) -> AsyncIterator[bytes]:
        loop, news, number = asyncio.get_running_loop(), asyncio.Event(), 0
        actions = b"true" if self.scrub is not None else b"false"
        yield b'retry: 1000\nevent: hello\ndata: {"actions": %s}\n\n' % actions

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.set)

        with self.board.listening(wake):
            while not self.board.ended.is_set():
                if self.board.number != number:
                    number = self.board.number
                    yield b"event: snapshot\ndata: %s\n\n" % self.board.frame
                await news.wait()
                news.clear()

    def hour(self, request: Request) -> Response:
        """The last hour, all servers together."""
        chart = self.board.chart(time.monotonic())
        return _json({"step_s": STEP_S, "at_ns": time.time_ns(), "steps": chart})

    def events(self, request: Request) -> Response:
        """What happened."""
        after = _number(names.parameters(request.scope["query_string"]), b"after")
        found = self.board.events_after(after, EVENTS)
        return _json({"events": [one._asdict() for one in found]})

    def look(self, request: Request) -> Response:
        """What is at a path."""
        asked = names.parameters(request.scope["query_string"])
        path = asked.get("path", b"/")
        if len(path) > limits.PATH_BYTES or len(asked.get("after", b"")) > limits.NAME_BYTES:
            raise StartError("that path is too long")
        first = _number(asked, b"first")
        return _json(self.browser.look(path, asked.get("after", b""), first, self._down(asked)))

    def cost(self, request: Request) -> Response:
        """What an outage would cost."""
        down = self._down(names.parameters(request.scope["query_string"]))
        if not down:
            raise StartError("say which dataservers would be down: ?down=2,3")
        return _json(self.browser.cost(down))

    def _down(self, asked: dict[str, bytes]) -> tuple[Slot, ...]:
        text = asked.get("down", b"")
        status = self.board.status
        count = len(status.servers) if status else 0
        words = [word for word in text.split(b",") if word]
        if any(not word.isdigit() or len(word) > 4 or int(word) >= count for word in words):
            raise StartError(f"down={names.shown(text)}: slots, from 0 to {count - 1}")
        return tuple(sorted({Slot(int(word)) for word in words}))

    def start_scrub(self, request: Request) -> Response:
        """Have every server read and check all that it holds."""
        given = request.headers.get("x-zdfs-token", "").encode()
        if not hmac.compare_digest(given, self.token.encode()):
            raise HTTPException(403, "the token is not the one that zdfs web printed at its start")
        assert self.scrub is not None
        self.scrub()
        return _json({"started": True})


def _number(asked: dict[str, bytes], name: bytes) -> int:
    text = asked.get(name.decode(), b"0")
    if not text.isdigit() or len(text) > 18:
        raise StartError(f"{name.decode()}={names.shown(text)} is no number")
    return int(text)


def _json(facts: Any) -> Response:
    return JSONResponse(facts, headers={"cache-control": "no-store"})


async def _failure(request: Request, error: Exception) -> Response:
    """Words for people.  What our key may not ask is 403, what is not there 404, what can't be
    asked now 503."""
    status = 400
    if isinstance(error, Posix):
        status = 403 if error.number in (EACCES, EROFS) else 404
    elif isinstance(error, Failure):
        status = 500 if error.definite else 503
    return JSONResponse({"error": str(error)}, status, headers={"cache-control": "no-store"})


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


# --- the page's parts --------------------------------------------------------------------------


def _parts() -> list[str]:
    found = [one.name for one in resources.files(__package__).joinpath("static").iterdir()]
    return sorted(name for name in found if "." + name.rpartition(".")[2] in KINDS)


def _part(name: str) -> Callable[[Request], Response]:
    """One file; a browser that has it is told so."""
    content = resources.files(__package__).joinpath("static", name).read_bytes()
    tag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
    kind = KINDS["." + name.rpartition(".")[2]]

    def answer(request: Request) -> Response:
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    return answer


class Guard:
    """Refuses what `doors` does not let in, and says to browsers what they may do with the rest."""

    def __init__(self, app: ASGIApp, known: Collection[str]):
        self.app, self.known = app, tuple(known)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(doors.HEADERS)
            await send(message)

        refusal = self._refused(scope["path"], Headers(scope=scope))
        await (refusal or self.app)(scope, receive, sending)

    def _refused(self, path: str, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if not doors.host_allowed(host, self.known):
            return PlainTextResponse(
                f"This is zdfs web, and it is not called {names.shown(host.encode())[:100]!r}. "
                "Look at it by its address, or start it with --name NAME.\n", 421,
            )  # fmt: skip
        site, mode = headers.get("sec-fetch-site", ""), headers.get("sec-fetch-mode", "")
        if not doors.site_allowed(path, site, mode):
            return PlainTextResponse("Another site's page may not ask this.\n", 403)
        return None
