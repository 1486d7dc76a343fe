"""`zdfs policy` and `zdfs debts`: what writes wait for, and who is owed what."""

import argparse
import json
import os
from dataclasses import dataclass
from typing import Any

from zdfs import addresses, locating, progress, wire
from zdfs.amounts import printable
from zdfs.calls import Peer
from zdfs.errors import Posix, StartError
from zdfs.ids import ROOT, BlockNo, Ino, Policy, Slot
from zdfs.link import Link
from zdfs.paths import PathVolume
from zdfs.tools import admin, visiting
from zdfs.tools.visiting import inside, meta_of, visit

SHOWN = 20  # files of each server, in text
POLICY = """What do writes below PATH do while a server is down?  Without a value: which policy
holds, and where it comes from.  With one it holds at once, also for what is there already and for
writes that wait, for everything below that has none of its own.  The policy of / is the cluster's.

  all      wait until all three servers of a block have it (what holds where nothing is said)
  quorum   two of a block's three servers suffice; the third is owed it: see zdfs debts
  inherit  as the directory above; a file with several names: the one it was made in or moved to"""
DEBTS = """Which servers are owed blocks that writes under policy quorum went without: how much,
since when, of which files.

exit status
  0  nobody is owed anything
  1  somebody is
  2  nobody knows: the metaserver can't be asked"""


def options(commands: Any) -> None:
    """The arguments of both commands."""
    plain = argparse.RawDescriptionHelpFormatter
    policy = commands.add_parser(
        "policy", help="what writes wait for", description=POLICY, formatter_class=plain
    )
    policy.add_argument("path", help="inside the file system, or on a mount of this machine")
    policy.add_argument("policy", nargs="?", choices=["all", "quorum", "inherit"])
    debts = commands.add_parser(
        "debts", help="who is owed what", description=DEBTS, formatter_class=plain
    )
    for parser, do in ((policy, _policy), (debts, visiting.judging(_debts))):
        visiting.common(parser)
        parser.set_defaults(do=do)


# --- policy ------------------------------------------------------------------------------------


async def policy(volume: PathVolume, path: bytes, wanted: str | None) -> dict[str, Any]:
    """Give a path a policy, if one is wanted; which one holds.  StartError."""
    try:
        ino = (await volume.lookup(path)).ino
        if wanted is None:
            found = await volume.contact.ask(wire.GetPolicy(ino))
        else:
            change = wire.SetPolicy(ino, Policy[wanted.upper()])
            found = await volume.contact.change(change)
    except Posix as error:
        raise StartError(f"{printable(os.fsdecode(path))}: {error}") from error
    origin = None
    if found.origin:
        paths = await locating.paths(volume.contact.meta, {found.origin})
        origin = paths.get(found.origin, b"inode %d" % found.origin)
    return {
        "path": os.fsdecode(path),
        "policy": found.policy.name.lower(),
        "given": None if found.given is Policy.INHERIT else found.given.name.lower(),
        "from": None if origin is None else os.fsdecode(origin),
    }


def policy_text(shown: dict[str, Any]) -> str:
    """For people."""
    if shown["given"]:
        source = "given to it"
    elif shown["from"]:
        source = f"from {shown['from']}"
    else:
        source = "what holds where nothing is said"
    meaning = admin.POLICIES[shown["policy"]]
    return printable(f"{shown['path']}: {shown['policy']} ({source}): {meaning}")


def _policy(link: Link, chosen: argparse.Namespace) -> int:
    path, meta = inside(chosen.path, None)
    with progress.Shown(chosen.json, "asking the metaserver"):
        with visit(link, meta_of(chosen, meta)) as volume:
            facts = link.run(policy(volume, path, chosen.policy))
    print(json.dumps(facts, indent=2) if chosen.json else policy_text(facts))
    return 0


# --- debts -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sum:
    """Debts of one file to one server."""

    blocks: int = 0
    bytes: int = 0
    since_ns: int = 0

    def add(self, owed: wire.Owed) -> None:
        """One more."""
        self.blocks += 1
        self.bytes += owed.want.length
        self.since_ns = min(self.since_ns or owed.since_ns, owed.since_ns)


async def debts(meta: str) -> dict[str, Any]:
    """Who is owed what: by server and file, as the metaserver's records say."""
    await admin.find_meta(meta, serves=False)
    peer = Peer(meta)
    status: wire.Status = await locating.asking(peer, wire.GetStatus())
    sums: dict[Slot, dict[Ino, _Sum]] = {}
    ino, block, end = ROOT, BlockNo(0), False
    while not end:
        page: wire.Debts = await locating.asking(peer, wire.ListDebts(None, ino, block))
        for owed in page.items:
            sums.setdefault(owed.slot, {}).setdefault(owed.want.name.ino, _Sum()).add(owed)
        ino, block, end = page.ino, page.block, page.end
    paths = await locating.paths(peer, {ino for files in sums.values() for ino in files})
    servers = []
    for one in status.servers:
        files = sums.get(one.member.slot, {})
        servers.append(
            {
                "slot": one.member.slot,
                "address": addresses.short(one.member.address),
                "state": one.member.state.name.lower(),
                "replicas": one.owed,
                "bytes": one.owed_bytes,
                "since_ns": one.owed_since_ns or None,
                "files": [_file(ino, paths.get(ino), found) for ino, found in files.items()],
            }
        )
    return {"owed": sum(one.owed for one in status.servers), "servers": servers}


def _file(ino: Ino, path: bytes | None, found: _Sum) -> dict[str, Any]:
    return {
        "inode": ino,
        "path": None if path is None else os.fsdecode(path),
        "replicas": found.blocks,
        "bytes": found.bytes,
        "since_ns": found.since_ns,
    }


def debts_text(shown: dict[str, Any]) -> str:
    """For people."""
    lines = []
    for server in shown["servers"]:
        if not server["replicas"]:
            continue
        lines.append(
            f"dataserver {server['address']} (slot {server['slot']}, {server['state']}) is owed "
            f"{server['replicas']} blocks, {admin.size(server['bytes'])}, "
            f"since {admin.moment(server['since_ns'])}"
        )
        for one in server["files"][:SHOWN]:
            name = one["path"] or f"inode {one['inode']}"
            lines.append(
                f"    {printable(name)}: {one['replicas']} blocks, {admin.size(one['bytes'])}, "
                f"since {admin.moment(one['since_ns'])}"
            )
        if len(server["files"]) > SHOWN:
            lines.append(f"    ... and {len(server['files']) - SHOWN} more files (--json has all)")
    return "\n".join(lines) or "nobody is owed anything"


def _debts(link: Link, chosen: argparse.Namespace) -> int:
    with progress.Shown(chosen.json, "looking for what is owed"):
        facts = link.run(debts(meta_of(chosen)))
    print(json.dumps(facts, indent=2) if chosen.json else debts_text(facts))
    return 1 if facts["owed"] else 0
