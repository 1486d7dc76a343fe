"""`zdfs faults`: faults on purpose, for trials, on nodes that were started with --faults."""

import argparse
from typing import Any

from zdfs import addresses, wire
from zdfs.calls import Peer, call
from zdfs.errors import StartError
from zdfs.link import Link
from zdfs.tools import admin, visiting


def options(commands: Any) -> None:
    """Its arguments, for argparse."""
    parser = commands.add_parser("faults", help="faults on purpose (needs --faults on the node)")
    kinds = parser.add_subparsers(required=True, metavar="skip")
    skip = kinds.add_parser("skip", help="let commits go ahead without a server")
    skip.add_argument("port", help="the dataserver's PORT or HOST:PORT")
    skip.add_argument("switch", choices=["on", "off"])
    visiting.reach(skip)
    skip.set_defaults(do=command)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """Switch it, once the server is known to be of this cluster."""
    meta, server = visiting.meta_of(chosen), addresses.parse(chosen.port)
    link.run(admin.find_meta(meta))
    found = link.run(call(Peer(meta), wire.GetStatus()))
    slots = {one.member.address: one.member.slot for one in found.servers}
    if server not in slots:
        known = ", ".join(addresses.short(address) for address in slots)
        raise StartError(f"no dataserver has port {chosen.port}; there are {known}")
    link.run(call(Peer(meta), wire.Skip(slots[server], chosen.switch == "on")))
    print(f"commits {'skip' if chosen.switch == 'on' else 'wait for'} dataserver {chosen.port}")
    return 0
