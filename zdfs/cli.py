"""The four commands: arguments, logging, signals, and everything wired together.

`main` is one of the four seams: what a command can't do is one clear line on stderr and exit status
1; an unexpected failure says where its traceback is.
"""

import argparse
import json
import logging
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NoReturn

from zdfs import __version__, addresses, admin, checkup, checksum, drill, findings, fsck, impact
from zdfs import kernel, limits, metacommand, owing, progress, scrub, starting, succession
from zdfs import visiting, watch, why, wire
from zdfs.blockstore import LogStore
from zdfs.broker import Broker
from zdfs.calls import Peer, call
from zdfs.corrupt import corrupt as harm_replica
from zdfs.data import Data
from zdfs.errors import Failure, StartError, StoreError
from zdfs.ids import Slot
from zdfs.insight import Insight
from zdfs.link import Link
from zdfs.mount import Settings
from zdfs.mount import mount as serve_mount
from zdfs.recovery import Rates
from zdfs.store import sound_store
from zdfs.visiting import meta_of
from zdfs.volume import Volume

FSCK = """Compare metadata, block maps and what every dataserver holds.  Without --repair
nothing is changed.

exit status
  0  everything is in its place
  1  something is not, and nothing is lost: it heals by itself or by --repair
  2  content or metadata is lost, or not everything could be looked at (which is said)"""
log = logging.getLogger("zdfs")


class Parser(argparse.ArgumentParser):
    """One line about what is wrong; exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Say it and how to get help."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(name: str, command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a command; its failures are words for people."""
    try:
        return command(arguments)
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
    return parser


def _log_to(path: Path | None) -> None:
    """Log lines to stderr, or to a file (made with its directory)."""
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handler: logging.Handler = logging.FileHandler(path)
        except OSError as error:
            raise StartError(f"can't write the log {path}: {error.strerror}") from error
    else:
        handler = logging.StreamHandler()
    form = logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s")
    form.converter = time.gmtime
    form.default_msec_format = "%s.%03dZ"
    handler.setFormatter(form)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    if "pure" in checksum.engine():
        log.warning("checksums run in slow Python: install fastcrc, or crcmod with a C compiler")


def _more_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
    sys.setswitchinterval(0.001)  # threads that finished a wait get the interpreter soon


# --- zdfs-node ---------------------------------------------------------------------------------


def _node(arguments: Sequence[str]) -> int:
    parser = _parser("zdfs-node", "Run a metaserver or a dataserver.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="meta|data")
    meta = kinds.add_parser("meta", help="a metaserver: zdfs-node meta PORT")
    meta.add_argument("port", help="PORT (on loopback) or HOST:PORT")
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
        "ports", nargs="+", help="every dataserver's PORT or HOST:PORT, in ring order"
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
        one.add_argument(
            "--store", type=Path, metavar="DIR",
            help="default: ./zdfs-store/meta-PORT, ./zdfs-store/data-PORT",
        )  # fmt: skip
        one.add_argument("--log", type=Path, metavar="FILE", help="default: stderr")
        one.add_argument(
            "--faults", action="store_true", help="allow zdfs-corrupt and zdfs faults, for trials"
        )
    chosen = parser.parse_args(arguments)
    _log_to(chosen.log)
    _more_files()
    return _run_meta(chosen) if chosen.kind == "meta" else _run_data(chosen)


def _store(chosen: argparse.Namespace, address: str) -> Path:
    name = f"{chosen.kind}-{addresses.short(address).replace(':', '-')}"
    store: Path = chosen.store or Path("zdfs-store") / name
    return store


def _stop_on_signals(broker: Broker) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: broker.stop())


def _run_meta(chosen: argparse.Namespace) -> int:
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
    with closing(Broker(address)) as broker:
        _stop_on_signals(broker)
        succession.serve(broker, _store(chosen, address), settings)
    return 0


def _run_data(chosen: argparse.Namespace) -> int:
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
    with (
        closing(Broker(address)) as broker,
        closing(LogStore(_store(chosen, address), slot)) as store,
        closing(sound_store(_store(chosen, address) / "copy")) as copy,
    ):
        _stop_on_signals(broker)
        log.info("dataserver %s, slot %d of %d", addresses.short(address), slot, len(ring))
        broker.serve(Data(store, slot, ring, meta, chosen.faults, rates, copy), store)
    return 0


# --- zdfs-mount --------------------------------------------------------------------------------


def _mount(arguments: Sequence[str]) -> int:
    parser = _parser("zdfs-mount", "Mount a zdfs file system.")
    parser.add_argument("directory", type=Path, help="an empty directory")
    parser.add_argument("meta", help="the metaserver's PORT or HOST:PORT")
    parser.add_argument("data", nargs="*", help="the dataservers' ports (may be left out)")
    parser.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground")
    parser.add_argument("--log", type=Path, metavar="FILE", help="default: stderr (with -f)")
    parser.add_argument("-o", action="append", default=[], metavar="OPT,...", help="FUSE options")
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
    parser.add_argument("--herald", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    meta = addresses.parse(chosen.meta)
    data = [addresses.parse(port) for port in chosen.data]
    directory = chosen.directory.absolute()
    if not chosen.foreground:
        starting.prepare(directory)
        return starting.start_detached([*_myself(), *arguments], directory, chosen.log)
    herald = starting.Herald(chosen.herald, chosen.log)
    try:
        starting.prepare(directory)
        _log_to(chosen.log)
        _more_files()
        _serve_mount(chosen, directory, meta, data, herald)
    except (StartError, Failure) as error:
        if chosen.herald is None:
            raise
        herald.failed(str(error))  # the parent says it
        return 1
    return 0


def _timeout(text: str) -> float:
    """Seconds; what a file system may keep in memory is not older than a day."""
    seconds = float(text)
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text}: seconds, from 0 to 86400")
    return seconds


def _myself() -> list[str]:
    code = "import sys; from zdfs import cli; sys.argv[0] = 'zdfs-mount'; sys.exit(cli.mount())"
    return [sys.executable, "-P", "-c", code]


def _serve_mount(
    chosen: argparse.Namespace, directory: Path, meta: str, data: list[str], herald: starting.Herald
) -> None:
    link = Link(kernel.interrupted, kernel.dying)
    shown = os.fsencode(directory).decode(errors="replace")
    volume = Volume(meta, shown, link, chosen.attr_timeout, chosen.entry_timeout)
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
        settings = Settings(
            meta, options, chosen.attr_timeout, chosen.entry_timeout, chosen.watchers,
            ready=herald.ready, insight=Insight(volume, link),
        )  # fmt: skip
        serve_mount(directory, volume, link.run, settings)
        link.run(volume.stop())
    finally:
        link.close()


# --- zdfs-corrupt and zdfs ---------------------------------------------------------------------


HARMS = {
    "flip": "some bits of its stored bytes (the default)",
    "truncate": "the second half of its stored bytes",
    "lose": "the server forgets it",
    "stale": "the block's content before the last write, as if that had never reached the disk",
}


def _corrupt(arguments: Sequence[str]) -> int:
    text = "Damage a replica of a file's block, on purpose (on a node started with --faults)."
    parser = _parser("zdfs-corrupt", text)
    parser.add_argument("port", help="the dataserver's PORT or HOST:PORT")
    parser.add_argument(
        "path", help="the file, as a path inside the file system or on a mount here"
    )
    parser.add_argument("replica", type=int, help="0, 1 or 2: 'zdfs where' says which stands there")
    parser.add_argument("--meta", metavar="ADDR", help="default: the one the dataserver knows")
    ways = parser.add_mutually_exclusive_group()
    for way, text in HARMS.items():
        ways.add_argument(f"--{way}", dest="how", action="store_const", const=way, help=text)
    ways.add_argument("--how", choices=list(HARMS), help="the same, by name (flip)")
    parser.set_defaults(how="flip")
    parser.add_argument("--seed", type=int, help="choose the same block and bits again")
    chosen = parser.parse_args(arguments)
    server = addresses.parse(chosen.port)
    seed = random.SystemRandom().getrandbits(32) if chosen.seed is None else chosen.seed
    link = Link()
    try:
        identity = link.run(admin.find_data(server))
        meta = addresses.parse(chosen.meta) if chosen.meta else identity.meta
        path, _ = visiting.inside(chosen.path, None)
        how = wire.Harm[chosen.how.upper()]
        with visiting.visit(link, meta) as volume:
            done = link.run(harm_replica(volume, server, path, chosen.replica, how, seed))
    finally:
        link.close()
    print(f"block {done.block} of {chosen.path}, replica {chosen.replica} on {chosen.port}:")
    if how is wire.Harm.LOSE:
        print("  forgotten")
    elif how is wire.Harm.STALE:
        print(f"  set back to an older content, which differs from byte {done.offset} on")
    else:
        print(f"  before, at byte {done.offset}: {done.before.hex(' ')}")
        print(f"  after,  at byte {done.offset}: {done.after.hex(' ')}")
    return 0


def _zdfs(arguments: Sequence[str]) -> int:
    parser = _parser("zdfs", "Look after a zdfs cluster.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    status = commands.add_parser("status", help="servers, blocked writes, rebuilds, events")
    where = commands.add_parser("where", help="which server holds which replica of which block")
    where.add_argument("path", help="a path inside the file system, or on a mount of this machine")
    check = commands.add_parser(
        "fsck", help="is everything where it must be? while the cluster works",
        description=FSCK, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    check.add_argument(
        "--repair", action="store_true", help="mend what can be mended without a guess; check again"
    )
    scrub.options(commands)
    watch.options(commands)
    impact.options(commands)
    why.options(commands)
    checkup.options(commands)
    drill.options(commands)
    faults = commands.add_parser("faults", help="faults on purpose (needs --faults on the node)")
    kinds = faults.add_subparsers(dest="fault", required=True, metavar="skip")
    skip = kinds.add_parser("skip", help="let commits go ahead without a server")
    skip.add_argument("port", help="the dataserver's PORT or HOST:PORT")
    skip.add_argument("switch", choices=["on", "off"])
    metacommand.declare(commands)
    policy, owed = owing.declare(commands)
    for one in (status, where, check, skip, policy, owed):
        one.add_argument("--meta", metavar="ADDR", help=f"the metaserver ({visiting.META})")
    for one in (status, where, check, policy, owed):
        one.add_argument("--json", action="store_true", help="facts with stable keys")
    chosen = parser.parse_args(arguments)
    link = Link()
    try:
        return DOERS[chosen.command](link, chosen)
    finally:
        link.close()


def _status(link: Link, chosen: argparse.Namespace) -> int:
    facts = link.run(admin.status(meta_of(chosen)))
    print(json.dumps(facts, indent=2) if chosen.json else admin.status_text(facts))
    return 0


def _where(link: Link, chosen: argparse.Namespace) -> int:
    path, meta = visiting.inside(chosen.path, None)
    with visiting.visit(link, addresses.parse(chosen.meta or meta or visiting.META)) as volume:
        facts = link.run(admin.where(volume, path))
    print(json.dumps(facts, indent=2) if chosen.json else admin.where_text(facts))
    return 0


def _fsck(link: Link, chosen: argparse.Namespace) -> int:
    meta = meta_of(chosen)
    before: findings.Report | None = None
    try:
        link.run(admin.find_meta(meta))
        with progress.Shown(chosen.json) as shown:
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


def _skip(link: Link, chosen: argparse.Namespace) -> int:
    meta, server = meta_of(chosen), addresses.parse(chosen.port)
    link.run(admin.find_meta(meta))
    found = link.run(call(Peer(meta), wire.GetStatus()))
    slots = {one.member.address: one.member.slot for one in found.servers}
    if server not in slots:
        known = ", ".join(addresses.short(address) for address in slots)
        raise StartError(f"no dataserver has port {chosen.port}; there are {known}")
    link.run(call(Peer(meta), wire.Skip(slots[server], chosen.switch == "on")))
    print(f"commits {'skip' if chosen.switch == 'on' else 'wait for'} dataserver {chosen.port}")
    return 0


DOERS = {
    "status": _status,
    "where": _where,
    "fsck": _fsck,
    "faults": _skip,
    "scrub": scrub.command,
    "watch": watch.command,
    "impact": impact.command,
    "why": why.command,
    "health": checkup.command,
    "drill": drill.command,
    "meta": metacommand.command,
    **owing.DOERS,
}


def node() -> int:
    """zdfs-node"""
    return main("zdfs-node", _node, sys.argv[1:])


def mount() -> int:
    """zdfs-mount"""
    return main("zdfs-mount", _mount, sys.argv[1:])


def corrupt() -> int:
    """zdfs-corrupt"""
    return main("zdfs-corrupt", _corrupt, sys.argv[1:])


def zdfs() -> int:
    """zdfs"""
    return main("zdfs", _zdfs, sys.argv[1:])
