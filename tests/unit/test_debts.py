"""Policies and debts on the tables: who decides, what is owed, what a walk finds, what mends it."""

import stat
from collections.abc import Callable
from dataclasses import replace
from errno import EINVAL

import pytest

from tests.world.tree import BLOCK, Tree
from zdfs import debts, metacheck, mending, namespace, placement, records, schema
from zdfs.blockmap import MapEntry
from zdfs.checksum import Seal
from zdfs.errors import BadMessage, Posix, PutAgain
from zdfs.ids import ROOT, BlockNo, Epoch, Ino, Name, Policy, Round, Slot, Token, Version
from zdfs.namespace import Newborn
from zdfs.schema import Account, Cluster, Debt, Ring, Server
from zdfs.wire import Ack, Commit, Flaw

N = 5
UUIDS = [bytes([slot]) * 16 for slot in range(N)]
GONE = Slot(2)


def planted() -> tuple[Tree, Ino]:
    """A founded tree with a file of blocks 0 and 1, which start on slots 0 and 1; owed: nothing."""
    tree = Tree()
    ring = Ring(tuple(f"data:{slot}" for slot in range(N)))
    tree.store.put(schema.CLUSTER, records.pack(Cluster(bytes(16), BLOCK, 3, Epoch(1))))
    tree.store.put(schema.number_key(b"r", 1), records.pack(ring))
    for slot in range(N):
        tree.store.put(schema.number_key(b"a", slot), records.pack(Account(0, 0, 0, 0)))
    file = tree.make(ROOT, b"f")
    tree.grant(file, 10)
    tree.commit(file, {0: tree.entry(10), 1: tree.entry(10)}, 2 * BLOCK)
    tree.check()
    return tree, file


def commit_owing(tree: Tree, file: Ino, blocks: list[int], slot: Slot = GONE) -> None:
    """New versions of some blocks, which a slot is owed."""
    entries = {block: tree.entry(10) for block in blocks}
    owing = [(BlockNo(block), entry, slot) for block, entry in entries.items()]
    drawn = debts.drawn(tree.view(), tree.now_ns, file, owing)
    tree.commit(file, entries, (max(blocks) + 1) * BLOCK)
    with tree.change() as tables:
        debts.owe(tables, file, drawn)


def account(tree: Tree, slot: Slot = GONE) -> tuple[int, int, int]:
    found = tree.view().account(slot)
    return found.replicas, found.stored, found.since_ns


# --- policies ----------------------------------------------------------------------------------


def give(tree: Tree, ino: Ino, policy: Policy) -> None:
    with tree.change() as tables:
        debts.set_policy(tables, ino, policy)


def follows(tree: Tree, ino: Ino) -> tuple[Policy, Policy, Ino]:
    found = debts.policy_of(tree.view(), ino)
    return found.policy, found.given, found.origin


def test_the_nearest_above_counts_and_all_where_nothing_is_said() -> None:
    tree, file = planted()
    above = tree.mkdir(ROOT, b"d")
    below = tree.mkdir(above, b"e")
    inner = tree.make(below, b"g")
    nobody = (Policy.ALL, Policy.INHERIT, Ino(0))
    assert [follows(tree, ino) for ino in (ROOT, file, above, below, inner)] == [nobody] * 5
    give(tree, ROOT, Policy.QUORUM)
    assert follows(tree, inner) == (Policy.QUORUM, Policy.INHERIT, ROOT)
    assert follows(tree, ROOT) == (Policy.QUORUM, Policy.QUORUM, ROOT)
    give(tree, above, Policy.ALL)
    assert follows(tree, inner) == (Policy.ALL, Policy.INHERIT, above)
    assert follows(tree, file) == (Policy.QUORUM, Policy.INHERIT, ROOT)
    give(tree, inner, Policy.QUORUM)
    assert follows(tree, inner) == (Policy.QUORUM, Policy.QUORUM, inner)
    give(tree, inner, Policy.INHERIT)
    give(tree, above, Policy.INHERIT)
    assert follows(tree, inner) == (Policy.QUORUM, Policy.INHERIT, ROOT)
    tree.check()


def test_it_follows_renames_and_survives_the_directory() -> None:
    tree, file = planted()
    strict, loose = tree.mkdir(ROOT, b"strict"), tree.mkdir(ROOT, b"loose")
    give(tree, strict, Policy.ALL)
    give(tree, loose, Policy.QUORUM)
    tree.do(namespace.rename, ROOT, b"f", loose, b"f")
    assert follows(tree, file)[0] is Policy.QUORUM
    tree.do(namespace.link, file, strict, b"g")  # another name is no move
    assert follows(tree, file)[0] is Policy.QUORUM
    other = tree.make(strict, b"other")
    tree.do(namespace.rename, loose, b"f", strict, b"other", namespace.EXCHANGE)
    assert (follows(tree, file)[0], follows(tree, other)[0]) == (Policy.ALL, Policy.QUORUM)
    tree.do(namespace.unlink, loose, b"f")
    tree.do(namespace.rename, strict, b"g", ROOT, b"top")
    assert follows(tree, file) == (Policy.ALL, Policy.INHERIT, Ino(0))
    home = tree.mkdir(ROOT, b"home")
    lonely = tree.make(home, b"h")
    tree.do(namespace.link, lonely, ROOT, b"h")
    tree.do(namespace.unlink, home, b"h")
    tree.do(namespace.rmdir, ROOT, b"home")
    tree.reap(home)
    give(tree, ROOT, Policy.QUORUM)
    assert follows(tree, lonely) == (Policy.QUORUM, Policy.INHERIT, ROOT)
    tree.reap(other)
    tree.check()


def test_what_has_no_content_has_no_policy() -> None:
    tree, _ = planted()
    pipe = tree.make(ROOT, b"p", stat.S_IFIFO | 0o644)
    with pytest.raises(Posix) as caught:
        give(tree, pipe, Policy.ALL)
    assert caught.value.number == EINVAL


# --- which commits may owe ---------------------------------------------------------------------


def server(slot: int, **more: object) -> Server:
    made = Server(UUIDS[slot], 0, 1, Round(0), Round(9), 0, 0, 0, 0, False)
    return replace(made, **more)  # type: ignore[arg-type]


def ask(
    blocks: list[int], acked: set[int], owed: tuple[int, ...], policy: Policy = Policy.QUORUM,
    **changed: Server,
) -> list[tuple[int, int]]:  # fmt: skip
    """Which debts a commit of some blocks of a file that starts on slot 0 would make."""
    servers = {Slot(slot): changed.get(f"s{slot}", server(slot)) for slot in range(N)}
    entries = [(BlockNo(b), MapEntry(Version(Token(1), b + 1), 8, 8, Seal(1, 2))) for b in blocks]
    acks = tuple(Ack(Slot(slot), UUIDS[slot], 0, 1, Round(5)) for slot in sorted(acked))
    request = Commit(
        Ino(7), Token(1), 1, Epoch(1), 0, b"", acks, b"", 99, None, True,
        tuple(Slot(slot) for slot in owed),
    )  # fmt: skip
    found = debts.judge(servers, Slot(0), entries, request, lambda: policy)
    return [(block, slot) for block, _, slot in found]


@pytest.mark.parametrize(
    ("blocks", "acked", "owed", "made"),
    [
        ([0], {0, 1, 2}, (), []),
        ([0], {0, 1, 2}, (4,), []),  # it has nothing of this
        ([0], {0, 1}, (2,), [(0, 2)]),
        ([0], {1, 2}, (0,), [(0, 0)]),
        ([0, 1], {0, 1, 3}, (2,), [(0, 2), (1, 2)]),
        ([0, 3], {1, 2, 3, 4}, (0,), [(0, 0), (3, 0)]),
        ([0, 2], {0, 1, 3, 4}, (2,), [(0, 2), (2, 2)]),
        ([0, 1], {1, 2}, (0, 3), [(0, 0), (1, 3)]),  # of each block, two others
    ],
)
def test_two_of_three_suffice(
    blocks: list[int], acked: set[int], owed: tuple[int, ...], made: list[tuple[int, int]]
) -> None:
    assert ask(blocks, acked, owed) == made
    if made:
        with pytest.raises(PutAgain) as caught:
            ask(blocks, acked, owed, Policy.ALL)
        assert set(caught.value.details) == {slot for _, slot in made}


@pytest.mark.parametrize(
    ("blocks", "acked", "owed", "again"),
    [
        ([0], {0}, (1, 2), {1, 2}),  # one copy
        ([0], set[int](), (0, 1, 2), {0, 1, 2}),
        ([0, 1], {0, 1}, (2, 3), {2, 3}),  # block 1 on one server
        ([0], {0, 1}, (), {2}),  # whoever does not say that it goes without
        ([0], {0, 1}, (1,), {2}),
        ([0, 1], {0, 1}, (2,), {3}),
    ],
)
def test_fewer_are_put_again(
    blocks: list[int], acked: set[int], owed: tuple[int, ...], again: set[int]
) -> None:
    with pytest.raises(PutAgain) as caught:
        ask(blocks, acked, owed)
    assert set(caught.value.details) == again


@pytest.mark.parametrize(
    "news",
    [{"uuid": b"n" * 16}, {"life": 1}, {"boot": 2, "opened_round": Round(4)}, {"boot": 3}],
)
def test_an_acknowledgement_ends_with_its_store(news: dict[str, object]) -> None:
    """One of the two that a commit under quorum counts on has lost its disk since."""
    with pytest.raises(PutAgain) as caught:
        ask([0], {0, 1}, (2,), s1=server(1, **news))
    assert caught.value.details == (1,)
    assert ask([0], {0, 1}, (2,), s1=server(1, boot=2, opened_round=Round(5))) == [(0, 2)]


def test_a_skipped_server_is_no_copy() -> None:
    skipped = server(1, skipped=True)
    assert ask([0], {0, 2}, (), s1=skipped) == []
    with pytest.raises(PutAgain):
        ask([0], {0}, (2,), s1=skipped)
    assert ask([1], {2, 3}, (), s1=skipped) == []


@pytest.mark.parametrize("owed", [(2, 2), (N,)])
def test_nonsense_is_refused(owed: tuple[int, ...]) -> None:
    with pytest.raises(BadMessage):
        ask([0], {0, 1}, owed)


def test_which_slots_a_write_can_not_go_without() -> None:
    def lacking(blocks: list[int], gone: set[int]) -> set[int]:
        numbers = [BlockNo(block) for block in blocks]
        return set(placement.lacking(Slot(0), numbers, N, {Slot(slot) for slot in gone}))

    assert lacking([0, 1, 2, 3, 4], {2}) == set()
    assert lacking([0], {1, 2}) == {1, 2} and lacking([0], {2, 3}) == set()
    assert lacking([0, 1], {0, 3}) == set() and lacking([0, 1, 3], {0, 3}) == {0, 3}
    assert lacking([], {0, 1, 2}) == set()


# --- what becomes of them ----------------------------------------------------------------------


def test_a_debt_is_counted_and_goes_with_its_version() -> None:
    tree, file = planted()
    commit_owing(tree, file, [0, 1])
    since = tree.now_ns - 2
    assert account(tree) == (2, 2 * BLOCK, since) and tree.view().inode(file).owed == 2
    tree.check()
    commit_owing(tree, file, [0])  # as old as what it took the place of
    assert account(tree) == (2, 2 * BLOCK, since)
    tree.commit(file, {0: tree.entry(10)}, 0)  # on all three
    assert account(tree) == (1, BLOCK, since)
    tree.truncate(file, BLOCK + 3)
    assert account(tree) == (1, BLOCK, since)
    tree.check()
    tree.truncate(file, BLOCK)
    assert account(tree) == (0, 0, 0) and tree.view().inode(file).owed == 0
    commit_owing(tree, file, [0, 1, 70])
    tree.punch(file, BLOCK, BLOCK)
    assert account(tree)[0] == 2
    tree.check()
    tree.do(namespace.unlink, ROOT, b"f")
    tree.reap(file)
    assert account(tree) == (0, 0, 0)
    tree.check()


def test_settling_ends_what_is_still_owed_and_nothing_else() -> None:
    tree, file = planted()
    commit_owing(tree, file, [0, 1])
    names = [Name(file, BlockNo(b), tree.visible(file)[b][0]) for b in (0, 1)]
    commit_owing(tree, file, [1])  # another version by now

    def settle(slot: Slot) -> int:
        with tree.change() as tables:
            return debts.settle(tables, slot, names)

    change = tree.stat(file).change
    assert settle(Slot(1)) == 0 and settle(GONE) == 1 and settle(GONE) == 0
    assert account(tree)[0] == 1 and tree.stat(file).change == change
    found = debts.listing(tree.view(), GONE, ROOT, BlockNo(0))
    assert [one.want.name.block for one in found.items] == [1]
    tree.check()


@pytest.mark.parametrize("bounds", [(512, 8192), (1, 8192), (512, 1), (2, 3)])
def test_all_debts_are_listed_page_by_page(bounds: tuple[int, int]) -> None:
    tree, file = planted()
    other = tree.make(ROOT, b"g", start=Slot(1))
    tree.grant(other, 10)
    commit_owing(tree, file, [0, 1])
    commit_owing(tree, other, [0, 3], Slot(3))
    for slot, expected in (
        (None, [(file, 0, 2), (file, 1, 2), (other, 0, 3), (other, 3, 3)]),
        (Slot(3), [(other, 0, 3), (other, 3, 3)]),
        (Slot(4), []),
    ):
        found, ino, block, end, pages = [], ROOT, BlockNo(0), False, 0
        while not end:
            page = debts.listing(tree.view(), slot, ino, block, *bounds)
            found += [(one.want.name.ino, one.want.name.block, one.slot) for one in page.items]
            ino, block, end = page.ino, page.block, page.end
            pages += 1
            assert pages < 10
        assert found == expected
    one, *_ = debts.listing(tree.view(), GONE, ROOT, BlockNo(0)).items
    assert one.want.name.version == tree.visible(file)[0][0] and one.want.length == BLOCK


# --- damage ------------------------------------------------------------------------------------


def debt_of(tree: Tree, file: Ino, block: int) -> Debt:
    found = tree.view().debt(file, BlockNo(block))
    assert found is not None
    return found


def lose_one(tree: Tree, file: Ino) -> None:
    tree.store.plant(schema.debt_key(file, BlockNo(1)), None)


def flip_one(tree: Tree, file: Ino) -> None:
    tree.store.flip(schema.debt_key(file, BlockNo(1)), 99)


def of_an_old_version(tree: Tree, file: Ino) -> None:
    wrong = debt_of(tree, file, 1)._replace(version=Version(Token(3), 3))
    tree.store.put(schema.debt_key(file, BlockNo(1)), records.pack(wrong))


def of_a_stranger(tree: Tree, file: Ino) -> None:
    wrong = debt_of(tree, file, 1)._replace(slot=Slot(4))
    tree.store.put(schema.debt_key(file, BlockNo(1)), records.pack(wrong))


def miscounted(tree: Tree, file: Ino) -> None:
    inode = replace(tree.view().inode(file), owed=7)
    tree.store.put(schema.inode_key(file), records.pack(inode))


def account_wrong(tree: Tree, file: Ino) -> None:
    tree.store.put(schema.number_key(b"a", GONE), records.pack(Account(9, 9, 9, 9)))


def account_lost(tree: Tree, file: Ino) -> None:
    tree.store.plant(schema.number_key(b"a", GONE), None)


def of_nobody(tree: Tree, file: Ino) -> None:
    tree.store.put(schema.debt_key(Ino(99), BlockNo(0)), records.pack(debt_of(tree, file, 0)))


HARMS = [
    lose_one, flip_one, of_an_old_version, of_a_stranger, miscounted, account_wrong, account_lost,
    of_nobody,
]  # fmt: skip


@pytest.mark.parametrize("harm", HARMS, ids=[harm.__name__ for harm in HARMS])
@pytest.mark.parametrize("most", [1, 3, 1000])
def test_every_wrong_debt_is_found_and_mended(
    harm: Callable[[Tree, Ino], None], most: int
) -> None:  # fmt: skip
    tree, file = planted()
    commit_owing(tree, file, [0, 1])
    harm(tree, file)
    for _ in range(3):
        found, cursor = list[metacheck.Finding](), None
        while True:
            some, cursor = metacheck.walk(tree.store, cursor, most)
            found += some
            if cursor is None:
                break
        if not found:
            break
        assert Flaw.DEBTS in {one.flaw for one in found}, found
        for one in found:
            with tree.change() as tables:
                mending.mend(tables, 1, one, None, lambda: Newborn(Ino(500), 0, 0, 0))
    tree.check()
    expected = 2 if harm in (miscounted, account_wrong, account_lost, of_nobody) else 1
    assert account(tree)[0] == expected
    tree.truncate(file, 0)
    assert account(tree) == (0, 0, 0)
    tree.check()
