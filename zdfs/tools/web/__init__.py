"""`zdfs web`: the cluster in a browser.

    poller     asks the cluster, so often, however many browsers look; posts it on a board
    snapshot   what is shown of the cluster; history: of the last hour; picture: of a file
    browse     what browsers ask for by themselves: paths, the cost of an outage
    names      bytes to text and back; doors: who may ask
    site       HTTP, over starlette; serving: uvicorn, and the life of all this
    static     the page: HTML, CSS, modules of JavaScript, as they are

It changes nothing, but for `--allow-actions`.  This module is enough to read the arguments; the
others, which need the packages of `zdfs[web]`, are imported only by the command.
"""

import argparse
from typing import Any

from zdfs.errors import StartError
from zdfs.link import Link
from zdfs.tools import visiting

LISTEN = "8080"
ABOUT = """The cluster in a browser: the ring, what waits and why, rebuilds, events, files.

It changes nothing.  It shows the names of all files to whoever reaches its port, which is on
loopback unless a host is given.  --allow-actions adds one thing that it may start, a scrub of
everything, for those who know the token that is printed at the start."""


def options(commands: Any) -> None:
    """The arguments."""
    parser = commands.add_parser(
        "web", help="the cluster in a browser", description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    visiting.reach(parser)
    parser.add_argument(
        "--listen", default=LISTEN, metavar="ADDR", help=f"PORT or HOST:PORT ({LISTEN})"
    )
    parser.add_argument(
        "--name", action="append", default=[], metavar="HOST",
        help="another name by which browsers reach it; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--allow-actions", action="store_true", help="let the page start a scrub, with a token"
    )
    parser.set_defaults(do=command)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """Serve until ^C."""
    try:
        from zdfs.tools.web import serving
    except ImportError as error:
        if error.name not in ("starlette", "uvicorn", "anyio"):
            raise
        raise StartError(
            f"the web page needs the package {error.name}, which is not installed: "
            "pip install 'zdfs[web]'"
        ) from error
    return serving.serve(chosen)
