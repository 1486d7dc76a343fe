"""What a mount believed of a file that another mount had changed.

A short new content was read with zeros up to the length of the old one; and after its session had
ended a mount kept the old map under the new attributes: it read old bytes, and its next partial
write put them back over what the other mount had committed.
"""

import os

from tests.issues.test_flights import BLOCK, INO, Mount, attributes
from zdfs import checksum, wire
from zdfs.blockmap import MapEntry, pack_page
from zdfs.cache import File
from zdfs.calls import notify
from zdfs.errors import Fenced, NoSession, Unavailable, Unreachable
from zdfs.ids import BlockNo, Name, PageNo, Token, Version
from zdfs.volume import Volume


def entry(token: int, data: bytes, block: int = 0) -> MapEntry:
    """A block with this content."""
    version = Version(Token(token), 1)
    seal = checksum.seal(Name(INO, BlockNo(block), version), data)
    return MapEntry(version, len(data), len(data), seal)


def test_a_file_that_was_cut_meanwhile_is_read_short_not_with_zeros() -> None:
    mount = Mount()
    mount.file = File(INO, attributes(1, 3 * BLOCK), 100.0)
    mount.file.size = 3 * BLOCK
    read = mount.hand.start(mount.reader.read(mount.file, 100, 0))
    new = entry(9, b"new")
    page = wire.MapPage(PageNo(0), pack_page([new]))
    mount.hand.answer(wire.ReadMap, wire.MapPages(attributes(2, 3), (page,)))
    held = wire.Got((wire.Held.OK,), (b"new",))
    while mount.hand.waits(wire.Get):
        mount.hand.answer(wire.Get, held)
    assert bytes(read.value) == b"new"
    read = mount.hand.start(mount.reader.read(mount.file, 100, 8))
    assert read.value == b""


def test_a_map_ends_with_its_grant() -> None:
    """Attributes that came while the mount believed in a dead grant said nothing of the map."""
    mount = Mount()
    mount.file.pages = {PageNo(0): (entry(4, b"11111111"),)}
    mount.reader.take(mount.file, attributes(2, 8))
    mount.file.give_up(Token(5))
    assert not mount.file.pages


def test_a_map_is_void_beside_a_commit_whose_fate_is_not_known() -> None:
    mount = Mount()
    mount.write(b"11111111", 0)
    mount.fsync()
    mount.stored()
    assert mount.hand.waits(wire.Commit) == 1
    mount.hand.start(mount.writer.lose(mount.file, Fenced("away for too long")))
    mount.file.pages = {PageNo(0): (entry(4, b"11111111"),)}
    mount.reader.take(mount.file, attributes(2, 8))
    assert mount.file.flights and not mount.file.pages


def test_a_write_waits_for_the_bytes_around_it() -> None:
    """However long all are down who have them: what write() accepted is kept."""
    mount = Mount()
    mount.file = File(INO, attributes(1, BLOCK), 100.0, token=Token(5))
    mount.file.size = BLOCK
    old = entry(4, b"11111111")
    mount.file.pages = {PageNo(0): (old,)}
    mount.write(b"22", 2)
    done = mount.fsync()
    for _ in range(20):
        if not mount.hand.waits(wire.Get):
            break
        mount.hand.time += 1.0
        mount.hand.answer(wire.Get, Unreachable("silence"))
        mount.hand.sleep()
    assert not done.over, done.failure
    mount.hand.answer(wire.GetAttributes, wire.Found(attributes(1, BLOCK)))  # it is still ours
    notify(mount.writer.contact.map_changed)
    mount.hand.go()
    while mount.hand.waits(wire.Get):
        mount.hand.answer(wire.Get, wire.Got((wire.Held.OK,), (b"11111111",)))
    mount.stored()
    mount.committed(BLOCK)
    assert done.over and done.failure is None


def test_a_grant_that_was_returned_before_it_arrived_is_not_taken_up() -> None:
    """A recall may overtake the open's reply: what is written under that token is lost (EIO)."""
    mount = Mount()
    volume = Volume("127.0.0.1:1", "/mnt", mount.hand)
    returned = mount.hand.start(volume._give_back(wire.Recalled(INO, Token(7))))
    mount.hand.sleep()
    mount.hand.answer(wire.ReturnGrant, wire.Done())
    assert returned.over
    page = wire.MapPage(PageNo(0), b"")
    volume._opened(wire.Opened(attributes(), page, Token(7), 0, False), 1, os.O_RDWR, 100.0)
    assert volume.files[INO].token == 0
    volume._opened(wire.Opened(attributes(), page, Token(8), 0, False), 2, os.O_RDWR, 100.0)
    assert volume.files[INO].token == 8


def test_a_change_stays_unsure_once_it_was() -> None:
    """Silence, then "not yet", then the end of the session: it is not made a second time."""
    mount = Mount()
    done = mount.hand.start(mount.writer.contact.change(wire.ReturnGrant(INO, Token(5))))
    for answer in (Unreachable("silence"), Unavailable("not yet"), NoSession("ended")):
        mount.hand.answer(wire.ReturnGrant, answer)
        mount.hand.sleep()
    assert isinstance(done.failure, NoSession) and not mount.hand.asked


def test_a_hole_of_one_moment_is_not_read_beside_the_bytes_of_another() -> None:
    """A file may be cut short and made long again while its first block is fetched: zeros that
    never stood there are not read."""
    mount = Mount()
    mount.file = File(INO, attributes(1, 2 * BLOCK), 100.0)
    mount.file.size = 2 * BLOCK
    read = mount.hand.start(mount.reader.read(mount.file, 100, 0))
    short = wire.MapPage(PageNo(0), pack_page([entry(8, b"short")]))
    mount.hand.answer(wire.ReadMap, wire.MapPages(attributes(2, 5), (short,)))
    assert mount.hand.waits(wire.Get)
    data = (b"longlong", b"evermore")
    names = [Name(INO, BlockNo(block), Version(Token(9), 1)) for block in range(2)]
    long = [
        MapEntry(name.version, BLOCK, BLOCK, checksum.seal(name, some))
        for name, some in zip(names, data)
    ]
    mount.reader.take(mount.file, attributes(3, 2 * BLOCK))
    mount.hand.answer(wire.Get, wire.Got((wire.Held.OK,), (b"short",)))
    page = wire.MapPage(PageNo(0), pack_page(long))
    mount.hand.answer(wire.ReadMap, wire.MapPages(attributes(3, 2 * BLOCK), (page,)))
    while mount.hand.waits(wire.Get):
        (asked,) = [ask.request for ask, _ in mount.hand.asked][:1]
        blocks = [want.name.block for want in asked.blocks]
        held = tuple(wire.Held.OK for _ in blocks)
        mount.hand.answer(wire.Get, wire.Got(held, tuple(data[b] for b in blocks)), count=1)
    assert bytes(read.value) == b"longlongevermore"


def test_an_old_map_beside_a_silent_server_is_read_again() -> None:
    """Two servers have let go of the old version, the third is down: that is no EIO, for the new
    content stands on two that are up."""
    mount = Mount()
    mount.file = File(INO, attributes(1, BLOCK), 100.0)
    mount.file.size = BLOCK
    mount.file.pages = {PageNo(0): (entry(4, b"11111111"),)}
    read = mount.hand.start(mount.reader.read(mount.file, 100, 0))
    mount.hand.answer(wire.Get, Unreachable("silence"))
    for _ in range(2):
        mount.hand.answer(wire.Get, wire.Got((wire.Held.MISSING,), (b"",)))
    mount.hand.sleep()
    mount.hand.answer(wire.GetAttributes, wire.Found(attributes(2, BLOCK)))
    page = wire.MapPage(PageNo(0), pack_page([entry(9, b"22222222")]))
    mount.hand.answer(wire.ReadMap, wire.MapPages(attributes(2, BLOCK), (page,)))
    mount.hand.answer(wire.Get, wire.Got((wire.Held.OK,), (b"22222222",)))
    assert bytes(read.value) == b"22222222"
