"""Ways past a key's rights, and honest clients that the checks were in the way of.

A review found them before the first release that has rights.
"""

from errno import EACCES, ENODATA, EPERM, ESTALE

import pytest

from tests.issues.test_kept_grant import drive
from tests.unit.test_guard import DIRECTORY, RIGHTS, House, gate, get, put, setting, shows
from tests.world.stores import MemoryMetaStore
from zdfs import rights, wire
from zdfs.checksum import Seal
from zdfs.errors import BadMessage, Posix, Unavailable
from zdfs.ids import NOTHING, ROOT, Epoch, Ino, PageNo, Session, Slot
from zdfs.keys import Key, Role
from zdfs.ledger import Ledger
from zdfs.meta import Meta
from zdfs.permits import Permits
from zdfs.wire import FileLock, LockKind, Span


@pytest.fixture
def house() -> House:
    return House()


def reap(house: House) -> None:
    """What nobody has open is let go of."""
    contents = house.meta.contents
    while True:
        going = [ino for ino in contents.orphans if contents.may_go(ino)]
        for ino in going:
            assert drive(contents._reap_one(ino, 1.0))
        if not going:
            return


def restarted(house: House) -> None:
    house.store.end_round()
    house.meta = house.started()


# --- whose root is nobody ------------------------------------------------------------------------


def test_nothing_shows_what_is_in_roots_own_file(house: House) -> None:
    house.change("root", setting(house.file, 0o100600))
    for request in (
        wire.Seek(house.file, PageNo(0), True),
        wire.GetXattr(house.file, b"user.x"),
        wire.ListXattr(house.file),
    ):
        assert house.refused("squashed", request) == EACCES, request


def test_a_create_opens_what_is_there_only_as_an_open_would(house: House) -> None:
    secret = house.create("root", house.shared, b"secret").attributes.ino
    house.change("root", setting(secret, 0o100600))
    again = wire.Create(house.shared, b"secret", b"/secret", 0o644, 0, 0, False, 1, 0)
    assert house.refused("squashed", again, 0) == EACCES


def test_a_directory_that_is_closed_is_not_walked_through(house: House) -> None:
    private = house.make(ROOT, b"private", 0o040700)
    house.create("root", private, b"f")
    assert house.refused("squashed", wire.Lookup(private, (b"f",))) == EACCES
    assert house.refused("squashed", wire.Lookup(ROOT, (b"private", b"f"))) == EACCES
    assert house.ask("squashed", wire.Lookup(ROOT, (b"private",))).steps


def test_its_own_file_in_a_directory_of_roots_is_its_own(house: House) -> None:
    hers = house.create("root", house.inside, b"hers", 1000, 1000).attributes.ino
    house.ask("squashed", wire.Open(hers, 1, True, False, house.inside, b"hers"))


def test_what_is_roots_stays_in_roots_sticky_directory(house: House) -> None:
    sticky = house.make(ROOT, b"tmp", 0o041777)
    for name, uid in ((b"roots", 0), (b"more", 0), (b"hers", 1000)):
        house.create("root", sticky, name, uid, uid)
    below = house.make(sticky, b"below", DIRECTORY)
    for change in (
        wire.Unlink(sticky, b"roots"),
        wire.RemoveDirectory(sticky, b"below"),
        wire.Rename(sticky, b"roots", house.shared, b"mine", 0),
        wire.Rename(sticky, b"roots", sticky, b"mine", 0),
        wire.Rename(sticky, b"hers", sticky, b"roots", 0),
        wire.Rename(sticky, b"hers", sticky, b"roots", 2),
        wire.Rename(sticky, b"roots", sticky, b"hers", 2),
    ):
        assert house.refused("squashed", change, 0) == EPERM, change
    house.change("squashed", wire.Rename(sticky, b"hers", sticky, b"still hers", 0))
    house.change("squashed", wire.Unlink(sticky, b"still hers"))
    house.create("squashed", sticky, b"nobodys")
    house.change("squashed", wire.Unlink(sticky, b"nobodys"))
    house.change("ada", wire.RemoveDirectory(sticky, b"below"))
    assert below


def test_who_owns_a_sticky_directory_takes_out_of_it_what_is_roots(house: House) -> None:
    hers = house.make(ROOT, b"hers", 0o041755, uid=1000)
    house.create("root", hers, b"roots")
    house.change("squashed", wire.Unlink(hers, b"roots"))


# --- grants --------------------------------------------------------------------------------------


def announced(house: House, key: str) -> None:
    with house.meta.ledger.view() as view:
        token = view.inode(house.file).token
    holding, incarnation = wire.Holding(house.file, token, 0), house.meta.incarnation
    house.ask(key, wire.Announce((), (holding,), (), incarnation, True))


@pytest.mark.parametrize("key", ["reader", "squashed", "ada"])
def test_no_grant_is_got_by_saying_that_one_had_it(house: House, key: str) -> None:
    announced(house, key)
    assert house.meta.sessions.holder(house.file) is None


@pytest.mark.parametrize("key", ["reader", "squashed"])
def test_nor_after_a_restart(house: House, key: str) -> None:
    house.caller(key)
    house.store.end_round()
    house.meta = house.started()
    announced(house, key)
    assert house.meta.sessions.holder(house.file) is None
    permit = house.ask(key, wire.ReadMap(house.file, PageNo(0), 1)).permit
    if key == "squashed":
        assert not shows(gate(house), house, key, put(house.file, permit))


# --- rights that are cut -------------------------------------------------------------------------


def test_what_was_open_before_is_not_to_be_had_after(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.ask("ada", wire.Open(house.out, 1, False, False, ROOT, b"out"))
    opening = wire.Opening(house.shared, 1)
    house.ask("ada", wire.Announce((opening,), (), (), house.meta.incarnation, True))
    monkeypatch.setitem(RIGHTS, "ada", "root=/in")
    assert house.refused("ada", wire.ReadMap(house.out, PageNo(0), 1)) == ESTALE
    assert house.refused("ada", wire.ReadDirectory(house.shared, b"", 9)) == ESTALE


def test_a_mount_that_is_confined_later_shows_its_new_passes(house: House) -> None:
    permits = Permits()
    permits.take(wire.Beaten(1, None, (), False, 0, b"w" * 33))
    permits.take(wire.Beaten(2, None, (), False, 0, b""))
    assert permits.of(Ino(5)) == b"w" * 33, "a heartbeat in protocol 4 brings none"
    shown = house.ask("inside", wire.ReadMap(house.file, PageNo(0), 1))
    permits.take(shown)
    assert permits.of(house.file) == shown.permit and not permits.of(Ino(5))


def test_what_was_removed_and_is_open_is_not_to_be_had_either(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.ask("ada", wire.Open(house.out, 1, False, False, ROOT, b"out"))
    house.change("root", wire.Unlink(ROOT, b"out"))
    house.ask("ada", wire.ReadMap(house.out, PageNo(0), 1))
    monkeypatch.setitem(RIGHTS, "ada", "root=/in")
    assert house.refused("ada", wire.ReadMap(house.out, PageNo(0), 1)) == ESTALE


def test_a_removed_file_that_was_found_by_its_name_stays_open(house: House) -> None:
    house.change("root", wire.Link(house.out, house.inside, b"linked"))
    house.ask("inside", wire.Open(house.out, 1, False, False, ROOT, b"linked"))
    house.change("inside", wire.Unlink(ROOT, b"linked"))
    house.change("root", wire.Unlink(ROOT, b"out"))
    house.ask("inside", wire.ReadMap(house.out, PageNo(0), 1))


# --- copies of the metadata are nobody's ---------------------------------------------------------


def test_no_block_is_put_beside_them(house: House) -> None:
    block = wire.Put1(NOTHING, Seal(0, 0), Epoch(1), Slot(0), 1)
    for key, permit in (
        ("ada", house.ask("ada", wire.Beat(1, 0, 0, (), (), ())).permit),
        ("squashed", house.ask("squashed", wire.ReadMap(house.file, PageNo(0), 1)).permit),
    ):
        request = wire.Put(bytes(16), (block,), permit, (b"x",))
        assert not shows(gate(house), house, key, request)


def test_whether_a_server_serves_everybody_may_ask() -> None:
    check = wire.Check(bytes(16), (wire.Wanted(NOTHING, Seal(0, 0), Epoch(0), Slot(0), 0),))
    key = Key("ada", Role.CLIENT, "k" * 40, "2026-01-01T00:00:00Z", rights="ro root=/in")
    assert rights.refusal("ada", rights.of(key), check) is None


# --- honest clients ------------------------------------------------------------------------------


def test_a_root_that_was_moved_ends_no_session(house: House) -> None:
    granted = house.ask("inside", wire.Grant(house.file))
    house.change("root", wire.Rename(ROOT, b"in", ROOT, b"moved", 0))
    assert house.ask("inside", wire.Beat(1, 0, 0, (), (), ())).number == 1
    house.ask("inside", wire.ReturnGrant(house.file, granted.token))
    assert house.meta.sessions.holder(house.file) is None


def test_what_is_linked_into_the_root_is_below_it(house: House) -> None:
    incoming = house.make(ROOT, b"incoming", DIRECTORY, "inside")
    made = house.create("inside", incoming, b"tmp").attributes.ino
    house.ask("inside", wire.Beat(1, 1, 0, (), (wire.Opening(made, 1),), ()))
    house.change("inside", wire.Link(made, house.deep, b"object"))
    house.change("inside", wire.Unlink(incoming, b"tmp"))
    house.change("inside", wire.RemoveDirectory(ROOT, b"incoming"))
    reap(house)
    assert house.ask("inside", wire.Lookup(house.deep, (b"object",))).steps[0].ino == made
    house.ask("inside", wire.Open(made, 2, False, False, house.deep, b"object"))
    house.ask("inside", wire.ReadMap(made, PageNo(0), 1))


@pytest.mark.parametrize("who", ["inside", "root"])
def test_what_is_open_when_its_first_directory_goes_is_written_on(house: House, who: str) -> None:
    """It has another name below the root; the bytes that were not flushed were refused."""
    incoming = house.make(ROOT, b"incoming", DIRECTORY, "inside")
    made = house.create("inside", incoming, b"tmp").attributes.ino
    house.change(who, wire.Link(made, house.deep, b"object"))
    if who == "root":  # it knows that name, too
        assert house.ask("inside", wire.Lookup(house.deep, (b"object",))).steps
    house.change(who, wire.Unlink(incoming, b"tmp"))
    house.change(who, wire.RemoveDirectory(ROOT if who == "inside" else house.inside, b"incoming"))
    reap(house)
    house.ask("inside", wire.Grant(made))
    house.ask("inside", wire.ReadMap(made, PageNo(0), 1))


def removed_with_its_directories(house: House) -> Ino:
    """A file that is open, below two directories that went after it."""
    upper = house.make(ROOT, b"upper", DIRECTORY, "inside")
    lower = house.make(upper, b"lower", DIRECTORY, "inside")
    made: Ino = house.create("inside", lower, b"tmp").attributes.ino
    house.change("inside", wire.Unlink(lower, b"tmp"))
    house.change("inside", wire.RemoveDirectory(upper, b"lower"))
    house.change("inside", wire.RemoveDirectory(ROOT, b"upper"))
    reap(house)
    return made


def test_an_open_file_outlives_its_directories_and_the_metaserver(house: House) -> None:
    made = removed_with_its_directories(house)
    restarted(house)
    with pytest.raises(Posix):  # it was not said yet that it is open
        house.ask("inside", wire.Open(made, 2, False, False, ROOT, b""))
    opening, incarnation = wire.Opening(made, 1), house.meta.incarnation
    house.ask("inside", wire.Announce((opening,), (), (), incarnation, True))
    reap(house)
    house.ask("inside", wire.ReadMap(made, PageNo(0), 1))
    assert made in house.meta.contents.orphans


def test_what_nobody_has_open_any_more_goes_with_its_directories(house: House) -> None:
    made = removed_with_its_directories(house)
    assert len(house.meta.contents.orphans) == 3
    restarted(house)
    assert len(house.meta.contents.orphans) == 3
    house.ask("inside", wire.Announce((), (), (), house.meta.incarnation, True))
    reap(house)
    assert not len(house.meta.contents.orphans)
    assert house.refused("inside", wire.GetAttributes(made)) == ESTALE


def test_a_metaserver_that_may_not_serve_says_nothing_for_sure(house: House) -> None:
    house.caller("inside")
    house.meta = Meta(Ledger(MemoryMetaStore(), bytes(16)), 65536)
    with pytest.raises(Unavailable):
        house.ask("inside", wire.GetAttributes(ROOT), session=Session(0))


# --- nobody wedges a metaserver ------------------------------------------------------------------


def test_locks_end_behind_their_beginning(house: House) -> None:
    """Each Unlock of bytes 60 to 40 doubled the ranges that an owner had."""
    backwards = FileLock(house.file, LockKind.POSIX, 1, 1, Span(60, 40, True))
    for request in (wire.Lock(backwards, 0), wire.Unlock(backwards), wire.TestLock(backwards)):
        with pytest.raises(BadMessage):
            house.ask("ada", request)


# --- what a second review found ------------------------------------------------------------------


def test_a_walk_on_the_spot_is_a_walk(house: House) -> None:
    private = house.make(ROOT, b"private", 0o040700)
    house.create("root", private, b"f")
    assert house.refused("squashed", wire.Lookup(ROOT, (b".", b"private", b"f"))) == EACCES
    assert house.refused("squashed", wire.Lookup(private, (b".", b"f"))) == EACCES
    assert house.ask("squashed", wire.Lookup(ROOT, (b".", b"in", b"file"))).steps


def test_a_lock_is_for_who_may_open_the_file(house: House) -> None:
    """Programs of root's would wait for it."""
    claim = FileLock(house.file, LockKind.FLOCK, 1, 1, Span(0, 9, True))
    house.change("root", setting(house.file, 0o100600))
    with pytest.raises(Posix, match="this is root's alone"):
        house.ask("squashed", wire.Lock(claim, 0))
    restarted(house)
    house.ask("squashed", wire.Announce((), (), (claim,), house.meta.incarnation, True))
    assert not house.meta.locking.locks.files


def test_roots_directory_is_not_carried_away(house: House) -> None:
    """Its `..` would be changed, which needs a right to write to it."""
    roots = house.make(house.shared, b"roots", DIRECTORY)
    other = house.make(ROOT, b"other", 0o040755)
    house.change("root", setting(other, 0o040777))
    carried = wire.Rename(house.shared, b"roots", other, b"mine", 0)
    assert house.refused("squashed", carried, 0) == EACCES
    house.make(other, b"hers", DIRECTORY, "squashed")
    swapped = wire.Rename(other, b"hers", house.shared, b"roots", 2)
    assert house.refused("squashed", swapped, 0) == EACCES
    house.change("squashed", wire.Rename(house.shared, b"roots", house.shared, b"named anew", 0))
    house.change("root", setting(roots, 0o040777))
    house.change("squashed", wire.Rename(house.shared, b"named anew", other, b"moved", 0))


def test_a_pass_for_all_files_ends_with_the_right_to_all_files(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    permit = house.ask("ada", wire.Beat(1, 0, 0, (), (), ())).permit
    door = gate(house)
    assert shows(door, house, "ada", get(house.out, permit))
    for given in ("root=/in", "root-squash"):
        monkeypatch.setitem(RIGHTS, "ada", given)
        assert not shows(door, house, "ada", get(house.out, permit)), given
        assert shows(door, house, "ada", get(house.file, _new_pass(house)))


def _new_pass(house: House) -> bytes:
    permit: bytes = house.ask("ada", wire.ReadMap(house.file, PageNo(0), 1)).permit
    return permit


def test_what_was_published_by_a_link_is_below_the_root(house: House) -> None:
    """The name that it was made under is gone, so it has one name only."""
    house.change("root", wire.Link(house.out, house.inside, b"published"))
    house.change("root", wire.Unlink(ROOT, b"out"))
    assert house.refused("inside", wire.GetAttributes(house.out)) == ESTALE
    assert house.ask("inside", wire.Lookup(ROOT, (b"published",))).steps
    assert house.ask("inside", wire.GetAttributes(house.out)).attributes.nlink == 1
    house.change("inside", setting(house.out, 0o100600))


def test_nothing_is_above_its_root(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RIGHTS, "deep", "root=/in/deep")
    assert house.ask("deep", wire.ReadDirectory(ROOT, b"", 9)).parent == ROOT
    assert house.ask("deep", wire.ListNames(ROOT, b"")).parent == ROOT
    below = house.make(house.deep, b"below", DIRECTORY)
    assert house.ask("deep", wire.ListNames(below, b"")).parent == ROOT


def test_what_everybody_may_run_is_run_where_root_is_squashed(house: House) -> None:
    """A kernel reads what it runs, and the access lists of what it walks through."""
    house.change("root", setting(house.file, 0o100711))
    house.ask("squashed", wire.Open(house.file, 1, False, False, house.inside, b"file"))
    house.ask("squashed", wire.ReadMap(house.file, PageNo(0), 1))
    house.change("root", setting(house.inside, 0o040711))
    access = wire.GetXattr(house.inside, b"system.posix_acl_access")
    assert house.refused("squashed", access) == ENODATA
    assert house.refused("squashed", wire.ReadDirectory(house.inside, b"", 9)) == EACCES
