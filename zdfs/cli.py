"""The four commands: arguments, logging, signals, and everything wired together.

`main` is one of the four seams: what a command can't do is one clear line on stderr and exit status
1; an unexpected failure says where its traceback is.
"""

import argparse
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NoReturn

from zdfs import __version__, addresses, arguments, checksum, exporter, journal, kernel, keys
from zdfs import helper as mounting
from zdfs import limits, notify, progress, starting, succession, wire
from zdfs.blockstore import LogStore
from zdfs.broker import Broker
from zdfs.calls import Peer
from zdfs.data import Data
from zdfs.errors import Failure, StartError, StoreError
from zdfs.ids import Slot
from zdfs.insight import Insight
from zdfs.link import Link
from zdfs.measures import Commits, Meter, Role
from zdfs.mount import Settings
from zdfs.mount import mount as serve_mount
from zdfs.ports import Reading
from zdfs.recovery import Rates
from zdfs.store import sound_store
from zdfs.tools import admin, bench, bundle, checking, checkup, config, dockerplugin, drill, du
from zdfs.tools import faults, findopen, harm, impact, keymaking, looking, metacommand, owing
from zdfs.tools import ping, profile, scrub, top, visiting, warmup, watch, web, why
from zdfs.volume import Volume

# of `zdfs`, in the order in which its help shows them
COMMANDS = (
    looking, checkup, top, profile, checking, owing, watch, scrub, why, impact, drill, faults,
    metacommand, keymaking, du, findopen, warmup, bench, bundle, web, dockerplugin, config, ping,
)  # fmt: skip
METRICS = "show Prometheus its numbers there (http): PORT (on loopback) or HOST:PORT"
UNNAMED = f"a configuration file ({arguments.SYSTEM}; 'zdfs config' shows what holds)"
log = logging.getLogger("zdfs")


class Parser(argparse.ArgumentParser):
    """One line about what is wrong; exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Say it and how to get help."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(name: str, command: Callable[[Sequence[str]], int], words: Sequence[str]) -> int:
    """Run a command; its failures are words for people."""
    try:
        return command(words)
    except (StartError, StoreError) as error:
        log.debug("stopped", exc_info=True)
        print(f"{name}: {error}", file=sys.stderr)
    except Failure as error:
        print(f"{name}: {error.text or os.strerror(error.number)}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="ascii")
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
    versions = range(wire.PROTOCOL_MIN, wire.PROTOCOL + 1)
    parser.add_argument(
        "--speak", type=int, choices=versions, default=wire.PROTOCOL, help=argparse.SUPPRESS
    )


def _settled(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """The command line, over what the configuration files say."""
    schema = arguments.schema_of(node_parser(), mount_parser())
    return arguments.settled(parser, words, schema, os.environ)


def _log_to(path: Path | None, name: str, **fields: str) -> None:
    """Log lines to where they shall go."""
    journal.log_to(path, name, fields, os.environ)
    if "pure" in checksum.engine():
        log.warning("checksums run in slow Python: install fastcrc, or crcmod with a C compiler")


def _keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keys", type=Path, metavar="DIR", help=visiting.KEYS)


def _more_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
    sys.setswitchinterval(0.001)  # threads that finished a wait get the interpreter soon


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
    meta.add_argument("--replicas", type=int, help=f"{limits.REPLICAS}, nothing else yet")
    data = kinds.add_parser("data", help="a dataserver: zdfs-node data INDEX PORT PORT PORT ...")
    data.add_argument("index", type=int, help="which of the ports is this server's; from 0")
    data.add_argument(
        "ports", nargs="*", help="every dataserver's PORT or HOST:PORT, in ring order"
    )
    data.add_argument(
        "--meta", default=visiting.META, metavar="ADDR", help=f"the metaserver ({visiting.META})"
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
    wire.speak(chosen.speak)
    _more_files()
    return _run_meta(chosen) if chosen.kind == "meta" else _run_data(chosen)


def _store(chosen: argparse.Namespace, address: str) -> Path:
    name = f"{chosen.kind}-{addresses.short(address).replace(':', '-')}"
    store: Path = chosen.store or (chosen.stores or Path("zdfs-store")) / name
    return store


def _attend(broker: Broker) -> None:
    """End on signals; tell the service manager how it is."""
    notifier = notify.from_environment(os.environ, os.getpid())

    def stop(*_: object) -> None:
        notifier.stopping()
        broker.stop()

    def status() -> str:
        return (broker.room.note if broker.room else "") or "serving"

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    notify.attend(broker.timers, time.monotonic, notifier, status)


def _run_meta(chosen: argparse.Namespace) -> int:
    if chosen.port is None:
        raise StartError(f"no port is named: zdfs-node meta PORT, or meta = ... in {UNNAMED}")
    address = addresses.parse(chosen.port)
    block_bytes = limits.BLOCK_BYTES if chosen.block_size is None else chosen.block_size
    inside = limits.BLOCK_BYTES_MIN <= block_bytes <= limits.BLOCK_BYTES_MAX
    if not inside or block_bytes & (block_bytes - 1):
        raise StartError(
            f"--block-size {block_bytes}: a power of two from {limits.BLOCK_BYTES_MIN} to "
            f"{limits.BLOCK_BYTES_MAX}"
        )
    if chosen.session_life < limits.SESSION_MIN_S:
        raise StartError(
            f"--session-life {chosen.session_life:g}: mounts speak once a second, so at least "
            f"{limits.SESSION_MIN_S:g}"
        )
    if chosen.replicas not in (None, limits.REPLICAS):
        raise StartError(f"--replicas {chosen.replicas}: this release keeps {limits.REPLICAS}")
    if not 0 <= chosen.meta_copies <= limits.COPIES:
        raise StartError(f"--meta-copies {chosen.meta_copies}: 0 to {limits.COPIES}")
    settings = succession.Settings(
        block_bytes, chosen.block_size is not None, chosen.faults, chosen.session_life,
        chosen.meta_copies,
    )  # fmt: skip
    directory = _store(chosen, address)
    keys.refuse_plain(directory, chosen.keys)
    _log_to(chosen.log, "zdfs-node", ZDFS_ROLE="meta", ZDFS_SERVER=address)
    with closing(Broker(address, chosen.keys)) as broker:
        if chosen.keys:
            keys.remember(directory)
        _attend(broker)
        meter = _meter(chosen, Role.META)
        succession.serve(broker, directory, settings, meter)
    return 0


def _run_data(chosen: argparse.Namespace) -> int:
    if not chosen.ports:
        raise StartError(
            "no ports are named: zdfs-node data INDEX PORT PORT PORT ..., or data = ... in "
            f"{UNNAMED}"
        )
    ring = tuple(addresses.parse(port) for port in chosen.ports)
    if chosen.scrub_rate < 1:
        raise StartError(f"--scrub-rate {chosen.scrub_rate}: 1 or more bytes a second")
    if chosen.rebuild_rate < 0:
        raise StartError(f"--rebuild-rate {chosen.rebuild_rate}: bytes a second, 0 for no limit")
    if chosen.scrub_period < limits.SCRUB_PERIOD_MIN_S:
        least = f"at least {limits.SCRUB_PERIOD_MIN_S:g}"
        raise StartError(f"--scrub-period {chosen.scrub_period:g}: seconds, {least}")
    rates = Rates(chosen.scrub_rate, chosen.scrub_period, chosen.rebuild_rate)
    if len(ring) < limits.SERVERS_MIN:
        raise StartError(
            f"{len(ring)} ports given: name every dataserver's port, {limits.SERVERS_MIN} or more"
        )
    if len(set(ring)) != len(ring):
        raise StartError("a port stands twice in the list")
    if not 0 <= chosen.index < len(ring):
        raise StartError(f"index {chosen.index}: the list has places 0 to {len(ring) - 1}")
    slot, address, meta = Slot(chosen.index), ring[chosen.index], addresses.parse(chosen.meta)
    if meta in ring:
        raise StartError(f"{addresses.short(meta)} is the metaserver's port and a dataserver's too")
    directory = _store(chosen, address)
    keys.refuse_plain(directory, chosen.keys)
    about = {"ZDFS_ROLE": "data", "ZDFS_SERVER": address, "ZDFS_SLOT": str(slot)}
    _log_to(chosen.log, "zdfs-node", **about)
    with ExitStack() as stack:
        broker = stack.enter_context(closing(Broker(address, chosen.keys)))
        meter = _meter(chosen, Role.DATA)
        blocks, copies = Commits(meter, "blocks"), Commits(meter, "copy")
        store = stack.enter_context(closing(LogStore(directory, slot, commits=blocks)))
        if chosen.keys:
            keys.remember(directory)
        copy = stack.enter_context(closing(sound_store(directory / "copy", copies)))
        _attend(broker)
        log.info("dataserver %s, slot %d of %d", addresses.short(address), slot, len(ring))
        broker.serve(Data(store, slot, ring, meta, chosen.faults, rates, copy, meter), store)
    return 0


def _meter(chosen: argparse.Namespace, role: Role) -> Meter:
    """What this process counts, and its door to Prometheus if that is wanted."""
    meter = Meter(role)
    meter.sources["clock"] = lambda: [Reading("zdfs_clock_seconds", time.time())]
    exporter.serve(meter, chosen.metrics)
    return meter


# --- zdfs-mount --------------------------------------------------------------------------------


def mount_parser() -> Parser:
    """The arguments of zdfs-mount."""
    parser = _parser("zdfs-mount", "Mount a zdfs file system.")
    parser.add_argument("directory", type=Path, help="an empty directory")
    parser.add_argument(
        "meta", nargs="?", default=visiting.META,
        help=f"the metaserver's PORT or HOST:PORT (as configured, else {visiting.META})",
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
    wire.speak(chosen.speak)
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
        about = {"ZDFS_ROLE": "mount", "ZDFS_SERVER": meta, "ZDFS_MOUNT": str(directory)}
        _log_to(chosen.log, "zdfs-mount", **about)
        _more_files()
        _serve_mount(chosen, directory, meta, data, herald)
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


def _serve_mount(
    chosen: argparse.Namespace, directory: Path, meta: str, data: list[str], herald: starting.Herald
) -> None:
    meter = _meter(chosen, Role.MOUNT)
    link = Link(kernel.interrupted, kernel.dying, chosen.keys, meter)
    shown = os.fsencode(directory).decode(errors="replace")
    volume = Volume(meta, shown, link, chosen.attr_timeout, chosen.entry_timeout, chosen.writeback)
    try:
        if chosen.herald is not None:  # somebody waits for a word; -f alone waits for the cluster
            link.run(admin.find_meta(meta, limits.MOUNT_TRIES_S))
        link.run(volume.start())
        ring = [member.address for member in volume.contact.map.members]
        if data and data != ring:
            link.run(volume.stop())
            shown = " ".join(addresses.short(address) for address in ring)
            raise StartError(f"the cluster's dataservers are {shown}: name these, or none")
        link.attend(volume, Peer(meta))
        options = tuple(option for text in chosen.o for option in text.split(","))
        notifier = notify.from_environment(os.environ, os.getpid())

        def ready() -> None:
            herald.ready()
            notifier.ready(f"mounted on {directory}")

        settings = Settings(
            meta, options, chosen.attr_timeout, chosen.entry_timeout, chosen.watchers,
            ready=ready, turn=notifier.alive, ending=notifier.stopping,
            insight=Insight(volume, link, meter),
        )  # fmt: skip
        serve_mount(directory, volume, link.run, settings)
        link.run(volume.stop())
    finally:
        link.close()


# --- zdfs-corrupt and zdfs ---------------------------------------------------------------------


def corrupt_parser() -> Parser:
    """The arguments of zdfs-corrupt."""
    parser = _parser("zdfs-corrupt", harm.TEXT)
    harm.arguments(parser)
    _keys(parser)
    return parser


def _corrupt(words: Sequence[str]) -> int:
    chosen = _settled(corrupt_parser(), words)
    with journal.Aloud("zdfs-corrupt"), closing(Link(keys=chosen.keys)) as link:
        return harm.command(link, chosen)


def zdfs_parser() -> Parser:
    """The arguments of zdfs."""
    parser = _parser("zdfs", "Look after a zdfs cluster.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for one in COMMANDS:
        one.options(commands)
    for below in [*arguments.parsers(parser)][1:]:
        arguments.options(below, below=True)
    return parser


def _zdfs(words: Sequence[str]) -> int:
    chosen = _settled(zdfs_parser(), words)
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

    def command(words: Sequence[str]) -> int:
        asked = mounting.order(mounting.parser(Parser).parse_args(words))
        return mounting.run(asked, arguments.own(mount_parser()), _mount)

    return main("mount.zdfs", command, sys.argv[1:])


def corrupt() -> int:
    """zdfs-corrupt"""
    return main("zdfs-corrupt", _corrupt, sys.argv[1:])


def zdfs() -> int:
    """zdfs"""
    return main("zdfs", _zdfs, sys.argv[1:])
