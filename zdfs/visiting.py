"""How a command gets at a file system: by a path on a mount, or by the metaserver's address."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from zdfs import addresses, processes, starting
from zdfs.admin import find_meta
from zdfs.errors import Failure
from zdfs.link import Link
from zdfs.paths import PathVolume

META = "2222"


def common(parser: ArgumentParser) -> None:
    """The arguments of every command that asks the metaserver for facts."""
    parser.add_argument("--meta", metavar="ADDR", help=f"the metaserver ({META})")
    parser.add_argument("--json", action="store_true", help="facts with stable keys")


@contextmanager
def visit(link: Link, meta: str) -> Iterator[PathVolume]:
    """A volume without a mount, for a moment; a metaserver that doesn't serve is an error.

    It says goodbye also when the command fails: else the status tells of a mount that fell silent.
    """
    link.run(find_meta(meta))
    volume = PathVolume(meta, "(command)", link)
    link.run(volume.contact.open())
    try:
        yield volume
    finally:
        with suppress(Failure):
            link.run(volume.stop())


def inside(text: str, meta: str | None) -> tuple[bytes, str | None]:
    """A path inside the file system and its metaserver, from that or from a path on a mount.

    Nothing behind the mount is touched: it may be stuck.  Symlinks on the way to it are followed.
    """
    known = {one.directory: one.source for one in processes.mounts().values()}
    way, names = "/", [name for name in os.path.abspath(text).split("/") if name]
    for number in range(len(names) + 1):
        if way in known:
            return os.fsencode("/" + "/".join(names[number:])), known[way]
        if number < len(names):
            way = starting.real(os.path.join(way, names[number]))
    return os.fsencode(text if text.startswith("/") else "/" + text), meta


def meta_of(chosen: Namespace) -> str:
    """The metaserver that a command's --meta names."""
    return addresses.parse(chosen.meta or META)
