"""The metaserver's store with a chain of its rounds: what `copying` sends to dataservers.

A `ports.MetaStore` over another one.  It notes what each round changes; when the round ends, that
becomes a record (`chain`) that stands in the round itself, in the *outbox*, until every member of
the journal set has it.  Rounds are numbered by the chain: a store that was filled from a copy goes
on where that ended.  Records whose key begins with NUL are the store's own and are not copied.

How far a reply may run ahead of the disks is asked by the broker with `safe`:

    a synced reply    its rounds are synced here and on `needed` members: fsync, close
    a change          synced here, and `needed` members have them in their logs
    anything else     the same, or synced here while too few members are up: reads go on
"""

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import NamedTuple

from zdfs import chain, checksum, limits, records, schema
from zdfs.calls import Condition, notify
from zdfs.chain import GENESIS, NO_COPIES, Change, Head, RoundRecord
from zdfs.copies import elected
from zdfs.errors import Damaged
from zdfs.ids import Incarnation, Round
from zdfs.ports import MetaStore, Reader, Transaction
from zdfs.tables import scan_past_damage

log = logging.getLogger("zdfs.meta")

_SUM = 2**64
Told = tuple[Mapping[bytes, bytes | None], Set[bytes]]


class Sealed(NamedTuple):
    """A round that ended."""

    head: Head
    packed: bytes
    previous: bytes  # the hash that it follows


def outbox_key(number: int) -> bytes:
    """NUL out <round>"""
    return schema.OUTBOX + number.to_bytes(8, "big")


class Tally:
    """Count and sum of checks of the records below a cursor, kept while all of them change."""

    def __init__(self) -> None:
        self.cursor = schema.FIRST  # the first key that was not counted yet
        self.count = self.sum = 0

    def page(self, changes: Sequence[Change], end: bytes) -> None:
        """These records stand between the cursor and `end`."""
        self.count += len(changes)
        self.sum += sum(checksum.check(key, payload or b"") for key, payload in changes)
        self.cursor = end

    def change(self, key: bytes, before: int | None, after: int | None) -> None:
        """A record's check was this (None: no record), and is that."""
        if key < self.cursor:
            self.count += (after is not None) - (before is not None)
            self.sum += (after or 0) - (before or 0)

    def proves(self, head: Head) -> bool:
        """Whether these are the records that a round left."""
        return (self.count, self.sum % _SUM) == (head.records, head.sum)


def stretch(
    read: Reader, first: bytes, end: bytes, most: int, gaps: bool = False
) -> tuple[list[Change], bytes | None]:
    """So many records from a key on, as far as a frame takes them, and the last of their keys;
    None: that was all.  `gaps`: what can't be read is left out."""
    changes: list[Change] = []
    size = 0
    for key, payload in scan_past_damage(read, first, end):
        if not isinstance(payload, Damaged):
            changes.append((key, payload))
            size += len(key) + len(payload)
        elif not gaps:
            raise payload
        if size > limits.FRAME_BYTES // 2 or len(changes) >= most:
            return changes, key
    return changes, None


def check_there(read: Reader, key: bytes, strict: bool = False) -> int | None:
    """The check of what stands there.  What can't be read may give way all the same (unless
    `strict`): the sum is wrong then, so that copies don't agree, and all is counted (`proof`)."""
    try:
        return _check(key, read.get(key))
    except Damaged as error:
        if strict or error.key != key:
            raise  # without its key it is no record, but a page of them
        return 0


class Noting:
    """A transaction that remembers what it changes, and the checks of what stood there before."""

    __slots__ = ("txn", "changes", "before")

    def __init__(self, txn: Transaction):
        self.txn = txn
        self.changes: dict[bytes, bytes | None] = {}
        self.before: dict[bytes, int | None] = {}

    def get(self, key: bytes) -> bytes | None:
        """As below."""
        return self.txn.get(key)

    def scan(
        self, first: bytes, end: bytes, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """As below."""
        return self.txn.scan(first, end, reverse)

    def put(self, key: bytes, payload: bytes) -> None:
        """Store a record."""
        self._note(key, payload)
        self.txn.put(key, payload)

    def delete(self, key: bytes) -> bool:
        """Forget a record; False when there was none."""
        self._note(key, None)
        return self.txn.delete(key)

    def _note(self, key: bytes, payload: bytes | None) -> None:
        if key not in self.before:
            self.before[key] = check_there(self.txn, key)
        self.changes[key] = payload


def _check(key: bytes, payload: bytes | None) -> int | None:
    return None if payload is None else checksum.check(key, payload)


class CopiedStore:
    """`ports.MetaStore` with a chain."""

    def __init__(self, store: MetaStore, cluster: bytes = bytes(16)):
        self.inner = store
        self.cluster = cluster
        self.incarnation = Incarnation(0)  # of the metaserver that writes; the ledger sets it
        self.copies = NO_COPIES  # the set that rounds must reach; `copying` sets all four
        self.appended = self.synced_there = 0
        self.alone = True  # too few members are up, or nothing may be sent to them yet
        self._changes: dict[bytes, bytes | None] = {}
        self._before: dict[bytes, int | None] = {}
        self._bytes = 0
        self._prepared = False
        self._forget = 0  # rounds up to here leave the outbox with the next round
        self.wants_sync = 0  # a reply waits for this round to be synced by members
        self.news = Condition()  # a round was sealed, or one is to be synced
        self.outbox: deque[Sealed] = deque()
        self._outbox_bytes = 0
        self._filled = Tally()
        self.checked: Tally | None = None  # while somebody proves this store
        self._open()

    def _open(self) -> None:
        with self.inner.read() as read:
            payload = read.get(schema.HEAD)
            self.filling = read.get(schema.FILLING) is not None
            starts = read.get(schema.STARTS)
            self.starts = Incarnation(int.from_bytes(starts or b"", "big"))
            self.head = GENESIS if payload is None else records.unpack(Head, payload)
            first, end = outbox_key(0), schema.after(schema.OUTBOX)
            kept = list(scan_past_damage(read, first, end))
        bad = max((at for at, (_, one) in enumerate(kept) if isinstance(one, Damaged)), default=-1)
        self._forget_rounds([key for key, _ in kept[: bad + 1]])
        for _, packed in kept[bad + 1 :]:
            assert not isinstance(packed, Damaged)
            record = chain.unpack_round(packed)
            self._add(chain.head_of(record, packed), packed, record.previous)

    def _forget_rounds(self, keys: Sequence[bytes]) -> None:
        """One can't be read, so those before it lead nowhere: who lacks them is filled anew."""
        if keys:
            log.error("%d rounds in the outbox lead nowhere: the last can't be read", len(keys))
            with self.inner.write() as txn:
                for key in keys:
                    txn.delete(key)
            self.inner.end_round()

    @property
    def empty(self) -> bool:
        """Whether there is no cluster in here that could go on as it stands."""
        with self.read() as read:
            return self.filling or read.get(schema.CLUSTER) is None

    def count_start(self, incarnation: Incarnation) -> None:
        """A metaserver of this incarnation starts here; on disk.  No change: nobody granted it."""
        with self.inner.write() as txn:
            txn.put(schema.STARTS, incarnation.to_bytes(8, "big"))
        self.inner.end_round()
        self.starts = incarnation

    # --- rounds --------------------------------------------------------------------------------

    @property
    def round(self) -> Round:
        """The round that a change made now belongs to."""
        return Round(self.head.round + (not self._prepared))

    @property
    def dirty(self) -> bool:
        """Whether that round has any change."""
        return bool(self._changes) or self._prepared

    @property
    def between_rounds(self) -> bool:
        """Whether what is read now is exactly what the head says."""
        return not self._changes

    @property
    def sealed(self) -> bool:
        """Whether a round is sealed and not committed yet: nothing may be written."""
        return self._prepared

    @property
    def large(self) -> bool:
        """Whether that round should end before more is taken in."""
        return self._bytes > limits.BATCH_BYTES

    @property
    def synced(self) -> Round:
        """The newest round on the disk here."""
        return Round(self.head.round - self._prepared)

    def safe(self, synced: bool, change: bool) -> Round:
        """The newest round that such a reply may report."""
        if not self.copies.needed or (self.alone and not (change or synced)):
            return self.synced
        there = self.synced_there if synced else self.appended
        return Round(min(self.synced, there))

    def promise(self, number: Round) -> None:
        """A reply waits for this round to be synced on members."""
        if number > self.wants_sync:
            self.wants_sync = number
            if number <= self.head.round:  # else it goes out as one that is to be synced
                notify(self.news)

    def write(self) -> AbstractContextManager[Transaction]:
        """A write block in the round."""
        return self._write()

    @contextmanager
    def _write(self) -> Iterator[Transaction]:
        assert not self._prepared, "a change after its round was sealed"
        with self.inner.write() as txn:
            noting = Noting(txn)
            yield noting
        for key, payload in noting.changes.items():
            self._bytes += len(key) + len(payload or b"") + 16
            self._changes[key] = payload
            self._before.setdefault(key, noting.before[key])

    def read(self) -> AbstractContextManager[Reader]:
        """The round's changes so far, over everything committed."""
        return self.inner.read()

    def prepare(self) -> bool:
        """Seal the round: it can be sent while `end_round` commits it.  False: nothing to send."""
        if self._prepared or not self._changes:
            return False
        count, total = self.head.records, self.head.sum
        for key, payload in self._changes.items():
            old = self._before[key]
            new = None if payload is None else checksum.check(key, payload)
            count += (new is not None) - (old is not None)
            total += (new or 0) - (old or 0)
            if self.checked is not None:
                self.checked.change(key, old, new)
        number = Round(self.head.round + 1)
        record = RoundRecord(
            self.cluster, self.head.hash, self.incarnation, number, count, total % _SUM,
            tuple(self._changes.items()),
        )  # fmt: skip
        packed = chain.pack_round(record)
        head = chain.head_of(record, packed)
        with self.inner.write() as txn:
            txn.put(schema.HEAD, records.pack(head))
            txn.put(outbox_key(number), packed)
            for gone in self._outgoing():
                txn.delete(outbox_key(gone.head.round))
                self._outbox_bytes -= len(self.outbox.popleft().packed)
        self._add(head, packed, record.previous)
        self.head, self._prepared = head, True
        self._changes, self._before, self._bytes = {}, {}, 0
        notify(self.news)
        return True

    def _outgoing(self) -> list[Sealed]:
        """What leaves the outbox with this round: heard by all, or too much."""
        gone: list[Sealed] = []
        rounds, size = len(self.outbox), self._outbox_bytes
        for one in self.outbox:
            few = rounds < limits.OUTBOX_ROUNDS and size <= limits.OUTBOX_BYTES
            if one.head.round > self._forget and few:
                break
            gone.append(one)
            rounds, size = rounds - 1, size - len(one.packed)
        return gone

    def _add(self, head: Head, packed: bytes, previous: bytes) -> None:
        self.outbox.append(Sealed(head, packed, previous))
        self._outbox_bytes += len(packed)

    def end_round(self) -> None:
        """Commit the round, synced.  StoreError: it may or may not be on disk; stop."""
        self.prepare()
        self.inner.end_round()
        self._prepared = False

    def fileno(self) -> int | None:
        """None: `synced` moves only inside end_round."""
        return None

    def woken(self) -> None:
        """Nothing to drain."""

    def free_bytes(self) -> int:
        """As below."""
        return self.inner.free_bytes()

    def close(self) -> None:
        """Let go; a round that was not ended is undone."""
        self.inner.close()

    # --- what members are sent -----------------------------------------------------------------

    def heard_by_all(self, number: int) -> None:
        """Every member has the rounds up to this one."""
        self._forget = max(self._forget, number)

    def behind(self, head: Head) -> Sequence[Sealed] | None:
        """The next rounds behind a head of this chain; None: they are not here, or it is none."""
        if head.hash == self.head.hash:
            return ()
        place = head.round + 1 - self.outbox[0].head.round if self.outbox else -1
        if not 0 <= place < len(self.outbox) or self.outbox[place].previous != head.hash:
            return None
        return list(islice(self.outbox, place, place + limits.COPY_ROUNDS))

    # --- being healed from a copy --------------------------------------------------------------

    def changed_since(self, head: Head) -> set[bytes] | None:
        """The keys that changed behind a round; None: that is not known any more."""
        if self.outbox and self.outbox[0].head.round > head.round + 1:
            return None
        later = [one for one in self.outbox if one.head.round > head.round]
        changed = {key for one in later for key, _ in chain.unpack_round(one.packed).changes}
        return changed | set(self._changes)

    def restore(self, low: bytes, high: bytes, told: Sequence[Told]) -> tuple[int, bool]:
        """The records with low <= key < high are to be what most of {copies, this store} say they
        always have been: how many were not; whether one is damaged that no copy can say anything of
        yet.  `told`: of each copy its records, and the keys that changed since then, of which it
        can't say anything.  No change of any round."""
        wrong: list[tuple[bytes, bytes | None]] = []
        unsaid, several = False, min(2, len(self.copies.slots))
        with self.inner.write() as txn:
            ours = dict(scan_past_damage(txn, low, high))
            for key in sorted(ours.keys() | set().union(*(there for there, _ in told))):
                votes = [there.get(key) for there, changed in told if key not in changed]
                own = ours.get(key)
                right = elected(own, votes) if votes else own
                if isinstance(own, Damaged) and right is None and len(votes) < several:
                    right = own  # that one copy has none proves nothing: it may have lost it
                unsaid |= isinstance(right, Damaged)
                if right is own or isinstance(right, Damaged) or right == own:
                    continue
                wrong.append((key, right))
                if self.checked is not None and not isinstance(own, Damaged):
                    self.checked.change(key, _check(key, own), _check(key, right))
            for key, right in wrong:
                if right is None:
                    txn.delete(key)
                else:
                    txn.put(key, right)
        if not self.dirty:
            self.inner.end_round()
        return len(wrong), unsaid

    def rebase(self, tally: Tally) -> None:
        """What was counted is what there is: the next round says so."""
        self.head = self.head._replace(records=tally.count, sum=tally.sum % _SUM)
        with self.inner.write() as txn:
            txn.put(schema.HEAD, records.pack(self.head))
        if not self.dirty:
            self.inner.end_round()

    # --- being filled from a copy --------------------------------------------------------------

    def begin_fill(self) -> None:
        """From now on this store is a copy in the making: a start finds that it can't be used."""
        with self.inner.write() as txn:
            txn.put(schema.FILLING, b"\1")
            for sealed in self.outbox:
                txn.delete(outbox_key(sealed.head.round))
        self.inner.end_round()
        self.filling = True
        self.outbox.clear()
        self._outbox_bytes = self._forget = 0
        self._filled = Tally()

    def fill(self, changes: Sequence[Change], following: bytes | None) -> None:
        """The next page: the records before `following` (None: to the end) are exactly these."""
        end = schema.BEYOND if following is None else following
        there = {key for key, _ in changes}
        with self.inner.write() as txn:
            before = list(scan_past_damage(txn, self._filled.cursor, end))
            for key in [key for key, _ in before if key not in there]:
                txn.delete(key)
            for key, payload in changes:
                assert payload is not None
                txn.put(key, payload)
        self.inner.end_round()
        self._filled.page(changes, end)

    def end_fill(self, head: Head) -> None:
        """All is here, and is what `head` left.  Damaged: it is not."""
        if not self._filled.proves(head):
            raise Damaged(
                f"the copy has {self._filled.count} records, not the {head.records} it had"
            )
        with self.inner.write() as txn:
            txn.delete(schema.FILLING)
            txn.put(schema.HEAD, records.pack(head))
        self.inner.end_round()
        self.filling, self.head = False, head

    def replay(self, packed: Sequence[bytes]) -> None:
        """Apply rounds that a copy has behind ours.  Damaged: they don't follow."""
        for one in packed:
            record = chain.unpack_round(one)
            if record.previous != self.head.hash:
                raise Damaged(f"round {record.round} of a copy does not follow ours")
            head = chain.head_of(record, one)
            with self.inner.write() as txn:
                for key, payload in record.changes:
                    if payload is None:
                        txn.delete(key)
                    else:
                        txn.put(key, payload)
                txn.put(schema.HEAD, records.pack(head))
                txn.put(outbox_key(head.round), one)
            self._add(head, one, record.previous)
            self.head = head
        self.inner.end_round()
