"""Command lines over configuration files: each parser's defaults come from the files.

    command line  >  ~/.config/zdfs/cluster.toml  >  /etc/zdfs/cluster.toml  >  built in

`--config FILE`, or ZDFS_CONFIG, names one file that stands in for both.  A key of a file is a long
option of a command (`configuration.Schema` is made of their parsers here), checked as the command
line checks it.  What a file sets becomes the option's default, so argparse goes on as ever.
"""

import argparse
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zdfs import addresses
from zdfs.configuration import Converter, Schema, Settings, Unfit, address, merged, read, ring
from zdfs.errors import StartError

SYSTEM = Path("/etc/zdfs/cluster.toml")
META = "2222"
KEYS = "a directory of 'zdfs keys': speak under its key, and only with servers whose keys it has"
SECTIONS = {  # which sections hold for which parser, by its prog; later ones win
    "zdfs-mount": ("mount",),
    "zdfs-node meta": ("node", "node.meta"),
    "zdfs-node data": ("node", "node.data"),
}
NOTHING = Path(os.devnull)
NOT_IN_FILES = {"help", "version", "config", "cluster", "store", "foreground", "meta"}
OPTION_TYPES = (argparse._StoreAction, argparse._AppendAction, argparse._StoreTrueAction)


class Place(NamedTuple):
    """Where to read from."""

    files: tuple[Path, ...]
    must: bool  # be there
    cluster: str | None


def options(parser: argparse.ArgumentParser, *, below: bool = False) -> None:
    """The options of every command; `below`: of a command that stands behind another, whose own
    must not be forgotten."""
    default = argparse.SUPPRESS if below else None
    parser.add_argument(
        "--config", metavar="FILE", default=default,
        help=f"the configuration (~/.config/zdfs/cluster.toml over {SYSTEM}; or $ZDFS_CONFIG)",
    )  # fmt: skip
    parser.add_argument(
        "--cluster", metavar="NAME", default=default, help="the cluster that it has by this name"
    )


def settled(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str],
    schema: Schema,
    environment: Mapping[str, str],
) -> argparse.Namespace:
    """Parse a command line.  The namespace also has `configured`, the Settings that hold.

    StartError: a file is wrong or not there; not for a command that is there to say so
    (`shows_configuration`).
    """
    place = located(arguments, environment)
    found = load(place, schema)
    for one in parsers(parser):
        _apply(one, found)
    chosen = parser.parse_args(arguments)
    if found.problems and not getattr(chosen, "shows_configuration", False):
        more = len(found.problems) - 1
        hint = f" (and {more} more: zdfs config check)" if more else ""
        raise StartError(found.problems[0] + hint)
    chosen.configured = found
    return chosen


def located(arguments: Sequence[str], environment: Mapping[str, str]) -> Place:
    """Which files, as a command line and the environment say."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    options(early)
    try:
        chosen, _ = early.parse_known_args(arguments)
    except argparse.ArgumentError:  # the command's own parser says it
        chosen = argparse.Namespace(config=None, cluster=None)
    named = chosen.config or environment.get("ZDFS_CONFIG")
    if named:
        return Place((Path(named),), True, chosen.cluster)
    home = environment.get("XDG_CONFIG_HOME") or os.path.join(
        environment.get("HOME", ""), ".config"
    )
    user = Path(home) / "zdfs" / "cluster.toml"
    return Place((SYSTEM, user) if user.is_absolute() else (SYSTEM,), False, chosen.cluster)


def load(place: Place, schema: Schema) -> Settings:
    """Read and merge; what can't be read is among the problems."""
    found = []
    for path in place.files:
        try:
            if path.exists() and not path.is_file() and not path.is_dir() and path != NOTHING:
                found.append(Settings(problems=[f"{path}: no regular file"]))  # a pipe: for ever
                continue
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            if place.must:
                found.append(Settings(problems=[f"{path}: there is no such file"]))
        except OSError as error:
            found.append(Settings(problems=[f"{path}: can't be read: {error.strerror}"]))
        except UnicodeDecodeError:
            found.append(Settings(problems=[f"{path}: not UTF-8, so not TOML"]))
        else:
            found.append(read(text, str(path), schema, place.cluster))
    return merged(found, place.cluster)


# --- parsers -----------------------------------------------------------------------------------


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its commands, each once."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in dict.fromkeys(action.choices.values()):
                yield from parsers(one)


def long_name(action: argparse.Action) -> str | None:
    """What an option is called in a file; None: it has no place there."""
    names = [text[2:] for text in action.option_strings if text.startswith("--")]
    if not names or names[0] in NOT_IN_FILES or action.help == argparse.SUPPRESS:
        return None
    return names[0] if isinstance(action, OPTION_TYPES) else None


def own(parser: argparse.ArgumentParser) -> dict[str, bool]:
    """A parser's long options but for what only people at a terminal want; whether each has a
    value."""
    return {
        name[2:]: isinstance(action, argparse._StoreAction)
        for action in parser._actions
        if isinstance(action, OPTION_TYPES) and action.help != argparse.SUPPRESS
        for name in action.option_strings
        if name.startswith("--") and name not in ("--foreground", "--options")
    }


def schema_of(*commands: argparse.ArgumentParser) -> Schema:
    """What files may say, by the parsers of the commands in SECTIONS."""
    found: dict[str, dict[str, Converter]] = {
        "": {"meta": address, "data": ring, "keys": _path},
        **{section: {} for sections in SECTIONS.values() for section in sections},
    }
    for command in commands:
        for one in parsers(command):
            for section in SECTIONS.get(one.prog, ()):
                found[section] |= {
                    name: _converter(action)
                    for action in one._actions
                    if (name := long_name(action)) is not None
                }
    both = set.intersection(*[set(found[name]) for name in ("node.meta", "node.data")])
    found["node"] = {name: found["node"][name] for name in both}
    return found


def _converter(action: argparse.Action) -> Converter:
    """Checks a value as the command line would."""

    def several(value: object) -> list[Any]:
        if not isinstance(value, list):
            raise Unfit("a list")
        return [_one(action, item) for item in value]

    if isinstance(action, argparse._StoreTrueAction):
        return _flag
    if isinstance(action, argparse._AppendAction):
        return several
    return functools.partial(_one, action)


def _one(action: argparse.Action, value: object) -> Any:
    if action.type is Path:
        return _path(value)
    kind: Any = action.type or str
    wanted = {int: "a whole number", float: "a number", str: "a string or a number"}
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Unfit(wanted.get(kind, wanted[str]))
    try:
        made = kind(str(value))
    except argparse.ArgumentTypeError as error:
        raise Unfit(str(error)) from error
    except (ValueError, TypeError) as error:
        raise Unfit(wanted.get(kind, str(error))) from error
    if action.choices and made not in action.choices:
        raise Unfit(f"one of {', '.join(map(str, action.choices))}")
    return made


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise Unfit("true or false")
    return value


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value:
        raise Unfit("a path")
    path = Path(value).expanduser()
    if not path.is_absolute():
        raise Unfit("a path from / or ~: nobody knows where a command is started")
    return path


def _apply(parser: argparse.ArgumentParser, found: Settings) -> None:
    """Make what files say the parser's defaults."""
    defaults: dict[str, Any] = {}
    actions = {long_name(action): action for action in parser._actions}
    for section in SECTIONS.get(parser.prog, ()):
        for (where, key), value in found.values.items():
            if where == section and key in actions:
                defaults[actions[key].dest] = value.value
    parser.set_defaults(**(_named(parser, found) | defaults))


def _named(parser: argparse.ArgumentParser, found: Settings) -> dict[str, Any]:
    """The metaserver, the ring and the keys, where a command asks for them."""
    meta, data = found.get("", "meta"), found.get("", "data")
    given = {"keys": found.get("", "keys")}
    if parser.prog == "zdfs-node meta":
        given["port"] = meta
    elif parser.prog in ("zdfs-mount", "zdfs-node data"):
        given["meta"] = meta
    if parser.prog in ("zdfs-node data", "zdfs meta rebuild"):
        given["ports"] = data and [addresses.short(one) for one in data]
    dests = {action.dest for action in parser._actions}
    return {dest: value for dest, value in given.items() if dest in dests and value}
