"""What zdfs-node does: a server, with everything wired together."""

import argparse
import logging
import os
import signal
import time
from contextlib import ExitStack, closing
from pathlib import Path

from zdfs import addresses, arguments, keys, limits, notify, succession, wire
from zdfs.blockstore import LogStore
from zdfs.broker import Broker
from zdfs.data import Data
from zdfs.errors import StartError
from zdfs.ids import Slot
from zdfs.measures import Commits, Role
from zdfs.recovery import Rates
from zdfs.running import log_to, meter_of, more_files
from zdfs.schema import META_FORMAT, META_FORMAT_MIN
from zdfs.store import sound_store

UNNAMED = f"a configuration file ({arguments.SYSTEM}; 'zdfs config' shows what holds)"
log = logging.getLogger("zdfs")


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


def meta(chosen: argparse.Namespace) -> int:
    """Run a metaserver until it is told to end.  StartError: it can't."""
    wire.speak(chosen.speak)
    more_files()
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
    newest = META_FORMAT if chosen.format is None else chosen.format
    if not META_FORMAT_MIN <= newest <= META_FORMAT:
        raise StartError(f"--format {newest}: {META_FORMAT_MIN} to {META_FORMAT}")
    settings = succession.Settings(
        block_bytes, chosen.block_size is not None, chosen.faults, chosen.session_life,
        chosen.meta_copies, newest,
    )  # fmt: skip
    directory = _store(chosen, address)
    keys.refuse_plain(directory, chosen.keys)
    log_to(chosen.log, "zdfs-node", ZDFS_ROLE="meta", ZDFS_SERVER=address)
    with closing(Broker(address, chosen.keys)) as broker:
        if chosen.keys:
            keys.remember(directory)
        _attend(broker)
        meter = meter_of(chosen, Role.META)
        succession.serve(broker, directory, settings, meter)
    return 0


def data(chosen: argparse.Namespace) -> int:
    """Run a dataserver until it is told to end.  StartError: it can't."""
    wire.speak(chosen.speak)
    more_files()
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
    log_to(chosen.log, "zdfs-node", **about)
    with ExitStack() as stack:
        broker = stack.enter_context(closing(Broker(address, chosen.keys)))
        meter = meter_of(chosen, Role.DATA)
        blocks, copies = Commits(meter, "blocks"), Commits(meter, "copy")
        store = stack.enter_context(closing(LogStore(directory, slot, commits=blocks)))
        if chosen.keys:
            keys.remember(directory)
        copy = stack.enter_context(closing(sound_store(directory / "copy", copies)))
        _attend(broker)
        log.info("dataserver %s, slot %d of %d", addresses.short(address), slot, len(ring))
        broker.serve(Data(store, slot, ring, meta, chosen.faults, rates, copy, meter), store)
    return 0
