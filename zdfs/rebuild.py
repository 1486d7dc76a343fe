"""The last resort: metadata made anew from the dataservers' blocks (`zdfs meta rebuild`).

For when the metaserver's store is lost and nobody has a copy of it.  All dataservers run and wait
for a metaserver; none is there.  `survey` asks who they are, and refuses what can't be; `build`
reads all their lists side by side and writes a new store: each file that has a block, by its inode
number, in /lost+found.  `salvage` decides, and says what can be known.

The new store is the same cluster's: same UUID and ring, an incarnation above all that any server
has promised itself to, so that they take it for the metaserver's next start.  They reconcile, as
after each start: what the maps name is copied to where it is missing, and what they don't name is
dropped.  So versions that don't count are copied first, each under the number of a new file:
/lost+found/<inode>.<n> has, where a block had n or more such versions, the n-th newest of them, and
holes elsewhere.  Nothing on a dataserver is changed or dropped by the rebuild itself: a store that
was made can be thrown away and made again (what the first one copied is known by its incarnation).

The founding record is written last: a store that was not finished is one that founds nothing.
"""

import os
import stat
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from zdfs import addresses, checksum, limits, namespace, placement, records, recovery, salvage
from zdfs import schema, wire
from zdfs.calls import Ask, Peer, call, call_all, clock, now, sleep
from zdfs.copied import CopiedStore
from zdfs.errors import Failure, Mistrusted, StartError, Unreachable
from zdfs.ids import COUNTER_BITS, EPOCH, ROOT, BlockNo, Ino, Name, Slot, Token, Version, compose
from zdfs.mending import LOST
from zdfs.ports import MetaStore, Transaction
from zdfs.salvage import Accepted, Block, Candidate, Choice, Doubt, Draft, Made, Merge, Plan
from zdfs.schema import Account, Cluster, EventRecord, Ring, Superblock
from zdfs.tables import Tables
from zdfs.wire import Held

ANSWER_S = 15.0  # a server that says nothing for so long has gone
Tell = Callable[[str, int, int], None]  # stage, done, of about how many


def _silent(stage: str, done: int, total: int) -> None:
    """Nobody wants to know how far it is."""


# --- who is there ------------------------------------------------------------------------------


async def survey(
    ring: tuple[str, ...],
    meta: str,
    without: frozenset[Slot],
    block_bytes: int | None = None,
    accepted: Accepted = Accepted(),
) -> Plan:
    """Ask the dataservers who they are, but those that are done `without`; changes nothing.

    StartError: a metaserver answers, at `meta` or where a dataserver would look for it; a
    dataserver is silent; what they say can't be (`salvage.agree`).
    """
    await _no_metaserver([meta])
    told = await _recollections(ring, [Slot(s) for s in range(len(ring)) if s not in without])
    await _no_metaserver(sorted({one.meta for one in told.values()} - {meta}))
    plan = salvage.agree(ring, told, block_bytes, accepted)
    above = Name(Ino(compose(plan.promised, _LAST)), BlockNo(2**64 - 1), _NEWEST)
    newest = [await _last_ino(plan, slot, above) for slot in plan.heard]
    return salvage.settle(plan, newest)


_LAST = (1 << COUNTER_BITS) - 1
_NEWEST = Version(Token(2**64 - 1), 2**32 - 1)


async def _no_metaserver(metas: Sequence[str]) -> None:
    answers = await call_all([Ask(Peer(meta), wire.Identify()) for meta in metas])
    for meta, answer in zip(metas, answers):
        if isinstance(answer, Mistrusted):
            raise StartError(answer.text)
        if isinstance(answer, Unreachable):
            continue
        shown = addresses.short(meta)
        if isinstance(answer, wire.Identity) and answer.role is wire.Role.DATA:
            raise StartError(f"{shown} is a dataserver: name the metaserver's port with --meta")
        raise StartError(
            f"a metaserver answers at {shown}: as long as there is one, nothing is to be rebuilt; "
            "stop it, if its store is what was lost"
        )


async def _recollections(
    ring: tuple[str, ...], slots: Sequence[Slot]
) -> Mapping[Slot, wire.Recollection]:
    asks = [Ask(Peer(ring[slot]), wire.Recollect(), limits.BULK_TIMEOUT_S) for slot in slots]
    told = {}
    for slot, answer in zip(slots, await call_all(asks)):
        if isinstance(answer, wire.Recollection):
            told[slot] = answer
            continue
        shown = addresses.short(ring[slot])
        if isinstance(answer, Mistrusted):
            raise StartError(answer.text)
        if isinstance(answer, Unreachable):
            raise StartError(
                f"the dataserver at {shown} is silent: start it (an empty store will do if its "
                f"disk is lost), or go on without it: --without {slot}"
            )
        raise StartError(f"{shown} does not answer as a dataserver does: {answer}")
    return told


async def _last_ino(plan: Plan, slot: Slot, after: Name) -> Ino:
    """The largest inode number on a server; 0: none is behind `after`."""
    last = Ino(0)
    while True:
        page = await _list(plan, slot, after)
        if page.items:
            after = page.items[-1].name
            last = after.ino
        if page.end:
            return last


async def _list(plan: Plan, slot: Slot, after: Name | None) -> wire.Versions:
    found: wire.Versions = await _ask(plan, slot, wire.ListVersions(plan.cluster, after))
    return found


async def _ask(plan: Plan, slot: Slot, request: Any) -> Any:
    """An answer, also from a server that is busy; StartError when it goes away."""
    end = await now() + ANSWER_S
    while True:
        try:
            return await call(Peer(plan.ring[slot]), request, limits.BULK_TIMEOUT_S)
        except Failure as error:
            if error.definite or await now() >= end:
                shown = addresses.short(plan.ring[slot])
                raise StartError(f"the dataserver at {shown}: {error}; start over") from error
        await sleep(limits.RETRY_S / 4)


# --- the new store -----------------------------------------------------------------------------


async def build(plan: Plan, store: MetaStore, keep: bool = True, tell: Tell = _silent) -> Made:
    """Write a new metaserver's store, empty until now.  `keep`: versions that don't count are
    copied to files of their own, else dataservers will drop them.

    StartError: a server went away, a disk is full, or what is listed can't be.
    """
    builder = _Builder(plan, store, keep, await clock())
    total = sum(plan.told[slot].blocks for slot in plan.heard)
    async for blocks in _blocks(plan):
        await builder.take(blocks)
        tell("versions", builder.made.versions, total)
    builder.end()
    return builder.made


async def _blocks(plan: Plan) -> AsyncIterator[list[Block]]:
    """All blocks in the order of names, some at a time."""
    merge = Merge(sorted(plan.heard))
    while wanted := merge.wanted():
        asks = [
            Ask(
                Peer(plan.ring[slot]), wire.ListVersions(plan.cluster, after), limits.BULK_TIMEOUT_S
            )
            for slot, after in wanted
        ]
        for (slot, after), answer in zip(wanted, await call_all(asks)):
            if not isinstance(answer, wire.Versions):
                answer = await _list(plan, slot, after)
            merge.add(slot, answer)
        yield list(merge.blocks())


Step = tuple[Draft, Candidate | None]  # the next block of a file; None: it has no more


class _Builder:
    """A store underway.  It gets a chain of rounds like any other: copies are filled from it."""

    def __init__(self, plan: Plan, inner: MetaStore, keep: bool, now_ns: int):
        self.plan, self.keep, self.now_ns = plan, keep, now_ns
        self.store = store = CopiedStore(inner, plan.cluster)
        store.incarnation = plan.incarnation
        self.made = Made()
        self._numbers = 0
        self._draft: Draft | None = None
        self._extras: list[Draft] = []  # of that file, the newest versions first
        self.lost = Ino(self._number())
        with store.write() as txn:
            tables = self._tables(txn)
            namespace.found(tables, now_ns)
            home = namespace.Newborn(self.lost, stat.S_IFDIR | 0o700, 0, 0)
            namespace.make(tables, now_ns, ROOT, LOST, home)
        store.end_round()

    def _tables(self, txn: Transaction) -> Tables:
        return Tables(txn, None, self.plan.incarnation << COUNTER_BITS)

    def _number(self) -> int:
        self._numbers += 1
        return compose(self.plan.incarnation, self._numbers)

    async def take(self, blocks: Iterable[Block]) -> None:
        """Decide, keep what does not count, then write all of it."""
        steps: list[Step] = []
        for block in blocks:
            held = sum(len(one.slots) for one in block.candidates)
            self.made.versions += held
            if salvage.left_over(self.plan, block.ino):
                self.made.leftovers += held
                continue
            if not salvage.made(block.ino):
                others = tuple(None for _ in block.candidates)
                self.made.doubt(Doubt(Choice(None, block.candidates, "impossible"), others, False))
                continue
            draft = self._draft_of(block, steps)
            choice, slots = salvage.judge(self.plan, block, draft.start)
            if choice.taken is not None:
                self.made.blocks += 1
                self.made.stored += choice.taken.length
                self.made.thin += len(set(slots) & set(choice.taken.slots)) < limits.REPLICAS
                steps.append((draft, choice.taken))
            if choice.kind:
                await self._doubt(choice, steps)
        self._write(steps)

    def _draft_of(self, block: Block, steps: list[Step]) -> Draft:
        """The file of a block, begun if this is its first."""
        for one in block.candidates:
            if one.length > self.plan.block_bytes and not self.plan.sized:
                raise StartError(
                    f"{one.name} has {one.length} bytes, more than a block of "
                    f"{self.plan.block_bytes}: give another --block-size"
                )
        if self._draft is None or self._draft.ino != block.ino:
            self._end_file(steps)
            start = salvage.start(self.plan, block)
            self._draft = Draft(block.ino, b"%d" % block.ino, EPOCH, start)
            self.made.files += 1
        return self._draft

    def _end_file(self, steps: list[Step]) -> None:
        if self._draft is not None:
            steps += [(draft, None) for draft in (self._draft, *self._extras)]
        self._draft, self._extras = None, []

    def _write(self, steps: Sequence[Step]) -> None:
        if self.store.free_bytes() <= 0:
            raise StartError("the new store's disk is full: start over where there is more room")
        with self.store.write() as txn:
            tables = self._tables(txn)
            for draft, one in steps:
                if one is None:
                    draft.end(tables, self.now_ns, self.lost)
                else:
                    draft.add(tables, self.plan.block_bytes, one)
            tables.save()
        self.store.end_round()

    # --- what does not count

    async def _doubt(self, choice: Choice, steps: list[Step]) -> None:
        """Look whether the version that counts can be read, and keep the others."""
        kept: list[bytes | None] = []
        rank = 0
        for one in choice.others:
            kept_too = self.keep and salvage.fits(self.plan, one)
            data = await self._read(one) if kept_too else None
            if data is None:
                kept.append(None)
                continue
            extra, rank = self._extra(rank), rank + 1
            steps.append((extra, await self._copy(one, extra, data)))
            kept.append(extra.name)
        readable = choice.taken is not None and await self._read(choice.taken) is not None
        self.made.doubt(Doubt(choice, tuple(kept), readable))

    def _extra(self, rank: int) -> Draft:
        assert self._draft is not None
        if rank == len(self._extras):
            main = self._draft
            name = b"%s.%d" % (main.name, rank + 1)
            self._extras.append(Draft(Ino(self._number()), name, main.epoch, main.start))
            self.made.extras += 1
        return self._extras[rank]

    async def _read(self, one: Candidate) -> checksum.Buffer | None:
        """A version's bytes, from whoever has them; None: nobody has good ones."""
        want = wire.Wanted(one.name, one.seal, one.epoch, one.start, one.length)
        for slot in one.slots:
            got = await _ask(self.plan, slot, wire.Get(self.plan.cluster, (want,), False))
            if got.held == (Held.OK,) and recovery.genuine(want, got.data[0]):
                data: checksum.Buffer = got.data[0]
                return data
        return None

    async def _copy(self, one: Candidate, extra: Draft, data: checksum.Buffer) -> Candidate:
        """A version under a new name, on the places of that; one is enough, the rest follows when
        the servers reconcile."""
        plan = self.plan
        name = Name(extra.ino, one.name.block, Version(Token(extra.ino), 1))
        put = wire.Put1(name, checksum.seal(name, data), extra.epoch, extra.start, one.length)
        slots = placement.slots(extra.start, name.block, len(plan.ring))
        targets = [slot for slot in slots if slot in plan.heard]
        request = wire.Put(plan.cluster, (put,), b"", (data,))
        answers = await call_all(
            [Ask(Peer(plan.ring[slot]), request, limits.BULK_TIMEOUT_S) for slot in targets]
        )
        stored = [slot for slot, got in zip(targets, answers) if isinstance(got, wire.Stored)]
        if not stored:
            raise StartError(
                f"a version of inode {one.name.ino} that does not count can't be copied: "
                f"{answers[0]}; start over, or let such versions go: --newest-only"
            )
        return Candidate(name, put.seal, one.length, extra.epoch, extra.start, tuple(stored))

    # --- the end

    def end(self) -> None:
        """The last file; then what makes it a cluster's store."""
        steps: list[Step] = []
        self._end_file(steps)
        self._write(steps)
        plan, made = self.plan, self.made
        text = (
            f"the metadata were made anew from the dataservers' blocks: {made.files} files are in "
            "/lost+found, by inode number"
        )
        with self.store.write() as txn:
            for number in range(len(plan.ring)):
                one = salvage.server(plan.told.get(Slot(number)), os.urandom(16))
                txn.put(schema.number_key(b"s", number), records.pack(one))
                txn.put(schema.number_key(b"a", number), records.pack(Account(0, 0, 0, 0)))
            event = EventRecord(self.now_ns, "rebuilt", text)
            txn.put(schema.number_key(b"v", self._number()), records.pack(event))
            txn.put(schema.number_key(b"r", EPOCH), records.pack(Ring(plan.ring)))
            first = Superblock(schema.META_FORMAT_MIN, os.urandom(16), plan.incarnation)
            txn.put(schema.SUPERBLOCK, records.pack(first))
            founded = Cluster(plan.cluster, plan.block_bytes, limits.REPLICAS, EPOCH)
            txn.put(schema.COPY_SET, records.pack(salvage.journal_set(plan)))
            txn.put(schema.CLUSTER, records.pack(founded))
        self.store.end_round()
