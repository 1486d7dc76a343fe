"""`zdfs status` and `zdfs where`: who serves, and which server holds what."""

import argparse
import json
from typing import Any

from zdfs import progress
from zdfs.link import Link
from zdfs.tools import admin, visiting


def options(commands: Any) -> None:
    """The arguments of both commands."""
    status = commands.add_parser("status", help="servers, blocked writes, rebuilds, events")
    where = commands.add_parser("where", help="which server holds which replica of which block")
    where.add_argument("path", help="a path inside the file system, or on a mount of this machine")
    for parser, do in ((status, _status), (where, _where)):
        visiting.common(parser)
        parser.set_defaults(do=do)


def _status(link: Link, chosen: argparse.Namespace) -> int:
    with progress.Shown(chosen.json, "asking the metaserver"):
        facts = link.run(admin.status(visiting.meta_of(chosen)))
    print(json.dumps(facts, indent=2) if chosen.json else admin.status_text(facts))
    return 0


def _where(link: Link, chosen: argparse.Namespace) -> int:
    path, meta = visiting.inside(chosen.path, None)
    with progress.Shown(chosen.json, "asking the servers"):
        with visiting.visit(link, visiting.meta_of(chosen, meta)) as volume:
            facts = link.run(admin.where(volume, path))
    print(json.dumps(facts, indent=2) if chosen.json else admin.where_text(facts))
    return 0
