"""A dataserver did not start when a flipped bit in its index met the search for metadata rounds."""

from tests.world.stores import MemoryBlockStore, MemoryMetaStore
from zdfs import records, schema
from zdfs.chain import GENESIS
from zdfs.errors import Damaged
from zdfs.ids import Name, Slot
from zdfs.mirror import Mirror
from zdfs.ports import MetaStore
from zdfs.schema import IndexEntry


class BadIndex(MemoryBlockStore):
    """No scan ends well."""

    def scan(self, after: Name | None, count: int) -> list[tuple[Name, IndexEntry]]:
        raise Damaged("the record block 1 fails its checksum")


def test_the_copy_waits_to_be_filled_and_the_server_starts() -> None:
    store, copy = BadIndex(Slot(0)), MemoryMetaStore()
    inner: MetaStore = copy
    with inner.write() as txn:
        txn.put(schema.HEAD, records.pack(GENESIS))
    made = Mirror(store, inner)
    assert not made.whole and not made.report().whole
