"""Block maps: committed, cut, let go, listed for dataservers."""

import errno
from collections.abc import Callable, Iterator

import pytest

from tests.world.tree import BLOCK, Tree
from zdfs import blockmap, extents, namespace, placement, records, schema
from zdfs.blockmap import Dropped
from zdfs.errors import BadMessage, Damaged, Failure, Fenced, Posix, PutAgain
from zdfs.ids import ROOT, BlockNo, Epoch, Ino, Name, PageNo, Slot, Token, Version
from zdfs.schema import DropRecord, Totals
from zdfs.wire import Commit

PAGE = 64


@pytest.fixture
def tree() -> Iterator[Tree]:
    made = Tree()
    yield made
    made.check()


@pytest.fixture
def file(tree: Tree) -> Ino:
    ino = tree.make(ROOT, b"f")
    tree.grant(ino, 10)
    return ino


def refused(kind: type[Failure], operation: Callable[..., object], *arguments: object) -> Failure:
    with pytest.raises(kind) as caught:
        operation(*arguments)
    return caught.value


def fill(tree: Tree, file: Ino, blocks: list[int]) -> None:
    token = tree.view().inode(file).token
    entries = {block: tree.entry(token) for block in blocks}
    tree.commit(file, entries, (max(blocks) + 1) * BLOCK)


def queued(tree: Tree) -> set[tuple[Ino, Dropped]]:
    found: set[tuple[Ino, Dropped]] = set()
    for _, payload in tree.store.scan(b"d", b"e"):
        record = records.unpack(DropRecord, payload)
        found |= {(record.ino, drop) for drop in blockmap.unpack_dropped(record.versions)}
    return found


def totals(tree: Tree) -> Totals:
    return tree.view().totals()


def test_grant_only_grows(tree: Tree, file: Ino) -> None:
    change = tree.stat(file).change
    tree.grant(file, 10)
    tree.grant(file, 12)
    refused(Fenced, tree.grant, file, 11)
    assert tree.view().inode(file).token == 12 and tree.stat(file).change == change
    assert refused(Posix, tree.grant, ROOT, 99).number == errno.EISDIR
    fifo = tree.make(ROOT, b"p", 0o10644)
    assert refused(Posix, tree.grant, fifo, 99).number == errno.EINVAL
    assert refused(Posix, tree.grant, Ino(999), 99).number == errno.ESTALE


def test_commit(tree: Tree, file: Ino) -> None:
    first, second = tree.entry(10), tree.entry(10, 3)
    before = tree.stat(file)
    assert tree.commit(file, {0: first, 200: second}, 200 * BLOCK + 3) == []
    seen = tree.stat(file)
    assert (seen.size, seen.stored) == (200 * BLOCK + 3, BLOCK + 3)
    assert seen.mtime_ns == seen.ctime_ns == tree.now_ns and seen.change == before.change + 1
    assert tree.visible(file) == {0: (first.version, BLOCK), 200: (second.version, 3)}
    assert totals(tree) == Totals(2, BLOCK + 3)
    inode = tree.view().inode(file)
    assert (inode.number, inode.pages) == (1, 2)


def test_commit_supersedes(tree: Tree, file: Ino) -> None:
    old, new = tree.entry(10), tree.entry(10, 2)
    tree.commit(file, {5: old}, 6 * BLOCK)
    dropped = tree.commit(file, {5: new, 6: tree.entry(10)}, 7 * BLOCK)
    assert dropped == [Dropped(BlockNo(5), old.version)]
    assert queued(tree) == {(file, dropped[0])}
    assert tree.stat(file).stored == totals(tree).stored_bytes == BLOCK + 2
    assert tree.stat(file).size == 7 * BLOCK
    tree.commit(file, {}, 0)  # smaller: the size stays
    assert tree.stat(file).size == 7 * BLOCK


def test_commit_refuses(tree: Tree, file: Ino) -> None:
    fill(tree, file, [0])
    newest, later = tree.entry(10), tree.entry(10)
    tree.commit(file, {0: later}, BLOCK)
    before = dict(tree.store.values)
    block = {1: tree.entry(10)}
    refused(Fenced, lambda: tree.commit(file, block, 99, token=9))
    refused(Fenced, lambda: tree.commit(file, block, 99, token=11))
    refused(BadMessage, lambda: tree.commit(file, block, 99, number=2))  # a repeat
    refused(BadMessage, lambda: tree.commit(file, block, 99, number=4))
    refused(PutAgain, lambda: tree.commit(file, block, 99, epoch=2))
    refused(BadMessage, lambda: tree.commit(file, block, 99, floor=10_000))
    refused(BadMessage, tree.commit, file, {0: later}, BLOCK)  # the same version
    refused(BadMessage, tree.commit, file, {0: newest}, BLOCK)  # a lower one
    refused(BadMessage, tree.commit, file, {1: tree.entry(9)}, 99)  # another grant's
    refused(BadMessage, tree.commit, file, {1: tree.entry(10, BLOCK + 1)}, 99)
    refused(BadMessage, tree.commit, file, block, 2 * BLOCK - 1)  # beyond the size
    assert refused(Posix, tree.commit, ROOT, {}).number == errno.EISDIR
    assert tree.store.values == before


def test_commit_refuses_what_is_no_list(tree: Tree, file: Ino) -> None:
    entry = (BlockNo(0), tree.entry(10))
    request = Commit(
        file, Token(10), 1, Epoch(1), 0, b"x" * 33, (), b"", BLOCK, None, False
    )  # fmt: skip
    for blocks in (b"x" * 33, bytes(34), blockmap.pack_numbered([entry, entry])):
        bad = Commit(
            request.ino, request.token, 1, request.epoch, 0, blocks, (), b"", BLOCK, None, False
        )
        with pytest.raises(BadMessage), tree.change() as tables:
            extents.commit(tables, 1, bad, BLOCK, tree.next_drop)


def test_abandoned_versions_are_dropped(tree: Tree, file: Ino) -> None:
    fill(tree, file, [0])
    lost = Dropped(BlockNo(3), Version(Token(10), 77))
    assert tree.commit(file, {}, abandoned=(lost,)) == [lost]
    assert (file, lost) in queued(tree)
    named = Dropped(BlockNo(0), tree.visible(file)[0][0])
    refused(BadMessage, lambda: tree.commit(file, {}, abandoned=(named,)))
    fresh = tree.entry(10)
    both = (Dropped(BlockNo(1), fresh.version),)
    refused(BadMessage, lambda: tree.commit(file, {1: fresh}, 99, abandoned=both))
    later = Dropped(BlockNo(3), Version(Token(11), 1))
    refused(BadMessage, lambda: tree.commit(file, {}, abandoned=(later,)))


def test_truncate_within_a_block(tree: Tree, file: Ino) -> None:
    fill(tree, file, [0, 1, 2, 70, 140])
    versions = {block: version for block, (version, _) in tree.visible(file).items()}
    dropped = tree.truncate(file, BLOCK + 3)
    assert {drop.block for drop in dropped} == {2, 70, 140}
    assert queued(tree) == {(file, drop) for drop in dropped}
    assert tree.visible(file) == {0: (versions[0], BLOCK), 1: (versions[1], 3)}
    seen = tree.stat(file)
    assert (seen.size, seen.stored) == (BLOCK + 3, 2 * BLOCK)  # what stands there still stands
    assert seen.mtime_ns == seen.ctime_ns == tree.now_ns
    tree.truncate(file, 5 * BLOCK)  # the bytes that were cut do not come back
    assert tree.visible(file) == {0: (versions[0], BLOCK), 1: (versions[1], 3)}
    tree.truncate(file, BLOCK)
    assert tree.visible(file) == {0: (versions[0], BLOCK)}
    tree.truncate(file, 0)
    assert tree.visible(file) == {} and totals(tree).stored_bytes == 0
    inode = tree.view().inode(file)
    assert (inode.pages, inode.pages_sum, inode.number) == (0, 0, 5)


def test_truncate_at_a_page_border(tree: Tree, file: Ino) -> None:
    fill(tree, file, [0, PAGE - 1, PAGE, PAGE + 1])
    assert {d.block for d in tree.truncate(file, PAGE * BLOCK)} == {PAGE, PAGE + 1}
    assert set(tree.visible(file)) == {0, PAGE - 1}
    assert {d.block for d in tree.truncate(file, (PAGE - 1) * BLOCK)} == {PAGE - 1}
    assert not tree.truncate(file, BLOCK)
    assert tree.view().inode(file).pages == 1


def test_truncate_refuses(tree: Tree, file: Ino) -> None:
    assert refused(Posix, tree.truncate, file, 2**63).number == errno.EFBIG
    assert refused(Posix, tree.truncate, file, -1).number == errno.EINVAL
    assert refused(Posix, tree.truncate, ROOT, 0).number == errno.EISDIR

    def late(token: int, number: int) -> None:
        with tree.change() as tables:
            extents.truncate(
                tables, 1, file, Token(token), number, 0, BLOCK, tree.next_drop
            )  # fmt: skip

    refused(Fenced, late, 9, 1)
    refused(BadMessage, late, 10, 2)
    tree.truncate(file, 2**63 - 1)
    assert tree.stat(file).size == 2**63 - 1


def test_reap_in_slices(tree: Tree, file: Ino) -> None:
    fill(tree, file, [0, PAGE, 2 * PAGE, 2 * PAGE + 1])
    with pytest.raises(Damaged):
        tree.reap(file)  # it still has a name
    tree.do(namespace.unlink, ROOT, b"f")
    with tree.change() as tables:
        assert not extents.reap(tables, file, 1, tree.next_drop)
    tree.check()
    assert totals(tree) == Totals(2, 3 * BLOCK)
    assert tree.reap(file) == 2
    assert {drop.block for _, drop in queued(tree)} == {0, PAGE, 2 * PAGE, 2 * PAGE + 1}
    assert totals(tree) == Totals(1, 0)
    assert {key[:1] for key in tree.store.keys} == {b"i", b"t", b"d"}


def test_reading_pages(tree: Tree, file: Ino) -> None:
    fill(tree, file, [0, 3 * PAGE])
    shown = extents.read_pages(tree.view(), file, PageNo(0), 6, BLOCK)
    assert [bool(page.entries) for page in shown.pages] == [True, False, False, True, False, False]
    assert shown.attributes == tree.stat(file)
    empty = extents.read_pages(tree.view(), file, PageNo(2), 1, BLOCK)
    assert empty.pages == ((2, b""),)
    assert refused(
        Posix, extents.read_pages, tree.view(), ROOT, PageNo(0), 1, BLOCK
    ).number == errno.EISDIR  # fmt: skip


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_lost_page_is_no_hole(tree: Tree, file: Ino, lost: int) -> None:
    fill(tree, file, [0, PAGE, 3 * PAGE])
    key = schema.page_key(file, PageNo(lost))
    kept = tree.store.values[key]
    tree.store.plant(key, None)

    def read(first: int, count: int) -> object:
        return extents.read_pages(tree.view(), file, PageNo(first), count, BLOCK)

    refused(Damaged, read, lost, 1)
    refused(Damaged, read, 2, 1)  # a true hole, and nobody can say so
    refused(Damaged, read, 0, 64)
    refused(Damaged, tree.commit, file, {lost * PAGE: tree.entry(10)}, 0)
    refused(Damaged, tree.truncate, file, 0)
    for page in (lost, 2, 99):
        name = Name(file, BlockNo(page * PAGE), Version(Token(10), 1))
        refused(Damaged, extents.named, tree.view(), name)
    tree.do(namespace.unlink, ROOT, b"f")
    refused(Damaged, tree.reap, file)
    tree.store.plant(key, kept)


def test_which_versions_are_named(tree: Tree, file: Ino) -> None:
    fill(tree, file, [1, PAGE])
    version = tree.visible(file)[1][0]

    def named(block: int, version: Version) -> bool:
        return extents.named(tree.view(), Name(file, BlockNo(block), version))

    assert named(1, version)
    assert not named(1, Version(Token(10), 999)) and not named(2, version)
    assert not named(9 * PAGE, version)


def test_two_pages_of_holes_filled_at_once(tree: Tree, file: Ino) -> None:
    fill(tree, file, [9 * PAGE])
    fill(tree, file, [0, PAGE, 2 * PAGE, 9 * PAGE])
    assert tree.view().inode(file).pages == 4


def test_an_append_needs_no_proof(tree: Tree, file: Ino) -> None:
    fill(tree, file, [0, PAGE])
    key = schema.page_key(file, PageNo(0))
    kept = tree.store.values[key]
    tree.store.plant(key, None)
    tree.commit(file, {2 * PAGE: tree.entry(10)}, (2 * PAGE + 1) * BLOCK)
    tree.store.plant(key, kept)


# --- inventory ---------------------------------------------------------------------------------


def stock(tree: Tree, slot: int, **bounds: int) -> list[tuple[Ino, int]]:
    """A whole inventory, call by call."""
    found: list[tuple[Ino, int]] = []
    ino, page, end = Ino(0), -1, False
    while not end:
        answer = extents.inventory(
            tree.view(), Slot(slot), ino, page, lambda epoch: 5, **bounds
        )  # fmt: skip
        assert (answer.ino, answer.page) > (ino, page) or answer.end
        found += [(one.ino, one.page) for one in answer.pages]
        ino, page, end = answer.ino, answer.page, answer.end
    return found


@pytest.mark.parametrize("bounds", [{}, {"most_pages": 1}, {"most_examined": 1}, {"most_bytes": 1}])
def test_inventory(tree: Tree, bounds: dict[str, int]) -> None:
    blocks = {0: [0], 1: [1, PAGE * 2], 2: [7, PAGE + 3, PAGE * 9]}
    files = {}
    for number in blocks:
        files[number] = tree.make(ROOT, b"%d" % number, start=Slot(number))
        tree.grant(files[number], 5)
        fill(tree, files[number], blocks[number])
    tree.do(namespace.unlink, ROOT, b"1")
    for slot in range(5):
        expected = [
            (files[number], block // PAGE)
            for number in blocks
            for block in blocks[number]
            if slot in placement.slots(Slot(number), BlockNo(block), 5)
        ]
        assert stock(tree, slot, **bounds) == expected


def test_inventory_passes_damage_by(tree: Tree, file: Ino) -> None:
    fill(tree, file, [0, PAGE])
    other = tree.make(ROOT, b"g")
    tree.grant(other, 1)
    fill(tree, other, [0])
    whole = stock(tree, 0)
    assert whole == [(file, 0), (file, 1), (other, 0)]
    tree.store.flip(schema.page_key(file, PageNo(0)), 99)
    assert stock(tree, 0) == [(file, 1), (other, 0)]
    tree.store.flip(schema.page_key(file, PageNo(0)), 99)
    tree.store.flip(schema.inode_key(file), 99)
    assert stock(tree, 0) == [(other, 0)]
    tree.store.flip(schema.inode_key(file), 99)
