"""What is done to stretches of a file: truncate, fallocate, lseek over holes, copy_file_range.

Truncate and punch change the map without a block being written.  Each waits until nothing of the
file is unflushed here, keeps writes out while it is underway (`File.cut`), and goes as one numbered
change under the grant; so what was written before is cut with the rest, and never comes back.

**Zeros** in a range are holes where whole blocks lie in it, and written at its ragged ends.  The
ends come first, by the way of every write, then the holes, at once: what a failure in between
leaves is old bytes or zeros.

**Space** is looked at, not kept: no block is ever written over, so none could be set aside for it.
"""

import logging
import os
from errno import EFBIG, EINVAL, ENXIO, EOPNOTSUPP

from zdfs import blockmap, limits, wire
from zdfs.blockmap import Page
from zdfs.cache import Cut, File, Told
from zdfs.calls import notify, now, spawn, wait
from zdfs.contact import Contact
from zdfs.errors import Damaged, Failure, Fenced, Interrupted, NoSession, NoSpace, Posix, Silent
from zdfs.ids import BlockNo, PageNo
from zdfs.reading import Reader
from zdfs.writing import Writer

log = logging.getLogger("zdfs.mount")

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10  # linux/falloc.h
MODES = (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE)
COPIED = 4 * limits.MIB  # read and written at a time by a copy


class Ranges:
    """Beside the reader and the writer of one mount."""

    def __init__(self, contact: Contact, reader: Reader, writer: Writer):
        self.contact, self.reader, self.writer = contact, reader, writer

    # --- changes of the map --------------------------------------------------------------------

    async def truncate(self, file: File, size: int, told: Told) -> None:
        """Cut or grow, after everything that was written before."""
        await self._alone(file, told)
        request = wire.Truncate(file.ino, file.token, file.number + 1, size)
        await self._change(file, request, range(limits.FILE_BYTES))

    async def fallocate(self, file: File, mode: int, offset: int, length: int, told: Told) -> None:
        """fallocate(2).  EOPNOTSUPP, EINVAL, EFBIG, NoSpace, and what a write may raise."""
        if mode not in MODES:
            raise Posix(EOPNOTSUPP)
        if offset < 0 or length <= 0:
            raise Posix(EINVAL)
        if offset + length > limits.FILE_BYTES:
            raise Posix(EFBIG)
        if not mode & PUNCH_HOLE:
            await self._look_for_space(file, offset, length)
        size = 0 if mode & KEEP_SIZE else offset + length
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            await self.clear(file, offset, length, size, told)
        else:
            await self._alone(file, told)
            await self._punch(file, 0, 0, size)

    async def clear(self, file: File, offset: int, length: int, size: int, told: Told) -> None:
        """Zeros at offset..offset+length as far as the file reaches, which is `size` at least."""
        end = offset + length
        while True:
            await self.writer.own(file)
            before = file.size
            for low, high in blockmap.edges(offset, end, before, self.contact.block_bytes):
                if await self._is_data(file, low):
                    await self.writer.write(file, bytes(high - low), low, told, within=True)
            await self._alone(file, told)
            if before > end or file.size <= end:
                break  # else it grew: what was the rest of its last block is now the range's edge
        await self._punch(file, offset, length, size)

    async def _punch(self, file: File, offset: int, length: int, size: int) -> None:
        """Call it alone."""
        request = wire.Punch(file.ino, file.token, file.number + 1, offset, length, size)
        stop = blockmap.whole(offset, offset + length, file.size, self.contact.block_bytes)[1]
        first = blockmap.page_of(BlockNo(offset // self.contact.block_bytes))[0]
        last = blockmap.page_of(stop)[0]
        await self._change(file, request, range(first, last + 1))

    async def _alone(self, file: File, told: Told) -> None:
        """Until the file is ours with nothing unflushed: as of returning, no trap may follow."""
        while True:
            await self.writer.own(file)
            await self.writer.drain(file)
            if told.broken is not None:
                raise told.broken
            if file.token and not (file.recalled or file.committing or file.busy):
                return
            await wait(file.moved, limits.RETRY_S)

    async def _change(self, file: File, request: wire.Truncate | wire.Punch, void: range) -> None:
        """Have the map changed; these of its pages are void then."""
        cut = file.cut = Cut()
        file.committing = True
        # Beside us: a caller that is killed meanwhile would leave the file's next number unknown.
        await spawn(self._apply(file, cut, request, void), f"change of inode {file.ino}")
        while not cut.done:
            await wait(file.moved, limits.RETRY_S)
        if cut.failure is not None:
            raise cut.failure

    async def _apply(
        self, file: File, cut: Cut, request: wire.Truncate | wire.Punch, void: range
    ) -> None:
        asked = await now()
        try:
            reply = await self.contact.change(request)
            file.number += 1
            file.learn(reply.attributes)
            self.writer.committed(reply.attributes, asked)
            file.size = reply.attributes.size
            for page in [page for page in file.pages if page in void]:
                del file.pages[page]
            file.ahead = 0
        except Failure as failure:
            cut.failure = failure
            if isinstance(failure, (NoSession, Fenced)):
                file.give_up(file.token)
        finally:
            cut.done, file.committing, file.cut = True, False, None
            notify(file.moved)
        await self.writer.land(file)

    async def _look_for_space(self, file: File, offset: int, length: int) -> None:
        """NoSpace when less is free than a range lacks."""
        free = (await self.contact.ask(wire.StatFs())).free_bytes
        if free >= length:
            return
        at, end = offset, offset + length
        while at < end and free >= 0:
            data = await self._next(file, at, end, True)
            free -= data - at
            at = await self._next(file, data, end, False)
        if free < 0:
            raise NoSpace(f"inode {file.ino}: no room for {length} bytes at {offset}")

    # --- holes ---------------------------------------------------------------------------------

    async def seek(self, file: File, offset: int, whence: int) -> int:
        """lseek's SEEK_DATA and SEEK_HOLE, by blocks; a hole is at the end of every file.

        ENXIO at and beyond the end, and for data where only holes follow.  EINVAL.
        """
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise Posix(EINVAL)
        await self.reader.look(file)
        if not 0 <= offset < file.size:
            raise Posix(ENXIO)
        end, data = file.size, whence == os.SEEK_DATA
        found = await self._next(file, offset, end, data)
        if data and found == end:
            raise Posix(ENXIO)
        return found

    async def _next(self, file: File, offset: int, end: int, data: bool) -> int:
        """The first offset of offset..end in a block that the map names or that is unflushed here
        (or, not `data`: in a hole); `end` when there is none."""
        if offset >= end:
            return end
        block_bytes = self.contact.block_bytes
        start, stop = BlockNo(offset // block_bytes), BlockNo(-(-end // block_bytes))
        # As of now: what is committed while we ask was data, whatever the answer says.
        unflushed = {block for block in file.unflushed_blocks() if start <= block < stop}
        if data:
            block = min([await self._next_data(file, start, stop), *unflushed])
        else:
            block = await self._next_hole(file, start, stop)
            while block in unflushed:
                block = await self._next_hole(file, BlockNo(block + 1), stop)
        return max(offset, min(end, block * block_bytes))

    async def _next_data(self, file: File, block: BlockNo, stop: BlockNo) -> BlockNo:
        """The first block of block..stop that the map names; `stop`: none."""
        while block < stop:
            page, position = blockmap.page_of(block)
            found = await self._page(file, page, True)
            if found is None:
                break
            number, entries = found
            for place in range(position if number == page else 0, len(entries)):
                if entries[place] is not None:
                    return BlockNo(min(stop, number * limits.PAGE_BLOCKS + place))
            block = BlockNo((number + 1) * limits.PAGE_BLOCKS)
        return stop

    async def _next_hole(self, file: File, block: BlockNo, stop: BlockNo) -> BlockNo:
        """The first block of block..stop that the map doesn't name; `stop`: none."""
        while block < stop:
            page, position = blockmap.page_of(block)
            found = await self._page(file, page, False)
            assert found is not None
            number, entries = found
            for place in range(position if number == page else 0, limits.PAGE_BLOCKS):
                if place >= len(entries) or entries[place] is None:
                    return BlockNo(min(stop, number * limits.PAGE_BLOCKS + place))
            block = BlockNo((number + 1) * limits.PAGE_BLOCKS)
        return stop

    async def _page(self, file: File, page: PageNo, data: bool) -> tuple[PageNo, Page] | None:
        """This page of the map; where it isn't known, what the metaserver finds from there on: all
        pages before are holes (`data`) or full."""
        known = file.pages.get(page)
        if known is not None:
            return page, known
        reply = await self.contact.ask(wire.Seek(file.ino, page, data))
        self.reader.take_pages(file, reply.attributes, reply.pages)
        for number, entries in reply.pages:
            return number, blockmap.unpack_page(entries)
        return None

    async def _is_data(self, file: File, offset: int) -> bool:
        """Whether there is anything at all in the block of an offset."""
        block = BlockNo(offset // self.contact.block_bytes)
        await self.reader.know(file, block, block)
        return bool(self.reader.visible_below(file, block)) or any(file.unflushed(block))

    # --- copying -------------------------------------------------------------------------------

    async def copy(
        self, source: File, offset: int, target: File, at: int, length: int, told: Told
    ) -> int:
        """Copy a range without the kernel between: how many bytes, less than asked for at the end
        of the source, when interrupted, or when it can't be read further.  Holes stay holes."""
        if source is target and offset < at + length and at < offset + length:
            raise Posix(EINVAL)
        if at + length > limits.FILE_BYTES:
            raise Posix(EFBIG)
        await self.reader.look(source)
        length = max(0, min(length, source.size - offset, limits.COPY_BYTES))
        done = 0
        while done < length:
            try:
                step = await self._copy_some(
                    source, offset + done, target, at + done, length - done, told
                )
            except (Interrupted, Damaged, Silent):
                if not done:
                    raise
                break
            if not step:  # the source was cut meanwhile
                break
            done += step
        if done and target.size < at + done:  # it ends in a hole
            await self._alone(target, told)
            await self._punch(target, 0, 0, at + done)
        return done

    async def _copy_some(
        self, source: File, offset: int, target: File, at: int, length: int, told: Told
    ) -> int:
        """The next hole, or some of the next data."""
        data = await self._next(source, offset, offset + length, True)
        if data > offset:
            if at < target.size:
                await self.clear(target, at, data - offset, 0, told)
            return data - offset
        hole = await self._next(source, offset, offset + min(length, COPIED), False)
        piece = await self.reader.read(source, hole - offset, offset)
        return await self.writer.write(target, piece, at, told)
