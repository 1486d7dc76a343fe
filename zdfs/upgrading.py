"""Before a store of an older format is brought to ours: a copy of what tells where everything is.

    DIR/meta.format-N/data.mdb      the metaserver's: all of its metadata
    DIR/index.format-N/data.mdb     a dataserver's: its index; the log itself is only added to

It is copied beside, synced, looked at, and renamed, so that it is there whole or not at all; what
an earlier start left there gives way only to a whole one.  Nothing else is changed before, so
whoever is killed here starts again as if nothing had been.  The copies stay until somebody deletes
them; the ways back are in docs/UPGRADING.md.
"""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

from zdfs import disk, records, schema
from zdfs.disk import DATA_FILE, log
from zdfs.errors import Damaged, Foreign, StartError
from zdfs.lineage import Writer
from zdfs.log import segment_numbers, segment_path
from zdfs.ports import MetaStore
from zdfs.schema import DataState

_PIECE_BYTES = 8 << 20
_TOLD_S = 2.0  # a line of the log so often
_MIB = 1 << 20


def meta_format(store: MetaStore) -> int:
    """The format of a metaserver's store; ours when it is new, or its superblock is damaged: then
    copies of it decide."""
    try:
        with store.read() as read:
            payload = read.get(schema.SUPERBLOCK)
    except Damaged:
        return schema.META_FORMAT
    return schema.META_FORMAT if payload is None else int(records.loads(payload)[0])


def keep_meta(directory: Path, store: MetaStore) -> None:
    """The metaserver's copy, if its store (open, nobody writes yet) is of an older format."""
    found = meta_format(store)
    if found < schema.META_FORMAT:
        log.warning("%s: a store of format %d, checked before it is upgraded", directory, found)
        _check(directory, store)
        kept = keep(directory / "meta", found)
        log.warning(
            "%s: it is upgraded to format %d once every dataserver can read that; until then the "
            "release before can be started on it again; as it is now it is kept in %s",
            directory, schema.META_FORMAT, kept,
        )  # fmt: skip


def _check(directory: Path, store: MetaStore) -> None:
    """Read every record.  What is bad is told: the metaserver heals it from copies."""
    bad = count = 0
    with store.read() as read:
        first = b""
        while True:
            try:
                for key, _ in read.scan(first, schema.BEYOND):
                    first, count = key + b"\0", count + 1
                break
            except Damaged as error:
                log.error("%s: %s", directory, error)
                bad += 1
                if not error.key:
                    break
                first = error.key + b"\0"
    log.info("%s: %d records are sound, %d are not", directory, count, bad)


def data_format(directory: Path) -> int:
    """The format that a dataserver's newest segment is in; ours when there is none.  StartError:
    one that this release doesn't read."""
    for number in reversed(segment_numbers(directory)):
        try:
            with segment_path(directory, number).open("rb") as file:
                return schema.unpack_segment(file.read(schema.SEGMENT_HEADER_BYTES)).format
        except Foreign as error:
            raise StartError(f"{directory}: {error}") from error
        except Damaged:
            continue
    return schema.DATA_FORMAT


def keep_index(directory: Path) -> None:
    """A dataserver's copy, if its store is of an older format."""
    found = data_format(directory)
    if found < schema.DATA_FORMAT:
        kept = ""
        if (directory / "index" / DATA_FILE).exists():  # else it is made anew from the log
            kept = f"; its index as it is now is kept in {keep(directory / 'index', found)}"
        log.warning(
            "%s: a store of format %d, upgraded to %d%s",
            directory, found, schema.DATA_FORMAT, kept,
        )  # fmt: skip


def keep(environment: Path, format_: int) -> Path:
    """Copy LMDB's file, which nobody writes to.  StartError: there is no room, or it can't be
    read back."""
    kept = environment.with_name(f"{environment.name}.format-{format_}")
    new = kept.with_name(kept.name + ".new")
    source = environment / DATA_FILE
    _need_room(environment.parent, source.stat().st_size, format_)
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        _copy(source, new / DATA_FILE)
        disk.sync_directory(new)
        if faults := disk.find_faults(new):
            raise StartError(f"{new}: the copy of {source} can't be read back: {faults[0]}")
        if kept.exists():
            _replace(new, kept)
        else:
            new.rename(kept)
        disk.sync_directory(kept.parent)
    except OSError as error:
        raise StartError(
            f"{source} can't be copied to {kept}: {error}; nothing was upgraded"
        ) from error
    return kept


def _replace(new: Path, kept: Path) -> None:
    """By one rename: the copy of an earlier start is of an older state."""
    os.replace(new / DATA_FILE, kept / DATA_FILE)
    disk.sync_directory(kept)
    shutil.rmtree(new)


def _need_room(directory: Path, size: int, format_: int) -> None:
    free = disk.disk_free(directory)
    if free < size + size // 16 + _MIB:
        raise StartError(
            f"{directory}: this store of format {format_} is copied before it is upgraded, which "
            f"takes {size // _MIB + 1} MiB of which {free // _MIB} are free: make room there, or "
            "start the release that made it"
        )


def _copy(source: Path, target: Path) -> None:
    """Synced; says how far it is when it takes long."""
    total, done, told = source.stat().st_size, 0, time.monotonic()
    with source.open("rb") as old, target.open("xb") as new:
        while piece := old.read(_PIECE_BYTES):
            new.write(piece)
            done += len(piece)
            if time.monotonic() - told > _TOLD_S:
                told = time.monotonic()
                log.info("%s: %d%% copied", source, 100 * done // max(total, done))
        new.flush()
        os.fsync(new.fileno())


def in_our_format(state: DataState) -> DataState:
    """It is written with the first word of each boot: that is all of the upgrade."""
    if state.format == schema.DATA_FORMAT:
        return state
    before = (Writer("earlier", 4, state.format, 0), *state.lineage)
    return replace(state, format=schema.DATA_FORMAT, lineage=before)
