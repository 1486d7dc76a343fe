"""Names, links and attributes, errno by errno."""

import errno
import stat
from collections.abc import Callable, Iterator

import pytest

from tests.world.tree import Tree
from zdfs import dirnames, limits, namespace, schema, xattrs
from zdfs.errors import BadMessage, Damaged, Posix
from zdfs.ids import ROOT, Ino
from zdfs.namespace import EXCHANGE, NOREPLACE
from zdfs.tables import Tables

DIR, REG, LNK = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777


@pytest.fixture
def tree() -> Iterator[Tree]:
    made = Tree()
    yield made
    made.check()


def refused(number: int, operation: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(Posix) as caught:
        operation(*arguments)
    assert errno.errorcode[caught.value.number] == errno.errorcode[number]


def rename(tree: Tree, *arguments: object) -> object:
    return tree.do(namespace.rename, *arguments)


def unlink(tree: Tree, *arguments: object) -> object:
    return tree.do(namespace.unlink, *arguments)


def rmdir(tree: Tree, *arguments: object) -> object:
    return tree.do(namespace.rmdir, *arguments)


def link(tree: Tree, *arguments: object) -> object:
    return tree.do(namespace.link, *arguments)


def test_root(tree: Tree) -> None:
    root = tree.stat(ROOT)
    assert (root.mode, root.nlink) == (0o40755, 2)
    assert namespace.listing(tree.view(), ROOT).parent == ROOT


@pytest.mark.parametrize("kind", namespace.TYPES)
def test_make_each_type(tree: Tree, kind: int) -> None:
    target = b"there" if kind == stat.S_IFLNK else b""
    ino = tree.make(ROOT, b"x", kind | 0o7644, rdev=5, target=target)
    seen = tree.stat(ino)
    assert (seen.mode, seen.uid, seen.gid) == (kind | 0o7644, 7, 8)
    assert seen.rdev == (5 if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0)
    assert seen.size == len(target) and seen.nlink == (2 if kind == stat.S_IFDIR else 1)
    assert tree.stat(ROOT).nlink == (3 if kind == stat.S_IFDIR else 2)
    assert tree.stat(ROOT).mtime_ns == tree.stat(ROOT).ctime_ns == tree.now_ns


def test_make_refuses(tree: Tree) -> None:
    file = tree.make(ROOT, b"f")
    refused(errno.EEXIST, tree.make, ROOT, b"f")
    refused(errno.EEXIST, tree.mkdir, ROOT, b".")
    refused(errno.ENOTDIR, tree.make, file, b"x")
    refused(errno.ESTALE, tree.make, Ino(999), b"x")
    refused(errno.ENAMETOOLONG, tree.make, ROOT, b"n" * 256)
    refused(errno.EINVAL, tree.make, ROOT, b"a/b")
    refused(errno.EINVAL, tree.make, ROOT, b"x", 0o644)
    refused(errno.EINVAL, lambda: tree.make(ROOT, b"x", REG, target=b"t"))
    refused(errno.ENOENT, tree.make, ROOT, b"x", LNK)
    refused(errno.ENAMETOOLONG, lambda: tree.make(ROOT, b"x", LNK, target=b"t" * 4096))
    gone = tree.mkdir(ROOT, b"d")
    rmdir(tree, ROOT, b"d")
    refused(errno.ENOENT, tree.make, gone, b"x")
    refused(errno.ENOENT, link, tree, file, gone, b"x")
    refused(errno.ENOENT, rename, tree, ROOT, b"f", gone, b"x")


def test_a_name_of_255_bytes_is_good(tree: Tree) -> None:
    tree.make(ROOT, b"\xff" * 255)
    assert list(tree.names()) == [b"\xff" * 255]


def test_setgid_directory_passes_its_group_on(tree: Tree) -> None:
    shared = tree.make(ROOT, b"d", stat.S_IFDIR | 0o2775, gid=99)
    assert tree.stat(tree.make(shared, b"f")).gid == 99
    below = tree.stat(tree.mkdir(shared, b"e"))
    assert below.gid == 99 and below.mode & stat.S_ISGID


def test_links_end_at_their_limit(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINKS", 3)
    file = tree.make(ROOT, b"f")
    directory = tree.mkdir(ROOT, b"d")  # the root's third link
    refused(errno.EMLINK, tree.mkdir, ROOT, b"e")
    tree.mkdir(directory, b"sub")
    refused(errno.EMLINK, rename, tree, directory, b"sub", ROOT, b"sub")
    link(tree, file, ROOT, b"g")
    link(tree, file, ROOT, b"h")
    refused(errno.EMLINK, link, tree, file, ROOT, b"i")


def test_lookup(tree: Tree) -> None:
    directory = tree.mkdir(ROOT, b"d")
    file = tree.make(directory, b"f")

    def walk(start: Ino, *names: bytes) -> tuple[list[int], int]:
        steps, number = namespace.lookup(tree.view(), start, names)
        return [step.ino for step in steps], number

    assert walk(ROOT, b"d", b"f") == ([directory, file], 0)
    assert walk(ROOT, b"d", b"..", b".") == ([directory, ROOT, ROOT], 0)
    assert walk(ROOT, b"d", b"x", b"y") == ([directory], errno.ENOENT)
    assert walk(ROOT, b"d", b"f", b"y") == ([directory, file], errno.ENOTDIR)
    assert walk(ROOT, b"n" * 256) == ([], errno.ENAMETOOLONG)
    assert walk(Ino(999), b"x") == ([], errno.ESTALE)


def test_unlink(tree: Tree) -> None:
    file = tree.make(ROOT, b"f")
    link(tree, file, ROOT, b"g")
    tree.mkdir(ROOT, b"d")
    refused(errno.EISDIR, unlink, tree, ROOT, b"d")
    refused(errno.ENOENT, unlink, tree, ROOT, b"x")
    refused(errno.ENOTDIR, unlink, tree, file, b"x")
    assert unlink(tree, ROOT, b"f") == (file, False)
    assert tree.stat(file).nlink == 1 and tree.stat(file).ctime_ns == tree.now_ns
    assert unlink(tree, ROOT, b"g") == (file, True)
    assert tree.stat(file).nlink == 0
    refused(errno.ENOENT, link, tree, file, ROOT, b"again")
    tree.check()
    tree.reap(file)
    refused(errno.ESTALE, tree.stat, file)


def test_rmdir(tree: Tree) -> None:
    file = tree.make(ROOT, b"f")
    directory = tree.mkdir(ROOT, b"d")
    tree.make(directory, b"x")
    refused(errno.ENOTEMPTY, rmdir, tree, ROOT, b"d")
    refused(errno.ENOTDIR, rmdir, tree, ROOT, b"f")
    refused(errno.ENOENT, rmdir, tree, ROOT, b"x")
    refused(errno.EINVAL, rmdir, tree, ROOT, b".")
    refused(errno.ENOTEMPTY, rmdir, tree, ROOT, b"..")
    refused(errno.ENOTDIR, rmdir, tree, file, b"x")
    unlink(tree, directory, b"x")
    assert rmdir(tree, ROOT, b"d") == directory
    assert tree.stat(ROOT).nlink == 2 and tree.stat(directory).nlink == 0
    assert namespace.listing(tree.view(), directory).entries == ()
    tree.check()
    tree.reap(directory)


def test_link(tree: Tree) -> None:
    file, directory = tree.make(ROOT, b"f"), tree.mkdir(ROOT, b"d")
    link(tree, file, directory, b"g")
    assert tree.stat(file).nlink == 2 and tree.stat(file).ctime_ns == tree.now_ns
    refused(errno.EPERM, link, tree, directory, ROOT, b"e")
    refused(errno.EEXIST, link, tree, file, ROOT, b"d")
    refused(errno.ENOTDIR, link, tree, file, file, b"x")


def test_rename_refuses(tree: Tree) -> None:
    file, directory = tree.make(ROOT, b"f"), tree.mkdir(ROOT, b"d")
    below = tree.mkdir(directory, b"e")
    refused(errno.ENOENT, rename, tree, ROOT, b"x", ROOT, b"y")
    refused(errno.ENOENT, rename, tree, ROOT, b"f", ROOT, b"y", EXCHANGE)
    refused(errno.EEXIST, rename, tree, ROOT, b"f", ROOT, b"d", NOREPLACE)
    refused(errno.EINVAL, rename, tree, ROOT, b"f", ROOT, b"d", NOREPLACE | EXCHANGE)
    refused(errno.EINVAL, rename, tree, ROOT, b"f", ROOT, b"d", 4)
    refused(errno.EINVAL, rename, tree, ROOT, b"d", directory, b"x")
    refused(errno.EINVAL, rename, tree, ROOT, b"d", below, b"x")
    refused(errno.EINVAL, rename, tree, ROOT, b"d", directory, b"e", EXCHANGE)
    refused(errno.EINVAL, rename, tree, directory, b"e", ROOT, b"d", EXCHANGE)
    refused(errno.ENOTEMPTY, rename, tree, directory, b"e", ROOT, b"d")
    refused(errno.EISDIR, rename, tree, ROOT, b"f", ROOT, b"d")
    refused(errno.ENOTDIR, rename, tree, ROOT, b"d", ROOT, b"f")
    refused(errno.EBUSY, rename, tree, ROOT, b".", ROOT, b"x")
    refused(errno.ENOTDIR, rename, tree, ROOT, b"d", file, b"x")
    refused(errno.ENOTDIR, rename, tree, file, b"x", ROOT, b"x")


def test_rename_a_file_over_another(tree: Tree) -> None:
    directory = tree.mkdir(ROOT, b"d")
    one, two = tree.make(ROOT, b"1"), tree.make(directory, b"2")
    assert rename(tree, ROOT, b"1", directory, b"2") == two
    assert tree.names() == {b"d": directory} and tree.names(directory) == {b"2": one}
    for ino in (ROOT, directory, one, two):
        assert tree.stat(ino).ctime_ns == tree.now_ns
    assert tree.stat(ROOT).mtime_ns == tree.stat(directory).mtime_ns == tree.now_ns
    assert tree.stat(one).mtime_ns < tree.now_ns and tree.stat(two).nlink == 0


def test_rename_within_a_directory(tree: Tree) -> None:
    file = tree.make(ROOT, b"f")
    assert rename(tree, ROOT, b"f", ROOT, b"g", NOREPLACE) is None
    assert tree.names() == {b"g": file}


def test_rename_to_another_link_of_itself_does_nothing(tree: Tree) -> None:
    file = tree.make(ROOT, b"f")
    link(tree, file, ROOT, b"g")
    before = dict(tree.store.values)
    assert rename(tree, ROOT, b"f", ROOT, b"g") is None
    assert rename(tree, ROOT, b"f", ROOT, b"f") is None
    assert rename(tree, ROOT, b"f", ROOT, b"g", EXCHANGE) is None
    refused(errno.EEXIST, rename, tree, ROOT, b"f", ROOT, b"g", NOREPLACE)
    assert tree.store.values == before


def test_rename_a_directory(tree: Tree) -> None:
    one, two = tree.mkdir(ROOT, b"1"), tree.mkdir(ROOT, b"2")
    moved, empty = tree.mkdir(one, b"m"), tree.mkdir(two, b"e")
    rename(tree, one, b"m", two, b"m")
    assert (tree.stat(one).nlink, tree.stat(two).nlink) == (2, 4)
    assert namespace.listing(tree.view(), moved).parent == two
    assert rename(tree, two, b"m", two, b"e") == empty
    assert (tree.stat(two).nlink, tree.stat(empty).nlink) == (3, 0)
    assert rename(tree, two, b"e", ROOT, b"1") == one
    assert (tree.stat(two).nlink, tree.stat(ROOT).nlink) == (2, 4)


def test_exchange_a_file_and_a_directory(tree: Tree) -> None:
    one, two = tree.mkdir(ROOT, b"1"), tree.mkdir(ROOT, b"2")
    directory, file = tree.mkdir(one, b"d"), tree.make(two, b"f")
    assert rename(tree, one, b"d", two, b"f", EXCHANGE) is None
    assert tree.names(one) == {b"d": file} and tree.names(two) == {b"f": directory}
    assert (tree.stat(one).nlink, tree.stat(two).nlink) == (2, 3)
    assert namespace.listing(tree.view(), directory).parent == two
    rename(tree, ROOT, b"1", ROOT, b"2", EXCHANGE)
    assert tree.names() == {b"1": two, b"2": one}


def test_set_attributes(tree: Tree) -> None:
    file = tree.make(ROOT, b"f", stat.S_IFREG | 0o6775)
    before = tree.stat(file)
    tree.do(namespace.set_attributes, file, None, None, None, 11, -22)
    seen = tree.stat(file)
    assert (seen.mode, seen.uid, seen.gid) == (before.mode, before.uid, before.gid)
    assert (seen.atime_ns, seen.mtime_ns, seen.ctime_ns) == (11, -22, tree.now_ns)
    assert seen.change == before.change + 1
    tree.do(namespace.set_attributes, file, None, 1)
    assert tree.stat(file).mode == stat.S_IFREG | 0o775 and tree.stat(file).uid == 1
    tree.do(namespace.set_attributes, file, stat.S_IFDIR | 0o2664)
    assert tree.stat(file).mode == stat.S_IFREG | 0o2664
    tree.do(namespace.set_attributes, file, None, None, 5)  # mandatory locking, not setgid
    assert tree.stat(file).mode == stat.S_IFREG | 0o2664 and tree.stat(file).gid == 5
    tree.do(namespace.set_attributes, ROOT, 0o2755, 3, 4)
    tree.do(namespace.set_attributes, ROOT, None, 0)
    assert tree.stat(ROOT).mode == stat.S_IFDIR | 0o2755
    refused(errno.ESTALE, tree.do, namespace.set_attributes, Ino(999), 0o600)


def test_read_link(tree: Tree) -> None:
    symlink, file = tree.make(ROOT, b"s", LNK, target=b"\xff/t"), tree.make(ROOT, b"f")
    assert namespace.read_link(tree.view(), symlink) == b"\xff/t"
    refused(errno.EINVAL, namespace.read_link, tree.view(), file)


def test_listing_in_pages(tree: Tree) -> None:
    file = tree.make(ROOT, b"f")
    names = sorted(b"%d" % number for number in range(20))
    directory = tree.mkdir(ROOT, b"d")
    for name in names:
        tree.make(directory, name)
    seen: list[bytes] = []
    end = False
    while not end:
        after = seen[-1] if seen else b""
        page = namespace.listing(tree.view(), directory, after, most_entries=7)
        assert len(page.entries) <= 7 and page.parent == ROOT
        seen += [entry.name for entry in page.entries]
        end = page.end
    assert seen == names
    small = namespace.listing(tree.view(), directory, most_bytes=1)
    assert len(small.entries) == 1 and not small.end
    refused(errno.ENOTDIR, namespace.listing, tree.view(), file)


def test_a_lost_name_is_no_answer(tree: Tree) -> None:
    ino = tree.make(ROOT, b"a")
    tree.make(ROOT, b"b")
    key = schema.entry_key(ROOT, b"a")
    kept = tree.store.values[key]
    tree.store.plant(key, None)
    tree.proven.clear()
    operations: list[Callable[[], object]] = [
        lambda: namespace.lookup(tree.view(), ROOT, [b"a"]),
        lambda: namespace.lookup(tree.view(), ROOT, [b"c"]),
        lambda: namespace.listing(tree.view(), ROOT),
        lambda: namespace.listing(tree.view(), ROOT, most_entries=0),
        lambda: tree.make(ROOT, b"a"),
        lambda: unlink(tree, ROOT, b"a"),
        lambda: rename(tree, ROOT, b"b", ROOT, b"a"),
        lambda: link(tree, ino, ROOT, b"a"),
    ]
    for operation in operations:
        with pytest.raises(Damaged):
            operation()
    tree.store.plant(key, kept)


def test_what_was_proven_is_not_proven_again(tree: Tree) -> None:
    for number in range(5):
        tree.make(ROOT, b"%d" % number)
    assert tree.proven == {schema.entry_key(ROOT, b"")}


def test_a_large_directory_is_left_to_the_walk(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PROOF_ENTRIES", 3)
    for number in range(5):
        tree.make(ROOT, b"%d" % number)
    tree.proven.clear()
    tree.make(ROOT, b"more")
    assert not tree.proven


def test_proofs_remembered_are_bounded(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PROOFS", 2)
    for number in range(5):
        directory = tree.mkdir(ROOT, b"%d" % number)
        tree.make(directory, b"a")
        tree.make(directory, b"b")
    assert 1 <= len(tree.proven) <= 2


def test_change_counters_start_at_the_floor_of_this_life(tree: Tree) -> None:
    file = tree.make(ROOT, b"f")
    with tree.store.write() as txn:
        namespace.set_attributes(Tables(txn, change_floor=5 << 40), 1, file, 0o600)
    assert tree.stat(file).change == 5 << 40
    tree.do(namespace.set_attributes, file, 0o644)
    assert tree.stat(file).change == (5 << 40) + 1


def test_xattrs(tree: Tree) -> None:
    file = tree.make(ROOT, b"f")

    def get(name: bytes) -> bytes:
        return xattrs.get(tree.view(), file, name)

    def put(*arguments: object) -> object:
        return tree.do(xattrs.put, file, *arguments)

    refused(errno.ENODATA, get, b"user.a")
    refused(errno.ENODATA, put, b"user.a", b"", xattrs.REPLACE)
    put(b"user.a", b"1", xattrs.CREATE)
    assert tree.stat(file).ctime_ns == tree.now_ns
    refused(errno.EEXIST, put, b"user.a", b"2", xattrs.CREATE)
    put(b"user.a", b"", xattrs.REPLACE)
    put(b"user.b", b"v" * limits.XATTR_VALUE_BYTES)
    assert (get(b"user.a"), len(get(b"user.b"))) == (b"", limits.XATTR_VALUE_BYTES)
    refused(errno.ENODATA, get, b"user.c")
    assert xattrs.names(tree.view(), file) == [b"user.a", b"user.b"]
    refused(errno.E2BIG, put, b"user.c", b"v" * (limits.XATTR_VALUE_BYTES + 1))
    refused(errno.ERANGE, put, b"n" * 256, b"")
    refused(errno.ERANGE, get, b"")
    refused(errno.EINVAL, put, b"user.c", b"", 4)
    both = xattrs.CREATE | xattrs.REPLACE  # Linux takes it, and nothing satisfies it
    refused(errno.ENODATA, put, b"user.c", b"", both)
    refused(errno.EEXIST, put, b"user.b", b"", both)
    tree.do(xattrs.remove, file, b"user.a")
    refused(errno.ENODATA, tree.do, xattrs.remove, file, b"user.a")
    assert xattrs.names(tree.view(), file) == [b"user.b"]
    unlink(tree, ROOT, b"f")
    tree.reap(file)
    assert not [key for key in tree.store.keys if key.startswith(b"x")]


def test_xattr_lists_are_bounded(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "XATTR_LIST_BYTES", 10)
    file = tree.make(ROOT, b"f")
    tree.do(xattrs.put, file, b"1234", b"")
    tree.do(xattrs.put, file, b"5678", b"")
    refused(errno.ENOSPC, tree.do, xattrs.put, file, b"9", b"")
    tree.do(xattrs.put, file, b"1234", b"more")


def test_a_lost_xattr_is_no_answer(tree: Tree) -> None:
    file = tree.make(ROOT, b"f")
    tree.do(xattrs.put, file, b"user.a", b"1")
    key = schema.xattr_key(file, b"user.a")
    kept = tree.store.values[key]
    tree.store.plant(key, None)
    for name in (b"user.a", b"user.b"):
        with pytest.raises(Damaged):
            xattrs.get(tree.view(), file, name)
    with pytest.raises(Damaged):
        xattrs.names(tree.view(), file)
    tree.store.plant(key, kept)


def test_an_inode_number_is_used_once(tree: Tree) -> None:
    file = tree.make(ROOT, b"f")
    with pytest.raises(Damaged):
        tree.make(ROOT, b"g", REG, ino=file)


def test_names_are_listed_without_their_attributes(tree: Tree) -> None:
    made = {b"n%03d" % number: tree.make(ROOT, b"n%03d" % number) for number in range(30)}
    page = namespace.name_list(tree.view(), ROOT)
    assert page.end and page.parent == ROOT and page.version == tree.view().inode(ROOT).change
    found = dirnames.unpack(page.names)
    assert [(name, ino) for name, ino, _ in found] == sorted(made.items())
    assert {kind for _, _, kind in found} == {stat.S_IFREG}
    seen: list[bytes] = []
    while not seen or not page.end:
        page = namespace.name_list(tree.view(), ROOT, seen[-1] if seen else b"", most_bytes=100)
        seen += [name for name, _, _ in dirnames.unpack(page.names)]
    assert seen == sorted(made)


@pytest.mark.parametrize("bad", [b"\0", b"\0" * 10, b"\0" * 7 + b"\1\x04\5abcd"])
def test_names_that_are_none_are_refused(bad: bytes) -> None:
    with pytest.raises(BadMessage):
        dirnames.unpack(bad)
