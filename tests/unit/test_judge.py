"""What the metaserver calls garbage, and which acknowledgements it believes.

A dataserver drops what it is told that no map names; a block that was put a moment ago and is about
to be committed is named by none.
"""

import pytest

from tests.issues.test_early_drops import session
from tests.issues.test_flights import BLOCK, Mount
from tests.issues.test_kept_grant import caller, drive, metaserver
from tests.world.stores import MemoryMetaStore
from zdfs import blockmap, limits, schema, wire
from zdfs.blockmap import MapEntry
from zdfs.checksum import Seal
from zdfs.errors import PutAgain
from zdfs.ids import ROOT, BlockNo, Epoch, Name, PageNo, Slot, Token, Version

LENGTH = 8


class Site:
    """A metaserver and a mount that writes a file."""

    def __init__(self) -> None:
        self.store = MemoryMetaStore()
        self.meta = metaserver(self.store)
        self.us, self.other = (session(self.meta, nonce * 16) for nonce in (b"u", b"o"))
        request = wire.Create(ROOT, b"f", b"/f", 0o644, 0, 0, True, 1, 0)
        made = drive(self.meta.contents.create(request, caller(self.us, 0)))
        self.ino, self.token, self.number = made.attributes.ino, made.token, 0

    def acks(self) -> list[wire.Ack]:
        """Of the stores as they are."""
        servers = self.meta.ledger.servers.items()
        return [wire.Ack(slot, s.uuid, s.life, s.boot, s.synced_round) for slot, s in servers]

    def commit(self, sequences: dict[int, int], floor: int, acks: list[wire.Ack]) -> None:
        """Blocks under these sequences."""
        entries = [
            (BlockNo(block), MapEntry(Version(self.token, sequence), LENGTH, LENGTH, Seal(1, 2)))
            for block, sequence in sequences.items()
        ]
        size = max(sequences) * self.meta.members.block_bytes + LENGTH
        request = wire.Commit(
            self.ino, self.token, self.number + 1, Epoch(1), floor,
            blockmap.pack_numbered(entries), tuple(acks), b"", size, 1, True,
        )  # fmt: skip
        drive(self.meta.contents.commit(request, caller(self.us, 0)))
        self.number += 1

    def name(self, block: int, sequence: int, token: Token | None = None) -> Name:
        return Name(self.ino, BlockNo(block), Version(token or self.token, sequence))

    def kept(self, *names: Name) -> list[bool]:
        """What a sweep is told."""
        judged = drive(self.meta.members.judge(wire.Judge(names), caller(self.us)))
        return [bool(one) for one in judged.keep]


def test_what_the_holder_may_still_commit_is_kept() -> None:
    site = Site()
    assert site.kept(site.name(0, 1), site.name(1, 2)) == [True, True], "just put"
    site.commit({0: 5}, 4, site.acks())
    assert site.kept(site.name(0, 5)) == [True], "the map names it"
    assert site.kept(site.name(1, 4), site.name(0, 6)) == [True, True], "not below the floor"
    assert site.kept(site.name(1, 3), site.name(0, 1)) == [False, False], "its writer said so"


def test_without_a_holder_only_a_later_token_makes_garbage() -> None:
    """That nobody is known to hold it proves nothing: the metaserver may have restarted, or the
    reply that grants it be on its way."""
    site = Site()
    site.commit({0: 5}, 4, site.acks())
    underway = site.name(1, 6)
    site.meta.contents.returned(site.us, site.ino, site.token)
    assert site.meta.sessions.holder(site.ino) is None
    assert site.kept(underway) == [True]
    drive(site.meta.contents.grant(wire.Grant(site.ino), caller(site.other, 0)))
    assert site.kept(underway, site.name(0, 5)) == [False, True]


def test_of_a_file_that_is_gone_nothing_is_kept() -> None:
    site = Site()
    stranger = site.name(0, 1)._replace(ino=site.meta.ledger.new_ino())
    assert site.kept(stranger) == [False]


@pytest.mark.parametrize("harm", ["page", "lost page", "inode", "lost inode"])
def test_damaged_metadata_proves_nothing(harm: str) -> None:
    site = Site()
    site.commit({0: 5, limits.PAGE_BLOCKS: 6}, 4, site.acks())
    records = site.store.records
    key = schema.inode_key(site.ino)
    if "page" in harm:
        key = schema.page_key(site.ino, PageNo(0))
    if "lost" in harm:
        records.delete(key)
    else:
        records.values[key] = bytes([records.values[key][0] ^ 1]) + records.values[key][1:]
    assert site.kept(site.name(0, 5), site.name(0, 1)) == [True, True]


def test_a_floor_is_below_all_that_is_underway() -> None:
    mount = Mount()
    for number in range(3):
        mount.write(b"11111111", number * BLOCK)
        mount.fsync()
    flying = [min(flight.sequences.values()) for flight in mount.file.flights]
    mount.stored(3)  # the first flight's
    assert mount.committed(BLOCK).floor <= flying[0] < flying[1]


# --- acknowledgements ----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["uuid", "life", "none", "boot"])
def test_an_acknowledgement_of_a_store_that_is_gone_does_not_count(what: str) -> None:
    site = Site()
    good = site.acks()
    gone = {
        "uuid": good[1]._replace(uuid=b"before" + bytes(10)),
        "life": good[1]._replace(life=good[1].life + 1),
        "boot": good[1]._replace(boot=good[1].boot + 1),
    }
    bad = [gone.get(what, ack) if ack.slot == 1 else ack for ack in good]
    with pytest.raises(PutAgain) as refused:
        site.commit({0: 5}, 4, [ack for ack in bad if what != "none" or ack.slot != 1])
    assert refused.value.details == (Slot(1),)
    with site.meta.ledger.view() as view:
        assert view.inode(site.ino).size == 0, "nothing counts of it"
    site.commit({0: 5}, 4, good)
