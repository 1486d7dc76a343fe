"""Access control lists, by the rules of acl(5) and POSIX 1003.1e draft 17 in other words."""

import errno
import itertools
import stat
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.world.tree import Tree
from zdfs import acls, limits, metacheck, namespace, schema, xattrs
from zdfs.acls import NO_ID, Acl, AclEntry, Tag
from zdfs.errors import Damaged, Posix
from zdfs.ids import ROOT, Ino

REG = stat.S_IFREG
permissions = st.integers(0, 7)
modes = st.integers(0, 0o7777)
named = st.lists(st.tuples(st.integers(0, NO_ID - 1), permissions), max_size=4)


@st.composite
def lists(draw: Callable[..., object]) -> Acl:
    """Any list that is one."""
    users, groups = draw(named), draw(named)
    assert isinstance(users, list) and isinstance(groups, list)
    masked = users or groups or draw(st.booleans())
    return (
        AclEntry(Tag.USER_OBJ, draw(permissions)),  # type: ignore[arg-type]
        *(AclEntry(Tag.USER, bits, who) for who, bits in users),
        AclEntry(Tag.GROUP_OBJ, draw(permissions)),  # type: ignore[arg-type]
        *(AclEntry(Tag.GROUP, bits, who) for who, bits in groups),
        *((AclEntry(Tag.MASK, draw(permissions)),) if masked else ()),  # type: ignore[arg-type]
        AclEntry(Tag.OTHER, draw(permissions)),  # type: ignore[arg-type]
    )


def of(acl: Acl, tag: Tag) -> list[int]:
    """Permissions of all entries of a kind."""
    return [entry.permissions for entry in acl if entry.tag == tag]


def class_bits(acl: Acl) -> tuple[int, int, int]:
    """Owner, group class and others: "the file group class permission bits are the mask, and where
    there is none, those of the owning group"."""
    return (
        of(acl, Tag.USER_OBJ)[0],
        (of(acl, Tag.MASK) or of(acl, Tag.GROUP_OBJ))[0],
        of(acl, Tag.OTHER)[0],
    )


def allowed(acl: Acl, uid: int, gids: set[int], owner: int, group: int, wanted: int) -> bool:
    """The access check algorithm of acl(5)."""
    mask = (of(acl, Tag.MASK) or [7])[0]
    if uid == owner:
        return of(acl, Tag.USER_OBJ)[0] & wanted == wanted
    for entry in acl:
        if entry.tag == Tag.USER and entry.id == uid:
            return entry.permissions & mask & wanted == wanted
    groups = [
        entry.permissions & mask
        for entry in acl
        if (entry.tag == Tag.GROUP_OBJ and group in gids)
        or (entry.tag == Tag.GROUP and entry.id in gids)
    ]
    if groups:
        return any(bits & wanted == wanted for bits in groups)
    return of(acl, Tag.OTHER)[0] & wanted == wanted


def octal(bits: tuple[int, int, int]) -> int:
    return bits[0] << 6 | bits[1] << 3 | bits[2]


def refused(number: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(Posix) as caught:
        call(*arguments)
    assert caught.value.number == number


# --- the format --------------------------------------------------------------------------------


@given(lists())
def test_there_and_back(acl: Acl) -> None:
    value = acls.pack(acl)
    assert len(value) == 4 + 8 * len(acl) and acls.unpack(value) == acl


def test_the_kernels_bytes() -> None:
    acl = (
        AclEntry(Tag.USER_OBJ, 6),
        AclEntry(Tag.USER, 4, 1000),
        AclEntry(Tag.GROUP_OBJ, 4),
        AclEntry(Tag.MASK, 4),
        AclEntry(Tag.OTHER, 0),
    )
    assert acls.pack(acl).hex() == (
        "02000000" "01000600ffffffff" "02000400e8030000" "04000400ffffffff"
        "10000400ffffffff" "20000000ffffffff"
    )  # fmt: skip


@given(st.binary(max_size=60) | st.binary(max_size=56).map(lambda rest: b"\2\0\0\0" + rest))
def test_any_bytes_are_a_list_or_refused(value: bytes) -> None:
    try:
        acl = acls.unpack(value)
    except Posix as error:
        assert error.number in (errno.EINVAL, errno.EOPNOTSUPP)
    else:
        assert not acl or acls.unpack(acls.pack(acl)) == acl


@given(lists(), st.data())
def test_a_list_is_whole_and_in_order(acl: Acl, data: st.DataObject) -> None:
    """Leaving out, doubling or swapping entries keeps only lists that hold the rules."""
    place = data.draw(st.integers(0, len(acl) - 1))
    other = data.draw(st.integers(0, len(acl) - 1))
    swapped = list(acl)
    swapped[place], swapped[other] = swapped[other], swapped[place]
    for changed in (acl[:place] + acl[place + 1 :], acl[: place + 1] + acl[place:], tuple(swapped)):
        tags = [entry.tag for entry in changed]
        once = all(tags.count(tag) == 1 for tag in (Tag.USER_OBJ, Tag.GROUP_OBJ, Tag.OTHER))
        masks = tags.count(Tag.MASK)
        whole = once and masks <= 1 and (masks == 1 or not set(tags) & set(acls.NAMED))
        if whole and tags == sorted(tags):
            acls.check(changed)
        else:
            refused(errno.EINVAL, acls.check, changed)


def test_more_than_the_kernel_reads_back() -> None:
    most = (limits.ACL_BYTES - 4) // 8
    users = tuple(AclEntry(Tag.USER, 4, number) for number in range(most - 4))
    minimal = [AclEntry(tag, 4) for tag in (Tag.USER_OBJ, Tag.GROUP_OBJ, Tag.MASK, Tag.OTHER)]
    full = (minimal[0], *users, *minimal[1:])
    assert acls.unpack(acls.pack(full)) == full
    more = (minimal[0], *users, AclEntry(Tag.USER, 4, most), *minimal[1:])
    refused(errno.E2BIG, acls.unpack, acls.pack(more))


def test_versions() -> None:
    refused(errno.EOPNOTSUPP, acls.unpack, struct.pack("<I", 1))
    assert acls.unpack(b"") == acls.unpack(struct.pack("<I", 2)) == ()


# --- lists and modes ---------------------------------------------------------------------------


@given(lists(), modes)
def test_the_mode_shows_the_classes_of_a_list(acl: Acl, mode: int) -> None:
    assert acls.mode_of(acl, mode) == mode & 0o7000 | octal(class_bits(acl))


@given(lists(), modes)
def test_chmod_is_what_the_classes_are_then(acl: Acl, mode: int) -> None:
    after = acls.follow(acl, mode)
    assert octal(class_bits(after)) == mode & 0o777
    for tag in acls.NAMED:
        assert of(after, tag) == of(acl, tag)
    if of(acl, Tag.MASK):
        assert of(after, Tag.GROUP_OBJ) == of(acl, Tag.GROUP_OBJ)
    acls.check(after)


@given(lists(), modes)
def test_what_is_made_has_no_more_than_list_and_mode_allow(acl: Acl, mode: int) -> None:
    after, shown = acls.inherit(acl, mode)
    acls.check(after)
    assert shown == mode & 0o7000 | octal(class_bits(after))
    assert octal(class_bits(after)) == octal(class_bits(acl)) & mode & 0o777
    assert [entry[::2] for entry in after] == [entry[::2] for entry in acl]
    for tag in acls.NAMED:
        assert of(after, tag) == of(acl, tag)


@given(lists(), modes)
def test_a_list_that_says_no_more_than_the_mode_needs_no_keeping(acl: Acl, mode: int) -> None:
    """Whoever asks for whatever: the answer is the nine bits'."""
    if acls.says_more(acl):
        return
    shown = acls.mode_of(acl, mode)
    for uid, gids, wanted in itertools.product((1, 2), ({10}, {20}), range(8)):
        shift = 6 if uid == 1 else 3 if 10 in gids else 0
        assert allowed(acl, uid, gids, 1, 10, wanted) == (shown >> shift & wanted == wanted)


@given(lists(), modes)
def test_nobody_gets_more_than_a_class_of_the_mode(acl: Acl, mode: int) -> None:
    """What programs that know only modes rely on: chmod 700 shuts everybody else out."""
    after = acls.follow(acl, mode)
    ids = [0, 5, *(entry.id for entry in acl if entry.id != NO_ID)]
    for who, wanted in itertools.product(ids, (1, 2, 4)):
        if allowed(after, who, {who}, owner=NO_ID, group=NO_ID, wanted=wanted):
            assert (mode >> 3 | mode) & wanted


# --- in the tables -----------------------------------------------------------------------------


@pytest.fixture
def tree() -> Tree:
    return Tree()


BOBS = (
    AclEntry(Tag.USER_OBJ, 6),
    AclEntry(Tag.USER, 7, 1000),
    AclEntry(Tag.GROUP_OBJ, 4),
    AclEntry(Tag.MASK, 6),
    AclEntry(Tag.OTHER, 0),
)
MINIMAL = (AclEntry(Tag.USER_OBJ, 7), AclEntry(Tag.GROUP_OBJ, 5), AclEntry(Tag.OTHER, 1))


def given_list(tree: Tree, ino: Ino, acl: Acl, name: bytes = acls.ACCESS, *more: object) -> None:
    tree.do(xattrs.put, ino, name, acls.pack(acl), *more)


def kept(tree: Tree, ino: Ino, name: bytes = acls.ACCESS) -> Acl:
    try:
        return acls.unpack(xattrs.get(tree.view(), ino, name))
    except Posix as error:
        assert error.number == errno.ENODATA
        return ()


def test_a_list_moves_the_mode_in_its_own_transaction(tree: Tree) -> None:
    file = tree.make(ROOT, b"f", REG | 0o6755)
    change = tree.stat(file).change
    given_list(tree, file, BOBS)
    assert tree.stat(file).mode == REG | 0o6660 and kept(tree, file) == BOBS
    assert (tree.stat(file).xattrs, tree.stat(file).change) == (1, change + 1)
    given_list(tree, file, MINIMAL, acls.ACCESS, 0, True)
    assert tree.stat(file).mode == REG | 0o4751 and not kept(tree, file)
    assert tree.stat(file).xattrs == 0
    tree.check()


def test_chmod_moves_the_list(tree: Tree) -> None:
    file = tree.make(ROOT, b"f")
    given_list(tree, file, BOBS)
    change = tree.stat(file).change
    tree.do(namespace.set_attributes, file, 0o4705)
    assert kept(tree, file) == acls.follow(BOBS, 0o705)
    assert (tree.stat(file).mode, tree.stat(file).change) == (REG | 0o4705, change + 1)
    tree.check()


def test_chown_leaves_the_list(tree: Tree) -> None:
    file = tree.make(ROOT, b"f")
    given_list(tree, file, BOBS)
    tree.do(namespace.set_attributes, file, None, 5, 6)
    assert kept(tree, file) == BOBS and tree.stat(file).mode == REG | 0o660


def test_a_default_list_is_inherited(tree: Tree) -> None:
    above = tree.mkdir(ROOT, b"d")
    given_list(tree, above, BOBS, acls.DEFAULT)
    assert tree.stat(above).mode == stat.S_IFDIR | 0o755 and not kept(tree, above)
    below = tree.make(above, b"d", stat.S_IFDIR | 0o777, umask=0o777)
    assert kept(tree, below, acls.DEFAULT) == kept(tree, below) == BOBS
    file = tree.make(below, b"f", REG | 0o640, umask=0o777)
    assert kept(tree, file) == acls.inherit(BOBS, 0o640)[0]
    assert tree.stat(file).mode == REG | 0o640 and tree.stat(file).xattrs == 1
    link = tree.make(below, b"l", stat.S_IFLNK | 0o777, target=b"t", umask=0o777)
    assert tree.stat(link).mode == stat.S_IFLNK | 0o777 and not tree.stat(link).xattrs
    given_list(tree, above, MINIMAL, acls.DEFAULT)
    plain = tree.make(above, b"p", REG | 0o666, umask=0o777)
    assert tree.stat(plain).mode == REG | 0o640 and not tree.stat(plain).xattrs
    tree.check()


def test_without_one_the_umask_counts(tree: Tree) -> None:
    assert tree.stat(tree.make(ROOT, b"f", REG | 0o4666, umask=0o026)).mode == REG | 0o4640


def test_what_is_refused(tree: Tree) -> None:
    file = tree.make(ROOT, b"f")
    link = tree.make(ROOT, b"l", stat.S_IFLNK | 0o777, target=b"t")
    refused(errno.EACCES, given_list, tree, file, BOBS, acls.DEFAULT)
    refused(errno.EOPNOTSUPP, given_list, tree, link, BOBS)
    refused(errno.EINVAL, tree.do, xattrs.put, file, acls.ACCESS, b"\2\0\0\0nonsense")
    assert not tree.stat(file).xattrs
    tree.check()


def test_lists_go(tree: Tree) -> None:
    file = tree.make(ROOT, b"f")
    given_list(tree, file, BOBS)
    tree.do(xattrs.remove, file, acls.ACCESS)
    assert not kept(tree, file) and tree.stat(file).mode == REG | 0o660
    tree.do(xattrs.remove, file, acls.ACCESS)
    given_list(tree, file, BOBS)
    tree.do(xattrs.put, file, acls.ACCESS, b"")
    tree.do(xattrs.put, file, acls.DEFAULT, b"")  # Linux: to take away what can't be is no failure
    assert not tree.stat(file).xattrs
    refused(errno.ESTALE, tree.do, xattrs.remove, Ino(99), acls.ACCESS)
    tree.check()


def test_the_walk_sees_lists_that_can_not_be(tree: Tree) -> None:
    file, above = tree.make(ROOT, b"f"), tree.mkdir(ROOT, b"d")
    given_list(tree, file, BOBS)
    given_list(tree, above, BOBS, acls.DEFAULT)
    inode, directory = tree.view().inode(file), tree.view().inode(above)
    value = acls.pack(BOBS)
    for name in acls.NAMES:
        assert "ends inside" in xattrs.wrong(directory, name, value[:-1])
    assert "at odds" in xattrs.wrong(directory, acls.ACCESS, value)
    assert "at odds" in xattrs.wrong(inode, acls.ACCESS, acls.pack(MINIMAL))
    assert "no directory" in xattrs.wrong(inode, acls.DEFAULT, value)
    assert not xattrs.wrong(inode, b"user.a", value[:-1])
    with tree.change() as tables:
        tables.update(file, mode=REG | 0o600)
        tables.save()
    assert ["at odds" in found.what for found in metacheck.whole(tree.store)] == [True]


@pytest.mark.parametrize("name", [acls.ACCESS, acls.DEFAULT])
def test_a_list_that_was_damaged_is_no_answer(tree: Tree, name: bytes) -> None:
    above = tree.mkdir(ROOT, b"d")
    given_list(tree, above, BOBS, name)
    tree.store.put(schema.xattr_key(above, name), b"\2\0\0\0no list")
    with pytest.raises(Damaged):
        if name == acls.ACCESS:
            tree.do(namespace.set_attributes, above, 0o700)
        else:
            tree.make(above, b"f")
