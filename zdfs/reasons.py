"""Why a call waits or failed: pure, from what the metaserver and mounts say.

Each reason says what is in the way, of what, since when, and what would end it.  The order is that
of the way a call takes: the metaserver, who else has the file, the servers of its blocks, their
disks, their pace.  An empty list means that nothing is known to be in the way.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from zdfs import addresses, forecast, limits, pace, placement, wire
from zdfs.ids import BlockNo, Ino, Policy, Slot
from zdfs.wire import State

WAITS_FOR_MOUNTS = {"Grant", "Open", "Create"}  # requests that another mount must let go on
WRITES = {
    "write",
    "flush",
    "fsync",
    "fsyncdir",
    "setattr",
    "fallocate",
    "copy_file_range",
    "release",
    "open",
}
READS = {"read", "lseek", "copy_file_range"}
LOCKS = {"setlk", "flock"}


class Reason(NamedTuple):
    """One thing that is in the way."""

    kind: str  # metaserver, votes, grant, lock, down, unreadable, full, slow, mount
    what: str
    since_s: float | None  # None: nobody knows
    unblock: str


class Seen(NamedTuple):
    """A mount of this machine: where, and what it says; None: it doesn't answer."""

    directory: str
    said: wire.Explained | None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that could be asked."""

    meta: str  # its address
    status: wire.Status | None = None  # None: the metaserver does not answer
    attributes: wire.Attributes | None = None  # of the file, if it is about one
    blocks: tuple[BlockNo, ...] = ()  # of its map
    disputed: wire.Disputed | None = None
    mounts: tuple[Seen, ...] = ()
    writes: bool = True  # whether it is about writing
    reads: bool = True
    locks: bool = True
    here: str = field(default_factory=lambda: os.uname().nodename)


def reasons(facts: Facts) -> list[Reason]:
    """What is in the way."""
    return [
        *_metaserver(facts),
        *_mounts(facts),
        *_grants(facts),
        *_locks(facts),
        *_servers(facts),
        *_unreadable(facts),
        *_pace(facts),
    ]


def _metaserver(facts: Facts) -> Iterator[Reason]:
    silent = [s.said.meta_silent_ms for s in facts.mounts if s.said and s.said.meta_silent_ms]
    shown = addresses.short(facts.meta)
    if facts.status is None:
        yield Reason(
            "metaserver",
            f"the metaserver at {shown} does not answer: names, opens, commits and locks wait; "
            "files that are open go on being read",
            max(silent) / 1000 if silent else None,
            f"start it again with its store: zdfs-node meta {shown}",
        )
    elif facts.status.note:
        yield Reason(
            "votes",
            f"the metaserver at {shown} serves reads only: {facts.status.note}",
            None,
            "start the dataservers that it names, or wait for them",
        )


def _mounts(facts: Facts) -> Iterator[Reason]:
    for mount in facts.mounts:
        if mount.said is None:
            yield Reason(
                "mount",
                f"the mount at {mount.directory} does not say what it does: its zdfs-mount is "
                "stopped, busy, of another release, or gone",
                None,
                f"see its process; if it is gone: umount -l {mount.directory}, and mount again",
            )


def _name(party: wire.Party) -> str:
    return f"{party.host}:{party.mount}" if party.host else party.mount


def _grants(facts: Facts) -> Iterator[Reason]:
    if facts.disputed is None or not facts.writes:
        return
    for one in facts.disputed.grants:
        if not one.wanted:
            continue
        oldest = max(party.since_ms for party in one.wanted) / 1000
        wanted = ", ".join(_name(party) for party in one.wanted)
        holder, quiet = _name(one.holder), one.holder.since_ms / 1000
        blocked = _blocked_on(facts, one.holder)
        why = f", whose writes wait for dataserver {blocked}" if blocked else ""
        why += f"; it was last heard {quiet:.0f} s ago" if quiet > limits.DOWN_S else ""
        yield Reason(
            "grant",
            f"inode {one.ino} is being written by the mount {holder}, which was asked to flush and "
            f"let go of it for {wanted}{why}",
            oldest,
            f"dataserver {blocked} back, or that mount's end" if blocked else
            "it lets go when it has flushed; if its machine is gone, its session ends by itself",
        )  # fmt: skip


def _blocked_on(facts: Facts, party: wire.Party) -> str:
    """The dataserver that a mount's writes wait for."""
    if facts.status is None:
        return ""
    ports = _addresses(facts.status)
    for session in facts.status.sessions:
        if (session.host, session.mount) == (party.host, party.mount) and session.blocked:
            return ", ".join(ports.get(one.slot, "?") for one in session.blocked)
    return ""


def _locks(facts: Facts) -> Iterator[Reason]:
    if facts.disputed is None or not facts.locks:
        return
    for waiter in facts.disputed.waiters:
        for held in facts.disputed.locks:
            same = (held.lock.ino, held.lock.kind) == (waiter.lock.ino, waiter.lock.kind)
            mine = (held.party, held.lock.owner) == (waiter.party, waiter.lock.owner)
            if not same or mine or not held.lock.span.excludes(waiter.lock.span):
                continue
            if (_name(held.party), held.lock.owner) == (_name(waiter.party), waiter.lock.owner):
                continue
            kind = "flock" if waiter.lock.kind is wire.LockKind.FLOCK else "fcntl lock"
            yield Reason(
                "lock",
                f"{_process(facts, waiter)} waits for a {kind} on {_span(waiter.lock.span)} of "
                f"inode {waiter.lock.ino}, which {_process(facts, held)} has",
                None,
                f"{_process(facts, held)} unlocks, closes the file or ends",
            )
            break


def _process(facts: Facts, locker: wire.Locker) -> str:
    where = "" if locker.party.host == facts.here else f" on {locker.party.host}"
    return f"process {locker.lock.pid}{where} (mount {locker.party.mount})"


def _span(span: wire.Span) -> str:
    if span.first == 0 and span.last == limits.FILE_BYTES:
        return "all"
    end = "the end" if span.last == limits.FILE_BYTES else str(span.last)
    return f"bytes {span.first} to {end}"


def _addresses(status: wire.Status) -> dict[Slot, str]:
    return {s.member.slot: addresses.short(s.member.address) for s in status.servers}


_WAITS = {
    Policy.ALL: "writes to every file wait (policy all), but where zdfs policy says quorum",
    Policy.QUORUM: "writes wait for it only where another of a block's three servers is down, too "
    "(policy quorum), or where zdfs policy says all",
}


def _servers(facts: Facts) -> Iterator[Reason]:
    """Down: writes wait, by policy `all`.  Full: they fail."""
    if facts.status is None or not facts.writes:
        yield from _blocked_alone(facts)
        return
    waits = {
        blocked.slot: blocked.since_ms
        for mount in facts.mounts
        if mount.said is not None
        for blocked in mount.said.blocked
    }
    for session in facts.status.sessions:
        for blocked in session.blocked:
            waits[blocked.slot] = max(waits.get(blocked.slot, 0), blocked.since_ms)
    for server in facts.status.servers:
        member, shown = server.member, addresses.short(server.member.address)
        if member.state is State.DOWN and not member.skipped:
            known = server.silent_ms < 2**60
            yield Reason(
                "down",
                f"dataserver {shown} (slot {member.slot}) is down: "
                f"{_WAITS[facts.status.policy]}; reads go on where another copy is",
                server.silent_ms / 1000 if known else None,
                f"start it again with its store: zdfs-node data {member.slot} "
                + " ".join(_addresses(facts.status).values()),
            )
        elif member.slot in waits:
            yield Reason(
                "down",
                f"dataserver {shown} (slot {member.slot}) does not answer a mount, though the "
                f"metaserver hears it ({member.state.name.lower()}): writes there wait",
                waits[member.slot] / 1000,
                f"the network between the mount and {shown}, or that process: is it stopped?",
            )
        elif member.state is not State.DOWN and server.health.free_bytes < limits.BLOCK_BYTES:
            yield Reason(
                "full",
                f"dataserver {shown} (slot {member.slot}) is full: what needs room waits "
                "for what was overwritten to be cleared away, and fails (ENOSPC) if nothing was",
                None,
                "delete files, or give its disk more room; no restart is needed",
            )


def _blocked_alone(facts: Facts) -> Iterator[Reason]:
    """What mounts say while the metaserver is silent."""
    if not facts.writes:
        return
    for mount in facts.mounts:
        for blocked in mount.said.blocked if mount.said else ():
            yield Reason(
                "down",
                f"writes on {mount.directory} wait for the dataserver in slot {blocked.slot}",
                blocked.since_ms / 1000,
                "that dataserver back",
            )


def _unreadable(facts: Facts) -> Iterator[Reason]:
    """Blocks whose three servers are all down."""
    if facts.status is None or facts.attributes is None or not facts.reads:
        return
    members = [one.member for one in facts.status.servers]
    down = frozenset(one.slot for one in members if one.state is State.DOWN)
    gone = [
        block
        for block in facts.blocks
        if forecast.fate(
            forecast.Outage(frozenset(), down),
            placement.slots(facts.attributes.start, block, len(members)),
        ).unread
    ]
    if gone:
        names = ", ".join(addresses.short(members[slot].address) for slot in sorted(down))
        yield Reason(
            "unreadable",
            f"{len(gone)} of {len(facts.blocks)} blocks stand only on servers that are down "
            f"({names}): reading them is EIO; the first is block {gone[0]}",
            None,
            "one of these dataservers back",
        )


def _pace(facts: Facts) -> Iterator[Reason]:
    for mount in facts.mounts:
        for one in mount.said.paces if mount.said else ():
            wanted = facts.reads if one.kind == "read" else facts.writes
            if wanted and one.kind != "ask" and pace.is_slow(one):
                does = "writes are" if one.kind == "write" else "reads from it are"
                yield Reason(
                    "slow",
                    f"on {mount.directory} {does} as slow as dataserver "
                    f"{addresses.short(one.address)}: its answers take {_ms(one.mean_us)}, "
                    f"the others' {_ms(one.median_us)}",
                    None,
                    "that machine's disk, load or network",
                )


def _ms(microseconds: int) -> str:
    return f"{microseconds / 1000:.3g} ms"


# --- one call ----------------------------------------------------------------------------------


def call_text(call: wire.Underway, meta: str) -> str:
    """What a call does, and whom it waits for."""
    return f"{call.operation} of {_about(call.path, call.ino, call.name)}: {_asked(call, meta)}"


def _about(path: bytes, ino: Ino, name: bytes) -> str:
    if path:
        return os.fsdecode(path)
    return f"{os.fsdecode(name)!r} in inode {ino}" if name else f"inode {ino}"


def _asked(call: wire.Underway, meta: str) -> str:
    if not call.asked:
        return "waits inside the mount" + (
            " for a lock" if call.operation in LOCKS else " for what is in its way below"
        )
    found = []
    for one in call.asked:
        server = "the metaserver" if one.address == meta else "dataserver"
        words = f"{server} {addresses.short(one.address)} was asked {one.request}"
        found.append(words)
    return "; ".join(found)


def narrowed(facts: Facts, calls: Sequence[wire.Underway]) -> Facts:
    """Facts for the reasons of these calls only; without any: of everything."""
    if not calls:
        return facts
    operations = {call.operation for call in calls}
    asked = {one.request for call in calls for one in call.asked}
    writes = bool(operations & WRITES or asked & (WAITS_FOR_MOUNTS | {"Put", "Commit"}))
    return Facts(
        facts.meta, facts.status, facts.attributes, facts.blocks, facts.disputed, facts.mounts,
        writes, bool(operations & READS), bool(operations & LOCKS), facts.here,
    )  # fmt: skip


def refusal_text(one: wire.Refusal, at: str) -> str:
    """A failure that a mount returned."""
    number = os.strerror(one.number)
    reason = f": {one.text}" if one.text and one.text != number else ""
    where = _about(one.path, one.ino, one.name)
    return f"{at}  {one.operation} of {where} by {one.pid}: {number}{reason}"
