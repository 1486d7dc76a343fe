"""A dataserver's copy of the metadata: the newest rounds in its log, all records in a mirror.

    Append   rounds of the metaserver, appended to the log before the answer leaves
    once a second they are applied to the mirror, one synced commit, and the older leave the log
    Fill     all records, page by page, when the copy is new or broken; rounds go on between

A copy is *whole* when every round up to its head was applied to, or stands behind, a mirror that
was proven complete by the count and sum that each round tells.  When a later round tells others
than the mirror has, one of both has lost a record: the mirror proves itself now and then, so it
only says that it does not agree, and the metaserver looks at its own store.  A broken copy says so
and is filled anew.  Only the metaserver that this dataserver is promised to may write here.
"""

import logging
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from itertools import accumulate, takewhile
from typing import Any, NamedTuple

from zdfs import chain, checksum, limits, records, schema, wire
from zdfs.calls import Condition, Trap, notify, sleep, wait
from zdfs.chain import GENESIS, NO_COPIES, Change, CopySet, Head, RoundRecord
from zdfs.checksum import Buffer
from zdfs.copied import Tally, check_there, stretch
from zdfs.errors import BadMessage, Damaged, Foreign, NoSpace, Unavailable
from zdfs.ids import JOURNAL, BlockNo, Epoch, Incarnation, Name, Round, Slot, Token, Version
from zdfs.ports import BlockStore, MetaStore, Transaction
from zdfs.tables import scan_past_damage

log = logging.getLogger("zdfs.data")

PAGE = 1024  # names or records looked at in one go
VERIFY_EVERY_S = 600.0  # the mirror is read and proven so often ...
ASKED_S = 60.0  # a copy with a bad record can be asked for so long, and then is filled anew
VERIFY_PAUSE_S = 0.05  # ... with such a pause between two pages


class Kept(NamedTuple):
    """A round in the log."""

    head: Head
    record: RoundRecord
    packed: bytes


class Mirror:
    """The copy in one dataserver."""

    def __init__(self, store: BlockStore, mirror: MetaStore):
        self.store, self.mirror = store, mirror
        self.applied = GENESIS  # how far the mirror reaches
        self.head = GENESIS  # how far the log does
        self.whole = False
        self.agrees = True  # with what the metaserver says that there is
        self.doubted = False  # something is bad, and the metaserver should look at what it has
        self.tended = False  # a metaserver serves, which fills what is broken
        self.rounds: deque[Kept] = deque()  # in the log: some that are applied, all that are not
        self.waiting_bytes = 0
        self._pieces: tuple[Round, list[bytes]] = (Round(0), [])  # of a large round
        self._torn = Round(0)  # the newest round in the log that can't be read
        self._in_force = NO_COPIES  # the set in force, as the records say
        self.work = Condition()
        self._filled: Tally | None = None  # while being filled
        self._checked: Tally | None = None  # while being verified
        self._proof_due: Round | None = None  # filled, but for a round that was underway
        self._open()

    def tasks(self) -> list[tuple[str, Coroutine[Trap, Any, None]]]:
        """What runs beside the requests."""
        return [("mirror", self.keep_up()), ("mirror check", self.verify())]

    # --- opening -------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            with self.mirror.read() as read:
                payload = read.get(schema.HEAD)
                filling = read.get(schema.FILLING) is not None
            if payload is not None:
                self.applied = self.head = records.unpack(Head, payload)
                self._in_force = self._stored_set()
            self.whole = payload is not None and not filling
            if self.whole:
                self._take_rounds(self._logged())
        except Damaged as error:
            self._break(f"it can't be read: {error}")

    def _stored_set(self) -> CopySet:
        with self.mirror.read() as read:
            payload = read.get(schema.COPY_SET)
        return NO_COPIES if payload is None else records.unpack(CopySet, payload)

    def _logged(self) -> dict[Round, list[Kept]]:
        """The rounds in the log, by number.  Damaged: one can't be read."""
        parts: dict[tuple[Round, int], list[tuple[int, Name]]] = {}
        for name in self._names():
            key = (Round(name.block), name.version.token)
            parts.setdefault(key, []).append((name.version.sequence, name))
        found: dict[Round, list[Kept]] = {}
        for (number, _), some in sorted(parts.items()):
            try:
                stored = [self.store.read(name) for _, name in sorted(some, reverse=True)]
                data = b"".join(bytes(one[1]) for one in stored if one is not None)
                record = chain.unpack_round(data)
            except Damaged as error:  # torn by a power cut, perhaps: who needs it says so
                log.warning("round %d of the metadata in the log: %s", number, error)
                self._torn = max(self._torn, number)
                continue
            found.setdefault(number, []).append(Kept(chain.head_of(record, data), record, data))
        return found

    def _names(self) -> Iterator[Name]:
        last: Name | None = None
        while True:
            some = [name for name, _ in self.store.scan(last, PAGE) if name.ino == JOURNAL]
            yield from some
            if len(some) < PAGE:
                return
            last = some[-1]

    def _take_rounds(self, found: dict[Round, list[Kept]]) -> None:
        """The chain around the mirror's head; where two follow, the later metaserver's counts."""
        wanted, number = self.applied.hash, self.applied.round
        while (kept := _with_hash(found.get(number, []), wanted)) is not None:
            self.rounds.appendleft(kept)
            wanted, number = kept.record.previous, Round(number - 1)
        while True:
            following = [
                kept
                for kept in found.get(Round(self.head.round + 1), [])
                if kept.record.previous == self.head.hash
            ]
            if not following:
                break
            self._take(max(following, key=lambda kept: kept.head.incarnation))
        if self._rotten(found):
            raise Damaged("a round in the middle of the log can't be read")
        good = {name for kept in self.rounds for name in _names_of(kept)}
        self.store.drop([name for name in self._names() if name not in good])

    def _rotten(self, found: dict[Round, list[Kept]]) -> bool:
        """Whether rounds are lost that were here: something stands behind what can't be read, or
        the log knows it to have been synced."""
        behind = max(found, default=Round(0)) > self.head.round
        return self._torn > self.head.round and (behind or self._whole_parts(self._torn))

    def _whole_parts(self, number: Round) -> bool:
        """Whether all parts of a round stand in the log: then one of them has rotted."""
        some = [name for name in self._names() if int(name.block) == number]
        return max(name.version.sequence for name in some) + 1 == len(some)

    # --- rounds --------------------------------------------------------------------------------

    def may_write(self, cluster: bytes, incarnation: Incarnation) -> None:
        """Raises unless the metaserver that asks is the one this dataserver is promised to."""
        state = self.store.state
        if not state.cluster or incarnation > state.promised:
            raise Unavailable("not promised to this metaserver yet")
        if cluster != state.cluster:
            raise Foreign("this server belongs to another cluster")
        if incarnation < state.promised:
            raise Foreign("this server is promised to a later metaserver: yours must give way")

    def append(self, parts: Sequence[int], data: Sequence[Buffer]) -> None:
        """Take the rounds that follow.  NoSpace: none of the rest was taken; the metaserver has
        another dataserver take this one's place when it stays so."""
        if sum(parts) != len(data):
            raise BadMessage(f"{len(data)} frames for rounds of {sum(parts)}")
        frames = iter(data)
        for count in parts:
            packed = b"".join(bytes(next(frames)) for _ in range(count))
            try:
                record = chain.unpack_round(packed)
            except Damaged as error:
                raise BadMessage(str(error)) from error
            kept = Kept(chain.head_of(record, packed), record, packed)
            if self._filled is not None:
                self._append_filling(kept)
            elif self.whole:
                self._append_whole(kept)

    def append_piece(self, request: wire.AppendPiece) -> None:
        """Frames of a round, in order; a piece that comes again or too early is left out."""
        if not 0 < request.frames <= limits.ROUND_FRAMES:
            raise BadMessage(f"a round of {request.frames} frames")
        if request.at == 0:
            self._pieces = (request.round, [])
        number, frames = self._pieces
        if number != request.round or len(frames) != request.at:
            return
        frames += [bytes(one) for one in request.data]
        if len(frames) >= request.frames:
            self._pieces = (Round(0), [])
            self.append((len(frames),), frames)

    def _append_whole(self, kept: Kept) -> None:
        number = kept.head.round
        if number <= self.head.round:
            ours = self._at(number)
            if ours is None or ours.head.hash == kept.head.hash:
                return
            if number <= self.applied.round:
                self._break(f"round {number} is of a metaserver that was passed over")
                return
            self._cut(number)
        if number != self.head.round + 1 or kept.record.previous != self.head.hash:
            return
        if self.waiting_bytes > limits.OUTBOX_BYTES:
            raise NoSpace("the mirror of the metadata can't take what waits in the log")
        frames = chain.cut(kept.packed)
        for at, frame in enumerate(frames):
            version = Version(Token(kept.head.incarnation), len(frames) - 1 - at)
            name = Name(JOURNAL, BlockNo(number), version)
            seal = checksum.seal(name, frame)
            try:
                self.store.append(name, seal, Epoch(0), Slot(0), frame, urgent=True)
            except NoSpace:
                self.store.drop(_names_of(kept)[len(frames) - at :])
                raise
        self._take(kept)
        if self.waiting_bytes > limits.MIRROR_BYTES:
            notify(self.work)

    def _take(self, kept: Kept) -> None:
        self.rounds.append(kept)
        self.waiting_bytes += len(kept.packed)
        self.head = kept.head
        for key, payload in kept.record.changes:
            if key == schema.COPY_SET and payload is not None:
                self._in_force = records.unpack(CopySet, payload)

    def _cut(self, number: Round) -> None:
        """Rounds of an older incarnation that nobody answered for give way."""
        log.warning("rounds from %d on are of a metaserver that was passed over: cut", number)
        gone = []
        while self.rounds and self.rounds[-1].head.round >= number:
            kept = self.rounds.pop()
            gone += _names_of(kept)
            self.waiting_bytes -= len(kept.packed)
        self.store.drop(gone)
        self.head = self.rounds[-1].head if self.rounds else self.applied

    def _at(self, number: Round) -> Kept | None:
        first = self.rounds[0].head.round if self.rounds else 0
        inside = self.rounds and first <= number <= self.rounds[-1].head.round
        return self.rounds[number - first] if inside else None

    def state(self) -> wire.CopyState:
        """How far it reaches."""
        return wire.CopyState(self.head, self.whole, self.cursor)

    @property
    def cursor(self) -> bytes:
        """While it is being filled: the first key that is missing; empty: it isn't."""
        return b"" if self._filled is None else self._filled.cursor

    def report(self) -> wire.CopyReport:
        """For the metaserver, each second."""
        agrees = self.agrees and not self.doubted
        return wire.CopyReport(
            self.store.state.copies, self.head, self.whole, self._in_force, agrees
        )

    def logged(self) -> tuple[int, int]:
        """How many blocks and bytes of the store are rounds, not content of files."""
        sizes = [len(kept.packed) for kept in self.rounds]
        blocks = sum(-(-size // limits.FRAME_BYTES) for size in sizes)
        return blocks, sum(sizes) + blocks * schema.RECORD_BYTES

    # --- filling -------------------------------------------------------------------------------

    def fill(self, request: wire.Fill) -> None:
        """The next page of all records."""
        changes = chain.unpack_changes(b"".join(bytes(one) for one in request.data))
        if not request.first and request.over == self.head and self.whole == request.whole:
            self._begin_fill(request.head)
        filled = self._filled
        if (
            filled is None
            or request.head != self.head
            or (request.first or schema.FIRST) != filled.cursor
        ):
            return  # the answer says where we are
        end = schema.BEYOND if request.end else changes[-1][0] + b"\0"
        there = {key for key, _ in changes}
        with self.mirror.write() as txn:
            before = list(scan_past_damage(txn, filled.cursor, end))
            for key in [key for key, _ in before if key not in there]:
                txn.delete(key)
            for key, payload in changes:
                txn.put(key, payload or b"")
        filled.page(changes, end)
        self.mirror.end_round()
        if request.end:
            self._prove()

    def _begin_fill(self, head: Head) -> None:
        log.info("a copy of the metadata is made anew")
        with self.mirror.write() as txn:
            txn.put(schema.FILLING, b"\1")
        self.mirror.end_round()
        self._forget_rounds()
        self.whole, self.head, self.applied = False, head, head
        self._filled, self._checked, self._proof_due = Tally(), None, None

    def _append_filling(self, kept: Kept) -> None:
        if kept.record.previous != self.head.hash or kept.head.round != self.head.round + 1:
            return
        with self.mirror.write() as txn:
            self._apply(txn, kept.record.changes)
        self.head = self.applied = kept.head
        if self._filled is not None and self._filled.cursor == schema.BEYOND:
            self._prove()

    def _prove(self) -> None:
        """All pages are here: a round that was underway then may still be missing."""
        assert self._filled is not None
        if not self._filled.proves(self.head):
            if self._proof_due is None:
                self._proof_due = Round(self.head.round + 1)
            elif self.head.round >= self._proof_due:
                self._break("what was filled is not what the metaserver has")
            return
        with self.mirror.write() as txn:
            txn.delete(schema.FILLING)
            txn.put(schema.HEAD, records.pack(self.head))
        self.mirror.end_round()
        self._filled, self.whole, self._in_force = None, True, self._stored_set()
        self.agrees = True
        log.info("the copy of the metadata is whole: %d records", self.head.records)

    def _found_bad(self, why: str) -> None:
        """A record is bad; while nobody could fill this copy, the rest may be all that there is."""
        if self.tended:
            self._break(why)
        else:
            log.error("the copy of the metadata is damaged, and kept as it is for now: %s", why)

    def _break(self, why: str) -> None:
        """This copy can't be trusted: it waits to be filled anew."""
        log.error("the copy of the metadata is broken: %s", why)
        self.whole, self._filled, self._checked = False, None, None
        self.agrees = True  # the doubt was its own
        self.head = self.applied = GENESIS
        self._forget_rounds()
        with self.mirror.write() as txn:
            txn.put(schema.FILLING, b"\1")
        self.mirror.end_round()

    def _forget_rounds(self) -> None:
        self.rounds.clear()
        self.waiting_bytes = 0
        try:
            self.store.drop(list(self._names()))
        except Damaged as error:  # the healer has the index made anew; the next start drops them
            log.error("former rounds of the metadata stay for now: %s", error)

    # --- the mirror ----------------------------------------------------------------------------

    def _apply(self, txn: Transaction, changes: Sequence[Change]) -> tuple[int, int]:
        """Into the mirror: by how much count and sum changed."""
        count = total = 0
        for key, payload in changes:
            before = check_there(txn, key, self._filled is None)
            after = None if payload is None else checksum.check(key, payload)
            if payload is not None:
                txn.put(key, payload)
            elif before is not None:
                txn.delete(key)
            for tally in (self._filled, self._checked):
                if tally is not None:
                    tally.change(key, before, after)
            count += (after is not None) - (before is not None)
            total += (after or 0) - (before or 0)
        return count, total

    def apply(self) -> None:
        """All rounds of the log into the mirror, synced, as far as there is room."""
        while self.whole and self.applied.hash != self.head.hash:
            some = self._fitting()
            if not some or not self._apply_rounds(some):
                return

    def _fitting(self) -> list[Kept]:
        """The next rounds that there is room for; a full disk: the log keeps them."""
        waiting = [kept for kept in self.rounds if kept.head.round > self.applied.round]
        sizes, free = accumulate(len(kept.packed) for kept in waiting), self.mirror.free_bytes()
        return [kept for kept, size in zip(waiting, sizes) if 4 * size < free]

    def _apply_rounds(self, some: Sequence[Kept]) -> bool:
        """These, and what is far behind them leaves the log; False: this copy is damaged."""
        head, count, total = some[-1].head, self.applied.records, self.applied.sum
        try:
            with self.mirror.write() as txn:
                for kept in some:
                    more, difference = self._apply(txn, kept.record.changes)
                    count, total = count + more, (total + difference) % 2**64
                found = head._replace(records=count, sum=total)
                txn.put(schema.HEAD, records.pack(found))
        except Damaged as error:
            self._found_bad(str(error))
            return False
        except NoSpace:
            self._checked = None  # half of it was counted
            raise
        if found != head and self.agrees:
            log.error("this copy and the metaserver disagree about what there is: it looks")
        self.agrees = found == head
        self.mirror.end_round()
        self.applied = found
        self.waiting_bytes -= sum(len(kept.packed) for kept in some)
        gone = []
        kept_bytes = sum(len(kept.packed) for kept in self.rounds)
        while len(self.rounds) > limits.JOURNAL_ROUNDS or kept_bytes > limits.OUTBOX_BYTES:
            if self.rounds[0].head.round > self.applied.round:
                break
            kept_bytes -= len(self.rounds[0].packed)
            gone += _names_of(self.rounds.popleft())
        self.store.drop(gone)
        return True

    async def keep_up(self) -> None:
        """Apply what came, once a second or when it is much."""
        while True:
            await wait(self.work, limits.MIRROR_S)
            try:
                self.apply()
            except NoSpace as error:
                log.warning("the copy of the metadata waits: %s", error)

    async def verify(self) -> None:
        """Prove the mirror again and again: LMDB loses records silently.  A bad one can be asked
        for the rest until the metaserver has looked at its own store."""
        while True:
            await sleep(VERIFY_EVERY_S)
            self._checked = Tally()
            why, self._checked = await self._wrong(), None
            if why:
                self.doubted = True
                await sleep(ASKED_S)
                self.doubted = False
                self._found_bad(why)

    async def _wrong(self) -> str:
        """What is wrong with the mirror; empty: nothing, or it could not be looked at."""
        while self.whole and self._checked is not None and self._checked.cursor < schema.BEYOND:
            try:
                changes, last = self._page(self._checked.cursor, schema.BEYOND)
            except Damaged as error:
                return str(error)
            self._checked.page(changes, schema.BEYOND if last is None else last + b"\0")
            await sleep(VERIFY_PAUSE_S)
        if self.whole and self._checked is not None and not self._checked.proves(self.applied):
            return "its records are not those that the metaserver left"
        return ""

    # --- being read ----------------------------------------------------------------------------

    def _page(
        self, first: bytes, end: bytes, gaps: bool = False
    ) -> tuple[list[Change], bytes | None]:
        """As `copied.stretch`, of the mirror."""
        with self.mirror.read() as read:
            return stretch(read, first, end, PAGE, gaps)

    def read(self, request: wire.ReadCopy) -> wire.CopyPage:
        """A page of all records, as of the head.  Damaged: this copy is of no use.  While nobody
        serves, what can't be read is left out for who reads to the end: count and sum tell."""
        if not self.whole:
            raise Damaged("this copy of the metadata is not whole")
        self.apply()
        if self.applied.hash != self.head.hash:
            raise Unavailable("the disk of this copy is full, or damaged")
        first, end = request.first or schema.FIRST, request.until or schema.BEYOND
        # What is bad is for `verify` to find: what else is here may be all that there is of it.
        changes, last = self._page(first, end, not self.tended and not request.until)
        packed = chain.pack_changes(changes)
        following = b"" if last is None else last + b"\0"
        return wire.CopyPage(self.applied, following, last is None, (packed,))

    def read_rounds(self, after: Round) -> wire.CopyRounds:
        """The rounds behind one, as far as one message carries them."""
        following = [kept for kept in self.rounds if kept.head.round > after]
        if following and following[0].head.round != after + 1:
            following.clear()
        most = limits.MESSAGE_BYTES - limits.HEAD_BYTES  # who needs a larger one reads all records
        some = takewhile(lambda kept: len(kept.packed) <= most, following)
        parts, frames = chain.batch(kept.packed for kept in some)
        return wire.CopyRounds(self.head, tuple(parts), tuple(frames))


def _with_hash(some: Sequence[Kept], wanted: bytes) -> Kept | None:
    return next((kept for kept in some if kept.head.hash == wanted), None)


def _names_of(kept: Kept) -> list[Name]:
    last = len(chain.cut(kept.packed)) - 1
    token = Token(kept.head.incarnation)
    return [Name(JOURNAL, BlockNo(kept.head.round), Version(token, n)) for n in range(last + 1)]
