"""Versions that an emptying open let go of were dropped at once, under readers still underway.

The second for which they are kept was counted from before the open waited for the file's other
writer, so that it was over when the open was done.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from tests.issues.test_kept_grant import caller, drive, metaserver
from tests.world.stores import MemoryMetaStore
from zdfs import blockmap, extents, limits, wire
from zdfs.blockmap import MapEntry
from zdfs.calls import Now, Trap, Wait
from zdfs.checksum import Seal
from zdfs.ids import ROOT, BlockNo, Epoch, Ino, Session, Token, Version
from zdfs.meta import Meta

WAITED_S = 5.0


def session(meta: Meta, nonce: bytes) -> Session:
    opened = drive(meta.open_session(wire.OpenSession(nonce, "h", "m"), caller(Session(0))))
    return opened.session


def drive_through_a_wait(coroutine: Coroutine[Trap, Any, Any], waited: Callable[[], None]) -> Any:
    """Run a handler that waits once: then time passes, and `waited` happens."""
    at, value = 1.0, None
    while True:
        try:
            trap = coroutine.send(value)
        except StopIteration as done:
            return done.value
        if isinstance(trap, Wait):
            at += WAITED_S
            waited()
            value = True
        else:
            assert isinstance(trap, Now), trap
            value = int(at * 1e9) if trap.wall else at


def commit(meta: Meta, ino: Ino, token: Token) -> None:
    """A block, behind the backs of the dataservers."""
    entry = MapEntry(Version(token, 1), 8, 8, Seal(1, 2))
    request = wire.Commit(
        ino, token, 1, Epoch(1), 0, blockmap.pack_numbered([(BlockNo(0), entry)]), (), b"", 8,
        1, True,
    )  # fmt: skip
    with meta.ledger.change() as tables:
        extents.commit(tables, 1, request, meta.members.block_bytes, meta.ledger.new_drop)


def test_the_second_is_counted_from_the_truncate() -> None:
    meta = metaserver(MemoryMetaStore())
    one, other = session(meta, bytes(16)), session(meta, b"o" * 16)
    made = drive(
        meta.contents.create(
            wire.Create(ROOT, b"f", b"/f", 0o644, 0, 0, True, 1, 0), caller(one, 0)
        )
    )
    ino = made.attributes.ino
    commit(meta, ino, made.token)
    opened = drive_through_a_wait(
        meta.contents.open(wire.Open(ino, 1, True, True, ROOT, b""), caller(other, 0)),
        lambda: meta.contents.returned(one, ino, made.token),
    )
    assert opened.attributes.size == 0
    assert opened.attributes.mtime_ns == int((1.0 + WAITED_S) * 1e9), "it is of that moment, too"
    ((at, *_),) = meta.members.queued
    assert at == 1.0 + WAITED_S > 1.0 + limits.KEEP_SUPERSEDED_S
