"""Which version of a block counts when nobody knows any more, and what makes that a file."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.world.stores import MemoryMetaStore
from zdfs import blockmap, limits, metacheck, namespace, placement, records, salvage, schema, wire
from zdfs.chain import GENESIS, NO_COPIES, CopySet
from zdfs.checksum import Seal
from zdfs.errors import StartError
from zdfs.extents import read_pages
from zdfs.ids import ROOT, BlockNo, Epoch, Incarnation, Ino, Name, PageNo, Round, Slot, Token
from zdfs.ids import Version, compose
from zdfs.salvage import Accepted, Block, Candidate, Choice, Draft, Merge
from zdfs.schema import Cluster
from zdfs.tables import Tables
from zdfs.wire import Version1, Versions

RING = ("a:1", "a:2", "a:3", "a:4")
ALL = frozenset(map(Slot, range(4)))
PLACES = placement.slots(Slot(1), BlockNo(0), 4)  # 1, 2, 3
OURS = b"c" * 16


def candidate(sequence: int, *slots: int, seal: int = 7, token: int = 5) -> Candidate:
    """A version of block 0 of inode 9."""
    name = Name(Ino(9), BlockNo(0), Version(Token(token), sequence))
    return Candidate(name, Seal(seal, seal), 10, Epoch(1), Slot(1), tuple(map(Slot, slots)))


def choose(*candidates: Candidate, whole: frozenset[Slot] = ALL) -> Choice:
    ordered = sorted(candidates, key=lambda one: one.name)
    return salvage.choose(Block(Ino(9), BlockNo(0), tuple(ordered)), PLACES, whole)


# --- which version counts ------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [(1, 2, 3), (1, 2), (2, 3), (1, 2, 3, 0)])
def test_the_only_version_counts(slots: tuple[int, ...]) -> None:
    assert choose(candidate(1, *slots)) == Choice(candidate(1, *slots), (), "")


def test_what_one_server_has_of_three_was_never_committed() -> None:
    new, old = candidate(2, 3), candidate(1, 1, 2, 3)
    assert choose(new, old) == Choice(old, (new,), "unfinished")
    assert choose(candidate(1, 2)) == Choice(None, (candidate(1, 2),), "alone")


@pytest.mark.parametrize("slots", [(1, 2), (1, 3), (1, 2, 3)])
def test_what_two_servers_have_may_have_been_committed(slots: tuple[int, ...]) -> None:
    new, old = candidate(2, *slots), candidate(1, 1, 2, 3)
    assert choose(new, old) == Choice(new, (old,), "older")


def test_a_silent_server_may_have_a_copy() -> None:
    new, old = candidate(2, 3), candidate(1, 2, 3)
    assert choose(new, old, whole=frozenset(map(Slot, (0, 2, 3)))) == Choice(new, (old,), "older")
    assert choose(candidate(1, 3), whole=frozenset({Slot(3)})).kind == ""


def test_of_several_that_one_server_has_none_counts() -> None:
    new, old = candidate(2, 1), candidate(1, 3)
    assert choose(new, old) == Choice(None, (new, old), "alone")
    assert choose(new, old, whole=ALL - {Slot(2)}) == Choice(new, (old,), "older")


def test_a_later_token_is_newer_than_any_sequence() -> None:
    new, old = candidate(0, 1, 2, token=6), candidate(9, 1, 2, 3)
    assert choose(new, old).taken == new


def test_the_others_come_newest_first() -> None:
    one, two, three, four = (candidate(number, 1, 2, 3) for number in range(1, 5))
    lone = candidate(5, 1)
    assert choose(one, two, three, four, lone) == Choice(
        four, (lone, three, two, one), "unfinished"
    )


def test_copies_where_no_reader_looks() -> None:
    assert choose(candidate(1, 0)).taken is None
    assert choose(candidate(1, 0), whole=frozenset({Slot(0), Slot(1)})).kind == ""  # may be there
    assert choose(candidate(2, 0), candidate(1, 1, 2)).taken == candidate(1, 1, 2)


def test_two_contents_under_one_name() -> None:
    more, less = candidate(1, 1, 2, seal=8), candidate(1, 3, seal=7)
    assert choose(less, more) == Choice(more, (less,), "twofold")


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.sets(st.integers(0, 3), min_size=1)),
        min_size=1,
        max_size=5,
        unique_by=lambda one: one[0],
    ),
    st.sets(st.integers(0, 3)),
)
def test_what_may_have_been_committed_is_never_passed_over_for_older(
    versions: list[tuple[int, set[int]]], silent: set[int]
) -> None:
    whole = frozenset(slot for slot in ALL if slot not in silent)
    held = [candidate(number, *sorted(slots - silent)) for number, slots in versions]
    held = [one for one in held if one.slots]
    if not held:
        return
    choice = choose(*held, whole=whole)
    taken = [] if choice.taken is None else [choice.taken]
    assert Counter([*taken, *choice.others]) == Counter(held), "each is taken or kept"
    unheard = len(set(PLACES) - whole)
    possible = [one for one in held if len(set(PLACES) & set(one.slots)) + unheard >= 2]
    assert taken == sorted(possible, key=lambda one: one.name.version)[-1:]
    assert choice.kind or (taken and not choice.others), "what is not plain is always said"


# --- side by side --------------------------------------------------------------------------------

numbered = st.builds(
    lambda ino, block, sequence: Name(
        Ino(ino), BlockNo(block), Version(Token(3), sequence)
    ),
    st.integers(1, 4), st.integers(0, 3), st.integers(0, 3),
)  # fmt: skip


def item(name: Name) -> Version1:
    return Version1(name, 1, 2, 3, Epoch(1), Slot(0))


@given(st.lists(st.sets(numbered, max_size=40), min_size=1, max_size=4), st.integers(1, 7))
def test_all_lists_side_by_side(held: list[set[Name]], page_items: int) -> None:
    """Whatever the pages: each block once, in order, complete; and nobody is read far ahead."""
    lists = {Slot(slot): sorted(names) for slot, names in enumerate(held)}
    merge = Merge(lists)
    found: list[Block] = []
    while wanted := merge.wanted():
        for slot, after in wanted:
            rest = [name for name in lists[slot] if after is None or name > after]
            page, end = rest[:page_items], len(rest) <= page_items
            merge.add(slot, Versions(tuple(map(item, page)), end, 0))
        found += merge.blocks()
        ahead = [len(page) for page in merge._pages.values()]
        assert max(ahead) <= page_items + 4, "a page, and the versions of one block"
    everything = sorted({(name.ino, name.block) for names in held for name in names})
    assert [(one.ino, one.block) for one in found] == everything
    for block in found:
        for one in block.candidates:
            assert one.slots == tuple(slot for slot in lists if one.name in lists[slot])
    assert sum(len(one.slots) for block in found for one in block.candidates) == sum(map(len, held))


def test_nobody_is_read_far_ahead_of_the_others() -> None:
    names = [Name(Ino(1 + ino), BlockNo(0), Version(Token(1), 1)) for ino in range(200)]
    lists = {Slot(0): names[:100], Slot(1): names[100:]}
    merge, asked = Merge(lists), Counter[Slot]()
    while wanted := merge.wanted():
        for slot, after in wanted:
            asked[slot] += 1
            rest = [name for name in lists[slot] if after is None or name > after]
            merge.add(slot, Versions(tuple(map(item, rest[:5])), len(rest) <= 5, 0))
        assert asked[Slot(1)] <= 1 or asked[Slot(0)] >= 20
        list(merge.blocks())
    assert asked == {0: 20, 1: 20}


def test_different_seals_are_different_contents() -> None:
    name = Name(Ino(1), BlockNo(0), Version(Token(1), 1))
    merge = Merge([Slot(0), Slot(1), Slot(2)])
    for slot, crc in enumerate((5, 6, 5)):
        merge.add(Slot(slot), Versions((item(name)._replace(crc16=crc),), True, 0))
    (block,) = merge.blocks()
    assert {one.seal.crc16: one.slots for one in block.candidates} == {5: (0, 2), 6: (1,)}
    assert not merge.wanted()


# --- may it be done at all? ----------------------------------------------------------------------


def recollection(number: int, **fields: object) -> wire.Recollection:
    told = wire.Recollection(
        slot=Slot(number), addresses=RING, meta="m:1", silent_ms=2**63, cluster=OURS,
        uuid=bytes([number] * 16), life=number, boot=3, opened_round=Round(8),
        synced_round=Round(9),
        promised=Incarnation(4), served_incarnation=Incarnation(4), block_bytes=64, whole=True,
        reconcile=6, dropped=2, blocks=10, heard=3, copy=wire.NO_COPY,
    )  # fmt: skip
    return replace(told, **fields)  # type: ignore[arg-type]


def told(*left_out: int, **fields: object) -> dict[Slot, wire.Recollection]:
    """All of them; the fields are those of slot 2."""
    return {
        Slot(slot): recollection(slot, **(fields if slot == 2 else {}))
        for slot in range(4)
        if slot not in left_out
    }


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cluster": b"d" * 16}, "different clusters: a:4 to 63.*, a:3 to 64"),
        ({"addresses": RING[::-1]}, "a:3 was started with the ports a:4 a:3 a:2 a:1"),
        ({"slot": Slot(1)}, "a:3 is number 1 of the ring, not 2"),
        ({"silent_ms": 2999}, "a:3 heard from a metaserver at m:1 3.0 s ago"),
        ({"block_bytes": 128}, r"different block sizes: \[64, 128\]"),
    ],
)
def test_what_can_not_be(fields: dict[str, object], words: str) -> None:
    with pytest.raises(StartError, match=words):
        salvage.agree(RING, told(**fields), None)


def test_no_cluster_at_all() -> None:
    strangers = {slot: replace(one, cluster=b"") for slot, one in told().items()}
    with pytest.raises(StartError, match="belong to no cluster"):
        salvage.agree(RING, strangers, None)


def test_silence_and_emptiness_are_the_same_lack() -> None:
    assert salvage.agree(RING, told(0, 1), None).heard == {2, 3}
    plan = salvage.agree(RING, told(0, cluster=b""), None)
    assert plan.heard == {1, 3} and set(plan.told) == {1, 2, 3} and not plan.sure
    with pytest.raises(StartError, match="all three copies stood on a:1, a:2, a:3"):
        salvage.agree(RING, told(0, 1, cluster=b""), None)
    accepted = salvage.agree(RING, told(0, 1, cluster=b""), None, Accepted(holes=True))
    assert accepted.heard == {3} and accepted.missing == (0, 1, 2)


JOURNAL = CopySet(4, (Slot(0), Slot(1), Slot(2)), 2)


def keeping(
    *whole: int, known: CopySet = JOURNAL, to: tuple[int, ...] = (0, 1, 2, 3)
) -> dict[Slot, wire.Recollection]:
    """All servers; some keep whole copies, and some know of a journal set."""
    return {
        slot: replace(
            one,
            copy=wire.CopyReport(known if slot in to else NO_COPIES, GENESIS, slot in whole),
        )
        for slot, one in told().items()
    }


def test_while_copies_suffice_names_can_be_had() -> None:
    for whole in ((0, 1), (0, 2), (0, 1, 2), (1, 2, 3)):
        with pytest.raises(StartError, match="whole on a:.*start zdfs-node meta with an empty"):
            salvage.agree(RING, keeping(*whole), None)
    with pytest.raises(StartError, match="are whole on a:1, a:3"):  # one knows of them
        salvage.agree(RING, keeping(0, 2, to=(3,)), None)
    plan = salvage.agree(RING, keeping(0, 1), None, Accepted(copies=True))
    assert plan.copies == JOURNAL


def test_a_lone_copy_is_not_given_up_unasked() -> None:
    with pytest.raises(StartError, match="whole on a:2, but .* bring back, .*1 more of a:1, a:3"):
        salvage.agree(RING, keeping(1), None)
    assert salvage.agree(RING, keeping(1), None, Accepted(copies=True)).heard == ALL


def test_copies_that_are_none() -> None:
    """Nobody's is whole; a server has one that is no member any more; a rebuild gave them up."""
    for copies in (keeping(), keeping(3), keeping(0, 1, 2, known=CopySet(5, (), 0))):
        assert salvage.agree(RING, copies, None).heard == ALL


def test_the_new_store_has_no_journal_set_and_a_newer_number() -> None:
    plan = salvage.agree(RING, keeping(to=(3,)), None)
    assert salvage.journal_set(plan) == CopySet(5, (), 0)
    fewer = {slot: one for slot, one in keeping(to=(3,)).items() if slot != 0}
    plan = salvage.agree(RING, fewer, None)
    assert salvage.journal_set(plan) == CopySet(4 + salvage.UNHEARD, (), 0)


def test_who_is_being_rebuilt_proves_nothing() -> None:
    plan = salvage.agree(RING, told(0, whole=False), None)
    assert plan.heard == {1, 2, 3} and plan.whole == {1, 3} and plan.missing == ()
    with pytest.raises(StartError, match="stood on a:1, a:2, a:3, which .* not yet rebuilt"):
        salvage.agree(RING, told(0, 1, whole=False), None)


def test_the_block_size() -> None:
    assert salvage.agree(RING, told(), None).block_bytes == 64
    assert salvage.agree(RING, told(block_bytes=0), 64).block_bytes == 64
    unknown = {slot: replace(one, block_bytes=0) for slot, one in told().items()}
    assert salvage.agree(RING, unknown, 4096).block_bytes == 4096
    for given_bytes, words in ((None, "give it, --block-size"), (96, "a power of two")):
        with pytest.raises(StartError, match=words):
            salvage.agree(RING, unknown, given_bytes)
    with pytest.raises(StartError, match="the cluster has 64"):
        salvage.agree(RING, told(), 128)


def test_the_incarnation_is_above_all_that_anybody_saw() -> None:
    plan = salvage.agree(RING, told(promised=Incarnation(9)), None)
    assert salvage.settle(plan, []).incarnation == 10
    ino = Ino(compose(Incarnation(12), 5))
    assert salvage.settle(plan, [Ino(0), ino]).incarnation == 13
    assert salvage.left_over(plan, ino) and not salvage.left_over(
        plan, Ino(compose(plan.promised, 1))
    )
    fewer = salvage.agree(RING, told(0), None)
    assert salvage.settle(fewer, []).incarnation == 5 + salvage.UNHEARD
    with pytest.raises(StartError, match="above all that there can be"):
        salvage.settle(plan, [Ino(2**64 - 1)])


def test_slots_as_the_new_store_knows_them() -> None:
    known = salvage.server(recollection(2), b"")
    assert (known.uuid, known.life, known.boot) == (bytes([2] * 16), 2, 3)
    assert known.reconcile > known.reconciled and known.refill == 0, "it votes, and looks"
    nobody = salvage.server(None, b"n" * 16)
    assert (nobody.uuid, nobody.life, nobody.boot, nobody.refill) == (b"n" * 16, 0, 0, 0)


# --- files ---------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(0, 4 * limits.PAGE_BLOCKS), st.integers(1, 64)),
        min_size=1,
        max_size=30,
        unique_by=lambda one: one[0],
    ),
    st.integers(1, 7),
)
def test_a_file_is_what_its_blocks_say(blocks: list[tuple[int, int]], at_once: int) -> None:
    store, lost = MemoryMetaStore(), Ino(50)
    draft = Draft(Ino(9), b"9", Epoch(1), Slot(2))
    with store.write() as txn:
        txn.put(schema.CLUSTER, records.pack(Cluster(OURS, 64, 3, Epoch(1))))
        tables = Tables(txn)
        namespace.found(tables, 5)
        namespace.make(tables, 5, ROOT, b"lost+found", namespace.Newborn(lost, 0o40700, 0, 0))
    ordered = sorted(blocks)
    for first in range(0, len(ordered), at_once):
        with store.write() as txn:
            tables = Tables(txn)
            for block, length in ordered[first : first + at_once]:
                version = Version(Token(3 + block % 2), block)
                name = Name(draft.ino, BlockNo(block), version)
                one = Candidate(name, Seal(1, 2), length, Epoch(1), Slot(2), (Slot(0),))
                draft.add(tables, 64, one)
            tables.save()
    with store.write() as txn:
        tables = Tables(txn)
        draft.end(tables, 5, lost)
        tables.save()
    with store.read() as read:
        assert metacheck.whole(read) == []
        view = Tables(read)  # type: ignore[arg-type]
        inode = view.inode(draft.ino)
        assert inode.size == ordered[-1][0] * 64 + ordered[-1][1]
        assert inode.stored == sum(length for _, length in blocks)
        shown = read_pages(view, draft.ino, PageNo(0), 5, 64).pages
        found = {
            page.page * limits.PAGE_BLOCKS + position: entry.visible
            for page in shown
            for position, entry in enumerate(blockmap.unpack_page(page.entries))
            if entry
        }
        assert found == dict(blocks)
