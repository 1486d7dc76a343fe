"""The metaserver's store as its rooms see it: write blocks, numbers that never repeat, events.

Opening it takes a new *incarnation*, synced before anything else happens.  Inode numbers, tokens,
drop numbers and change counters carry it in their high bits, so that none is used twice, whatever
crashed in between.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from zdfs import __version__, limits, records, schema, wire
from zdfs.calls import Condition, notify
from zdfs.copied import CopiedStore
from zdfs.errors import Damaged, NoSpace, StartError, Unavailable
from zdfs.ids import COUNTER_BITS, Incarnation, Ino, Round, Session, Slot, Token, compose
from zdfs.lineage import Writer, signed
from zdfs.ports import MetaStore, Reader, Transaction
from zdfs.schema import Cluster, EventRecord, KeptReply, Ring, Server, Superblock
from zdfs.tables import Tables, View, decode, scan_past_damage

log = logging.getLogger("zdfs.meta")

_NEVER = Round(2**63)
KINDS = 64  # of events that are counted apart
QUIET = {
    "mount",
    "unmount",
    "started",
    "up",
    "metaserver",
    "room",
    "upgraded",
}  # events that are no trouble


def founded_block_bytes(store: MetaStore) -> int | None:
    """The block size that a store's cluster was founded with; None: not founded."""
    with store.read() as read:
        payload = read.get(schema.CLUSTER)
    return None if payload is None else decode(Cluster, schema.CLUSTER, payload).block_bytes


def _refuse_format(payload: bytes) -> None:
    """StartError: a format that this release doesn't read."""
    found, oldest, newest = (
        int(records.loads(payload)[0]),
        schema.META_FORMAT_MIN,
        schema.META_FORMAT,
    )
    if not oldest <= found <= newest:
        raise StartError(
            f"the metadata is in format {found}; this release reads {oldest} to {newest}: "
            + (
                "start the newer release, or go back as docs/UPGRADING.md says"
                if found > newest
                else "start the release that made it"
            )
        )


def revive(kept: KeptReply) -> wire.Reply | None:
    """A kept reply from its record."""
    kind = wire.BY_OPERATION.get(kept.operation)
    if kind is None or not issubclass(kind, wire.Reply):
        return None
    try:
        return records.unpack(kind, kept.body)
    except records.BadRecord:  # of a protocol before ours: whoever spoke it can't ask again
        return None


class Ledger:
    """Transactions and everything the metaserver's rooms share."""

    def __init__(self, store: MetaStore, uuid: bytes, least: Incarnation = Incarnation(0)):
        """Opens the store for a new life.  `uuid` names it if it is new; the incarnation is to be
        larger than `least`."""
        self.store = store
        self.most_format = schema.META_FORMAT  # an older one: stay in it, or go back to it
        self.copied = store if isinstance(store, CopiedStore) else None
        with store.read() as read:
            payload = read.get(schema.SUPERBLOCK)
        old = Superblock(schema.META_FORMAT_MIN, uuid, Incarnation(0))  # until copies can be newer
        if payload is not None:
            _refuse_format(payload)
            old = decode(Superblock, schema.SUPERBLOCK, payload)
        self.uuid = old.uuid
        self._superblock = old
        self.first_round = _NEVER  # of this incarnation, once it writes
        if self.copied is None:
            self.opened: tuple[int, Round] = (old.incarnation, store.synced)
            self.incarnation = Incarnation(max(old.incarnation, least) + 1)
            self.begin()
            store.end_round()
        else:  # nothing is changed before this metaserver is the only one: see `begin`
            self.opened = (self.copied.head.incarnation, store.synced)
            last = max(old.incarnation, least, self.copied.starts)
            self.incarnation = self.copied.incarnation = Incarnation(last + 1)
            self.copied.count_start(self.incarnation)
        self.cluster: Cluster | None = None
        self.founded_in = Incarnation(0)  # this one, if the cluster is founded now
        self.ring: tuple[str, ...] = ()
        self.servers: dict[Slot, Server] = {}
        self.proven: set[bytes] = set()
        self.changed: set[Ino] = set()  # by write blocks, since somebody last took them
        self.happened = Condition()  # an event
        self.told: Counter[str] = Counter()  # events of this life, by kind
        self.change_floor = self.incarnation << COUNTER_BITS
        self._inos, self._tokens, self._drops, self._sessions, self._events = (
            itertools.count(1) for _ in range(5)
        )
        self.load()

    @property
    def begun(self) -> bool:
        """Whether this incarnation may write: a round before the grant would make this store look
        newer than copies that have rounds which it lacks."""
        return self.first_round < _NEVER

    def begin(self) -> None:
        """Record this incarnation: the first of its changes."""
        self.first_round = self.store.round
        self._put_superblock(replace(self._superblock, incarnation=self.incarnation))

    def _put_superblock(self, news: Superblock) -> None:
        with self.raw() as txn:
            txn.put(schema.SUPERBLOCK, records.pack(news, news.format))
        self._superblock = news

    @property
    def format(self) -> int:
        """That the store is in."""
        return self._superblock.format

    @property
    def lineage(self) -> tuple[Writer, ...]:
        """Who wrote it."""
        return self._superblock.lineage

    def pack_reply(self, reply: wire.Reply) -> bytes:
        """As it is kept: the release that made a store of the older format can still read it."""
        old = self._superblock.format < schema.META_FORMAT
        return records.pack(reply, wire.PROTOCOL_MIN if old else records.EVERY)

    def sign(self, at_ns: int, everywhere: bool) -> bool:
        """Record that this release writes here, in the newest format.  `everywhere`: all who may
        have a copy can read that; False: the store stays as it is, who made it can still read it.
        Under an older `most_format` it stays in that, or goes back to it.
        """
        old = self._superblock
        if self.most_format < schema.META_FORMAT:
            if old.format > self.most_format:
                self._put_back(at_ns)
            return True
        if old.format < schema.META_FORMAT and not everywhere:
            return False
        writer = Writer(__version__, wire.spoken().newest, schema.META_FORMAT, at_ns)
        before = old.lineage
        if old.format < schema.META_FORMAT and old.incarnation != self.founded_in:
            before = (Writer("earlier", 4, old.format, 0), *before)
            text = f"the metadata was in format {old.format}, and is in {schema.META_FORMAT} now"
            self.event(at_ns, "upgraded", text)
        news = replace(old, format=schema.META_FORMAT, lineage=signed(before, writer))
        if news != old:
            self._put_superblock(news)
        return True

    def _put_back(self, at_ns: int) -> None:
        """Everything as the older format has it: who made the store can be started on it again."""
        text = f"the metadata was in format {self.format}, and is in {self.most_format} now"
        self._put_superblock(replace(self._superblock, format=self.most_format, lineage=()))
        with self.raw() as txn:
            for key, payload in list(scan_past_damage(txn, b"k", schema.after(b"k"))):
                kept = None if isinstance(payload, Damaged) else records.unpack(KeptReply, payload)
                if kept is not None and (reply := revive(kept)) is not None:
                    kept = kept._replace(body=self.pack_reply(reply))
                    txn.put(key, records.pack(kept))
        self.event(at_ns, "put back", text)

    def load(self) -> None:
        """Read what the founding recorded, and the slots."""
        with self.store.read() as read:
            payload = read.get(schema.CLUSTER)
            if payload is None:
                return
            self.cluster = decode(Cluster, schema.CLUSTER, payload)
            if self.copied is not None:
                self.copied.cluster = self.cluster.uuid
            key = schema.number_key(b"r", self.cluster.epoch)
            self.ring = decode(Ring, key, read.get(key) or b"").addresses
            for number in range(len(self.ring)):
                key = schema.number_key(b"s", number)
                self.servers[Slot(number)] = decode(Server, key, read.get(key) or b"")

    # --- write blocks --------------------------------------------------------------------------

    @contextmanager
    def change(self, grows: bool = True) -> Iterator[Tables]:
        """A write block; an exception inside undoes it.  NoSpace: it would grow a full store."""
        if grows and self.store.free_bytes() <= 0:
            raise NoSpace("the metaserver's disk is full")
        with self.raw() as txn:
            tables = Tables(txn, self.proven, self.change_floor)
            yield tables
        self.changed.update(tables.updated)

    def take_changed(self) -> set[Ino]:
        """The inodes that write blocks have changed since this was last asked."""
        taken, self.changed = self.changed, set()
        return taken

    @contextmanager
    def view(self) -> Iterator[View]:
        """Reading, this round's changes included."""
        with self.store.read() as read:
            yield View(read, self.proven)

    @contextmanager
    def raw(self) -> Iterator[Transaction]:
        """A write block for records outside the name space.  Unavailable: nobody has granted this
        metaserver yet."""
        if not self.begun:
            raise Unavailable("nothing is changed before more than half of the dataservers voted")
        with self.store.write() as txn:
            yield txn

    # --- numbers -------------------------------------------------------------------------------

    def new_ino(self) -> Ino:
        """An inode number that was never used."""
        return Ino(compose(self.incarnation, next(self._inos)))

    def new_token(self) -> Token:
        """A token larger than any before."""
        return Token(compose(self.incarnation, next(self._tokens)))

    def new_session(self) -> Session:
        """A session number that was never used."""
        return Session(compose(self.incarnation, next(self._sessions)))

    def new_drop(self) -> int:
        """The next place in the drop queue."""
        return compose(self.incarnation, next(self._drops))

    # --- records -------------------------------------------------------------------------------

    def set_server(self, slot: Slot, server: Server) -> None:
        """Record who stands in a slot."""
        with self.raw() as txn:
            txn.put(schema.number_key(b"s", slot), records.pack(server))
        self.servers[slot] = server

    def event(self, at_ns: int, kind: str, text: str) -> None:
        """Record something people should know; the oldest go."""
        known = kind in self.told or len(self.told) < KINDS
        self.told[kind[:40] if known else "other"] += 1
        log.log(logging.INFO if kind in QUIET else logging.WARNING, "%s: %s", kind, text)
        number = compose(self.incarnation, next(self._events))
        with self.raw() as txn:
            record = EventRecord(at_ns, kind[:200], text[: limits.TEXT_BYTES // 4])
            txn.put(schema.number_key(b"v", number), records.pack(record))
            if number % 64 == 1:  # the first of each life too
                kept = list(scan_past_damage(txn, b"v", schema.after(b"v")))
                for key, payload in kept[: -limits.EVENTS]:
                    if not isinstance(payload, Damaged):  # else it waits to be healed
                        txn.delete(key)
        notify(self.happened)

    def events_after(self, after: int, last: int) -> tuple[list[wire.Happened], bool]:
        """Events behind a number (or the `last` ones), oldest first, as many as fit a message; and
        whether some of those asked for are not kept any more.  Events go from the oldest on: while
        the one of that number is here, none behind it has gone."""
        found: list[wire.Happened] = []
        size = 0
        with self.store.read() as read:
            first = schema.number_key(b"v", after)
            if last:
                with suppress(Damaged):  # then from the oldest that stands behind it
                    for key, _ in itertools.islice(_newest(read), last):
                        first = key
            for key, payload in scan_past_damage(read, first, schema.after(b"v")):
                if key == first and after and not last:
                    continue
                found.append(_happened(key, payload))
                size += 4 * len(found[-1].text) + 4 * len(found[-1].kind)
                if len(found) == limits.EVENTS_TOLD or size > limits.LISTING_BYTES:
                    break
            gap = after > 0 and not last and bool(found) and self._is_gone(read, first)
        return found, gap

    def _is_gone(self, read: Reader, key: bytes) -> bool:
        try:
            return read.get(key) is None
        except Damaged:  # unreadable, but here
            return False

    def events(self, count: int) -> list[EventRecord]:
        """The newest, oldest first."""
        found: list[EventRecord] = []
        with self.store.read() as read:
            for key, payload in _newest(read):
                found.append(decode(EventRecord, key, payload))
                if len(found) == count:
                    break
        return found[::-1]


def _newest(read: Reader) -> Iterator[tuple[bytes, bytes]]:
    return read.scan(b"v", schema.after(b"v"), reverse=True)


def _happened(key: bytes, payload: bytes | Damaged) -> wire.Happened:
    number = schema.number_of_key(key)
    try:
        if isinstance(payload, Damaged):
            raise payload
        return wire.Happened(number, *decode(EventRecord, key, payload))
    except Damaged as error:
        return wire.Happened(number, 0, "damage", f"the record of an event: {error}")
