"""The dataserver's index: which version stands where in the log.

LMDB holds it up to a *position* in the log; what came later lives in memory, in *layers*, one a
round.  A checkpoint commits the layers of synced rounds, oldest first, with the new position:

    find(name) -> overlay (newest change of each name)  else  LMDB

    LMDB  <- layer 7 <- layer 8 <- layer 9 (open)       synced = 7: a checkpoint takes layer 7

None in a layer means: dropped.  The log is synced before any commit that covers it; a crash loses
layers and the log says them again, save drops, which count as made only once checkpointed.
`live` is what each segment holds that is still found here, `stored_live` the same without layers.
"""

import heapq
import struct
from collections import Counter, deque
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import lmdb

from zdfs import disk, limits, records, schema
from zdfs.disk import Records
from zdfs.errors import Damaged, NoSpace, StartError, StoreError
from zdfs.ids import Name, Round
from zdfs.schema import IndexEntry, IndexHead

_U64 = struct.Struct(">Q")
_CHANGE_PAGES_BYTES = 2 * 4096  # a change copies its leaf page, and now and then one above
Changes = dict[Name, IndexEntry | None]


class Distrust(Exception):
    """Why an index must be made anew from the log."""


@dataclass(slots=True)
class _Layer:
    """The changes of one ended round, and where the log and the state stood behind it."""

    round: Round
    changes: Changes
    head: IndexHead


def record_bytes(entry: IndexEntry) -> int:
    """What an entry's record takes in its segment."""
    return schema.RECORD_BYTES + entry.length


class Index:
    """The index of one store.  `directory` is LMDB's own."""

    def __init__(self, directory: Path):
        try:
            self._env = disk.open_lmdb(directory, limits.INDEX_MAP_BYTES)
        except (lmdb.Error, OSError) as error:
            raise Distrust(f"can't be opened: {error}") from error
        self._directory = directory
        reserve = disk.share(directory, limits.DATA_RESERVE_BYTES) // limits.RESERVE_PARTS
        self._batch = max(64, reserve // _CHANGE_PAGES_BYTES)
        self._reader: Records | None = None
        self._txn: disk.Txn = None
        self._layers: deque[_Layer] = deque()
        self._open: Changes = {}
        self._overlay: dict[Name, tuple[IndexEntry | None, Changes]] = {}
        self.stored_live: Counter[int] = Counter()
        self.live: Counter[int] = Counter()
        self.blocks = 0
        try:
            self.head = self._load()
        except (Damaged, lmdb.Error, records.BadRecord) as error:
            self.close()
            raise Distrust(str(error)) from error
        except (Distrust, StartError):
            self.close()
            raise

    # --- reading -------------------------------------------------------------------------------

    def find(self, name: Name) -> IndexEntry | None:
        """Where a version is; None: not here; Damaged: can't say."""
        changed = self._overlay.get(name)
        if changed is not None:
            return changed[0]
        payload = self._records().get(schema.block_key(name))
        return None if payload is None else schema.unpack_index(payload)

    def scan(self, after: Name | None, count: int) -> list[tuple[Name, IndexEntry]]:
        """The next `count` versions behind `after`."""
        first = b"b" if after is None else schema.block_key(after) + b"\0"
        overlay = self._overlay
        changed = sorted(name for name in overlay if after is None or name > after)
        stored = (
            (name, schema.unpack_index(payload))
            for key, payload in self._records().scan(first, b"c")
            if (name := schema.name_of_key(key)) not in overlay
        )
        merged = heapq.merge(((name, overlay[name][0]) for name in changed), stored, key=_first)
        result: list[tuple[Name, IndexEntry]] = []
        for name, entry in merged:
            if len(result) == count:
                break
            if entry is not None:
                result.append((name, entry))
        return result

    @property
    def waiting(self) -> int:
        """How many names have changes that LMDB hasn't."""
        return len(self._overlay)

    def room_bytes(self) -> int:
        """By how much LMDB's file may grow inside its map."""
        return disk.map_free(self._env)

    # --- changing ------------------------------------------------------------------------------

    def change(self, name: Name, entry: IndexEntry | None) -> None:
        """Say where a version is now (None: nowhere), in the round underway."""
        try:
            old = self.find(name)
            was_here = old is not None
        except Damaged:  # an unreadable entry is replaced; its segment keeps counting it as live
            old, was_here = None, True
        if old is not None:
            self.live[old.segment] -= record_bytes(old)
        if entry is not None:
            self.live[entry.segment] += record_bytes(entry)
        self.blocks += (entry is not None) - was_here
        self._open[name] = entry
        self._overlay[name] = (entry, self._open)

    def end_round(self, head: IndexHead) -> None:
        """Close the layer of the round that `head.position` names."""
        self._layers.append(_Layer(head.position.round, self._open, head))
        self._open = {}

    def checkpoint(self, synced: Round) -> bool:
        """Commit the layers up to `synced`; False: there were none.  StoreError: stop."""
        layers: list[_Layer] = []
        while self._layers and self._layers[0].round <= synced:
            layers.append(self._layers.popleft())
        if not layers:
            return False
        self.commit([layer.changes for layer in layers], layers[-1].head)
        return True

    def commit_replayed(self) -> None:
        """While the log is read again: commit what gathered, without a head (so that an index that
        is not complete is never trusted, unless its old head still stands)."""
        changes, self._open = self._open, {}
        self.commit([changes], None)

    def commit(self, layers: list[Changes], head: IndexHead | None) -> None:
        """Commit changes, newest wins, and then the head.  In the order of keys and in batches, so
        that no transaction copies more pages than the reserve has room for: a part of the changes
        without the head is harmless, the log says them again."""
        newest: Changes = {}
        for changes in layers:
            newest.update(changes)
        todo = sorted(
            ((schema.block_key(name), entry) for name, entry in newest.items()), key=_first
        )
        self._release()
        last = max(0, len(todo) - 1) // self._batch
        for at in range(last + 1):
            batch = todo[at * self._batch : (at + 1) * self._batch]
            self._commit_batch(batch, head if at == last else None)
        self._forget(layers)

    def _commit_batch(
        self, batch: list[tuple[bytes, IndexEntry | None]], head: IndexHead | None
    ) -> None:
        live = self.stored_live.copy()
        try:
            with self._env.begin(write=True) as txn:
                stored = Records(txn)
                for key, entry in batch:
                    _store(stored, live, key, entry)
                self._store_live(stored, live)
                if head is not None:
                    stored.put(schema.STATE, records.pack(head))
        except (lmdb.Error, Damaged, NoSpace) as error:
            raise StoreError(
                f"{self._directory}: the index can't be committed: {error}; the node stops: start "
                "it again (set the index directory aside if that fails: it is made anew)"
            ) from error
        self.stored_live = live
        self.head = head if head is not None else self.head

    def close(self) -> None:
        """Let go of LMDB; layers that were not committed are in the log."""
        self._release()
        self._env.close()

    # --- inside --------------------------------------------------------------------------------

    def _forget(self, layers: list[Changes]) -> None:
        """Take what LMDB has now out of the overlay."""
        for changes in layers:
            for name in changes:
                held = self._overlay.get(name)
                if held is not None and held[1] is changes:
                    del self._overlay[name]

    def _store_live(self, stored: Records, live: Counter[int]) -> None:
        for segment in live.keys() | self.stored_live.keys():
            if live[segment] == self.stored_live[segment]:
                continue
            key = schema.number_key(b"g", segment)
            if live[segment]:
                stored.put(key, _U64.pack(live[segment]))
            else:
                stored.delete(key)

    def _load(self) -> IndexHead | None:
        """The head, and the counts; Damaged, Distrust, StartError (a newer release's)."""
        stored = self._records()
        for key, payload in stored.scan(b"g", b"h"):
            self.stored_live[schema.number_of_key(key)] = _U64.unpack(payload)[0]
        self.live = self.stored_live.copy()
        payload_or_none = stored.get(schema.STATE)
        entries: int = self._env.stat()["entries"]
        self.blocks = entries - len(self.stored_live) - (payload_or_none is not None)
        if payload_or_none is None:
            return None
        plain = records.loads(payload_or_none)
        if plain[0][0] > schema.DATA_FORMAT:
            raise StartError(
                f"{self._directory}: a store of format {plain[0][0]}; this release knows format "
                f"{schema.DATA_FORMAT}: start it with the newer release, or go back as "
                "docs/UPGRADING.md says"
            )
        return records.unpack(IndexHead, payload_or_none)

    def _records(self) -> Records:
        """A reader on the last commit, until the next one: a transaction a read is dearer."""
        if self._reader is None:
            try:
                self._txn = self._env.begin()
            except lmdb.Error as error:
                raise Damaged(f"the index can't be read: {error}") from error
            self._reader = Records(self._txn)
        return self._reader

    def _release(self) -> None:
        if self._txn is not None:
            self._txn.abort()
        self._txn = self._reader = None


_first = itemgetter(0)


def _store(stored: Records, live: Counter[int], key: bytes, entry: IndexEntry | None) -> None:
    """One change, in LMDB and in the counts."""
    try:
        payload = stored.get(key)
        old = None if payload is None else schema.unpack_index(payload)
    except Damaged:
        old = None
    if old is not None:
        live[old.segment] -= record_bytes(old)
    if entry is None:
        stored.delete(key)
    else:
        live[entry.segment] += record_bytes(entry)
        stored.put(key, schema.pack_index(entry))
