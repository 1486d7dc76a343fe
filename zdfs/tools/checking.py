"""`zdfs fsck`: arguments, and what it prints.  The work is in `fsck`, the words in `findings`."""

import argparse
import json
import sys
from typing import Any

from zdfs import findings, fsck, progress
from zdfs.errors import Failure, StartError
from zdfs.link import Link
from zdfs.tools import admin, visiting

FSCK = """Compare metadata, block maps and what every dataserver holds.  Without --repair
nothing is changed.

exit status
  0  everything is in its place
  1  something is not, and nothing is lost: it heals by itself or by --repair
  2  content or metadata is lost, or not everything could be looked at (which is said)"""


def options(commands: Any) -> None:
    """Its arguments, for argparse."""
    parser = commands.add_parser(
        "fsck", help="is everything where it must be? while the cluster works",
        description=FSCK, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--repair", action="store_true", help="mend what can be mended without a guess; check again"
    )
    visiting.common(parser)
    parser.set_defaults(do=command)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """Check, perhaps repair, and say it."""
    meta = visiting.meta_of(chosen)
    before: findings.Report | None = None
    try:
        with progress.Shown(chosen.json, "asking the metaserver") as shown:
            link.run(admin.find_meta(meta))
            if chosen.repair:
                before, report = link.run(fsck.check_and_repair(meta, shown))
            else:
                report = link.run(fsck.check(meta, False, shown))
    except (StartError, Failure, KeyboardInterrupt) as error:
        print(f"zdfs: the check was not finished: {str(error) or 'stopped'}", file=sys.stderr)
        return findings.LOST
    facts = findings.facts(report, before)
    print(json.dumps(facts, indent=2) if chosen.json else findings.text(report, before))
    return report.status
