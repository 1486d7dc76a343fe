"""Manual pages and shell completions, made from the commands' own argparse parsers.

    python -m contrib.manual DIR      DIR/man/man1/zdfs.1 ...   DIR/completions/bash/zdfs ...

A page has what `--help` says of the command and of each command below it, and what it can't say:
one line of what it is, the files, where to read on.  cluster.toml(5) is made from what the
configuration may say.  argparse-manpage was tried: its pages have no line for whatis(1), and fill
tables as if they were prose.  Completions are shtab's.
"""

import argparse
import datetime
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import shtab

from zdfs import __version__, arguments, cli, helper


class Page(NamedTuple):
    """A command with a page."""

    parser: argparse.ArgumentParser
    section: int
    what: str  # for whatis(1)


PAGES = (
    Page(cli.zdfs_parser(), 1, "look after a zdfs cluster"),
    Page(cli.node_parser(), 1, "run a metaserver or a dataserver of zdfs"),
    Page(cli.mount_parser(), 1, "mount a zdfs file system"),
    Page(cli.corrupt_parser(), 1, "damage a replica of a zdfs file, on purpose"),
    Page(helper.parser(), 8, "mount a zdfs file system, for mount(8) and fstab(5)"),
)
SCHEMA = arguments.schema_of(cli.node_parser(), cli.mount_parser())
SHELLS = {"bash": "{}", "zsh": "_{}", "fish": "{}.fish"}  # what each calls a command's file
PATHS = {"config", "path", "directory", "log", "store", "stores", "keys", "report", "under"}
EVERYWHERE = frozenset({"help", "config", "cluster"})  # said once, of the command itself
STATUS = """0 done; 1 it can't be done: one line on stderr says why and what to do; 2 the command
line is wrong.  Commands that have more to say with it say so above."""
HELPER_STATUS = "0 done; 1 the call is wrong; 32 it can't be mounted."
HELPER = """Options for mount(8), fstab(5) and systemd.mount(5) are understood: _netdev, nofail,
noauto, user, x-systemd.automount and so on.  A long option of zdfs-mount may stand among them,
without its hyphens: attr-timeout=0, watchers, log=FILE.  The rest goes to FUSE.

remount changes ro, rw, noexec and their like on the mount that is there; all else stays as it was
mounted.  Only the root of a file system can be mounted, no directory in it.

A line of fstab:

  storage1:2222  /srv/files  zdfs  _netdev,nofail  0  0"""
FILE = """Which cluster there is, and what commands need not be told each time.

  meta = "storage1:2222"                 # the metaserver
  data = ["storage1:3333", "storage2:3333", "storage3:3333"]   # in ring order
  keys = "/etc/zdfs/keys/given/NAME"     # of commands and mounts: zdfs keys

  [mount]             # a long option of zdfs-mount, under its name
  attr-timeout = 0
  [node]              # ... of zdfs-node meta and of zdfs-node data
  stores = "/var/lib/zdfs"
  keys = "/etc/zdfs/keys"
  [node.meta]         # ... of one of the two
  session-life = 10
  [node.data]
  scrub-rate = 33554432

  [cluster.archive]   # all of it for another cluster: zdfs --cluster archive
  meta = "vault:2222"

The user's file goes over the system's, key by key, and the command line goes over both.  Where the
user's names another metaserver, ring and keys of the system's do not hold.  In a [cluster.NAME]
nothing holds that stands outside of it.  Paths begin with / or ~.

zdfs config shows what holds and which file says it; zdfs config check looks for mistakes."""


# --- roff --------------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """Text that man(7) takes for text."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"(?m)^([.'])", r"\\&\1", text)


def prose(text: str) -> Iterator[str]:
    """Paragraphs; those with indented lines stay as they are."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip("\n"))):
        lines = paragraph.splitlines()
        if number:
            yield ".PP"
        if any(line.startswith("  ") for line in lines):
            yield from (".nf", *map(escaped, lines), ".fi")
        else:
            yield escaped(" ".join(line.strip() for line in lines))


def usage(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The line that argparse shows."""
    first, *more = parser.format_usage().removeprefix("usage: ").rstrip().splitlines()
    yield from (".nf", escaped(first), *(escaped(f"    {line.strip()}") for line in more), ".fi")


def option(parser: argparse.ArgumentParser, action: argparse.Action) -> Iterator[str]:
    """An argument, with what it means."""
    formatter = parser._get_formatter()
    yield ".TP"
    yield f"\\fB{escaped(formatter._format_action_invocation(action))}\\fR"
    yield escaped(formatter._expand_help(action)) if action.help else "\\&"


def body(
    parser: argparse.ArgumentParser, title: str, said: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Arguments but for those that were said above, and the commands below."""
    wanted = [one for one in parser._actions if one.help != argparse.SUPPRESS]
    wanted = [one for one in wanted if one.dest not in said]
    below = [one for one in wanted if isinstance(one, argparse._SubParsersAction)]
    plain = [one for one in wanted if one not in below]
    if plain:
        yield title
        for action in plain:
            yield from option(parser, action)
    for group in below:
        helps = {choice.dest: choice.help for choice in group._choices_actions}
        for name, one in group.choices.items():
            yield f".SH {escaped(one.prog).upper()}"
            yield from usage(one)
            yield ".PP"
            yield from prose(one.description or helps.get(name) or "")
            yield from body(one, ".PP\nArguments:", EVERYWHERE)


def page(one: Page) -> str:
    """A command's page."""
    name, helps = one.parser.prog, one.section == 8
    others = [f"{escaped(p.parser.prog)}({p.section})" for p in PAGES if p is not one]
    lines = [head(name, one.section), ".SH NAME", f"{escaped(name)} \\- {one.what}"]
    lines += [".SH SYNOPSIS", *usage(one.parser)]
    lines += [".SH DESCRIPTION", *prose(one.parser.description or "")]
    lines += [".PP", *prose(HELPER)] if helps else []
    lines += body(one.parser, ".SH OPTIONS")
    lines += [".SH EXIT STATUS", *prose(HELPER_STATUS if helps else STATUS)]
    lines += [".SH FILES", "/etc/zdfs/cluster.toml, ~/.config/zdfs/cluster.toml"]
    lines += [".SH SEE ALSO", ", ".join([*others, "cluster.toml(5)"])]
    return "\n".join(lines) + "\n"


def head(name: str, section: int) -> str:
    """The line that a page begins with."""
    moment = float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    day = datetime.datetime.fromtimestamp(moment, datetime.UTC).date().isoformat()
    return f'.TH {escaped(name).upper()} {section} "{day}" "zdfs {__version__}" "zdfs"'


def configuration() -> str:
    """The page of the file."""
    lines = [head("cluster.toml", 5), ".SH NAME", "cluster.toml \\- the configuration of zdfs"]
    lines += [".SH DESCRIPTION", *prose(FILE)]
    for section, prog in {
        "mount": "zdfs-mount", "node.meta": "zdfs-node meta", "node.data": "zdfs-node data",
    }.items():  # fmt: skip
        lines += [f".SH [{section}]", f"As the options of {escaped(prog)}:"]
        for command in PAGES:
            for parser in arguments.parsers(command.parser):
                for action in parser._actions if parser.prog == prog else ():
                    key = arguments.long_name(action)
                    if key is not None:
                        lines += [".TP", f"\\fB{escaped(key)}\\fR"]
                        lines.append(escaped(parser._get_formatter()._expand_help(action)))
    lines += [".SH FILES", "/etc/zdfs/cluster.toml", ".br", "~/.config/zdfs/cluster.toml"]
    lines += [".SH SEE ALSO", "zdfs(1), zdfs\\-node(1), zdfs\\-mount(1)"]
    return "\n".join(lines) + "\n"


# --- files -------------------------------------------------------------------------------------


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """A shell's completion for a command."""
    for one in arguments.parsers(parser):
        for action in one._actions:
            if action.dest in PATHS and not isinstance(action, argparse._StoreTrueAction):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    text: str = shtab.complete(parser, shell)
    return text


def write(folder: Path) -> list[Path]:
    """All of it, below a folder."""
    made = {folder / "man" / "man5" / "cluster.toml.5": configuration()}
    for one in PAGES:
        name = one.parser.prog
        made[folder / "man" / f"man{one.section}" / f"{name}.{one.section}"] = page(one)
        for shell, form in SHELLS.items() if one.section == 1 else ():
            made[folder / "completions" / shell / form.format(name)] = completion(one.parser, shell)
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(made)


if __name__ == "__main__":
    for written in write(Path(sys.argv[1])):
        print(written)
