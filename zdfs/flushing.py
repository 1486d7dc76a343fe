"""When a mount flushes what nobody waits for: what is old, and files whose close did not wait.

`writing` says how.  Closed files are flushed in the order in which they were closed, as far as
flights are free, so that an fsync or a reader elsewhere never stands behind all of them.  Flights
that wait for a server don't count: below another policy, a file goes without it.
"""

from collections import OrderedDict

from zdfs import limits
from zdfs.cache import File
from zdfs.calls import notify, now, sleep, spawn, wait
from zdfs.ids import Ino
from zdfs.writing import FLIGHTS, Writer

CLOSED = 256  # files that are not stored, and still a close does not wait


class Flusher:
    """Beside the writer of a mount."""

    def __init__(self, writer: Writer):
        self.writer = writer
        self.closed: OrderedDict[Ino, File] = OrderedDict()

    async def flush_old(self) -> None:
        """The task that flushes what has waited long enough for its rest."""
        writer = self.writer
        while True:
            await sleep(limits.FLUSH_AFTER_S / 2)
            at = await now()
            for file in list(writer.files.values()):
                old = [b for b, d in file.dirty.items() if at - d.since > limits.FLUSH_AFTER_S]
                if old and writer.flying < FLIGHTS:
                    await writer.launch(file, old)
                if file.keeps(at - limits.FLUSH_AFTER_S) and not file.committing:
                    await spawn(writer.land(file), f"attributes of inode {file.ino}")

    async def flush_closed(self) -> None:
        """The task that flushes closed files."""
        while True:
            while self.closed and self.writer.flying - len(self.writer.putter.waiting) < FLIGHTS:
                _, file = self.closed.popitem(last=False)
                await self.writer.launch_all(file)
            await wait(self.writer.room, limits.RETRY_S)

    async def close(self, file: File) -> None:
        """Have a file flushed; waits only while there are too many.  May raise Interrupted."""
        if not file.busy:
            return
        self.closed[file.ino] = file
        notify(self.writer.room)
        while file.busy and len(self.writer.files) > CLOSED:
            await wait(self.writer.room, limits.RETRY_S)
