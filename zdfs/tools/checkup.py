"""`zdfs health`: is all well, and if not, what is to be done?  The checks are in `health`."""

import argparse
import json
import resource
import time
from collections.abc import Sequence
from typing import Any

from zdfs import __version__, checksum, fuse, progress, wire
from zdfs.calls import Ask, Peer, call_all
from zdfs.errors import Outdated, StartError
from zdfs.health import Answered, Check, Grade, Seen, checks, worst
from zdfs.link import Link
from zdfs.reasons import Facts
from zdfs.tools import visiting, why

OVER_S = 3.0
ANSWER_S = 2.0
MARKS = {Grade.OK: "ok      ", Grade.WARNING: "warning ", Grade.CRITICAL: "CRITICAL"}
HEALTH = """Is all well?  Each check says what it found and, where something is wrong, what to do.

exit status
  0  all is well
  1  it works, and somebody should look at it
  2  somebody waits or fails, or the next fault may cost data"""


def options(commands: Any) -> None:
    """Its arguments, for argparse."""
    parser = commands.add_parser(
        "health", help="is all well, and if not: what is to be done?",
        description=HEALTH, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--over", type=visiting.seconds(0, 3600), default=OVER_S, metavar="S",
        help=f"watch for so long how fast disks fill up ({OVER_S:.0f}); 0: don't",
    )  # fmt: skip
    visiting.common(parser)
    parser.set_defaults(do=command)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """Ask everybody and say it."""
    words = "asking everybody" + (f", for {chosen.over:g} s" if chosen.over else "")
    with progress.Shown(chosen.json, words):
        found = checks(look(link, visiting.meta_of(chosen), chosen.over))
    print(json.dumps(facts(found), indent=2) if chosen.json else text(found))
    return int(worst(found))


def look(link: Link, meta: str, over_s: float) -> Seen:
    """All that is asked; silence is an answer, too."""
    mounts = tuple(why.see({meta}))
    earlier, status, refusal = None, None, ""
    try:
        earlier = why.status(link, meta) if over_s else None
        if earlier is not None:
            time.sleep(over_s)
        status = why.status(link, meta)
    except StartError as error:
        refusal = str(error)
    servers = [] if status is None else [one.member.address for one in status.servers]
    answers, misfits = identities(link, [meta, *servers], ANSWER_S)
    return Seen(
        Facts(meta, status, mounts=mounts), __version__, time.time_ns(), answers, earlier, over_s,
        checksum.engine(), _fuse(), resource.getrlimit(resource.RLIMIT_NOFILE)[1], wire.spoken(),
        misfits, refusal,
    )  # fmt: skip


def identities(
    link: Link, servers: Sequence[str], answer_s: float
) -> tuple[dict[str, Answered], dict[str, str]]:
    """Who they are, and by how much their clocks are ahead of ours; and who is too old for us, or
    too new.  `answer_s`: for each, which is asked alone, or others' work would stand in its time.
    """
    found: dict[str, Answered] = {}
    misfits: dict[str, str] = {}
    for address in servers:
        sent, began = time.time_ns(), time.monotonic()
        (answer,) = link.run(call_all([Ask(Peer(address), wire.Identify(), answer_s)]))
        took_s = time.monotonic() - began
        if isinstance(answer, wire.Identity) and answer.clock_ns:
            ahead_s = (answer.clock_ns - sent) / 1e9 - took_s / 2
            found[address] = Answered(answer, ahead_s, took_s / 2)
        elif isinstance(answer, Outdated):
            misfits[address] = answer.text
    return found, misfits


def _fuse() -> str:
    try:
        fuse.binding()
    except StartError as error:
        return str(error)
    return ""


# --- showing it --------------------------------------------------------------------------------


def facts(found: list[Check]) -> dict[str, Any]:
    """With keys that scripts rely on."""
    return {
        "state": worst(found).name.lower(),
        "checks": [
            {
                "name": one.name,
                "state": one.grade.name.lower(),
                "text": one.text,
                "advice": one.advice,
            }
            for one in found
        ],
    }


def text(found: list[Check]) -> str:
    """For people: the worst at the end, where they look."""
    lines = []
    for one in sorted(found, key=lambda check: check.grade):
        lines.append(f"{MARKS[one.grade]}  {one.name}: {one.text}")
        if one.advice:
            lines.append(f"            what to do: {one.advice}")
    bad = sum(one.grade > Grade.OK for one in found)
    last = "all is well" if not bad else f"{bad} of {len(found)} checks ask for something"
    return "\n".join([*lines, "", last])
