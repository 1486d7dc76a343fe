"""`zdfs docker-plugin`: Docker's volumes on a file system, by its volume plugin protocol, v1.

Docker finds the socket in its directory of plugins and posts JSON to it; the answers' `Err` is what
its user reads.  docs/API.md has what to type.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from zdfs.errors import StartError
from zdfs.link import Link
from zdfs.tools import visiting

SOCKET = Path("/run/docker/plugins/zdfs.sock")
STATE = Path("/run/zdfs-docker")
BELOW = "/volumes"


def options(commands: Any) -> None:
    """Its arguments, for argparse."""
    parser = commands.add_parser(
        "docker-plugin", help="serve Docker's volumes: docker volume create -d zdfs NAME",
        description="Serve Docker's volumes, a directory of the file system each, until ^C.  "
        "Mounts that containers use stay when it ends, and it knows them when it starts again.",
    )  # fmt: skip
    parser.add_argument(
        "--socket", type=Path, default=SOCKET, metavar="PATH",
        help=f"where Docker looks for it; its name is the driver's ({SOCKET})",
    )  # fmt: skip
    parser.add_argument(
        "--below", default=BELOW, metavar="PATH", help=f"the directory of the volumes ({BELOW})"
    )
    parser.add_argument(
        "--state", type=Path, default=STATE, metavar="DIR",
        help=f"for the mount, and who uses it; to be empty after a boot ({STATE})",
    )  # fmt: skip
    visiting.reach(parser)
    parser.set_defaults(do=command)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """Serve until ^C or SIGTERM."""
    from zdfs.tools import dockersocket, dockervolumes  # what no other command needs is not loaded

    meta, keys = visiting.meta_of(chosen), chosen.keys
    if not chosen.below.startswith("/"):
        raise StartError(f"--below {chosen.below}: a path inside the file system, from its root")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.getLogger().handlers[:] = [handler]
    logging.getLogger().setLevel(logging.INFO)
    state = chosen.state.absolute()
    mounted = dockervolumes.Mounted(state, meta, keys)
    connect = dockervolumes.connector(meta, keys)
    volumes = dockervolumes.Volumes(connect, chosen.below, state, mounted)
    dockersocket.serve(chosen.socket, volumes)
    return 0
