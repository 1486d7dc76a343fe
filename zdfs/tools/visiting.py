"""How a command gets at a file system: by a path on a mount, or by the metaserver's address."""

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from zdfs import addresses, processes, starting
from zdfs.amounts import printable_lines
from zdfs.arguments import KEYS, META
from zdfs.errors import Failure, StartError
from zdfs.link import Link
from zdfs.tools.admin import find_meta

if TYPE_CHECKING:
    from zdfs.paths import PathVolume  # loaded by those who visit


def reach(parser: ArgumentParser) -> None:
    """The arguments of every command that asks the metaserver."""
    parser.add_argument(
        "--meta", metavar="ADDR", help=f"the metaserver (as configured, else {META})"
    )
    parser.add_argument("--keys", type=Path, metavar="DIR", help=KEYS)


def common(parser: ArgumentParser) -> None:
    """The arguments of every command that asks the metaserver for facts."""
    reach(parser)
    parser.add_argument("--json", action="store_true", help="facts with stable keys")


def seconds(least: float, most: float) -> Callable[[str], float]:
    """The type of an argument that is a span of time."""

    def seconds(text: str) -> float:  # argparse says this name of what is no number
        span = float(text)
        if not least <= span <= most:
            raise ArgumentTypeError(f"{text}: seconds, from {least:g} to {most:g}")
        return span

    return seconds


NO_ANSWER = 2
Do = Callable[[Link, Namespace], int]


@contextmanager
def visit(link: Link, meta: str) -> "Iterator[PathVolume]":
    """A volume without a mount, for a moment; a metaserver that doesn't serve is an error.

    It says goodbye also when the command fails: else the status tells of a mount that fell silent.
    """
    from zdfs.paths import PathVolume

    link.run(find_meta(meta))
    volume = PathVolume(meta, "(command)", link)
    link.run(volume.contact.open())
    try:
        yield volume
    finally:
        with suppress(Failure):
            link.run(volume.stop())


def sources() -> dict[str, str]:
    """The zdfs mounts of this machine: the metaserver's address of each, by directory; or what
    stands in its place."""
    return {one.directory: one.source for one in processes.mounts().values()} | processes.nameless()


def inside(text: str, meta: str | None) -> tuple[bytes, str | None]:
    """A path inside the file system and its metaserver, from that or from a path on a mount.

    Nothing behind the mount is touched: it may be stuck.  Symlinks on the way to it are followed.
    """
    known = sources()
    way, names = "/", [name for name in os.path.abspath(text).split("/") if name]
    for number in range(len(names) + 1):
        if way in known:
            return os.fsencode("/" + "/".join(names[number:])), known[way]
        if number < len(names):
            way = starting.real(os.path.join(way, names[number]))
    return os.fsencode(text if text.startswith("/") else "/" + text), meta


def judging(do: Do) -> Do:
    """A command whose statuses 0 and 1 are answers: that there is none is 2."""

    def judged(link: Link, chosen: Namespace) -> int:
        try:
            return do(link, chosen)
        except (StartError, Failure, KeyboardInterrupt) as error:
            print(printable_lines(f"zdfs: {str(error) or 'stopped'}"), file=sys.stderr)
            return NO_ANSWER

    return judged


def meta_of(chosen: Namespace, mounted: str | None = None) -> str:
    """The metaserver that a command's --meta names; else that of the mount that a path is on; else
    the configuration's."""
    return named(chosen.meta, mounted) or addresses.parse(configured(chosen))


def named(meta: str | None, mounted: str | None) -> str | None:
    """What --meta says, else a mount's source; None: neither is there.  StartError: that source is
    no address."""
    if meta or not mounted:
        return addresses.parse(meta) if meta else None
    try:
        return addresses.parse(mounted)
    except StartError as error:
        raise StartError(
            f"the source of that mount, {mounted!r}, names no metaserver: say which with --meta"
        ) from error


def configured(chosen: Namespace) -> str:
    """The metaserver where nothing else names one."""
    return chosen.configured.get("", "meta") or META
