"""Docker's end of the volume plugin: a Unix socket, HTTP, a JSON object each way."""

import http.server
import json
import logging
import os
import signal
import socket
import socketserver
import stat
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from zdfs.errors import StartError
from zdfs.tools.dockervolumes import Volumes

log = logging.getLogger("zdfs.docker")
KIND = "application/vnd.docker.plugins.v1.1+json"
BODY_BYTES = 1 << 20
_ENDS = (signal.SIGINT, signal.SIGTERM)


def serve(path: Path, volumes: Volumes) -> None:
    """Until ^C or SIGTERM."""
    ended = threading.Event()
    with ExitStack() as stack:
        stack.callback(volumes.close)
        server = Server(_bound(path), volumes)
        stack.callback(path.unlink, missing_ok=True)
        stack.callback(server.server_close)
        for number in _ENDS:
            stack.callback(signal.signal, number, signal.signal(number, lambda *_: ended.set()))
        volumes.resume()
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        stack.callback(server.shutdown)
        print(f"serving Docker's volumes at {path}, ^C ends it", flush=True)
        while not ended.wait(1.0):
            pass  # a signal that another thread caught is seen now


def _bound(path: Path) -> socket.socket:
    """The socket, for root alone; one that nobody serves any more is replaced."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
                if not knock.connect_ex(str(path)):
                    raise StartError(f"{path} is served already: end the other docker-plugin first")
            path.unlink()
        before = os.umask(0o177)
        try:
            door.bind(str(path))
        finally:
            os.umask(before)
        door.listen(16)
    except OSError as error:
        door.close()
        raise StartError(f"{path} can't be served: {error.strerror or error}") from error
    return door


class Server(socketserver.ThreadingMixIn, socketserver.BaseServer):
    """A thread for each of Docker's connections."""

    daemon_threads = True

    def __init__(self, door: socket.socket, volumes: Volumes):
        super().__init__("", Requests)
        self.socket, self.volumes = door, volumes

    def fileno(self) -> int:
        """Of the socket that is served."""
        return self.socket.fileno()

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection; it has no address, and a name is wanted."""
        return self.socket.accept()[0], ("docker", 0)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that failed: the next one is another."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            log.info("a connection ended before its answer: %s", error)
        else:
            log.error("a question was not answered", exc_info=error)

    def server_close(self) -> None:
        """Let go of the socket."""
        self.socket.close()

    def shutdown_request(self, request: Any) -> None:
        """The end of a connection."""
        with suppress(OSError):
            request.shutdown(socket.SHUT_WR)
        request.close()


class Requests(http.server.BaseHTTPRequestHandler):
    """POST /VolumeDriver.VERB with a JSON object."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_POST(self) -> None:
        """One question."""
        asked = self._asked()
        if asked is None:
            return
        if self.path == "/Plugin.Activate":
            self._say(200, {"Implements": ["VolumeDriver"]})
            return
        driver, _, verb = self.path.partition(".")
        if driver != "/VolumeDriver" or verb not in self.server.volumes.answers:
            self._say(404, {"Err": f"{self.path}: no question of the volume plugin protocol"})
            return
        answer = self.server.volumes.answer(verb, asked)
        if answer["Err"]:
            log.warning("%s %s: %s", verb, asked.get("Name", ""), answer["Err"])
        self._say(500 if answer["Err"] else 200, answer)

    def _asked(self) -> dict[str, Any] | None:
        """The body; None: it was refused."""
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > BODY_BYTES:
            self.close_connection = True
            self._say(400, {"Err": f"a body of {length} bytes is not read"})
            return None
        body = self.rfile.read(int(length))
        try:
            found = json.loads(body) if body.strip() else {}
        except ValueError as error:
            self._say(400, {"Err": f"no JSON: {error}"})
            return None
        if not isinstance(found, dict):
            self._say(400, {"Err": "no JSON object"})
            return None
        return found

    def _say(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", KIND)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *words: Any) -> None:
        """Docker asks all the time."""
        log.debug(format, *words)
