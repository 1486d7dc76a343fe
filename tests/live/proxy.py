"""A TCP proxy that delays, swallows and cuts: one link between two processes, made bad on purpose.

    with Proxy(words, port, mark) as proxy:     `words` enter the client's network namespace
        proxy("delay 0.3")      each piece of bytes arrives so many seconds later, in order
        proxy("hold")           nothing arrives and nothing is closed: a black hole
        proxy("cut 5000")       every connection is reset after about so many bytes, mid-message
        proxy("pass")           as if it were not there

The packet filter of the namespace turns connections over to it (`SpacedCluster.bend`); it asks the
kernel where each was meant for (SO_ORIGINAL_DST) and marks its own, so that those go through.  TCP
loses nothing within a connection, so it doesn't either: what was held arrives later, or the
connection is reset.
"""

import asyncio
import random
import socket
import struct
import subprocess
import sys
from types import TracebackType

SO_ORIGINAL_DST = 80
PIECE_BYTES = 65_536
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST


class Relay:
    """All connections, under one rule."""

    def __init__(self, mark: int) -> None:
        self.mark = mark
        self.delay_s = 0.0
        self.cut_bytes = 0
        self.open = asyncio.Event()
        self.open.set()
        self.writers: set[asyncio.StreamWriter] = set()
        self.dice = random.Random(mark)

    def obey(self, line: str) -> None:
        """One command."""
        word, *rest = line.split()
        self.delay_s, self.cut_bytes = 0.0, 0
        if word == "hold":
            self.open.clear()
            return
        self.open.set()
        if word == "delay":
            self.delay_s = float(rest[0])
        elif word == "cut":
            self.cut_bytes = int(rest[0])
            for writer in list(self.writers):
                self.reset(writer)

    def reset(self, writer: asyncio.StreamWriter) -> None:
        """Close so that the other end hears of it at once, in the middle of whatever it is."""
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, both ways."""
        meant = writer.get_extra_info("socket").getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        port, host = struct.unpack_from(">H4s", meant, 2)
        far = socket.socket()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self.mark)
        far.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(far, (socket.inet_ntoa(host), port))
            far_reader, far_writer = await asyncio.open_connection(sock=far)
        except OSError:
            far.close()
            self.reset(writer)
            return
        self.writers |= {writer, far_writer}
        try:
            await asyncio.gather(self.pump(reader, far_writer), self.pump(far_reader, writer))
        except OSError:
            pass  # one end is gone: so is the other, below
        finally:
            self.writers -= {writer, far_writer}
            writer.transport.abort()
            far_writer.transport.abort()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One way.  Pieces wait in a queue, so that a delay costs time and no throughput."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1024)
        sender = asyncio.create_task(self.send(queue, writer))
        left = self.dice.randrange(1, 2 * self.cut_bytes) if self.cut_bytes else -1
        try:
            while data := await reader.read(PIECE_BYTES):
                if 0 <= left < len(data):
                    data = data[:left]
                await queue.put((asyncio.get_running_loop().time() + self.delay_s, data))
                left -= len(data) if left > 0 else 0
                if left == 0:
                    break
            await queue.put((0.0, b""))
            await sender
        finally:
            sender.cancel()
        raise ConnectionResetError

    async def send(
        self, queue: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            await self.open.wait()
            if not data:
                return
            writer.write(data)
            await writer.drain()


async def main() -> None:
    """Listen, say so, and obey stdin until it ends."""
    port, mark = map(int, sys.argv[1:3])
    relay = Relay(mark)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", port)
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        relay.obey(line)
        print("done", flush=True)
    server.close()
    for writer in list(relay.writers):
        relay.reset(writer)


class Proxy:
    """The handle: a process in the client's namespace."""

    def __init__(self, words: list[str], port: int, mark: int):
        self._process = subprocess.Popen(
            [*words, sys.executable, __file__, str(port), str(mark)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._hear("ready")

    def _hear(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == word, "the proxy ended"

    def __call__(self, command: str) -> None:
        """Change the rule; it holds when this returns."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        self._hear("done")

    def close(self) -> None:
        """End it; its connections are reset."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait(30)
        self._process.stdin.close()
        self._process.stdout.close()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


if __name__ == "__main__":
    asyncio.run(main())
