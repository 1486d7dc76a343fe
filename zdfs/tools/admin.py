"""What `zdfs` shows: status and where, as facts (JSON with stable keys) and as text for people."""

import os
import time
from errno import EISDIR
from typing import TYPE_CHECKING, Any

from zdfs import addresses, blockmap, limits, placement, wire
from zdfs.amounts import printable
from zdfs.amounts import size as size  # so that tools find it beside `moment`
from zdfs.calls import Ask, Peer, call, call_all, now, sleep
from zdfs.errors import Mistrusted, Posix, StartError, Unreachable
from zdfs.ids import BlockNo, Ino, Slot
from zdfs.wire import Held, State

if TYPE_CHECKING:
    from zdfs.paths import PathVolume

POLICIES = {
    "all": "a write waits while any server is down",
    "quorum": "a write needs two of a block's three servers, the third is owed it",
}

SILENT = "no metaserver answers at {}: is it running, and is that its address?"

# --- is there anybody? -------------------------------------------------------------------------


async def find_meta(meta: str, patience_s: float = 0.0, serves: bool = True) -> wire.Identity:
    """The metaserver at an address, once it `serves` or at least answers; StartError says why not
    after so many seconds."""
    shown, end = addresses.short(meta), await now() + patience_s
    while True:
        try:
            identity: wire.Identity = await call(Peer(meta), wire.Identify())
        except Mistrusted as error:
            raise StartError(error.text) from error
        except Unreachable:
            why = ""
        else:
            if identity.role is not wire.Role.META:
                raise StartError(f"{shown} is a dataserver: name the metaserver's port")
            if identity.state is State.SERVING or not serves:
                return identity
            why = f"the metaserver at {shown} can't serve yet: {identity.note}"
        if await now() >= end:  # a host may be known only now: names come with the network
            raise StartError(why or addresses.nameless(meta) or SILENT.format(shown))
        await sleep(limits.RETRY_S / 4)


async def find_data(server: str) -> wire.Identity:
    """The dataserver at an address; StartError."""
    shown = addresses.short(server)
    try:
        identity: wire.Identity = await call(Peer(server), wire.Identify())
    except Mistrusted as error:
        raise StartError(error.text) from error
    except Unreachable:
        raise StartError(
            addresses.nameless(server)
            or f"no dataserver answers at {shown}: is it running, and is that its address?"
        ) from None
    if identity.role is not wire.Role.DATA:
        raise StartError(f"{shown} is a metaserver: name a dataserver's port")
    return identity


# --- status ------------------------------------------------------------------------------------


async def status(meta: str) -> dict[str, Any]:
    """All of `zdfs status`, as JSON has it."""
    identity = await find_meta(meta, serves=False)
    found = await call(Peer(meta), wire.GetStatus())
    return facts(found) | _releases(identity)


def _releases(identity: wire.Identity) -> dict[str, Any]:
    """What the metaserver is, and which releases its store has seen."""
    return {
        "release": identity.release.partition(" ")[0],
        "protocols": list(wire.protocols_of(identity)),
        "format": identity.format or None,
        "lineage": [one._asdict() for one in identity.lineage],
    }


def facts(found: wire.Status) -> dict[str, Any]:
    """A status reply with the keys that scripts rely on."""
    ports = {s.member.slot: addresses.short(s.member.address) for s in found.servers}
    blocked = [
        {
            "mount": f"{mount.host}:{mount.mount}",
            "slot": blocked.slot,
            "address": ports.get(blocked.slot, "?"),
            "since_s": round(blocked.since_ms / 1000, 1),
            "writers": blocked.writers,
            "policy": "quorum" if blocked.quorum else "all",
        }
        for mount in found.sessions
        for blocked in mount.blocked
    ]
    return {
        "cluster": found.cluster.hex(),
        "note": found.note,
        "policy": found.policy.name.lower(),
        "block_size": found.block_bytes,
        "incarnation": found.incarnation,
        "refused": found.refused,
        "meta_copies": {
            "needed": found.copies.needed,
            "members": [
                {
                    "slot": one.slot,
                    "address": ports.get(one.slot, "?"),
                    "whole": one.whole,
                    "rounds_behind": one.lag,
                }
                for one in found.copies.members
            ],
        },
        "writes_blocked": blocked,
        "servers": [_server(one) for one in found.servers],
        "mounts": [f"{mount.host}:{mount.mount}" for mount in found.sessions],
        "events": [
            {"at_ns": event.at_ns, "kind": event.kind, "text": event.text} for event in found.events
        ],
    }


def _server(one: wire.ServerStatus) -> dict[str, Any]:
    member, health = one.member, one.health
    return {
        "slot": member.slot,
        "address": addresses.short(member.address),
        "state": member.state.name.lower(),
        "protocols": list(one.protocols),
        "skipped": member.skipped,
        "free_bytes": health.free_bytes,
        "total_bytes": health.total_bytes,
        "used_bytes": health.used_bytes,
        "blocks": health.blocks,
        "last_seen_s": None if one.silent_ms > 2**60 else round(one.silent_ms / 1000, 1),
        "damaged": health.damaged,
        "repaired": health.repaired,
        "refused": health.refused,
        "checksum_engine": health.engine,
        "rebuild": None if health.rebuild is None else _rebuild(health.rebuild),
        "owed": {
            "replicas": one.owed,
            "bytes": one.owed_bytes,
            "since_ns": one.owed_since_ns or None,
        },
    }


def _rebuild(rebuild: wire.Rebuild) -> dict[str, Any]:
    seconds = rebuild.elapsed_ms / 1000
    left, rate = rebuild.total_bytes - rebuild.done_bytes, rebuild.bytes_per_s
    return {
        "done": rebuild.done,
        "total": rebuild.total,
        "done_bytes": rebuild.done_bytes,
        "total_bytes": rebuild.total_bytes,
        "blocks_per_s": round(rebuild.done / seconds, 1) if seconds > 0 else 0.0,
        "bytes_per_s": rate,
        "eta_s": round(max(0, left) / rate, 1) if rate else None,
    }


def moment(at_ns: int) -> str:
    """A time for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ns / 1e9))


def _copies_line(shown: dict[str, Any]) -> str:
    if not shown["needed"]:
        return "no copies of the metadata: the metaserver's store is the only one"
    members = [
        one["address"] + ("" if one["whole"] else " (being filled)") for one in shown["members"]
    ]
    return f"copies on dataservers {', '.join(members)}; each change needs {shown['needed']}"


def _writes(shown: dict[str, Any]) -> str:
    """What a write would do, where nobody is known to wait."""
    down = ", ".join(one["address"] for one in shown["servers"] if one["state"] == "down")
    if shown["note"]:
        return "would wait, as whatever changes names does"
    if not down:
        return "go through"
    if shown["policy"] == "all":
        return f"would wait for {down}, which is down (but below directories of policy quorum)"
    return f"go on where two of a block's three servers are up; down: {down}"


def status_text(shown: dict[str, Any], events: int = 8) -> str:
    """The status for people."""
    lines = [f"cluster   {shown['cluster'] or 'not founded yet'}"]
    if shown["note"]:
        lines.append(f"waiting   {shown['note']}")
    lines.append(f"policy    {shown['policy']}: {POLICIES[shown['policy']]}")
    if shown["writes_blocked"]:
        for one in shown["writes_blocked"]:
            lines.append(
                f"blocked   writes on {one['mount']} wait for dataserver {one['address']} "
                f"for {one['since_s']} s (writers: {one['writers']})"
                + (
                    "; of some block fewer than two of its three servers are left, which policy "
                    "quorum needs"
                    if one["policy"] == "quorum"
                    else ""
                )
            )
    else:
        lines.append(f"writes    {_writes(shown)}")
    lines.append(f"names     {_copies_line(shown['meta_copies'])}")
    lines += ["", f"{'slot':>4}  {'address':<22}{'state':<12}{'free':>10}{'blocks':>10}  last seen"]
    for server in shown["servers"]:
        lines += _server_lines(server)
    recent = shown["events"][-events:]
    if recent:
        lines += ["", "events"]
        for event in recent:
            lines.append(f"  {moment(event['at_ns'])}  {event['kind']}: {event['text']}")
    return "\n".join(map(printable, lines))


def _server_lines(server: dict[str, Any]) -> list[str]:
    seen = "never" if server["last_seen_s"] is None else f"{server['last_seen_s']} s ago"
    lines = [
        f"{server['slot']:>4}  {server['address']:<22}{server['state']:<12}"
        f"{size(server['free_bytes']):>10}{server['blocks']:>10}  {seen}"
        + ("  (skipped)" if server["skipped"] else "")
    ]
    if server["rebuild"]:
        job = server["rebuild"]
        eta = "unknown" if job["eta_s"] is None else f"{job['eta_s']} s"
        lines.append(
            f"      rebuilding {job['done']} of {job['total']} blocks, "
            f"{size(job['bytes_per_s'])}/s, done in {eta}"
        )
    if server["owed"]["replicas"]:
        owed = server["owed"]
        lines.append(
            f"      owed {owed['replicas']} blocks, {size(owed['bytes'])}, "
            f"since {moment(owed['since_ns'])}: zdfs debts"
        )
    if server["damaged"]:
        lines.append(f"      damage found {server['damaged']}, repaired {server['repaired']}")
    if "pure" in server["checksum_engine"]:
        lines.append("      checksums by slow Python: install fastcrc, or crcmod with a compiler")
    return lines


# --- where -------------------------------------------------------------------------------------

MARKS = {"ok": "", "down": "?", "missing": " missing", "damaged": " damaged", "owed": " owed"}
STATES = {Held.OK: "ok", Held.MISSING: "missing", Held.NOT_YET: "missing", Held.DAMAGED: "damaged"}


async def where(volume: "PathVolume", path: bytes) -> dict[str, Any]:
    """Which server holds which replica of which block, as the servers say now.  StartError, in
    words for people: no such file."""
    try:
        attributes, pages = await volume.where(path)
    except Posix as error:
        hint = "; name a file in it" if error.number == EISDIR else ""
        raise StartError(f"{printable(os.fsdecode(path))}: {error}{hint}") from error
    members = volume.contact.map.members
    wanted: list[tuple[int, wire.Wanted]] = []
    blocks: list[dict[str, Any]] = []
    for page in pages:
        for position, entry in enumerate(blockmap.unpack_page(page.entries)):
            if entry is None:
                continue
            block = BlockNo(page.page * limits.PAGE_BLOCKS + position)
            name = blockmap.name_of(attributes.ino, block, entry)
            want = wire.Wanted(name, entry.seal, attributes.epoch, attributes.start, entry.stored)
            wanted.append((len(blocks), want))
            blocks.append(
                {
                    "block": block,
                    "version": f"{entry.version.token:x}.{entry.version.sequence}",
                    "length": entry.visible,
                    "crc16": entry.seal.crc16,
                    "crc32c": entry.seal.crc32c,
                    "replicas": [
                        {
                            "replica": replica,
                            "slot": slot,
                            "address": addresses.short(members[slot].address),
                            "state": "down",
                        }
                        for replica, slot in enumerate(
                            placement.slots(attributes.start, block, len(members))
                        )
                    ],
                }
            )
    await _check(volume, wanted, blocks)
    await _mark_owed(volume, attributes.ino, {block["block"]: block for block in blocks})
    return {
        "path": path.decode(errors="surrogateescape"),
        "inode": attributes.ino,
        "size": attributes.size,
        "start": attributes.start,
        "block_size": volume.block_bytes,
        "blocks": blocks,
    }


async def _check(
    volume: "PathVolume", wanted: list[tuple[int, wire.Wanted]], blocks: list[dict[str, Any]]
) -> None:
    """Fill in what each server says of its replicas."""
    members = volume.contact.map.members
    for member in members:
        slot = Slot(member.slot)
        mine = [
            (number, want)
            for number, want in wanted
            if slot in placement.slots(want.start, want.name.block, len(members))
        ]
        for first in range(0, len(mine), limits.BLOCKS):
            part = mine[first : first + limits.BLOCKS]
            check = wire.Check(volume.contact.cluster, tuple(want for _, want in part))
            patience = limits.TIMEOUT_S / 2 if member.state is State.DOWN else limits.BULK_TIMEOUT_S
            (answer,) = await call_all([Ask(Peer(member.address), check, patience)])
            if not isinstance(answer, wire.Checked):
                break
            for (number, _), held in zip(part, answer.held):
                for replica in blocks[number]["replicas"]:
                    if replica["slot"] == slot:
                        replica["state"] = STATES[held]


async def _mark_owed(volume: "PathVolume", ino: Ino, blocks: dict[int, dict[str, Any]]) -> None:
    """Replicas that commits went without, and that aren't there yet, or can't be asked for."""
    first = BlockNo(0)
    while True:
        page = await volume.contact.ask(wire.ListDebts(None, ino, first))
        for owed in page.items:
            block = blocks.get(owed.want.name.block)
            if owed.want.name.ino == ino and block is not None:
                for replica in block["replicas"]:
                    if replica["slot"] == owed.slot and replica["state"] in ("missing", "down"):
                        replica["state"] = "owed"
        if page.end or page.ino != ino:
            return
        first = page.block


def where_text(shown: dict[str, Any]) -> str:
    """A row for each server with what it holds and what of that isn't whole."""
    slots: dict[int, dict[int, list[str]]] = {}
    names: dict[int, str] = {}
    for block in shown["blocks"]:
        for one in block["replicas"]:
            mark = MARKS[one["state"]]
            cell = slots.setdefault(one["slot"], {}).setdefault(one["replica"], [])
            cell.append(f"{block['block']}{mark}")
            names[one["slot"]] = one["address"]
    count = len(shown["blocks"])
    lines = [
        f"{shown['path']}: inode {shown['inode']}, {shown['size']} bytes, "
        f"{count} block{'s' * (count != 1)} of {shown['block_size']}, start slot {shown['start']}"
    ]
    for slot in sorted(slots):
        lines.append(f"slot {slot} ({names[slot]})")
        for replica in sorted(slots[slot]):
            lines.append(f"    replica {replica}: block {_ranges(slots[slot][replica])}")
    if any(one["state"] == "down" for block in shown["blocks"] for one in block["replicas"]):
        lines.append("?: its server does not answer")
    return "\n".join(map(printable, lines))


def _ranges(cells: list[str]) -> str:
    return ", ".join(cells) if len(cells) <= 40 else f"{', '.join(cells[:40])} ... ({len(cells)})"
