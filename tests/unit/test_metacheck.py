"""The walk finds whatever is planted, and nothing else; no read gives a changed answer."""

import random
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from tests.world.tree import BLOCK, Tree
from zdfs import extents, metacheck, namespace, records, schema, xattrs
from zdfs.errors import Damaged, Posix
from zdfs.ids import ROOT, Epoch, Ino, PageNo, Token
from zdfs.metacheck import Finding
from zdfs.schema import Cluster, Dirent, EventRecord, Totals


def planted() -> Tree:
    """A small tree with one of everything."""
    tree = Tree()
    directory = tree.mkdir(ROOT, b"d")
    below = tree.mkdir(directory, b"e")
    file = tree.make(below, b"f")
    tree.do(namespace.link, file, ROOT, b"g")
    tree.make(ROOT, b"s", stat.S_IFLNK | 0o777, target=b"there")
    tree.grant(file, 9)
    for blocks in ([0, 1, 70], [1]):
        tree.commit(file, {block: tree.entry(9) for block in blocks}, 71 * BLOCK)
    tree.do(xattrs.put, file, b"user.a", b"value")
    tree.do(xattrs.put, below, b"user.b", b"value")
    orphan = tree.make(ROOT, b"o")
    tree.grant(orphan, 3)
    tree.commit(orphan, {0: tree.entry(3)}, BLOCK)
    tree.do(namespace.unlink, ROOT, b"o")
    cluster = Cluster(bytes(16), BLOCK, 3, Epoch(1))
    tree.store.put(schema.CLUSTER, records.pack(cluster))
    event = EventRecord(1, "outage", "a server was away")
    tree.store.put(schema.number_key(b"v", 1), records.pack(event))
    return tree


KEYS = sorted(planted().store.keys)


def answers(tree: Tree) -> dict[str, object]:
    """Everything that can be asked, each with its answer or its failure."""
    view = tree.view
    questions: dict[str, Callable[[], object]] = {}
    for ino in map(Ino, range(1, 8)):
        questions |= {
            f"stat {ino}": partial(namespace.stat_inode, view(), ino),
            f"list {ino}": partial(namespace.listing, view(), ino),
            f"link {ino}": partial(namespace.read_link, view(), ino),
            f"xattrs {ino}": partial(xattrs.names, view(), ino),
            f"map {ino}": partial(extents.read_pages, view(), ino, PageNo(0), 2, BLOCK),
            f"map 1 {ino}": partial(extents.read_pages, view(), ino, PageNo(1), 1, BLOCK),
        }
        for name in (b"d", b"e", b"f", b"g", b"s", b"none"):
            asked = partial(namespace.lookup, view(), ino, [name])
            questions[f"lookup {ino} {name!r}"] = asked
        for name in (b"user.a", b"user.b", b"user.c"):
            questions[f"xattr {ino} {name!r}"] = partial(xattrs.get, view(), ino, name)
    return {question: answered(ask) for question, ask in questions.items()}


def answered(ask: Callable[[], object]) -> object:
    try:
        return ask()
    except Posix as error:
        return f"errno {error.number}"
    except Damaged:
        return Damaged


def test_nothing_is_wrong_with_a_good_tree() -> None:
    planted().check()


@pytest.mark.parametrize("key", KEYS, ids=[schema.describe(key) for key in KEYS])
@pytest.mark.parametrize("harm", ["flip", "zero", "cut", "lose", "older"])
def test_every_damage_is_found_and_changes_no_answer(key: bytes, harm: str) -> None:
    tree = planted()
    before = answers(tree)
    value = tree.store.values[key]
    older = tree.store.values[KEYS[KEYS.index(key) - 1]]
    harms: dict[str, list[bytes | None]] = {
        "flip": [_flipped(value, bit) for bit in (0, 63, 64, len(value) * 8 - 1)],
        "zero": [bytes(len(value)), b""],
        "cut": [value[:-1], value + b"\0"],
        "lose": [None],
        "older": [older],
    }
    for damaged in harms[harm]:
        tree.store.plant(key, damaged)
        found = metacheck.whole(tree.store)
        if harm == "lose" and key[:1] in b"cdv":
            continue  # nothing counts drops and events; a store without cluster does not serve
        assert found, f"{schema.describe(key)} is damaged and nobody saw it"
        lost = f"errno {116}"  # ESTALE: a mount's handle to an inode that isn't there
        for question, answer in answers(tree).items():
            honest = answer in (before[question], Damaged) or (
                harm == "lose" and key[:1] == b"i" and answer == lost
            ) or (isinstance(answer, tuple) and answer[1:] == (116,))  # fmt: skip
            assert honest, f"{question}: {before[question]} became {answer}"
    tree.store.plant(key, value)
    tree.check()


def _flipped(value: bytes, bit: int) -> bytes:
    flipped = bytearray(value)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


# --- records that are sound and wrong ----------------------------------------------------------


def edit(tree: Tree, ino: Ino, **fields: object) -> None:
    """An inode with other fields, soundly sealed."""
    inode = replace(tree.view().inode(ino), **fields)  # type: ignore[arg-type]
    tree.store.put(schema.inode_key(ino), records.pack(inode))


def only(tree: Tree, text: str) -> None:
    """The walk finds this (and what follows from it)."""
    findings = metacheck.whole(tree.store)
    assert any(text in finding.what for finding in findings), findings


ROOTED, DIRECTORY, BELOW, FILE, SYMLINK, ORPHAN = (Ino(number) for number in range(1, 7))


@pytest.mark.parametrize(
    ("ino", "fields", "text"),
    [
        (FILE, {"nlink": 3}, "has 2 names where it counts 3"),
        (FILE, {"nlink": 0}, "has 2 names where it counts 0"),
        (FILE, {"stored": 1}, "counts 1 bytes stored, its map 24"),
        (FILE, {"size": 8}, "beyond the end of the file"),
        (FILE, {"token": Token(8)}, "never granted"),
        (FILE, {"mode": 0o20644}, "of another type"),
        (FILE, {"mode": 0o644}, "no type"),
        (FILE, {"pages": 1}, "2 records where the inode counts 1"),
        (FILE, {"xattrs_sum": 1}, "not the one that the inode counted"),
        (DIRECTORY, {"nlink": 2}, "nlink 2 and 1 subdirectories"),
        (DIRECTORY, {"parent": BELOW}, "has another parent"),
        (DIRECTORY, {"parent": BELOW}, "stands below itself"),
        (BELOW, {"parent": FILE}, "which is no directory"),
        (BELOW, {"entries": 2}, "1 records where the inode counts 2"),
        (SYMLINK, {"size": 4}, "not its target's"),
        (FILE, {"target": b"x"}, "no symlink"),
        (SYMLINK, {"stored": 4}, "no regular file"),
        (ORPHAN, {"nlink": 1}, "is called an orphan and is none"),
        (ROOTED, {"parent": DIRECTORY}, "the root is no root"),
    ],
)
def test_wrong_inodes(ino: Ino, fields: dict[str, object], text: str) -> None:
    tree = planted()
    edit(tree, ino, **fields)
    only(tree, text)


def test_wrong_totals() -> None:
    tree = planted()
    inodes, stored = tree.view().totals().inodes, tree.view().totals().stored_bytes
    for wrong in (Totals(inodes + 1, stored), Totals(inodes, stored + 1)):
        tree.store.put(schema.TOTALS, records.pack(wrong))
        only(tree, "the totals say")


def test_a_removed_directory_s_children_and_strays() -> None:
    tree = planted()
    tree.store.put(schema.entry_key(Ino(99), b"x"), records.pack(Dirent(FILE, stat.S_IFREG)))
    tree.store.put(schema.page_key(Ino(98), PageNo(0)), bytes(25) + b"1")
    tree.store.put(schema.xattr_key(Ino(97), b"x"), b"")
    for ino in (97, 98, 99):
        only(tree, f"belongs to inode {ino}, which is not there")


def test_an_inode_that_nothing_names() -> None:
    tree = planted()
    with tree.change() as tables:
        tables.set_entry(ROOT, b"s", None)
        tables.save()
    only(tree, f"inode {SYMLINK} has 0 names where it counts 1")


def test_a_second_name_of_a_directory() -> None:
    tree = planted()
    with tree.change() as tables:
        tables.set_entry(ROOT, b"again", Dirent(BELOW, stat.S_IFDIR), nlink=4)
        tables.save()
    only(tree, "has another parent")
    only(tree, f"inode {BELOW} has 2 names where it counts 1")


def test_an_unknown_record() -> None:
    tree = planted()
    tree.store.put(b"zzz", b"")
    only(tree, "a record of no table")


# --- in slices ---------------------------------------------------------------------------------


def walked(tree: Tree, most: int, between: Callable[[], None]) -> list[Finding]:
    cursor, found, slices = None, list[Finding](), 0
    while True:
        some, cursor = metacheck.walk(tree.store, cursor, most)
        found += some
        slices += 1
        assert slices < 10_000
        if cursor is None:
            return found
        between()


@pytest.mark.parametrize("most", [1, 2, 3, 7, 1000])
def test_slices_find_what_the_whole_walk_finds(most: int) -> None:
    tree = planted()
    edit(tree, FILE, nlink=3)
    tree.store.flip(schema.entry_key(ROOT, b"s"), 70)
    tree.store.flip(schema.number_key(b"v", 1), 70)
    tree.store.put(schema.TOTALS, records.pack(Totals(77, 0)))
    whole = metacheck.whole(tree.store)
    assert len(whole) >= 4
    assert walked(tree, most, lambda: None) == whole


@pytest.mark.parametrize("most", [1, 2, 5, 16])
def test_a_walk_among_changes_finds_nothing(most: int, dice: random.Random) -> None:
    tree = planted()
    for number in range(30):
        tree.make(ROOT, b"n%d" % number)
    moves = _moves(tree)

    def between() -> None:
        for _ in range(dice.randrange(4)):
            next(moves)

    for _ in range(10):
        assert walked(tree, most, between) == []
    tree.check()


def _moves(tree: Tree) -> Iterator[None]:
    """Renames from end to end, links that come and go, files that are made and reaped."""
    rounds = 0
    while True:
        rounds += 1
        name = b"n%d" % (rounds % 30)
        tree.do(namespace.rename, ROOT, name, DIRECTORY, name)
        yield
        tree.do(namespace.link, FILE, DIRECTORY, b"zz")
        yield
        tree.do(namespace.rename, DIRECTORY, name, ROOT, name)
        yield
        tree.do(namespace.unlink, DIRECTORY, b"zz")
        yield
        ino = tree.make(BELOW, b"new")
        tree.grant(ino, 1)
        tree.commit(ino, {0: tree.entry(1)}, BLOCK)
        yield
        tree.do(namespace.unlink, BELOW, b"new")
        yield
        tree.reap(ino)
        yield
