"""What is read of a server's rooms when somebody asks for its measures.

Each is a source for `measures.Meter`: it may run in another thread than the room (the one that
answers Prometheus), so it reads memory only, and what changes under it is copied first.
"""

from collections.abc import Iterator
from typing import NamedTuple

from zdfs import addresses
from zdfs.collecting import Collector
from zdfs.healing import Healer
from zdfs.locks import Locks
from zdfs.membership import Membership
from zdfs.mirror import Mirror
from zdfs.ports import BlockStore, Reading
from zdfs.recovery import Progress
from zdfs.scrubbing import Scrubber
from zdfs.wire import Member, State


class MetaParts(NamedTuple):
    """Of a metaserver."""

    members: Membership
    locks: Locks


class DataParts(NamedTuple):
    """Of a dataserver."""

    store: BlockStore
    healer: Healer
    scrubber: Scrubber
    collector: Collector
    mirror: Mirror | None


def of_meta(parts: MetaParts) -> Iterator[Reading]:
    """A metaserver's."""
    members = parts.members
    copying = members.copying
    waits = members.note or (copying.ready() if copying else "")
    yield Reading("zdfs_serving", float(members.granted and not waits))
    yield Reading("zdfs_incarnation", members.ledger.incarnation)
    yield Reading("zdfs_metadata_free_bytes", max(0, members.ledger.store.free_bytes()))
    for kind, count in list(members.ledger.told.items()):
        yield Reading("zdfs_events_total", count, (kind,))
    ring = list(members.map.members)
    for member in ring:
        yield from _member(member)
    yield from _copies(members, ring)
    yield from _mounts(members, ring)
    yield Reading("zdfs_locks_held", sum(parts.locks.counts.values()))
    yield Reading("zdfs_lock_waiters", len(parts.locks.waiters))


def _who(member: Member) -> tuple[str, str]:
    return str(member.slot), addresses.short(member.address)


def _member(member: Member) -> Iterator[Reading]:
    yield Reading("zdfs_server_up", float(member.state is not State.DOWN), _who(member))
    for state in State:
        labels = (*_who(member), state.name.lower())
        yield Reading("zdfs_server_state", float(member.state is state), labels)


def _copies(members: Membership, ring: list[Member]) -> Iterator[Reading]:
    """Who holds copies of the metadata, and how far behind they are."""
    copying = members.copying
    yield Reading("zdfs_metadata_copies_needed", copying.copies.needed if copying else 0)
    for slot, whole, lag in copying.facts() if copying else ():
        if slot < len(ring):
            yield Reading("zdfs_metadata_copy_whole", float(whole), _who(ring[slot]))
            yield Reading("zdfs_metadata_copy_lag_rounds", lag, _who(ring[slot]))


def _mounts(members: Membership, ring: list[Member]) -> Iterator[Reading]:
    """What they have, and for whom their writes wait."""
    mounts = list(members.sessions.mounts.values())
    yield Reading("zdfs_sessions", len(mounts))
    yield Reading("zdfs_open_files", sum(len(mount.openings) for mount in mounts))
    yield Reading("zdfs_write_grants", len(members.sessions.grants))
    yield Reading("zdfs_sessions_blocked", sum(bool(mount.blocked) for mount in mounts))
    waits = [one for mount in mounts for one in mount.blocked]
    for member in ring:
        here = [one for one in waits if one.slot == member.slot]
        yield Reading("zdfs_blocked_writers", sum(one.writers for one in here), _who(member))
        longest = max((one.since_ms for one in here), default=0) / 1000
        yield Reading("zdfs_blocked_seconds", longest, _who(member))


def of_data(parts: DataParts) -> Iterator[Reading]:
    """A dataserver's."""
    store, healer = parts.store, parts.healer
    for state in (State.JOINING, State.RECOVERING, State.SERVING):
        yield Reading("zdfs_state", float(healer.state is state), (state.name.lower(),))
    space = store.space()
    rounds, round_bytes = parts.mirror.logged() if parts.mirror else (0, 0)
    yield Reading("zdfs_disk_bytes", space.total_bytes)
    free = space.free_bytes + store.reclaimable_bytes()
    yield Reading("zdfs_disk_free_bytes", free)
    yield Reading("zdfs_stored_bytes", max(0, space.used_bytes - round_bytes))
    yield Reading("zdfs_stored_blocks", max(0, space.blocks - rounds))
    yield Reading("zdfs_unsynced_seconds", store.oldest_unsynced_s())
    yield Reading("zdfs_damaged_blocks_total", store.state.damaged)
    yield Reading("zdfs_repaired_blocks_total", store.state.repaired)
    yield Reading("zdfs_lost_blocks", healer.lost)
    yield Reading("zdfs_repairs_waiting", len(healer.sick))
    yield Reading("zdfs_owed_blocks", parts.collector.owed)
    yield Reading("zdfs_copy_whole", float(bool(parts.mirror and parts.mirror.whole)))
    yield from _rebuild(healer.progress)
    yield from _scrub(parts.scrubber)


def _rebuild(progress: Progress | None) -> Iterator[Reading]:
    """How far it is; zeros: none is underway."""
    one = progress or Progress(0, 0.0)
    yield Reading("zdfs_rebuilding", float(progress is not None))
    yield Reading("zdfs_rebuild_blocks", one.total)
    yield Reading("zdfs_rebuild_done_blocks", one.done)
    yield Reading("zdfs_rebuild_bytes", one.total_bytes)
    yield Reading("zdfs_rebuild_done_bytes", one.done_bytes)


def _scrub(scrubber: Scrubber) -> Iterator[Reading]:
    shown = scrubber.shown()
    yield Reading("zdfs_scrub_running", float(shown.began_ns != 0))
    yield Reading("zdfs_scrub_bytes", shown.total_bytes)
    yield Reading("zdfs_scrub_done_bytes", shown.done_bytes)
    yield Reading("zdfs_scrub_finished_timestamp_seconds", shown.ended_ns / 1e9)
    for what in ("damaged", "missing", "excess", "healed"):
        yield Reading("zdfs_scrub_found_blocks", getattr(shown, what), (what,))
