"""`zdfs meta ...`: what people do about the metaserver's store.  Arguments, and what is printed."""

import argparse
import json
from contextlib import closing
from pathlib import Path
from typing import Any

from zdfs import addresses, limits, progress, rebuild
from zdfs.arguments import KEYS, META
from zdfs.errors import StartError
from zdfs.ids import Slot
from zdfs.link import Link
from zdfs.salvage import KINDS, Accepted, Candidate, Doubt, Made, Plan
from zdfs.store import LmdbStore
from zdfs.tools.visiting import meta_of

SHOWN = 20  # doubtful blocks of each kind, in text
REBUILD = """Make a lost metaserver's store anew from the blocks that the dataservers hold: the last
resort, when neither the store nor a copy of it is left.  All dataservers run, no metaserver does.
Each file that has a block is then in /lost+found, by its inode number ('ls -i' has shown it);
names, directories, owners, modes, times, attributes, symlinks and empty files are gone.  See
docs/RECOVERY.md.  Nothing that the dataservers hold is dropped before 'zdfs-node meta' is started
on the new store."""


def options(commands: Any) -> None:
    """The arguments of `zdfs meta`."""
    group = commands.add_parser("meta", help="when the metaserver's store is lost")
    kinds = group.add_subparsers(dest="meta_command", required=True, metavar="rebuild")
    one = kinds.add_parser(
        "rebuild", help="make it anew from the dataservers' blocks, as far as that goes",
        description=REBUILD, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    one.add_argument("ports", nargs="*", help="every dataserver's PORT or HOST:PORT, in ring order")
    one.add_argument(
        "--store", type=Path, required=True, metavar="DIR", help="the new store; new or empty"
    )
    one.add_argument(
        "--without", type=int, action="append", default=[], metavar="INDEX",
        help="go on without a dataserver that can't be started",
    )  # fmt: skip
    one.add_argument(
        "--block-size", type=int, metavar="BYTES", help="only if no dataserver knows it"
    )
    one.add_argument(
        "--newest-only", action="store_true",
        help="don't copy versions that don't count to files of their own: they will be dropped",
    )  # fmt: skip
    one.add_argument(
        "--accept-holes", action="store_true",
        help="go on though three neighbours are missing: lost blocks will read as zeros",
    )  # fmt: skip
    one.add_argument(
        "--despite-copies", action="store_true",
        help="go on though dataservers have whole copies of the metadata: they will be given up",
    )  # fmt: skip
    one.add_argument("--meta", metavar="ADDR", help=f"where no metaserver may answer ({META})")
    one.add_argument("--keys", type=Path, metavar="DIR", help=KEYS)
    one.add_argument("--json", action="store_true", help="facts with stable keys")
    one.set_defaults(do=command)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """`zdfs meta rebuild`."""
    meta = meta_of(chosen)
    ring = tuple(addresses.parse(port) for port in chosen.ports)
    without = frozenset(Slot(index) for index in chosen.without)
    if len(ring) < limits.SERVERS_MIN or len(set(ring)) != len(ring):
        raise StartError(
            f"name every dataserver's port once: {limits.SERVERS_MIN} or more, in ring order"
        )
    if not without <= set(range(len(ring))):
        raise StartError(f"--without: the ports have places 0 to {len(ring) - 1}")
    _must_be_empty(chosen.store)
    accepted = Accepted(chosen.accept_holes, chosen.despite_copies)
    with progress.Shown(chosen.json, "asking the dataservers") as shown:
        plan = link.run(rebuild.survey(ring, meta, without, chosen.block_size, accepted))
        with closing(LmdbStore(chosen.store)) as store:
            try:
                made = link.run(rebuild.build(plan, store, not chosen.newest_only, shown))
            except StartError as error:
                raise StartError(f"{error} ({chosen.store} is unfinished: remove it)") from error
    facts = describe(plan, made)
    print(json.dumps(facts, indent=2) if chosen.json else text(facts, chosen.store))
    return 0


def _must_be_empty(store: Path) -> None:
    try:
        there = store.exists() and (not store.is_dir() or any(store.iterdir()))
    except OSError as error:
        raise StartError(f"{store}: {error.strerror}") from error
    if there:
        raise StartError(
            f"{store} is not empty: nothing is ever written over a store; name a new directory"
        )


# --- what was made -----------------------------------------------------------------------------


def describe(plan: Plan, made: Made) -> dict[str, Any]:
    """The JSON document."""
    slots = range(len(plan.ring))
    return {
        "cluster": plan.cluster.hex(),
        "block_size": plan.block_bytes,
        "incarnation": plan.incarnation,
        "servers": [addresses.short(address) for address in plan.ring],
        "without": [slot for slot in slots if slot not in plan.told],
        "empty": [slot for slot in slots if slot in plan.told and slot not in plan.heard],
        "unproven": list(plan.missing),
        "files": made.files,
        "extra_files": made.extras,
        "blocks": made.blocks,
        "bytes": made.stored,
        "versions": made.versions,
        "thin_blocks": made.thin,
        "leftovers": made.leftovers,
        "counts": {kind: made.counts[kind] for kind in KINDS if kind in made.counts},
        "doubtful": [_doubtful(one) for one in made.doubts],
    }


def _doubtful(one: Doubt) -> dict[str, Any]:
    taken = one.choice.taken
    name = (taken or one.choice.others[0]).name
    return {
        "kind": one.choice.kind,
        "inode": name.ino,
        "block": name.block,
        "counts": None if taken is None else _version(taken) | {"readable": one.readable},
        "others": [
            _version(other) | {"file": None if kept is None else f"/lost+found/{kept.decode()}"}
            for other, kept in zip(one.choice.others, one.kept)
        ],
    }


def _version(one: Candidate) -> dict[str, Any]:
    token, sequence = one.name.version
    return {"version": f"{token:x}.{sequence}", "length": one.length, "slots": list(one.slots)}


def text(facts: dict[str, Any], store: Path) -> str:
    """For people."""
    lines = [
        f"made {store} for cluster {facts['cluster']}: {facts['files']} files of "
        f"{facts['blocks']} blocks, {facts['bytes']} bytes, in /lost+found"
    ]
    for slot in facts["without"]:
        lines.append(f"done without dataserver {facts['servers'][slot]} (slot {slot})")
    for slot in facts["empty"]:
        lines.append(f"dataserver {facts['servers'][slot]} (slot {slot}) is empty")
    if facts["unproven"]:
        names = ", ".join(facts["servers"][slot] for slot in facts["unproven"])
        lines.append(f"what had all its copies on {names} is lost, and reads as zeros")
    if facts["thin_blocks"]:
        lines.append(
            f"{facts['thin_blocks']} blocks have fewer than {limits.REPLICAS} copies: the "
            "dataservers copy them when they have a metaserver"
        )
    if facts["leftovers"]:
        lines.append(
            f"{facts['leftovers']} records of an earlier rebuild that was not used are left out"
        )
    for kind, count in facts["counts"].items():
        lines.append(f"{count} blocks {kind}: {KINDS[kind]}")
        shown = [one for one in facts["doubtful"] if one["kind"] == kind]
        lines += [f"    {_line(one)}" for one in shown[:SHOWN]]
        if count > SHOWN:
            lines.append(f"    ... and {count - len(shown[:SHOWN])} more (--json)")
    return "\n".join([*lines, f"next: zdfs-node meta PORT --store {store}, then zdfs fsck"])


def _line(one: dict[str, Any]) -> str:
    files = [other["file"] or "nowhere" for other in one["others"]]
    counts = one["counts"]
    lost = counts is not None and not counts["readable"]
    return (
        f"inode {one['inode']} block {one['block']}"
        + (": nobody can read it now, so it is EIO" if lost else "")
        + (f"; other versions: {', '.join(files)}" if files else "")
    )
