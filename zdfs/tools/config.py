"""`zdfs config`: what the configuration files say, where each value comes from, and what is wrong.

`check` also looks at what only this machine knows: whether names have addresses, and whether the
keys are there.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from zdfs import addresses, arguments, limits
from zdfs.configuration import Settings, Value
from zdfs.link import Link

TEXT = """What the configuration files say, and which file says it.  They are read in this order, a
later one goes over an earlier one, and the command line goes over both:
  /etc/zdfs/cluster.toml
  ~/.config/zdfs/cluster.toml
or, instead of them, the one that --config or ZDFS_CONFIG names.

exit status
  0  that is what holds
  1  something is wrong: each is said, with its place"""


def options(commands: Any) -> None:
    """Its arguments, for argparse."""
    parser = commands.add_parser(
        "config", help="what the configuration files say; check: is it right?",
        description=TEXT, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "what", nargs="?", choices=["show", "check"], default="show",
        help="show (the default), or check",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="facts with stable keys")
    parser.set_defaults(do=command, shows_configuration=True)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """Show or check."""
    found: Settings = chosen.configured
    place = arguments.located(_told(chosen), os.environ)
    problems = list(found.problems)
    if chosen.what == "check":
        problems += doubts(found)
    shown = facts(found, place, problems)
    print(json.dumps(shown, indent=2) if chosen.json else text(shown))
    return 1 if problems else 0


def _told(chosen: argparse.Namespace) -> list[str]:
    """The words of the command line that say where to read."""
    words = {"--config": chosen.config, "--cluster": chosen.cluster}
    return [f"{option}={word}" for option, word in words.items() if word is not None]


# --- what may be wrong -------------------------------------------------------------------------


def doubts(found: Settings) -> list[str]:
    """What is well written and can't work here."""
    doubtful = []
    meta, data = (found.values.get(("", key)) for key in ("meta", "data"))
    if data is not None and len(data.value) < limits.SERVERS_MIN:
        doubtful.append(_at(data, f"data: a cluster has {limits.SERVERS_MIN} dataservers or more"))
    if meta is None and data is not None:
        doubtful.append(
            _at(data, f"data: no metaserver is named beside it (meta = ...; {arguments.META})")
        )
    named = [(meta, [meta.value])] if meta else []
    named += [(data, data.value)] if data else []
    for value, each in named:
        for one in each:
            if nameless := addresses.nameless(one):
                doubtful.append(_at(value, nameless))
    for (_, key), value in found.values.items():
        if key == "keys" and not Path(value.value).is_dir():
            doubtful.append(_at(value, f"keys: {value.value}: there is no such directory"))
    return doubtful


def _at(value: Value, what: str) -> str:
    line = "" if value.line is None else f", line {value.line}"
    return f"{value.source}{line}: {what}"


# --- showing it --------------------------------------------------------------------------------


def facts(found: Settings, place: arguments.Place, problems: list[str]) -> dict[str, Any]:
    """With keys that scripts rely on."""
    return {
        "cluster": place.cluster,
        "files": [{"path": str(path), "there": path.exists()} for path in place.files],
        "clusters": sorted(found.clusters),
        "values": [
            {
                "section": section,
                "key": key,
                "value": str(one.value) if isinstance(one.value, Path) else one.value,
                "file": one.source,
                "line": one.line,
            }
            for (section, key), one in sorted(found.values.items())
        ],
        "problems": problems,
    }


def text(shown: dict[str, Any]) -> str:
    """As a file that says all of it would look."""
    lines = []
    for file in shown["files"]:
        lines.append(f"# {file['path']}{'' if file['there'] else ': not there'}")
    if shown["clusters"]:
        lines.append(f"# clusters by name: {', '.join(shown['clusters'])}")
    if shown["cluster"] is not None:
        lines.append(f"# this is {shown['cluster']}")
    if not shown["values"] and not shown["problems"]:
        lines.append(
            f"# nothing is said: the metaserver is at {arguments.META}, all else as built in"
        )
    section = ""
    for one in shown["values"]:
        if one["section"] != section:
            section = one["section"]
            lines += ["", f"[{section}]"]
        place = one["file"] + ("" if one["line"] is None else f":{one['line']}")
        lines.append(f"{one['key']} = {_toml(one['value'])}".ljust(48) + f"  # {place}")
    return "\n".join([*lines, *(f"wrong: {problem}" for problem in shown["problems"])])


def _toml(value: Any) -> str:
    if isinstance(value, str) and ":" in value:
        value = addresses.short(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)
