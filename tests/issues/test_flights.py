"""What lay between a trap and the use of shared state in the mount's reader and writer.

The volume's code runs by hand here: every question to a server stands still until the test answers.
"""

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from zdfs import wire
from zdfs.blockmap import MapEntry, pack_page, unpack_numbered
from zdfs.cache import File, Told
from zdfs.calls import Ask, CallAll, Now, Sleep, Spawn, Trap, Wait, notify
from zdfs.checksum import Seal
from zdfs.contact import Contact
from zdfs.errors import Failure, Fenced, NoSession, NoSpace, Unreachable
from zdfs.ids import BlockNo, Epoch, Ino, PageNo, Session, Slot, Token, Version
from zdfs.ranges import Ranges
from zdfs.reading import Reader
from zdfs.wire import Attributes, State
from zdfs.writing import Writer

BLOCK = 8
INO = Ino(7)


class Done:
    """How a coroutine ended."""

    def __init__(self) -> None:
        self.value: Any = None
        self.failure: Failure | None = None
        self.over = False


class Hand:
    """Drives coroutines; questions wait in `asked` until `answer`."""

    session = Session(1)

    def __init__(self) -> None:
        self.time = 100.0
        self.asked: list[tuple[Ask, Callable[[Any], None]]] = []
        self.ready: deque[Callable[[], None]] = deque()
        self.asleep: list[Callable[[], None]] = []

    def near(self, peer: Any) -> None:
        """Nothing is near."""

    def monotonic(self) -> float:
        """The test's time."""
        return self.time

    def start(self, coroutine: Coroutine[Trap, Any, Any]) -> Done:
        """Run it as far as it comes."""
        done = Done()
        self.ready.append(lambda: self._step(coroutine, done, None, None))
        self.go()
        return done

    def go(self) -> None:
        """Everything that can run."""
        while self.ready:
            self.ready.popleft()()

    def _step(
        self,
        coroutine: Coroutine[Trap, Any, Any],
        done: Done,
        value: Any,
        failure: Failure | None,
    ) -> None:
        try:
            trap = coroutine.throw(failure) if failure else coroutine.send(value)
        except StopIteration as stop:
            done.value, done.over = stop.value, True
            return
        except Failure as error:
            done.failure, done.over = error, True
            return

        def resume(answer: Any) -> None:
            self.ready.append(lambda: self._step(coroutine, done, answer, None))

        if isinstance(trap, Now):
            resume(int(self.time * 1e9) if trap.wall else self.time)
        elif isinstance(trap, Spawn):
            spawned = trap.coroutine
            self.ready.append(lambda: self._step(spawned, Done(), None, None))
            resume(None)
        elif isinstance(trap, Wait):
            trap.condition.waiters.append(lambda: resume(True))
        elif isinstance(trap, CallAll):
            answers: list[Any] = [None] * len(trap.asks)
            for place, ask in enumerate(trap.asks):
                self.asked.append((ask, self._gather(answers, place, resume)))
        else:
            assert isinstance(trap, Sleep), trap
            self.asleep.append(lambda: resume(None))

    def sleep(self) -> None:
        """Wake whoever sleeps."""
        sleepers, self.asleep = self.asleep, []
        for wake in sleepers:
            wake()
        self.go()

    def _gather(
        self, answers: list[Any], place: int, resume: Callable[[Any], None]
    ) -> Callable[[Any], None]:
        def take(answer: Any) -> None:
            answers[place] = answer
            if all(one is not None for one in answers):
                resume(answers)

        return take

    def answer(self, kind: type[Any], reply: Any, *, count: int | None = None) -> Any:
        """Answer questions of a kind, the oldest first; returns the last of them."""
        chosen = [pair for pair in self.asked if isinstance(pair[0].request, kind)][:count]
        assert chosen, (kind, [ask.request for ask, _ in self.asked])
        for pair in chosen:
            self.asked.remove(pair)
            pair[1](reply)
        self.go()
        return chosen[-1][0].request

    def waits(self, kind: type[Any]) -> int:
        """How many questions of a kind stand."""
        return sum(isinstance(ask.request, kind) for ask, _ in self.asked)


def attributes(change: int = 1, size: int = 0) -> Attributes:
    return Attributes(
        ino=INO, mode=0o100644, nlink=1, uid=0, gid=0, rdev=0, size=size, stored=0, atime_ns=5,
        mtime_ns=5, ctime_ns=5, change=change, epoch=Epoch(1), start=Slot(0), xattrs=0,
    )  # fmt: skip


class Mount:
    """A writer with one granted, empty file."""

    def __init__(self) -> None:
        self.hand = Hand()
        contact = Contact("127.0.0.1:1", "/mnt", self.hand)
        contact.cluster, contact.block_bytes = b"c" * 16, BLOCK
        members = [
            wire.Member(Slot(s), f"127.0.0.1:{s + 2}", b"u" * 16, 1, State.SERVING, False, b"")
            for s in range(3)
        ]
        contact.take_map(wire.ClusterMap(1, Epoch(1), tuple(members)))
        self.reader = Reader(contact)
        self.writer = Writer(contact, self.reader)
        self.ranges = Ranges(contact, self.reader, self.writer)
        self.file = File(INO, attributes(), 100.0, token=Token(5), pages={PageNo(0): ()})
        self.told = Told(0)
        self.change = 1

    def write(self, data: bytes, offset: int) -> None:
        """Accepted at once."""
        assert self.hand.start(self.writer.write(self.file, data, offset, self.told)).over

    def fsync(self) -> Done:
        """As far as it comes."""
        return self.hand.start(self.writer.drain(self.file, self.told))

    def stored(self, count: int | None = None) -> None:
        """All servers (or so many) acknowledge."""
        self.hand.answer(wire.Put, wire.Stored(b"u" * 16, 1, 1, 1), count=count)

    def committed(self, size: int) -> wire.Commit:
        """The metaserver commits."""
        self.change += 1
        done = wire.Committed(attributes(self.change, size))
        request: wire.Commit = self.hand.answer(wire.Commit, done)
        return request


def test_a_commit_that_fails_in_the_wake_of_another_is_said() -> None:
    """Whose thread commits is not whose blocks they are: the second flight stayed for ever."""
    mount = Mount()
    mount.write(b"11111111", 0)
    first = mount.fsync()
    mount.stored()
    mount.write(b"22222222", 8)
    second = mount.fsync()
    mount.stored()  # while the first commit is underway
    mount.committed(8)
    assert first.over and first.failure is None and not second.over
    mount.hand.answer(wire.Commit, NoSpace("full"))
    mount.hand.answer(wire.Commit, wire.Committed(attributes(9, 8)))  # what is abandoned
    assert isinstance(second.failure, NoSpace)
    assert not mount.file.flights and mount.writer.dirty_bytes == 0


def test_blocks_of_a_commit_underway_are_not_given_up() -> None:
    """They may count already: giving them up made every later commit refused."""
    mount = Mount()
    mount.write(b"11111111", 0)
    first = mount.fsync()
    mount.stored()
    assert mount.hand.waits(wire.Commit) == 1
    mount.write(b"22222222", 8)
    second = mount.fsync()
    mount.hand.answer(wire.Put, NoSpace("full"))
    assert not first.over and not second.over
    request = mount.committed(8)
    assert [block for block, _ in unpack_numbered(request.blocks)] == [0]
    # It counts; the file's error is said to whoever asks first, and to whom it concerns.
    assert first.over and isinstance(second.failure, NoSpace)
    entry = mount.file.entry(BlockNo(0))
    assert entry is not None and mount.writer.dirty_bytes == 0
    assert [dropped.block for dropped in mount.file.abandoned] == [1]


def test_each_who_waited_for_lost_bytes_is_told() -> None:
    """Every fsync that waited for them fails, not only the first."""
    mount = Mount()
    mount.write(b"11111111", 0)
    waiting = [mount.fsync(), mount.fsync()]
    mount.hand.answer(wire.Put, Fenced("passed over"))
    assert [type(done.failure) for done in waiting] == [Fenced, Fenced]
    assert mount.file.token == 0 and mount.file.void == 5


def test_an_fsync_does_not_wait_for_what_others_write_later() -> None:
    """It ends although somebody goes on writing."""
    mount = Mount()
    mount.write(b"11111111", 0)
    done = mount.fsync()
    mount.stored()
    mount.write(b"22222222", 8)
    mount.committed(8)
    assert done.over and done.failure is None and mount.file.dirty


def test_a_write_waits_for_a_truncate_underway() -> None:
    """Also if its caller is dead: else the write's block is filled up with what is just being cut,
    and the commit is refused, or old bytes come back."""
    mount = Mount()
    cut = mount.hand.start(mount.ranges.truncate(mount.file, 4, mount.told))
    write = mount.hand.start(mount.writer.write(mount.file, b"22222222", 8, mount.told))
    assert not write.over and not mount.file.dirty
    mount.change += 1
    mount.hand.answer(wire.Truncate, wire.Committed(attributes(mount.change, 4)))
    assert cut.over and write.over
    mount.file.pages = {PageNo(0): ()}
    done = mount.fsync()
    mount.stored()
    mount.committed(16)
    assert done.over and done.failure is None


def test_a_lost_flight_is_not_put_again() -> None:
    """However long the server is down: it asks nobody any more, and holds no place."""
    mount = Mount()
    mount.write(b"11111111", 0)
    mount.fsync()
    mount.stored(2)
    mount.hand.start(mount.writer.lose(mount.file, Fenced("away for too long")))
    mount.hand.answer(wire.Put, Unreachable("silence"))
    notify(mount.writer.contact.map_changed)
    mount.hand.go()
    assert mount.hand.waits(wire.Put) == mount.writer.flying == mount.writer.dirty_bytes == 0


def test_versions_are_never_named_twice() -> None:
    """A grant that is taken up again goes on counting."""
    mount = Mount()
    names: set[Version] = set()
    for _ in range(2):
        mount.write(b"11111111", 0)
        mount.fsync()
        mount.stored()
        for _, entry in unpack_numbered(mount.committed(8).blocks):
            assert entry.version not in names
            names.add(entry.version)
        mount.file.token = Token(0)
        mount.writer.granted(mount.file, Token(5), mount.file.number, mount.file.attributes)
        assert mount.file.token == 5


def test_a_map_page_that_a_commit_overtook_is_not_believed() -> None:
    """Under our own grant nothing would correct it: old bytes, then EIO, for ever."""
    mount = Mount()
    mount.file.pages.clear()
    known = mount.hand.start(mount.reader.know(mount.file, BlockNo(0), BlockNo(0)))
    mount.write(b"11111111", 0)
    mount.fsync()
    mount.stored()
    mount.committed(8)
    old = MapEntry(Version(Token(4), 1), 8, 8, Seal(1, 2))
    page = wire.MapPage(PageNo(0), pack_page([old]))
    mount.hand.answer(wire.ReadMap, wire.MapPages(attributes(1), (page,)))
    assert not known.over and not mount.file.pages, "asked again"
    new = old._replace(version=Version(Token(5), 1))
    page = wire.MapPage(PageNo(0), pack_page([new]))
    mount.hand.answer(wire.ReadMap, wire.MapPages(attributes(2, 8), (page,)))
    assert known.over and mount.file.entry(BlockNo(0)) == new


def test_a_page_that_vanished_meanwhile_is_no_hole() -> None:
    """A truncate, or another mount's change, voids known pages: they are asked for again."""
    mount = Mount()
    known = mount.hand.start(mount.reader.know(mount.file, BlockNo(0), BlockNo(64)))
    mount.file.pages.clear()
    page = wire.MapPage(PageNo(1), b"")
    mount.hand.answer(wire.ReadMap, wire.MapPages(attributes(1), (page,)))
    assert not known.over
    page = wire.MapPage(PageNo(0), b"")
    mount.hand.answer(wire.ReadMap, wire.MapPages(attributes(1), (page,)))
    assert known.over and set(mount.file.pages) == {PageNo(0), PageNo(1)}


def test_a_change_in_a_session_that_had_ended_is_made_in_the_next() -> None:
    """A mount that was suspended does not say EIO to whatever comes first."""
    mount = Mount()
    contact = mount.writer.contact
    done = mount.hand.start(contact.change(wire.Grant(INO)))
    mount.hand.answer(wire.Grant, NoSession("ended"))
    assert not done.over and not mount.hand.waits(wire.Grant)
    mount.hand.session = Session(2)
    notify(contact.born)
    mount.hand.go()
    granted = wire.Granted(Token(9), 0, attributes())
    mount.hand.answer(wire.Grant, granted)
    assert done.value == granted


def test_a_change_that_may_have_happened_is_not_made_again() -> None:
    """The session ended between the silence and the repeat: nobody knows, so it is an error."""
    mount = Mount()
    done = mount.hand.start(mount.writer.contact.change(wire.ReturnGrant(INO, Token(5))))
    mount.hand.answer(wire.ReturnGrant, Unreachable("silence"))
    mount.hand.sleep()
    mount.hand.answer(wire.ReturnGrant, NoSession("ended"))
    assert isinstance(done.failure, NoSession) and not mount.hand.asked


def test_each_who_has_the_file_open_is_told_of_a_loss_once() -> None:
    """A close that is told of it keeps the news from no other handle."""
    mount = Mount()
    other = Told(0)
    mount.write(b"1" * 8, 0)
    mount.hand.start(mount.writer.lose(mount.file, Fenced("passed over")))
    for told in (mount.told, other):
        assert isinstance(mount.hand.start(mount.writer.drain(mount.file, told)).failure, Fenced)
        assert mount.hand.start(mount.writer.drain(mount.file, told)).over
    assert mount.hand.start(mount.writer.drain(mount.file, Told(mount.file.losses))).failure is None
