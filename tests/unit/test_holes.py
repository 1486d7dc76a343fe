"""Holes of a map: punched, and looked for."""

import errno
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.world.tree import BLOCK, Tree
from zdfs import blockmap, extents, holes, schema
from zdfs.blockmap import Dropped
from zdfs.errors import BadMessage, Damaged, Fenced, Posix
from zdfs.ids import ROOT, BlockNo, Ino, PageNo, Token
from zdfs.wire import Punch

PAGE = 64


@pytest.fixture
def tree() -> Iterator[Tree]:
    made = Tree()
    yield made
    made.check()


@pytest.fixture
def file(tree: Tree) -> Ino:
    return new_file(tree)


def new_file(tree: Tree) -> Ino:
    ino = tree.make(ROOT, b"f")
    tree.grant(ino, 10)
    return ino


def fill(tree: Tree, file: Ino, blocks: list[int]) -> None:
    tree.commit(file, {b: tree.entry(10) for b in blocks}, (max(blocks) + 1) * BLOCK)


# --- which blocks ------------------------------------------------------------------------------


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60), st.sampled_from([8, 16]))
def test_a_range_is_whole_blocks_and_edges(offset: int, length: int, size: int, block: int) -> None:
    end = offset + length
    first, stop = blockmap.whole(offset, end, size, block)
    cleared = set(range(first * block, min(stop * block, size)))
    for low, high in blockmap.edges(offset, end, size, block):
        assert low // block == (high - 1) // block, "an edge lies in one block"
        assert not cleared & set(range(low, high)), "nothing is cleared twice"
        cleared |= set(range(low, high))
    assert cleared == set(range(offset, min(end, size)))


# --- punching ----------------------------------------------------------------------------------


def test_whole_blocks_become_holes(tree: Tree, file: Ino) -> None:
    fill(tree, file, [0, 1, 2, 3, 70, 140])
    versions = {block: version for block, (version, _) in tree.visible(file).items()}
    before = tree.stat(file)
    dropped = tree.punch(file, BLOCK - 1, 71 * BLOCK)  # of block 0 and of block 71 only a part
    assert {drop.block for drop in dropped} == {1, 2, 3, 70}
    assert set(dropped) == {Dropped(BlockNo(b), versions[b]) for b in (1, 2, 3, 70)}
    assert set(tree.visible(file)) == {0, 140}
    seen = tree.stat(file)
    assert (seen.size, seen.stored) == (before.size, 2 * BLOCK)
    assert seen.mtime_ns == seen.ctime_ns == tree.now_ns and seen.change == before.change + 1
    inode = tree.view().inode(file)
    assert (inode.pages, inode.number) == (2, 2), "a page of only holes is not kept"


def test_the_last_block_counts_as_far_as_the_file_goes(tree: Tree, file: Ino) -> None:
    fill(tree, file, [0, 1])
    tree.truncate(file, BLOCK + 3)
    assert not tree.punch(file, BLOCK, 2)
    assert [drop.block for drop in tree.punch(file, BLOCK, 3)] == [1]
    assert tree.stat(file).size == BLOCK + 3
    tree.truncate(file, 2 * BLOCK)
    assert set(tree.visible(file)) == {0}, "the bytes that were cut do not come back"


def test_a_punch_may_make_the_file_longer(tree: Tree, file: Ino) -> None:
    fill(tree, file, [0, 1])
    assert not tree.punch(file, 0, 0, 5 * BLOCK)
    assert tree.stat(file).size == 5 * BLOCK and set(tree.visible(file)) == {0, 1}
    assert len(tree.punch(file, 0, 9 * BLOCK, BLOCK)) == 2
    assert tree.stat(file).size == 5 * BLOCK and tree.visible(file) == {}
    tree.punch(file, 0, 2**63 - 1, 2**63 - 1)
    assert tree.stat(file).size == 2**63 - 1


def test_punch_refuses(tree: Tree, file: Ino) -> None:
    fill(tree, file, [0])
    before = dict(tree.store.values)

    def punch(ino: Ino, token: int, number: int, length: int = BLOCK) -> None:
        with tree.change() as tables:
            request = Punch(ino, Token(token), number, 1, length, 0)
            holes.punch(tables, 1, request, BLOCK, tree.next_drop)

    with pytest.raises(Fenced):
        punch(file, 9, 2)
    with pytest.raises(BadMessage):
        punch(file, 10, 1)
    with pytest.raises(Posix) as caught:
        punch(file, 10, 2, 2**63 - 1)
    assert caught.value.number == errno.EFBIG
    with pytest.raises(Posix) as caught:
        punch(ROOT, 10, 2)
    assert caught.value.number == errno.EISDIR
    assert tree.store.values == before


# --- looking -----------------------------------------------------------------------------------


def found(tree: Tree, file: Ino, page: int, data: bool, **bounds: int) -> list[int]:
    """The number of the page that is found, if any is."""
    find = holes.next_data if data else holes.next_hole
    shown = find(tree.view(), file, PageNo(page), BLOCK, **bounds)
    assert shown.attributes == tree.stat(file)
    return [one.page for one in shown.pages]


def test_data_behind_a_great_hole(tree: Tree, file: Ino) -> None:
    far = 2**58
    tree.commit(file, {5: tree.entry(10), far: tree.entry(10)}, 2**62)
    assert found(tree, file, 0, True) == [0]
    assert found(tree, file, 1, True) == found(tree, file, far // PAGE, True) == [far // PAGE]
    assert found(tree, file, far // PAGE + 1, True) == []
    assert found(tree, file, far // PAGE + 1, False) == [far // PAGE + 1]


def test_a_hole_behind_much_data(tree: Tree, file: Ino) -> None:
    fill(tree, file, [*range(3 * PAGE), *range(4 * PAGE, 5 * PAGE - 1)])
    assert found(tree, file, 0, False) == [3] and found(tree, file, 4, False) == [4]
    assert found(tree, file, 0, False, examined=2) == [1], "so far all is full"
    assert found(tree, file, 2, False, examined=2) == [3]
    tree.truncate(file, 2 * PAGE * BLOCK)
    assert found(tree, file, 0, False) == [2] and found(tree, file, 9, False) == [9]


@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_page_is_no_hole(tree: Tree, file: Ino, lost: int) -> None:
    fill(tree, file, [*range(3 * PAGE), 5 * PAGE])
    key = schema.page_key(file, PageNo(lost))
    kept = tree.store.values[key]
    tree.store.plant(key, None)
    for data, page in ((True, lost), (True, 3), (True, 6), (False, 0), (False, lost), (False, 4)):
        if data and page == 6:
            continue  # beyond the size nothing is missed
        with pytest.raises(Damaged):
            found(tree, file, page, data)
    tree.store.plant(key, kept)


# --- against a model ---------------------------------------------------------------------------

STEP = st.tuples(
    st.sampled_from(["commit", "punch", "punch", "truncate", "grow"]),
    st.integers(0, 3 * PAGE * BLOCK),
    st.integers(0, 3 * PAGE * BLOCK),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=12))
def test_against_a_dictionary(steps: list[tuple[str, int, int]]) -> None:
    tree = Tree()
    file = new_file(tree)
    model: dict[int, int] = {}  # block -> visible bytes
    size = 0
    for kind, offset, length in steps:
        if kind == "commit":
            first = offset // BLOCK
            blocks = range(first, first + 1 + length // BLOCK // 2)
            fill(tree, file, list(blocks))
            model |= dict.fromkeys(blocks, BLOCK)
            size = max(size, blocks.stop * BLOCK)
        elif kind == "truncate":
            tree.truncate(file, offset)
            model = {b: min(v, offset - b * BLOCK) for b, v in model.items() if b * BLOCK < offset}
            size = offset
        else:
            longer = offset + length if kind == "grow" else 0
            tree.punch(file, offset, length, longer)
            for block in list(model):
                bytes_ = range(block * BLOCK, min((block + 1) * BLOCK, size))
                if offset <= bytes_.start and bytes_.stop <= offset + length:
                    del model[block]
            size = max(size, longer)
        assert {b: v for b, (_, v) in tree.visible(file).items()} == model
        assert tree.stat(file).size == size
        tree.check()
    for page in range(4):
        data = [b // PAGE for b in sorted(model) if b // PAGE >= page]
        assert found(tree, file, page, True) == data[:1]
        full = page
        while all(full * PAGE + place in model for place in range(PAGE)):
            full += 1
        assert found(tree, file, page, False) == [full]


def test_reading_a_punched_page(tree: Tree, file: Ino) -> None:
    fill(tree, file, [0, PAGE, 2 * PAGE])
    tree.punch(file, PAGE * BLOCK, BLOCK)
    shown = extents.read_pages(tree.view(), file, PageNo(0), 3, BLOCK)
    assert [bool(page.entries) for page in shown.pages] == [True, False, True]
