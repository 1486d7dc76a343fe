"""The server's life: a socket, the poller, uvicorn; ^C ends all three within a second."""

import argparse
import os
import secrets
import signal
import socket
import sys
from contextlib import suppress
from types import FrameType

import uvicorn

from zdfs import addresses, wire
from zdfs.calls import Ask, Peer, call_all
from zdfs.errors import Failure, StartError, Unavailable
from zdfs.link import Link
from zdfs.tools import visiting
from zdfs.tools.web.browse import Browser
from zdfs.tools.web.patience import Impatient
from zdfs.tools.web.poller import Board, Poller
from zdfs.tools.web.site import Site
from zdfs.wire import State

CONNECTIONS = 200  # a browser has one for its snapshots and a few for questions
BACKLOG = 128


class Server(uvicorn.Server):
    """Tells the board of ^C at once: else it would wait for browsers that listen for ever."""

    def __init__(self, config: uvicorn.Config, board: Board):
        super().__init__(config)
        self.board = board

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal."""
        super().handle_exit(sig, frame)
        self.board.end()


def serve(chosen: argparse.Namespace) -> int:
    """Until ^C or SIGTERM."""
    meta = visiting.meta_of(chosen)
    door = _listen(addresses.parse(chosen.listen))
    board = Board()
    link = Link(board.ended.is_set, board.ended.is_set, chosen.keys)
    token = secrets.token_urlsafe(12) if chosen.allow_actions else ""
    known = (socket.gethostname(), chosen.listen.rpartition(":")[0], *chosen.name)
    scrub = (lambda: start_scrub(link, board)) if token else None
    site = Site(
        board, Browser(link, meta, lambda: board.status), scrub, token, tuple(filter(None, known))
    )
    config = uvicorn.Config(
        site.app(), http=Impatient, log_level="warning", access_log=False, lifespan="off",
        server_header=False, limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=1,
        log_config=None,
    )  # fmt: skip
    poller = Poller(link, meta, board)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    poller.start()
    _say(door, meta, token)
    try:
        with suppress(KeyboardInterrupt):  # uvicorn has ended, and hands the signal on
            Server(config, board).run(sockets=[door])
    finally:
        board.end()
        poller.stop()
        link.close()
        door.close()
        signal.signal(signal.SIGTERM, before)
    return 0


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        return socket.create_server((host, int(port)), backlog=BACKLOG)
    except OSError as error:
        raise StartError(
            f"can't listen at {address}: {os.strerror(error.errno or 0)}; choose another port with "
            "--listen"
        ) from error


def _say(door: socket.socket, meta: str, token: str) -> None:
    host, port = door.getsockname()[:2]
    print(
        f"zdfs web: look at http://{host}:{port}/ (metaserver {addresses.short(meta)}; ^C ends it)",
        flush=True,
    )
    if not host.startswith("127."):
        print(
            "zdfs web: whoever reaches that port sees the names of all files, and nothing is "
            "encrypted: keep it behind a firewall",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    if token:
        print(f"zdfs web: the page's actions ask for this token: {token}", flush=True)


def start_scrub(link: Link, board: Board) -> None:
    """Have every server that is up read all it holds.  Unavailable: nobody could be asked; any
    other Failure: a server would not."""
    status = board.status
    if status is None:
        raise Unavailable("the metaserver has not said yet which dataservers there are")
    scrub = wire.Scrub(status.cluster, secrets.token_bytes(16))
    asks = [
        Ask(Peer(one.member.address), scrub)
        for one in status.servers
        if one.member.state is not State.DOWN
    ]
    answers = link.run(call_all(asks)) if asks else []
    for answer in answers:
        if isinstance(answer, Failure) and answer.definite:  # our key may not ask for it
            raise answer
    if not any(isinstance(answer, wire.Scrubbing) for answer in answers):
        raise Unavailable("no dataserver answered: see zdfs status")
