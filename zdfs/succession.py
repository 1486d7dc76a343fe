"""Which room stands at the metaserver's port: the metaserver, or who gets its metadata back.

a usable store                          -> Meta
none, or a damaged one                  -> Regain -> Meta
Meta finds that its store is outdated   -> Regain -> Meta, of a later incarnation
"""

import logging
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from zdfs import addresses, upgrading
from zdfs.broker import Broker
from zdfs.copied import CopiedStore
from zdfs.errors import Damaged, DamagedStore, StartError
from zdfs.ids import Incarnation
from zdfs.ledger import Ledger, founded_block_bytes
from zdfs.measures import Commits, Meter
from zdfs.meta import Meta
from zdfs.ports import Room
from zdfs.regain import Past, Regain
from zdfs.schema import META_FORMAT
from zdfs.store import set_aside, sound_store

log = logging.getLogger("zdfs.meta")


class Settings(NamedTuple):
    """How a metaserver was asked to be."""

    block_bytes: int
    asked: bool  # for that block size: else it is the default
    faults: bool
    session_life_s: float
    meta_copies: int
    format: int  # of the metadata, at most


def succeed(
    store: CopiedStore, uuid: bytes, last: Room | None, make: Callable[[Ledger], Meta],
    meter: Meter | None = None,
) -> Room:  # fmt: skip
    """The room behind `last` (None: at the start).  Damaged: a record that every start needs fails
    its check."""
    if isinstance(last, Regain) or (last is None and not store.empty):
        least = last.least if isinstance(last, Regain) else Incarnation(0)
        return make(Ledger(store, uuid, least))
    past = Past(last.incarnation, last.members.reports) if isinstance(last, Meta) else Past()
    return Regain(store, uuid, None if store.empty else store.head, meter=meter, past=past)


def serve(broker: Broker, directory: Path, settings: Settings, meter: Meter) -> None:
    """Until stopped.  StartError: the store is another's, or was founded otherwise."""
    while not broker.stopped:
        try:
            _serve_store(broker, directory, settings, meter)
        except DamagedStore as error:
            set_aside(directory, error)


def _serve_store(broker: Broker, directory: Path, settings: Settings, meter: Meter) -> None:
    """One room after the other.  DamagedStore: this store can't carry one."""

    def make(ledger: Ledger) -> Meta:
        ledger.most_format = settings.format
        shown = addresses.short(broker.address)
        log.info("metaserver %s, incarnation %d", shown, ledger.incarnation)
        founded = ledger.cluster.block_bytes if ledger.cluster else settings.block_bytes
        return Meta(
            ledger, founded, settings.faults, settings.session_life_s, settings.meta_copies, meter
        )

    with closing(sound_store(directory, Commits(meter, "names"))) as lmdb:
        if settings.format == META_FORMAT:
            upgrading.keep_meta(directory, lmdb)
        try:
            store = CopiedStore(lmdb)
            founded = founded_block_bytes(store)
            if founded and settings.asked and settings.block_bytes != founded:
                raise StartError(
                    f"--block-size {settings.block_bytes}: the cluster was founded with {founded}; "
                    "leave the option out"
                )
            room: Room | None = None
            while not broker.stopped:
                room = succeed(store, os.urandom(16), room, make, meter)
                broker.serve(room, store)
        except Damaged as error:
            raise DamagedStore(f"{directory}: {error}") from error
