"""Policies, and replicas that are owed: pure decisions on the tables, as in `extents`.

A commit under policy `quorum` may go without one of a block's three replicas: two stores have
acknowledged it, synced, and the third is *owed* it.  The debt is a record of the same transaction:

    commit without it --> owed --> collected by its server, from the two that have it --> settled
                            |                                                     (a transaction)
                            `--> overwritten, cut, removed: gone with the version

A debt is a promise to copy, never a proof that a copy lacks: whoever is asked for a version answers
by what it has, and a server that lacks one answers Missing, since versions never change.  So losing
a debt loses nothing: each server also looks through the maps after its start and after each scrub.

**Which policy** a file follows: its own, else that of the nearest directory above that has one, by
way of the directory that it was made in or last moved to; else `all`.  It is looked up when it is
needed, so a change holds at once for everything below, also for writes that wait just now.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from errno import EINVAL
from itertools import islice
import stat

from zdfs import blockmap, cluster, limits, placement, schema
from zdfs.blockmap import MapEntry
from zdfs.errors import BadMessage, Damaged, Posix, PutAgain
from zdfs.ids import ROOT, BlockNo, Ino, Name, Policy, Slot
from zdfs.schema import Account, Debt, Inode, Server
from zdfs.tables import Tables, View, changed, decode, is_directory, scan_past_damage
from zdfs.wire import Commit, Debts, Owed, PolicyFound, Wanted

# --- policies ----------------------------------------------------------------------------------


def policy_of(view: View, ino: Ino) -> PolicyFound:
    """What holds for an inode, what it was given itself, and whose it is that holds (0: nobody on
    the way up was given one).  ESTALE.  Damaged when the way up is.

    A file whose directory was removed follows the root: its other names may stand anywhere.
    """
    inode = view.handle(ino)
    own, here, seen = inode.policy, ino, set[Ino]()
    while inode.policy is Policy.INHERIT:
        if here == ROOT:
            return PolicyFound(Policy.ALL, own, Ino(0))
        if here in seen:
            raise Damaged(f"directory {here} stands below itself", key=schema.inode_key(here))
        seen.add(here)
        above = view.find(inode.parent)
        here = inode.parent if above is not None and is_directory(above) else ROOT
        inode = view.inode(here)
    return PolicyFound(inode.policy, own, here)


def policy_or_all(view: View, ino: Ino) -> Policy:
    """Where damage hides which policy holds: to wait, which loses nothing."""
    try:
        return policy_of(view, ino).policy
    except Damaged:
        return Policy.ALL


def set_policy(tables: Tables, ino: Ino, policy: Policy) -> PolicyFound:
    """Give a directory or a regular file a policy, or with INHERIT none.  EINVAL, ESTALE."""
    inode = tables.handle(ino)
    if not is_directory(inode) and not stat.S_ISREG(inode.mode):
        raise Posix(EINVAL, "only directories and regular files have a policy")
    tables.stage(ino, changed(inode, {"policy": policy}))
    tables.save()
    return policy_of(tables, ino)


# --- commits -----------------------------------------------------------------------------------

Owing = tuple[BlockNo, MapEntry, Slot]


def judge(
    servers: Mapping[Slot, Server],
    start: Slot,
    entries: Sequence[tuple[BlockNo, MapEntry]],
    request: Commit,
    policy: Callable[[], Policy],
) -> list[Owing]:
    """What a commit would leave owed, and to whom; [] when all replicas are acknowledged.

    PutAgain, naming slots: their stores have changed since, or may not be gone without: by the
    policy, or because fewer than limits.QUORUM others have the block.  BadMessage.
    """
    owed = set(request.owed)
    if len(owed) < len(request.owed) or not owed <= servers.keys():
        raise BadMessage(f"a commit of inode {request.ino} goes without {request.owed}")
    needed = {
        slot
        for block, _ in entries
        for slot in placement.slots(start, block, len(servers))
        if not servers[slot].skipped
    }
    acks = [ack for ack in request.acks if ack.slot not in owed]
    stale = cluster.stale(servers, needed, acks)
    if not stale:
        return []
    if not owed.issuperset(stale):
        changed_since = tuple(slot for slot in stale if slot not in owed)
        raise PutAgain("a server's store has changed since it acknowledged", changed_since)
    if policy() is not Policy.QUORUM:
        raise PutAgain("the policy is to wait for every server", stale)
    gone = {*stale, *(slot for slot, server in servers.items() if server.skipped)}
    found = []
    for block, entry in entries:
        away = [slot for slot in placement.slots(start, block, len(servers)) if slot in gone]
        if len(away) > limits.REPLICAS - limits.QUORUM and not owed.isdisjoint(away):
            raise PutAgain(f"block {block} would stand on fewer than two servers", stale)
        found += [(block, entry, slot) for slot in away if slot in owed]
    return found


def drawn(
    view: View, now_ns: int, ino: Ino, owing: Iterable[Owing]
) -> list[tuple[BlockNo, Debt]]:  # fmt: skip
    """The debts of a commit, before it: one that takes another's place is as old as that."""
    found = []
    for block, entry, slot in owing:
        old = view.debt(ino, block)
        since_ns = old.since_ns if old is not None and old.slot == slot else now_ns
        found.append((block, Debt(slot, entry.version, entry.stored, since_ns)))
    return found


def owe(tables: Tables, ino: Ino, drawn: Iterable[tuple[BlockNo, Debt]]) -> None:
    """Record debts, in the transaction that made their versions count."""
    for block, debt in drawn:
        tables.set_debt(ino, block, debt)
    tables.save()


def settle(tables: Tables, slot: Slot, names: Iterable[Name]) -> int:
    """A slot's server has these versions, synced: how many debts that ends."""
    ended = 0
    for ino, block, version in names:
        debt = tables.debt(ino, block)
        if debt is not None and (debt.slot, debt.version) == (slot, version):
            tables.set_debt(ino, block, None)
            ended += 1
    tables.save()
    return ended


# --- lists -------------------------------------------------------------------------------------


def listing(
    view: View,
    slot: Slot | None,
    ino: Ino,
    block: BlockNo,
    most: int = limits.VERSIONS,
    most_examined: int = limits.DEBTS_EXAMINED,
) -> Debts:
    """Debts from (ino, block) on, in that order; to one slot or to all.

    Those that can't be read, or that the map knows nothing of, are passed by: `faults` says so.
    """
    found: list[Owed] = []
    scan = scan_past_damage(view.read, schema.debt_key(ino, block), schema.after(b"w"))
    for key, payload in islice(scan, most_examined):
        ino, block = schema.debt_of_key(key)
        if isinstance(payload, bytes) and not _fault(view, key, payload):
            debt = decode(Debt, key, payload)
            if slot in (None, debt.slot):
                found.append(Owed(debt.slot, _wanted(view, ino, block), debt.since_ns))
        block = BlockNo(block + 1)
        if len(found) == most:
            return Debts(tuple(found), False, ino, block)
    end = next(scan, None) is None
    return Debts(tuple(found), end, ino, block)


def _entry(view: View, ino: Ino, block: BlockNo) -> MapEntry | None:
    """What the map names; None: nothing, which is not proven."""
    page, position = blockmap.page_of(block)
    data = view.page(ino, page)
    return None if data is None else blockmap.entry_at(data, position)


def _wanted(view: View, ino: Ino, block: BlockNo) -> Wanted:
    inode, entry = view.inode(ino), _entry(view, ino, block)
    assert entry is not None, "_fault looks at that"
    name = blockmap.name_of(ino, block, entry)
    return Wanted(name, entry.seal, inode.epoch, inode.start, entry.stored)


# --- whether they can be right -----------------------------------------------------------------


def _fault(view: View, key: bytes, payload: bytes) -> str:
    """What is wrong with a debt; "": nothing."""
    ino, block = schema.debt_of_key(key)
    try:
        debt = decode(Debt, key, payload)
        inode = view.find(ino)
        entry = _entry(view, ino, block)
    except Damaged as error:
        return error.text
    if inode is None:
        return "its inode is not there"
    if entry is None or entry.version != debt.version or entry.stored != debt.stored:
        return "the map names another version"
    return ""


def faults(view: View, ino: Ino, inode: Inode, servers: int) -> Iterator[tuple[str, bytes]]:
    """What is wrong with the debts of an inode, and the key that it is about; `servers`: of its
    ring, 0: nobody knows."""
    prefix = schema.debt_key(ino, BlockNo(0))[:9]
    found = summed = 0
    whole = True
    for key, payload in scan_past_damage(view.read, prefix, schema.after(prefix)):
        found += 1
        if isinstance(payload, Damaged):
            whole = False
            yield payload.text, key
            continue
        summed += schema.check(key, payload)
        what = _fault(view, key, payload)
        if not what and servers:
            block = schema.debt_of_key(key)[1]
            slot = decode(Debt, key, payload).slot
            if placement.replica(inode.start, block, servers, slot) is None:
                what = f"slot {slot} has no replica of it"
        if what:
            yield f"{schema.describe(key)}: {what}", key
    if found != inode.owed:
        text = f"{found} records where the inode counts {inode.owed}"
        yield f"{schema.describe(prefix)}: {text}", prefix
    elif whole and summed % 2**64 != inode.owed_sum:
        yield f"{schema.describe(prefix)}: a record is not the one that the inode counted", prefix


class Audit:
    """The accounts, counted again slice by slice: exact for those that stood still meanwhile."""

    def __init__(self) -> None:
        self._before: dict[Slot, Account] | None = None
        self.seen: dict[Slot, tuple[int, int]] = {}

    def add(self, debt: Debt) -> None:
        """One more."""
        count, stored = self.seen.get(debt.slot, (0, 0))
        self.seen[debt.slot] = (count + 1, stored + debt.stored)

    def begin(self, view: View, slots: Iterable[Slot]) -> None:
        """Before the first debt; Damaged ones are found as records."""
        if self._before is None:
            self._before = {}
            for slot in slots:
                try:
                    self._before[slot] = view.account(slot)
                except Damaged:
                    continue

    def verdict(self, view: View, slots: Iterable[Slot]) -> Iterator[tuple[str, bytes]]:
        """After the last: what is wrong, and the key that it is about."""
        for slot in slots:
            key = schema.number_key(b"a", slot)
            try:
                account = view.account(slot)
            except Damaged as error:
                yield error.text, key
                continue
            count, stored = self.seen.get(slot, (0, 0))
            before = (self._before or {}).get(slot)
            if before == account and (account.replicas, account.stored) != (count, stored):
                text = (
                    f"{account.replicas} debts, {account.stored} bytes, where there are {count}, "
                )
                yield f"{schema.describe(key)}: {text}{stored}", key


# --- mending -----------------------------------------------------------------------------------


def mend(tables: Tables, key: bytes) -> str:
    """Put right what `faults` or `Audit` found, and save: what was done.

    A debt that can't be right goes: whatever its server lacks, it finds by looking at the maps.
    """
    if key[:1] == b"a":
        return _recount_account(tables, Slot(schema.number_of_key(key)))
    ino = schema.debt_of_key(key.ljust(17, b"\0"))[0]
    inode, prefix = tables.find(ino), key[:9]
    strays = [key] if key[9:] else []
    if inode is None:
        some = scan_past_damage(tables.read, prefix, schema.after(prefix))
        strays = [stray for stray, _ in some]
    for stray in strays:
        tables.txn.delete(stray)
    if inode is None:
        return "forgotten with their inode"
    count = summed = 0
    for child, payload in tables.read.scan(prefix, schema.after(prefix)):
        count += 1
        summed += schema.check(child, payload)
    tables.stage(ino, changed(inode, {"owed": count, "owed_sum": summed % 2**64}))
    tables.save()
    return "counted again"


def _recount_account(tables: Tables, slot: Slot) -> str:
    """From all debts that can be read."""
    count = stored = since = 0
    for key, payload in scan_past_damage(tables.read, b"w", schema.after(b"w")):
        if isinstance(payload, bytes):
            debt = decode(Debt, key, payload)
            if debt.slot == slot:
                count, stored = count + 1, stored + debt.stored
                since = min(since or debt.since_ns, debt.since_ns)
    tables.set_account(slot, Account(count, stored, since, 0))
    tables.save()
    return "counted again"
