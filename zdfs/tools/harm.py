"""`zdfs-corrupt`: damage a replica of a file's block, on purpose.

A command of its own: who damages what people stored shall not have mistyped something else.
"""

import random
from argparse import ArgumentParser, Namespace

from zdfs import addresses, wire
from zdfs.corrupt import corrupt
from zdfs.link import Link
from zdfs.tools import admin, visiting

TEXT = "Damage a replica of a file's block, on purpose (on a node started with --faults)."
HARMS = {
    "flip": "some bits of its stored bytes (the default)",
    "truncate": "the second half of its stored bytes",
    "lose": "the server forgets it",
    "stale": "the block's content before the last write, as if that had never reached the disk",
}


def arguments(parser: ArgumentParser) -> None:
    """Which replica, and how."""
    parser.add_argument("port", help="the dataserver's PORT or HOST:PORT")
    parser.add_argument(
        "path", help="the file, as a path inside the file system or on a mount here"
    )
    parser.add_argument("replica", type=int, help="0, 1 or 2: 'zdfs where' says which stands there")
    parser.add_argument("--meta", metavar="ADDR", help="default: the one the dataserver knows")
    ways = parser.add_mutually_exclusive_group()
    for way, text in HARMS.items():
        ways.add_argument(f"--{way}", dest="how", action="store_const", const=way, help=text)
    ways.add_argument("--how", choices=list(HARMS), help="the same, by name (flip)")
    parser.set_defaults(how="flip")
    parser.add_argument("--seed", type=int, help="choose the same block and bits again")


def command(link: Link, chosen: Namespace) -> int:
    """Do it, and say what was changed."""
    server = addresses.parse(chosen.port)
    seed = random.SystemRandom().getrandbits(32) if chosen.seed is None else chosen.seed
    identity = link.run(admin.find_data(server))
    meta = addresses.parse(chosen.meta) if chosen.meta else identity.meta
    path, _ = visiting.inside(chosen.path, None)
    how = wire.Harm[chosen.how.upper()]
    with visiting.visit(link, meta) as volume:
        done = link.run(corrupt(volume, server, path, chosen.replica, how, seed))
    print(f"block {done.block} of {chosen.path}, replica {chosen.replica} on {chosen.port}:")
    if how is wire.Harm.LOSE:
        print("  forgotten")
    elif how is wire.Harm.STALE:
        print(f"  set back to an older content, which differs from byte {done.offset} on")
    else:
        print(f"  before, at byte {done.offset}: {done.before.hex(' ')}")
        print(f"  after,  at byte {done.offset}: {done.after.hex(' ')}")
    return 0
