"""Random operations against a reference of dicts; after each, nothing is wrong with the tables.

The model says by itself what Linux would answer: it shares no code with `namespace` and `extents`.
"""

import errno
import stat
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.world.tree import BLOCK, Tree
from zdfs import namespace, schema, xattrs
from zdfs.errors import Posix
from zdfs.ids import ROOT, Ino

FEW = st.sampled_from([b"a", b"b", b"c"])
ATTRIBUTE = st.sampled_from([b"user.1", b"user.2"])
PICK = st.integers(0, 1000)
KIND = st.sampled_from([stat.S_IFDIR, stat.S_IFDIR, stat.S_IFREG, stat.S_IFREG, stat.S_IFLNK])
FLAGS = st.sampled_from([0, 0, 0, 1, 2])


@dataclass
class Node:
    """What the model knows of an inode."""

    kind: int
    mode: int = 0
    uid: int = 7
    names: dict[bytes, int] = field(default_factory=dict)  # a directory's
    parent: int = 0
    size: int = 0
    blocks: dict[int, int] = field(default_factory=dict)  # -> visible bytes
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    removed: bool = False

    @property
    def directory(self) -> bool:
        return self.kind == stat.S_IFDIR


class Refused(Exception):
    """The model's errno."""


def refuse(when: bool, number: int) -> None:
    if when:
        raise Refused(number)


class Model:
    """The reference: POSIX on dicts."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {ROOT: Node(stat.S_IFDIR, 0o755, 0, parent=ROOT)}

    def directory(self, ino: int) -> Node:
        refuse(not self.nodes[ino].directory, errno.ENOTDIR)
        return self.nodes[ino]

    def child(self, ino: int, name: bytes) -> int:
        names = self.directory(ino).names
        refuse(name not in names, errno.ENOENT)
        return names[name]

    def nlink(self, ino: int) -> int:
        node = self.nodes[ino]
        if node.directory:
            subdirectories = sum(self.nodes[below].directory for below in node.names.values())
            return 0 if node.removed else 2 + subdirectories
        return sum(list(one.names.values()).count(ino) for one in self.nodes.values())

    def make(self, parent: int, name: bytes, kind: int, ino: int) -> None:
        directory = self.directory(parent)
        refuse(directory.removed, errno.ENOENT)
        refuse(name in directory.names, errno.EEXIST)
        size = 1 if kind == stat.S_IFLNK else 0
        self.nodes[ino] = Node(kind, 0o644, parent=parent, size=size)
        directory.names[name] = ino

    def unlink(self, parent: int, name: bytes) -> None:
        ino = self.child(parent, name)
        refuse(self.nodes[ino].directory, errno.EISDIR)
        del self.nodes[parent].names[name]

    def rmdir(self, parent: int, name: bytes) -> None:
        node = self.nodes[self.child(parent, name)]
        refuse(not node.directory, errno.ENOTDIR)
        refuse(bool(node.names), errno.ENOTEMPTY)
        node.removed = True
        del self.nodes[parent].names[name]

    def link(self, ino: int, parent: int, name: bytes) -> None:
        directory = self.directory(parent)
        refuse(directory.removed, errno.ENOENT)
        refuse(name in directory.names, errno.EEXIST)
        refuse(self.nodes[ino].directory, errno.EPERM)
        refuse(self.nlink(ino) == 0, errno.ENOENT)
        directory.names[name] = ino

    def above(self, ino: int) -> list[int]:
        """A directory and all above it."""
        line = [ino]
        while line[-1] != ROOT:
            line.append(self.nodes[line[-1]].parent)
        return line

    def rename(self, parent: int, name: bytes, onto: int, new: bytes, flags: int) -> None:
        self.directory(parent)
        refuse(self.directory(onto).removed, errno.ENOENT)
        ino = self.child(parent, name)
        there = self.nodes[onto].names.get(new)
        refuse(flags == 2 and there is None, errno.ENOENT)
        refuse(flags == 1 and there is not None, errno.EEXIST)
        moved = self.nodes[ino]
        refuse(moved.directory and ino in self.above(onto), errno.EINVAL)
        if ino == there:
            return
        if flags == 2:
            assert there is not None
            other = self.nodes[there]
            refuse(other.directory and there in self.above(parent), errno.EINVAL)
            self.nodes[parent].names[name], other.parent = there, parent
        else:
            if there is not None:
                other = self.nodes[there]
                refuse(moved.directory and not other.directory, errno.ENOTDIR)
                refuse(other.directory and not moved.directory, errno.EISDIR)
                refuse(bool(other.names), errno.ENOTEMPTY)
                other.removed = True
            del self.nodes[parent].names[name]
        self.nodes[onto].names[new], moved.parent = ino, onto

    def cut(self, ino: int, size: int) -> None:
        node = self.nodes[ino]
        refuse(node.directory, errno.EISDIR)
        refuse(node.kind != stat.S_IFREG, errno.EINVAL)
        blocks = {b: min(v, size - b * BLOCK) for b, v in node.blocks.items() if b * BLOCK < size}
        node.size, node.blocks = size, blocks


class Machine(RuleBasedStateMachine):
    """Each rule does the same on both sides and compares the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.tree, self.model = Tree(), Model()
        self.fds = 0

    def pick(self, number: int, want: int = 0) -> Ino:
        """An inode, of one type if there is one."""
        nodes = self.model.nodes
        inos = [i for i in nodes if not want or nodes[i].kind == want] or list(nodes)
        return Ino(inos[number % len(inos)])

    def directory(self, number: int) -> Ino:
        """Mostly a directory."""
        return self.pick(number, 0 if number % 10 == 9 else stat.S_IFDIR)

    def same(self, real: object, model: object) -> bool:
        """Both do it, or both refuse it for the same reason."""
        outcomes = []
        for side in (real, model):
            try:
                side()  # type: ignore[operator]
                outcomes.append(0)
            except Posix as error:
                outcomes.append(error.number)
            except Refused as error:
                outcomes.append(error.args[0])
        assert outcomes[0] == outcomes[1], [errno.errorcode.get(one) for one in outcomes]
        return outcomes[0] == 0

    @rule(at=PICK, name=FEW, kind=KIND)
    def make(self, at: int, name: bytes, kind: int) -> None:
        parent = self.directory(at)
        ino = Ino(next(self.tree.inos))
        more = {"ino": ino, "target": b"t" if kind == stat.S_IFLNK else b""}
        made = self.same(
            lambda: self.tree.make(parent, name, kind | 0o644, **more),
            lambda: self.model.make(parent, name, kind, ino),
        )
        if made and kind == stat.S_IFREG:
            self.tree.grant(ino, 1)

    @rule(at=PICK, name=FEW)
    def unlink(self, at: int, name: bytes) -> None:
        parent = self.directory(at)
        self.same(
            lambda: self.tree.do(namespace.unlink, parent, name),
            lambda: self.model.unlink(parent, name),
        )

    @rule(at=PICK, name=FEW)
    def rmdir(self, at: int, name: bytes) -> None:
        parent = self.directory(at)
        self.same(
            lambda: self.tree.do(namespace.rmdir, parent, name),
            lambda: self.model.rmdir(parent, name),
        )

    @rule(of=PICK, at=PICK, name=FEW)
    def link(self, of: int, at: int, name: bytes) -> None:
        ino, parent = self.pick(of), self.directory(at)
        self.same(
            lambda: self.tree.do(namespace.link, ino, parent, name),
            lambda: self.model.link(ino, parent, name),
        )

    @rule(at=PICK, name=FEW, to=PICK, new=FEW, flags=FLAGS)
    def rename(self, at: int, name: bytes, to: int, new: bytes, flags: int) -> None:
        parent, onto = self.directory(at), self.directory(to)
        self.same(
            lambda: self.tree.do(namespace.rename, parent, name, onto, new, flags),
            lambda: self.model.rename(parent, name, onto, new, flags),
        )

    @rule(of=PICK, mode=st.integers(0, 0o777), uid=st.none() | st.integers(0, 9))
    def set_attributes(self, of: int, mode: int, uid: int | None) -> None:
        ino = self.pick(of)
        self.tree.do(namespace.set_attributes, ino, mode, uid)
        node = self.model.nodes[ino]
        node.mode, node.uid = mode, node.uid if uid is None else uid

    @rule(of=PICK, name=ATTRIBUTE, value=st.binary(max_size=3), flags=st.integers(0, 2))
    def set_xattr(self, of: int, name: bytes, value: bytes, flags: int) -> None:
        ino = self.pick(of)
        there = self.model.nodes[ino].xattrs

        def model() -> None:
            refuse(flags == 1 and name in there, errno.EEXIST)
            refuse(flags == 2 and name not in there, errno.ENODATA)
            there[name] = value

        self.same(lambda: self.tree.do(xattrs.put, ino, name, value, flags), model)

    @rule(of=PICK, name=ATTRIBUTE)
    def remove_xattr(self, of: int, name: bytes) -> None:
        ino = self.pick(of)
        there = self.model.nodes[ino].xattrs

        def model() -> None:
            refuse(name not in there, errno.ENODATA)
            del there[name]

        self.same(lambda: self.tree.do(xattrs.remove, ino, name), model)

    @rule(of=PICK, blocks=st.sets(st.sampled_from([0, 1, 2, 63, 64, 130]), min_size=1),
          short=st.integers(0, BLOCK - 1))  # fmt: skip
    def commit(self, of: int, blocks: set[int], short: int) -> None:
        ino = self.pick(of, stat.S_IFREG)
        node = self.model.nodes[ino]
        if node.kind != stat.S_IFREG:
            return
        last = max(blocks)
        sizes = {block: BLOCK - short if block == last else BLOCK for block in blocks}
        entries = {block: self.tree.entry(1, size) for block, size in sizes.items()}
        dropped = self.tree.commit(ino, entries, last * BLOCK + sizes[last])
        assert {drop.block for drop in dropped} == blocks & set(node.blocks)
        node.blocks |= sizes
        node.size = max(node.size, last * BLOCK + sizes[last])

    @rule(of=PICK, size=st.integers(0, 132 * BLOCK) | st.integers(0, 3 * BLOCK))
    def truncate(self, of: int, size: int) -> None:
        ino = self.pick(of, 0 if of % 10 == 9 else stat.S_IFREG)
        before = set(self.model.nodes[ino].blocks)
        dropped: list[int] = []
        if self.same(
            lambda: dropped.extend(drop.block for drop in self.tree.truncate(ino, size)),
            lambda: self.model.cut(ino, size),
        ):
            assert set(dropped) == before - set(self.model.nodes[ino].blocks)

    @rule(of=PICK, slices=st.integers(1, 3))
    def reap(self, of: int, slices: int) -> None:
        orphans = [ino for ino in self.model.nodes if self.model.nlink(ino) == 0]
        if orphans:
            ino = Ino(orphans[of % len(orphans)])
            self.tree.reap(ino, slices)
            del self.model.nodes[ino]

    @invariant()
    def nothing_is_wrong(self) -> None:
        self.tree.check()

    @invariant()
    def both_show_the_same(self) -> None:
        for number, node in self.model.nodes.items():
            ino = Ino(number)
            seen = self.tree.stat(ino)
            assert seen.mode == node.kind | node.mode and seen.uid == node.uid
            assert seen.nlink == self.model.nlink(ino) and seen.size == node.size
            assert xattrs.names(self.tree.view(), ino) == sorted(node.xattrs)
            if node.directory:
                assert self.tree.names(ino) == node.names
                assert self.tree.view().inode(ino).parent == node.parent
            elif node.kind == stat.S_IFREG:
                shown = {block: shown for block, (_, shown) in self.tree.visible(ino).items()}
                assert shown == node.blocks
        stored = sum(key[:1] == b"i" for key in self.tree.store.keys)
        assert stored == len(self.model.nodes) == self.tree.view().totals().inodes
        assert not [k for k in self.tree.store.keys if k[:1] == b"o" and not self._orphan(k)]

    def _orphan(self, key: bytes) -> bool:
        return self.model.nlink(schema.number_of_key(key)) == 0


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40)
