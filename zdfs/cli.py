"""The four commands: their arguments, and whose work they are.

`main` is one of the four seams: what a command can't do is one clear line on stderr and exit status
1; an unexpected failure says where its traceback is.  What can't be printed is `output`'s.

What does the work is loaded when it is known which work that is: a command begins in half the time.
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

from zdfs import __version__, addresses, arguments, journal, limits, output, progress, starting
from zdfs.amounts import printable_lines
from zdfs.errors import Failure, StartError, StoreError

# The commands of `zdfs`, in the order in which its help shows them: what each of `tools` adds.
COMMANDS = {
    "looking": ("status", "where"),
    "checkup": ("health",),
    "top": ("top",),
    "profile": ("profile",),
    "checking": ("fsck",),
    "owing": ("policy", "debts"),
    "watch": ("watch",),
    "scrub": ("scrub",),
    "why": ("why",),
    "impact": ("impact",),
    "drill": ("drill",),
    "faults": ("faults",),
    "metacommand": ("meta",),
    "keymaking": ("keys",),
    "du": ("du",),
    "findopen": ("find-open",),
    "warmup": ("warmup",),
    "bench": ("bench",),
    "bundle": ("bundle",),
    "web": ("web",),
    "dockerplugin": ("docker-plugin",),
    "config": ("config",),
    "ping": ("ping",),
}
USAGE = 2  # a command line that is none
METRICS = "show Prometheus its numbers there (http): PORT (on loopback) or HOST:PORT"
log = logging.getLogger("zdfs")


class Parser(argparse.ArgumentParser):
    """One line about what is wrong; exit status 2."""

    _mixed = False  # `parse_known_intermixed_args` calls us again

    def error(self, message: str) -> NoReturn:
        """Say it and how to get help."""
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Options stand anywhere, also between positionals.  argparse (before 3.13) takes what
        may be left out as left out at the first option, and then does not know the rest."""
        below = any(one.nargs == argparse.PARSER for one in self._actions)
        if self._mixed or below or "--" in (args or ()):
            return super().parse_known_args(args, namespace)
        self._mixed = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixed = False


def main(name: str, command: Callable[[Sequence[str]], int], words: Sequence[str]) -> int:
    """Run a command; its failures are words for people."""
    output.settle()
    try:
        try:
            return command(words)
        finally:
            output.flush()
    except output.Unwritten as error:
        output.give_up()
        if error.status != output.CLOSED:
            print(f"{name}: {error}", file=sys.stderr)
        return error.status
    except (StartError, StoreError) as error:
        log.debug("stopped", exc_info=True)
        print(printable_lines(f"{name}: {error}"), file=sys.stderr)
    except Failure as error:
        text = error.text or os.strerror(error.number)
        print(printable_lines(f"{name}: {text}"), file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
    except Exception as error:
        logging.getLogger("zdfs").exception("unexpected")
        print(f"{name}: {type(error).__name__}: {error} (a bug: please report it)", file=sys.stderr)
    return 1


def _parser(name: str, text: str) -> Parser:
    parser = Parser(prog=name, description=text)
    parser.add_argument("--version", action="version", version=f"{name} {__version__}")
    arguments.options(parser)
    return parser


def _speaks(parser: argparse.ArgumentParser) -> None:
    """An option for trials of mixed clusters: know nothing newer than this protocol."""
    parser.add_argument("--speak", type=int, help=argparse.SUPPRESS)


def _settled(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """The command line, over what the configuration files say."""
    schema = arguments.schema_of(node_parser(), mount_parser())
    return arguments.settled(parser, words, schema, os.environ)


def _keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keys", type=Path, metavar="DIR", help=arguments.KEYS)


# --- zdfs-node ---------------------------------------------------------------------------------


def node_parser() -> Parser:
    """The arguments of zdfs-node."""
    parser = _parser("zdfs-node", "Run a metaserver or a dataserver.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="meta|data")
    meta = kinds.add_parser("meta", help="a metaserver: zdfs-node meta PORT")
    meta.add_argument("port", nargs="?", help="PORT (on loopback) or HOST:PORT")
    meta.add_argument(
        "--block-size", type=int, metavar="BYTES",
        help=f"settled when the cluster is founded; a power of two ({limits.BLOCK_BYTES})",
    )  # fmt: skip
    meta.add_argument(
        "--session-life", type=float, default=limits.SESSION_S, metavar="S",
        help="a mount that is silent for so long has ended: others may write what it was writing, "
        f"what it had not flushed is void ({limits.SESSION_S:g})",
    )  # fmt: skip
    meta.add_argument(
        "--meta-copies", type=int, default=limits.META_COPIES, metavar="N",
        help="so many dataservers have each change of names before it is answered; settled when "
        f"the cluster is founded ({limits.META_COPIES})",
    )  # fmt: skip
    meta.add_argument(
        "--format", type=int, metavar="N",
        help="keep the metadata in this older format, or bring it back to it, so that the release "
        "before can be started on it",
    )  # fmt: skip
    meta.add_argument("--replicas", type=int, help=f"{limits.REPLICAS}, nothing else yet")
    data = kinds.add_parser("data", help="a dataserver: zdfs-node data INDEX PORT PORT PORT ...")
    data.add_argument("index", type=int, help="which of the ports is this server's; from 0")
    data.add_argument(
        "ports", nargs="*", help="every dataserver's PORT or HOST:PORT, in ring order"
    )
    data.add_argument(
        "--meta", default=arguments.META, metavar="ADDR", help=f"the metaserver ({arguments.META})"
    )
    data.add_argument(
        "--scrub-rate", type=int, default=limits.SCRUB_BYTES_PER_S, metavar="BYTES",
        help=f"read and verify so many stored bytes a second ({limits.SCRUB_BYTES_PER_S})",
    )  # fmt: skip
    data.add_argument(
        "--scrub-period", type=float, default=limits.SCRUB_PERIOD_S, metavar="S",
        help=f"faster, if need be, so that all is read every so many seconds "
        f"({limits.SCRUB_PERIOD_S:.0f})",
    )  # fmt: skip
    data.add_argument(
        "--rebuild-rate", type=int, default=0, metavar="BYTES",
        help="copy at most so many bytes a second back to a lost disk (0: no limit; while others "
        "work, a rebuild rests twice as long as it works)",
    )  # fmt: skip
    for one in (meta, data):
        _speaks(one)
        one.add_argument(
            "--store", type=Path, metavar="DIR",
            help="default: ./zdfs-store/meta-PORT, ./zdfs-store/data-PORT",
        )  # fmt: skip
        one.add_argument(
            "--stores", type=Path, metavar="DIR", help="another folder than ./zdfs-store for them"
        )
        arguments.options(one, below=True)
        one.add_argument("--log", type=Path, metavar="FILE", help="default: stderr")
        _keys(one)
        one.add_argument("--metrics", metavar="ADDR", help=METRICS)
        one.add_argument(
            "--faults", action="store_true", help="allow zdfs-corrupt and zdfs faults, for trials"
        )
    return parser


def _node(words: Sequence[str]) -> int:
    chosen = _settled(node_parser(), words)
    from zdfs import node

    return node.meta(chosen) if chosen.kind == "meta" else node.data(chosen)


# --- zdfs-mount --------------------------------------------------------------------------------


def mount_parser() -> Parser:
    """The arguments of zdfs-mount."""
    parser = _parser("zdfs-mount", "Mount a zdfs file system.")
    parser.add_argument("directory", type=Path, help="an empty directory")
    parser.add_argument(
        "meta", nargs="?", default=arguments.META,
        help=f"the metaserver's PORT or HOST:PORT (as configured, else {arguments.META})",
    )  # fmt: skip
    parser.add_argument(
        "data", nargs="*", default=[], help="the dataservers' ports (may be left out)"
    )
    parser.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground")
    parser.add_argument("--log", type=Path, metavar="FILE", help="default: stderr (with -f)")
    parser.add_argument(
        "-o", "--options", dest="o", action="append", default=[], metavar="OPT,...",
        help="FUSE options",
    )  # fmt: skip
    _keys(parser)
    parser.add_argument(
        "--attr-timeout", type=_timeout, default=limits.CACHE_S, metavar="S",
        help="attributes that another mount changed are seen after so many seconds (1); "
        "0: at once, each stat asks the metaserver",
    )  # fmt: skip
    parser.add_argument(
        "--entry-timeout", type=_timeout, default=limits.CACHE_S, metavar="S",
        help="names likewise (1)",
    )  # fmt: skip
    parser.add_argument(
        "--watchers", action="store_true",
        help="wake inotify watchers here when another mount changes what they watch",
    )  # fmt: skip
    parser.add_argument(
        "--writeback", action="store_true",
        help="a close does not wait until the file is stored, as on a local disk: faster, and what "
        "no fsync waited for is lost if this machine crashes",
    )  # fmt: skip
    parser.add_argument("--metrics", metavar="ADDR", help=METRICS)
    parser.add_argument("--herald", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--grouped", action="store_true", help=argparse.SUPPRESS)
    _speaks(parser)
    return parser


def _mount(words: Sequence[str]) -> int:
    chosen = _settled(mount_parser(), words)
    meta = addresses.parse(chosen.meta)
    data = [addresses.parse(port) for port in chosen.data]
    directory = chosen.directory.absolute()
    if not chosen.foreground:
        starting.prepare(directory)
        waiting = f"waiting for the cluster of {addresses.short(meta)}"
        with progress.Shown(words=waiting):
            return starting.start_detached(
                [*starting.again("mount"), *words],
                directory,
                _file(chosen.log),
                grouped=chosen.grouped,
            )
    herald = starting.Herald(chosen.herald, _file(chosen.log), chosen.grouped)
    try:
        starting.prepare(directory)
        from zdfs import mounted

        mounted.serve(chosen, directory, meta, data, herald)
    except (StartError, Failure) as error:
        if chosen.herald is None:
            raise
        herald.failed(str(error))  # the parent says it
        return 1
    return 0


def _file(log: Path | None) -> Path | None:
    """The file that --log names, if it names one."""
    return None if log == journal.WORD else log


def _timeout(text: str) -> float:
    """Seconds; what a file system may keep in memory is not older than a day."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text}: seconds, from 0 to 86400")
    return seconds


# --- zdfs-corrupt and zdfs ---------------------------------------------------------------------


def corrupt_parser() -> Parser:
    """The arguments of zdfs-corrupt."""
    from zdfs.tools import harm

    parser = _parser("zdfs-corrupt", harm.TEXT)
    harm.arguments(parser)
    _keys(parser)
    return parser


def _corrupt(words: Sequence[str]) -> int:
    from zdfs.link import Link
    from zdfs.tools import harm

    chosen = _settled(corrupt_parser(), words)
    with journal.Aloud("zdfs-corrupt"), closing(Link(keys=chosen.keys)) as link:
        return harm.command(link, chosen)


def zdfs_parser(words: Sequence[str] = ()) -> Parser:
    """The arguments of zdfs; of `words`, a command line, only what it needs if that is plain."""
    parser = _parser("zdfs", "Look after a zdfs cluster.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    named = [module for module, names in COMMANDS.items() if words and words[0] in names]
    for module in named or COMMANDS:
        importlib.import_module(f"zdfs.tools.{module}").options(commands)
    for below in [*arguments.parsers(parser)][1:]:
        arguments.options(below, below=True)
    return parser


def _zdfs(words: Sequence[str]) -> int:
    from zdfs.link import Link

    chosen = _settled(zdfs_parser(words), words)
    with journal.Aloud("zdfs"), closing(Link(keys=getattr(chosen, "keys", None))) as link:
        done: int = chosen.do(link, chosen)
        return done


def node() -> int:
    """zdfs-node"""
    return main("zdfs-node", _node, sys.argv[1:])


def mount() -> int:
    """zdfs-mount"""
    return main("zdfs-mount", _mount, sys.argv[1:])


def helper() -> int:
    """mount.zdfs"""
    from zdfs import helper as mounting

    def command(words: Sequence[str]) -> int:
        try:
            asked = mounting.order(mounting.parser(Parser).parse_args(words))
            return mounting.run(asked, arguments.own(mount_parser()), _mount)
        except SystemExit as ended:  # the parsers', also of zdfs-mount
            if ended.code != USAGE:
                raise
            return mounting.WRONG

    return main("mount.zdfs", command, sys.argv[1:])


def corrupt() -> int:
    """zdfs-corrupt"""
    return main("zdfs-corrupt", _corrupt, sys.argv[1:])


def zdfs() -> int:
    """zdfs"""
    return main("zdfs", _zdfs, sys.argv[1:])
