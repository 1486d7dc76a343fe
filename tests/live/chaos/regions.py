"""Where in a store's files a bit is flipped: the regions of a log and of an LMDB file.

Both are read here from the bytes alone, by their formats: `schema` for the log, and for LMDB the
page header that `lmdb.verify` documents (mdb.c: MDB_page, MDB_node, MDB_meta).
"""

import random
import struct
from contextlib import suppress
from pathlib import Path

from lmdb import verify

from zdfs import schema
from zdfs.errors import Damaged
from zdfs.log import Found, segment_path, segment_numbers, walk

Span = tuple[int, int]  # from, to (not included)
Regions = dict[str, list[Span]]


def log_regions(path: Path, number: int, uuid: bytes) -> Regions:
    """The regions of a segment; what is damaged already is none."""
    found: Regions = {"segment-header": [(0, schema.SEGMENT_HEADER_BYTES)]}
    with path.open("rb") as file:
        salt = schema.record_salt(uuid, number)
        last: Span | None = None
        for one in walk(file.fileno(), salt, schema.SEGMENT_HEADER_BYTES, None):
            if not isinstance(one, Found):
                continue
            body = one.offset + schema.RECORD_BYTES
            kind = {
                schema.KIND_BLOCK: "block",
                schema.KIND_STATE: "state",
                schema.KIND_ROUND: "round",
            }[one.header.kind]
            found.setdefault(f"{kind}-header", []).append((one.offset, body))
            if one.end > body:
                found.setdefault(f"{kind}-body", []).append((body, one.end))
            last = (one.offset, one.end)
        found["last-record"] = [last] if last else []
    return found


def live_log_regions(store: Path) -> tuple[Path, Regions]:
    """Those of a dataserver's segment with most in it."""
    sizes = {
        number: segment_path(store, number).stat().st_size for number in segment_numbers(store)
    }
    number = max(sizes, key=lambda one: sizes[one])
    path = segment_path(store, number)
    return path, log_regions(path, number, _uuid(store))


def _uuid(store: Path) -> bytes:
    """By the newest segment header that is good."""
    for number in reversed(segment_numbers(store)):
        with segment_path(store, number).open("rb") as file, suppress(Damaged):
            return schema.unpack_segment(file.read(schema.SEGMENT_HEADER_BYTES)).uuid
    raise AssertionError(f"{store}: no good segment header left")


class Reading(verify._Verifier):  # type: ignore[misc]
    """`lmdb.verify`, which walks every page that can be reached: what it saw."""

    def __init__(self, path: Path):
        self._file = path.open("rb")
        super().__init__(self._file, path.stat().st_size)
        self.used: dict[int, str] = {}  # page -> tree
        self.verify()
        self.bytes = path.read_bytes()
        self._file.close()
        assert not self.errors, self.errors

    def _mark_live(self, pgno: int, what: str) -> bool:
        self.used[pgno] = what
        good: bool = super()._mark_live(pgno, what)
        return good

    def page(self, number: int) -> Span:
        return number * self.psize, (number + 1) * self.psize


def lmdb_regions(path: Path) -> Regions:
    """The regions of an LMDB file in which nothing is wrong."""
    tree = Reading(path)
    found: Regions = {}

    def put(region: str, span: Span) -> None:
        found.setdefault(region, []).append(span)

    base = tree.hdrsz
    record = (base, base + 24 + 2 * verify.SIZEOF_MDB_DB + 16)  # header and MDB_meta
    txnid = [
        struct.unpack_from("=Q", tree.bytes, n * tree.psize + record[1] - 8)[0] for n in (0, 1)
    ]
    newer = 0 if txnid[0] > txnid[1] else 1
    for number, region in ((newer, "meta-newer"), (1 - newer, "meta-older")):
        put(region, (number * tree.psize + base, number * tree.psize + record[1]))
    for number in range(2, tree.next_pgno):
        span = tree.page(number)
        what = tree.used.get(number, "")
        if not what:
            put("unused", span)
        elif what.startswith("freeDB"):
            put("free-list", _used_of_page(tree, span))
        elif what.endswith("overflow"):
            put("overflow", span)
        else:
            _tree_page(tree, span, put)
    return found


def _used_of_page(tree: Reading, span: Span) -> Span:
    """The header and pointers of a page: what is between them and the nodes means nothing."""
    lower = struct.unpack_from("=H", tree.bytes, span[0] + tree.hdrsz - 4)[0]
    return span[0], span[0] + lower + tree.pagebase


def _tree_page(tree: Reading, span: Span, put) -> None:  # type: ignore[no-untyped-def]
    at = span[0]
    flags = struct.unpack_from("=H", tree.bytes, at + tree.hdrsz - 6)[0]
    head = _used_of_page(tree, span)
    if flags & verify.P_BRANCH:
        put("branch", head)
    else:
        put("leaf-header", head)
    for number in range((head[1] - at - tree.hdrsz) // 2):
        pointer = struct.unpack_from("=H", tree.bytes, at + tree.hdrsz + 2 * number)[0]
        node = at + pointer + tree.pagebase
        low, high, kind, key = struct.unpack_from("=HHHH", tree.bytes, node)
        if flags & verify.P_BRANCH:
            put("branch", (node, node + 8 + key))
            continue
        put("leaf-key", (node + 8, node + 8 + key))
        value = node + 8 + (verify._even(key) if tree.eng["has_txnid"] else key)
        size = low | high << 16
        if kind & verify.F_BIGDATA:
            continue
        put("leaf-value", (value, value + size))


def flip(path: Path, span: Span, dice: random.Random) -> str:
    """Flip one bit; where, for people."""
    at, bit = dice.randrange(*span), dice.randrange(8)
    with path.open("r+b", buffering=0) as file:
        file.seek(at)
        (old,) = file.read(1)
        file.seek(at)
        file.write(bytes([old ^ 1 << bit]))
    return f"{path.name} byte {at} bit {bit}"


def draw(regions: Regions, region: str, dice: random.Random) -> Span:
    """One place of a region."""
    spans = [span for span in regions.get(region, []) if span[1] > span[0]]
    assert spans, f"no {region} in this file: the test stores too little"
    return dice.choice(spans)
