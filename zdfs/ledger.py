"""The metaserver's store as its rooms see it: write blocks, numbers that never repeat, events.

Opening it takes a new *incarnation*, synced before anything else happens.  Inode numbers, tokens,
drop numbers and change counters carry it in their high bits, so that none is used twice, whatever
crashed in between.
"""

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from zdfs import limits, records, schema
from zdfs.errors import NoSpace, StartError
from zdfs.ids import COUNTER_BITS, Incarnation, Ino, Round, Session, Slot, Token, compose
from zdfs.ports import MetaStore, Reader, Transaction
from zdfs.schema import Cluster, EventRecord, Ring, Server, SessionRecord, Superblock
from zdfs.tables import Tables, View, decode

log = logging.getLogger("zdfs.meta")


def founded_block_bytes(store: MetaStore) -> int | None:
    """The block size that a store's cluster was founded with; None: not founded."""
    with store.read() as read:
        payload = read.get(schema.CLUSTER)
    return None if payload is None else decode(Cluster, schema.CLUSTER, payload).block_bytes


class Ledger:
    """Transactions and everything the metaserver's rooms share."""

    def __init__(self, store: MetaStore, uuid: bytes):
        """Opens the store for a new life.  `uuid` names it if it is new."""
        self.store = store
        with store.read() as read:
            payload = read.get(schema.SUPERBLOCK)
        old = Superblock(schema.META_FORMAT, uuid, Incarnation(0))
        if payload is not None:
            old = decode(Superblock, schema.SUPERBLOCK, payload)
        if old.format != schema.META_FORMAT:
            raise StartError(
                f"the metaserver's store has format {old.format}; this release reads "
                f"{schema.META_FORMAT}: start a newer zdfs"
            )
        self.opened: tuple[int, Round] = (old.incarnation, store.synced)
        self.incarnation = Incarnation(old.incarnation + 1)
        self.uuid = old.uuid
        with store.write() as txn:
            news = replace(old, incarnation=self.incarnation)
            txn.put(schema.SUPERBLOCK, records.pack(news))
        store.end_round()
        self.cluster: Cluster | None = None
        self.ring: tuple[str, ...] = ()
        self.servers: dict[Slot, Server] = {}
        self.proven: set[bytes] = set()
        self.change_floor = self.incarnation << COUNTER_BITS
        self._inos, self._tokens, self._drops, self._sessions, self._events = (
            itertools.count(1) for _ in range(5)
        )
        self.load()

    def load(self) -> None:
        """Read what the founding recorded, and the slots."""
        with self.store.read() as read:
            payload = read.get(schema.CLUSTER)
            if payload is None:
                return
            self.cluster = decode(Cluster, schema.CLUSTER, payload)
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
        with self.store.write() as txn:
            yield Tables(txn, self.proven, self.change_floor)

    @contextmanager
    def view(self) -> Iterator[View]:
        """Reading, this round's changes included."""
        with self.store.read() as read:
            yield View(read, self.proven)

    @contextmanager
    def raw(self) -> Iterator[Transaction]:
        """A write block for records outside the name space."""
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

    def sessions(self) -> list[tuple[Session, SessionRecord]]:
        """The sessions whose records live."""
        with self.store.read() as read:
            return [
                (Session(schema.number_of_key(key)), decode(SessionRecord, key, payload))
                for key, payload in _table(read, b"n")
            ]

    def event(self, at_ns: int, kind: str, text: str) -> None:
        """Record something people should know; the oldest go."""
        log.warning("%s: %s", kind, text)
        number = compose(self.incarnation, next(self._events))
        with self.raw() as txn:
            record = EventRecord(at_ns, kind[:200], text[: limits.TEXT_BYTES // 4])
            txn.put(schema.number_key(b"v", number), records.pack(record))
            if number % 64 == 1:  # the first of each life too
                keys = [key for key, _ in _table(txn, b"v")]
                for key in keys[: -limits.EVENTS]:
                    txn.delete(key)

    def events(self, count: int) -> list[EventRecord]:
        """The newest, oldest first."""
        found: list[EventRecord] = []
        with self.store.read() as read:
            for key, payload in read.scan(b"v", schema.after(b"v"), reverse=True):
                found.append(decode(EventRecord, key, payload))
                if len(found) == count:
                    break
        return found[::-1]


def _table(read: Reader, table: bytes) -> Iterator[tuple[bytes, bytes]]:
    return read.scan(table, schema.after(table))
