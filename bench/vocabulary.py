"""What the vocabulary costs: the price of a seal, of a message, of a map page, on this machine.

Each figure is the best of five rounds.  They are ceilings: no network, no disk, no kernel.  One
that moves by more than a quarter between two commits on the same machine wants a reason.
"""

import sys
import time
from collections.abc import Callable

from zdfs import blockmap, checksum, limits, schema, wire
from zdfs.blockmap import MapEntry
from zdfs.checksum import Seal
from zdfs.ids import BlockNo, Epoch, Incarnation, Ino, Name, Session, Slot, Token, Version

ROUNDS = 5
ROUND_S = 0.1
VERSION = Version(Token(1 << 40), 7)
NAME = Name(Ino(1 << 40), BlockNo(3), VERSION)


def microseconds(work: Callable[[], object]) -> float:
    """What one call costs: the best round."""
    best = float("inf")
    for _ in range(ROUNDS):
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < ROUND_S:
            for _ in range(10):
                work()
            count += 10
        best = min(best, (time.perf_counter() - start) / count)
    return best * 1e6


def main() -> int:
    """Print one line a figure."""
    head = wire.RequestHead(Session(1), wire.NO_SLOT, 1, 2000, Incarnation(1))
    block = bytes(limits.BLOCK_BYTES)
    seal = checksum.seal(NAME, block)
    one = wire.Put1(NAME, seal, Epoch(1), Slot(0), len(block))
    count = limits.BATCH_BYTES // limits.BLOCK_BYTES
    put = wire.Put(bytes(16), (one,) * count, (block,) * count)
    lookup = wire.Lookup(Ino(1), (b"directory", b"file"))
    page = [MapEntry(VERSION, 65536, 65536, Seal(1, 2))] * limits.PAGE_BLOCKS
    packed, value = blockmap.pack_page(page), schema.seal_value(b"key", bytes(200))
    frames = wire.encode_request(head, put)
    figures: list[tuple[str, Callable[[], object]]] = [
        (
            f"seal a block of {len(block)} bytes ({checksum.engine()})",
            lambda: checksum.seal(NAME, block),
        ),
        ("encode a Lookup of two names", lambda: wire.encode_request(head, lookup)),
        ("encode and decode it", lambda: wire.decode_request(wire.encode_request(head, lookup))),
        (f"encode a Put of {count} blocks", lambda: wire.encode_request(head, put)),
        ("decode it", lambda: wire.decode_request(frames)),
        ("pack a full map page", lambda: blockmap.pack_page(page)),
        ("unpack it", lambda: blockmap.unpack_page(packed)),
        ("open a record of 200 bytes", lambda: schema.open_value(b"key", value)),
    ]
    for what, work in figures:
        print(f"{microseconds(work):10.2f} us   {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
