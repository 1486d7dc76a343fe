"""`zdfs ping`: does one server answer, and who is it?  For container health checks and people."""

import argparse
import json
from typing import Any

from zdfs import addresses, wire
from zdfs.calls import Ask, Peer, call_all
from zdfs.link import Link
from zdfs.tools import visiting, why

ANSWER_S = 5.0
PING = """Does each of these servers answer, and who is it?

exit status
  0  all of them answer
  1  one does not
With --serving one that answers and waits for something, which is said, counts as silent."""


def options(commands: Any) -> None:
    """Its arguments, for argparse."""
    parser = commands.add_parser(
        "ping", help="does a server answer, and who is it?",
        description=PING, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "servers", nargs="*", metavar="ADDR", help="PORT or HOST:PORT (the metaserver)"
    )
    parser.add_argument("--serving", action="store_true", help="and serves")
    visiting.common(parser)
    parser.set_defaults(do=command)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """Ask and say it."""
    asked = [addresses.parse(text) for text in chosen.servers] or [visiting.meta_of(chosen)]
    answers = link.run(_ask(asked))
    found = [facts(address, answer) for address, answer in zip(asked, answers)]
    print(json.dumps(found, indent=2) if chosen.json else "\n".join(map(text, found)))
    good = [one["answers"] and (one["serving"] or not chosen.serving) for one in found]
    return 0 if all(good) else 1


async def _ask(servers: list[str]) -> list[Any]:
    return await call_all([Ask(Peer(one), wire.Identify(), ANSWER_S) for one in servers])


def facts(address: str, answer: object) -> dict[str, Any]:
    """With keys that scripts rely on."""
    if not isinstance(answer, wire.Identity):
        return {
            "address": addresses.short(address),
            "answers": False,
            "serving": False,
            "note": why.refusal(answer) or f"no answer within {ANSWER_S:g} s",
        }
    data = answer.role is wire.Role.DATA
    return {
        "address": addresses.short(address),
        "answers": True,
        "serving": not answer.note,
        "role": answer.role.name.lower(),
        "slot": answer.slot if data else None,
        "release": answer.release,
        "state": answer.state.name.lower(),
        "note": answer.note,
    }


def text(one: dict[str, Any]) -> str:
    """For people."""
    if not one["answers"]:
        return f"{one['address']}: {one['note']}"
    who = "metaserver" if one["slot"] is None else f"dataserver, slot {one['slot']}"
    how = one["note"] or "serves"
    return f"{one['address']}: {who}, zdfs {one['release']}: {how}"
