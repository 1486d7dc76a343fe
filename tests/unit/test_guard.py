"""Clients with fewer rights, at a metaserver and at a dataserver's gate."""

from errno import EACCES, EPERM, EROFS, ESTALE
from typing import Any

import pytest

from tests.issues.test_kept_grant import ADDRESSES, drive, report
from tests.world.stores import MemoryMetaStore
from zdfs import passes, wire
from zdfs.checksum import Seal
from zdfs.cluster import Heard
from zdfs.errors import NoPass, NoSession, Posix, Unavailable
from zdfs.admission import Admission
from zdfs.guard import owner
from zdfs.ids import (
    NOTHING,
    ROOT,
    BlockNo,
    Epoch,
    Incarnation,
    Ino,
    Name,
    PageNo,
    Session,
    Slot,
    Token,
    Version,
)
from zdfs.ledger import Ledger
from zdfs.meta import Meta
from zdfs.ports import Caller
from zdfs.keys import Key, Role

FILE, DIRECTORY = 0o100644, 0o040755
RIGHTS = {
    "ada": "",
    "eve": "",
    "reader": "ro",
    "inside": "root=/in",
    "squashed": "root-squash=65534:65533",
    "mapped": "uid=1000:2000 gid=10:20",
    "lost": "root=/nowhere",
}
ROLES = {"root": Role.ADMIN, "node": Role.NODE}


def key_of(name: str) -> Key:
    """As the allow-list has it."""
    role = ROLES.get(name, Role.CLIENT)
    return Key(name, role, "k" * 40, "2026-01-01T00:00:00Z", rights=RIGHTS.get(name, ""))


class House:
    """A metaserver with keys:  /in/file  /in/deep/leaf  /out  /shared (0777)  /twice, /in/twice"""

    def __init__(self) -> None:
        self.store = MemoryMetaStore()
        self.meta = self.started()
        self.sessions: dict[str, Session] = {}
        self.numbers: dict[Session, int] = {}
        self.inside = self.make(ROOT, b"in", DIRECTORY)
        self.deep = self.make(self.inside, b"deep", DIRECTORY)
        self.file = self.create("root", self.inside, b"file").attributes.ino
        self.leaf = self.create("root", self.deep, b"leaf").attributes.ino
        self.out = self.create("root", ROOT, b"out").attributes.ino
        self.shared = self.make(ROOT, b"shared", DIRECTORY)
        self.change("root", wire.SetAttributes(
            self.shared, 0o040777, None, None, None, None, False, False))  # fmt: skip

    def started(self) -> Meta:
        made = Meta(Ledger(self.store, bytes(16)), 65536)
        if made.ledger.cluster is None:
            for slot in range(3):
                made.members.reports[Slot(slot)] = Heard(1.0, report(slot))
            made.members._found(1.0, 1)
        made.members.granted = True
        return made

    def caller(self, key: str, slot: int = wire.NO_SLOT, session: Session | None = None) -> Caller:
        if session is None:
            if key not in self.sessions:
                self.sessions[key] = Session(0)
                nonce = key.encode().ljust(16, b".")
                self.sessions[key] = self.ask(key, wire.OpenSession(nonce, "host", "/mnt")).session
            session = self.sessions[key]
        self.numbers[session] = self.numbers.get(session, 0) + 1
        head = wire.RequestHead(session, slot, self.numbers[session], 1000, Incarnation(0))
        return Caller(b"peer", head, key_of(key))

    def ask(self, key: str, request: Any, session: Session | None = None, slot: int = -1) -> Any:
        """As the broker does it."""
        caller = self.caller(key, wire.NO_SLOT if slot < 0 else slot, session)
        self.meta.welcome(caller, request)
        if slot >= 0:
            kept = self.meta.admit(caller.head, request)
            if kept is not None:
                return kept
        reply = drive(self.meta.handlers[type(request)](request, caller))
        if slot >= 0:
            self.meta.keep(caller.head, reply)
        return reply

    def change(self, key: str, request: Any) -> Any:
        return self.ask(key, request, slot=0)

    def make(self, parent: Ino, name: bytes, mode: int, key: str = "root", uid: int = 0) -> Ino:
        request = wire.Make(parent, name, b"/" + name, mode, uid, 0, 0, b"", 0)
        ino: Ino = self.change(key, request).attributes.ino
        return ino

    def create(self, key: str, parent: Ino, name: bytes, uid: int = 0, gid: int = 0) -> Any:
        request = wire.Create(parent, name, b"/" + name, 0o644, uid, gid, True, 1, 0)
        made = self.change(key, request)
        self.ask(key, wire.ReturnGrant(made.attributes.ino, made.token))
        return made

    def refused(self, key: str, request: Any, slot: int = -1) -> int:
        with pytest.raises(Posix) as error:
            self.ask(key, request, slot=slot)
        return error.value.number


@pytest.fixture
def house() -> House:
    return House()


def setting(ino: Ino, mode: int | None = None, uid: int | None = None) -> wire.SetAttributes:
    return wire.SetAttributes(ino, mode, uid, None, None, None, False, False)


# --- keys and sessions ---------------------------------------------------------------------------


def test_a_session_is_its_keys_also_after_a_restart(house: House) -> None:
    theirs = house.caller("ada").head.session
    with pytest.raises(NoSession):
        house.ask("eve", wire.GetAttributes(ROOT), session=theirs)
    house.store.end_round()
    house.meta = house.started()
    with pytest.raises(NoSession):
        house.ask("eve", wire.GetAttributes(ROOT), session=theirs)
    house.ask("ada", wire.GetAttributes(ROOT), session=theirs)


def test_nobody_calls_himself_another_by_his_hosts_name(house: House) -> None:
    opened = house.ask("eve", wire.OpenSession(b"n" * 16, "ada@host", "/mnt"), Session(0))
    record = house.meta.sessions.mount(opened.session).record
    assert record.host == "eve@ada@host" and owner(record.host) == "eve"


def test_without_keys_nothing_is_asked() -> None:
    house = House()
    caller = Caller(b"peer", house.caller("ada").head)
    request = wire.GetAttributes(ROOT)
    house.meta.welcome(caller, request)
    assert drive(house.meta.handlers[wire.GetAttributes](request, caller)).attributes.ino == ROOT


# --- who only reads ------------------------------------------------------------------------------


def test_a_reader_changes_nothing(house: House) -> None:
    assert house.refused("reader", wire.Unlink(house.inside, b"file"), 0) == EROFS
    assert house.refused("reader", wire.Grant(house.file)) == EROFS
    assert house.refused("reader", wire.Open(house.file, 1, True, False, ROOT, b""), 0) == EROFS
    opened = house.ask("reader", wire.Open(house.file, 1, False, False, house.inside, b"file"))
    assert opened.attributes.ino == house.file


# --- who is confined -----------------------------------------------------------------------------


def test_its_root_is_number_one(house: House) -> None:
    walked = house.ask("inside", wire.Lookup(ROOT, (b"deep", b"leaf")))
    assert [step.ino for step in walked.steps] == [house.deep, house.leaf]
    assert house.ask("inside", wire.GetAttributes(ROOT)).attributes.ino == ROOT
    listing = house.ask("inside", wire.ReadDirectory(ROOT, b"", 100))
    assert [entry.name for entry in listing.entries] == [b"deep", b"file"]
    assert house.ask("inside", wire.ReadDirectory(house.deep, b"", 9)).parent == ROOT
    made = house.create("inside", ROOT, b"new")
    assert made.directory.ino == ROOT
    assert house.ask("root", wire.Lookup(house.inside, (b"new",))).steps[0].ino == (
        made.attributes.ino
    )


def test_what_is_outside_is_not_to_be_had(house: House) -> None:
    for request in (
        wire.Lookup(ROOT, (b"..",)),
        wire.Lookup(house.deep, (b"..", b"..", b"out")),
        wire.GetStatus(),
    ):
        assert house.refused("inside", request) == EACCES, request
    for ino in (house.out, house.shared, Ino(2**50)):  # nor whether it is there
        for request in (
            wire.GetAttributes(ino),
            wire.ReadMap(ino, PageNo(0), 1),
            wire.Open(ino, 1, False, False, ROOT, b""),
            wire.ReadDirectory(ino, b"", 9),
        ):
            assert house.refused("inside", request) == ESTALE, request
    for change in (
        wire.Rename(ROOT, b"file", house.shared, b"stolen", 0),
        wire.Rename(house.shared, b"x", ROOT, b"x", 0),
        wire.Link(house.out, ROOT, b"mine"),
        wire.Unlink(house.shared, b"x"),
        setting(house.out, 0o777),
    ):
        assert house.refused("inside", change, 0) == ESTALE, change


def test_what_moved_out_is_outside_and_what_moved_in_is_inside(house: House) -> None:
    house.change("root", wire.Rename(house.deep, b"leaf", house.shared, b"leaf", 0))
    assert house.refused("inside", wire.GetAttributes(house.leaf)) == ESTALE
    house.change("root", wire.Rename(ROOT, b"out", house.deep, b"out", 0))
    assert house.ask("inside", wire.GetAttributes(house.out)).attributes.ino == house.out


def test_a_removed_file_that_it_has_open_stays_its_own(house: House) -> None:
    house.ask("inside", wire.Open(house.leaf, 1, False, False, house.deep, b"leaf"))
    house.change("root", wire.Unlink(house.deep, b"leaf"))
    house.change("root", wire.RemoveDirectory(house.inside, b"deep"))
    assert house.ask("inside", wire.GetAttributes(house.leaf)).attributes.nlink == 0


def test_what_is_gone_is_stale_and_not_forbidden(house: House) -> None:
    assert house.refused("inside", wire.GetAttributes(Ino(2**50))) == ESTALE


def test_an_announcement_reaches_no_further(house: House) -> None:
    mine, theirs = wire.Opening(house.file, 5), wire.Opening(house.out, 5)
    house.ask("inside", wire.Announce((mine, theirs), (), (), Incarnation(1), True))
    session = house.sessions["inside"]
    assert house.meta.sessions.has_open(session, house.file)
    assert not house.meta.sessions.has_open(session, house.out)


def test_a_heartbeat_of_what_was_removed_is_a_heartbeat(house: House) -> None:
    gone = wire.Opening(house.out, 1)
    beaten = house.ask("inside", wire.Beat(1, 0, 0, (), (gone,), ()))
    assert beaten.number == 1


def test_it_is_told_of_its_roots_changes_by_its_number(house: House) -> None:
    house.ask("inside", wire.Beat(1, 0, 0, (), (), ()))
    house.ask("inside", wire.GetAttributes(ROOT))
    house.meta.pushes.clear()
    house.create("root", house.inside, b"more")
    told = [push.inos for _, _, push, _ in house.meta.pushes if isinstance(push, wire.Changed)]
    assert told == [(ROOT,)]


def test_a_kept_reply_is_as_it_was_told(house: House) -> None:
    first = house.create("inside", ROOT, b"once")
    session = house.sessions["inside"]
    house.numbers[session] -= 2  # as when the create was sent
    request = wire.Create(ROOT, b"once", b"/once", 0o644, 0, 0, True, 1, 0)
    again = house.change("inside", request)
    assert again.directory.ino == ROOT and again.attributes.ino == first.attributes.ino


def test_a_root_that_is_not_there_is_said(house: House) -> None:
    with pytest.raises(Posix, match="/nowhere, which this key is confined to"):
        house.ask("lost", wire.GetAttributes(ROOT))


# --- owners --------------------------------------------------------------------------------------


def test_users_are_mapped_both_ways(house: House) -> None:
    made = house.create("mapped", house.shared, b"mine", 1000, 10)
    assert (made.attributes.uid, made.attributes.gid) == (1000, 10)
    here = house.ask("root", wire.GetAttributes(made.attributes.ino)).attributes
    assert (here.uid, here.gid) == (2000, 20)
    moved = house.change("mapped", setting(made.attributes.ino, uid=1000))
    assert moved.attributes.uid == 1000
    assert house.ask("root", wire.GetAttributes(made.attributes.ino)).attributes.uid == 2000


def test_root_is_nobody_where_it_is_squashed(house: House) -> None:
    made = house.create("squashed", house.shared, b"mine")
    here = house.ask("root", wire.GetAttributes(made.attributes.ino)).attributes
    assert (here.uid, here.gid) == (65534, 65533)
    assert house.refused("squashed", setting(made.attributes.ino, uid=0), 0) == EPERM
    assert house.refused("squashed", setting(house.file, 0o104755), 0) == EPERM
    assert house.refused("squashed", wire.Unlink(house.inside, b"file"), 0) == EACCES
    assert house.refused("squashed", wire.Grant(house.file)) == EACCES
    device = wire.Make(house.shared, b"d", b"/d", 0o060666, 0, 0, 1, b"", 0)
    assert house.refused("squashed", device, 0) == EPERM
    trusted = wire.SetXattr(made.attributes.ino, b"security.capability", b"x", 0, False)
    assert house.refused("squashed", trusted, 0) == EPERM
    read = wire.ReadMap(house.file, PageNo(0), 1)
    assert house.ask("squashed", read).attributes
    house.change("root", setting(house.file, 0o100600))
    assert house.refused("squashed", read) == EACCES


# --- passes --------------------------------------------------------------------------------------


def gate(house: House) -> Admission:
    """A dataserver's, that has just reported."""
    found = Admission()
    told = house.ask("node", _report(house), Session(0))
    found.secrets.heard(told.secrets, 1.0)
    return found


def _report(house: House) -> wire.Report:
    server = house.meta.ledger.servers[Slot(0)]
    assert house.meta.ledger.cluster is not None
    return wire.Report(
        slot=Slot(0), addresses=ADDRESSES, host=b"", cluster=house.meta.ledger.cluster.uuid,
        uuid=server.uuid, life=server.life, boot=server.boot, opened_round=server.served_round
        if hasattr(server, "served_round") else 0,
        synced_round=0, health=report(0).health,
        promised=Incarnation(0), served_incarnation=Incarnation(0), served_round=0,
        reconciled=0, events=(),
    )  # fmt: skip


def get(ino: Ino, permit: bytes) -> wire.Get:
    name = Name(ino, BlockNo(0), Version(Token(1), 1))
    return wire.Get(bytes(16), (wire.Wanted(name, Seal(0, 0), Epoch(1), Slot(0), 1),), True, permit)


def put(ino: Ino, permit: bytes) -> wire.Put:
    name = Name(ino, BlockNo(0), Version(Token(1), 1))
    block = wire.Put1(name, Seal(0, 0), Epoch(1), Slot(0), 1)
    return wire.Put(bytes(16), (block,), permit, (b"x",))


def shows(door: Admission, house: House, key: str, request: Any) -> bool:
    try:
        door.welcome(house.caller(key), request)
    except NoPass:
        return False
    return True


def test_a_whole_client_has_one_pass_for_all(house: House) -> None:
    door = gate(house)
    permit = house.ask("ada", wire.Beat(1, 0, 0, (), (), ())).permit
    assert shows(door, house, "ada", get(house.file, permit))
    assert shows(door, house, "ada", put(house.file, permit))
    assert not shows(door, house, "eve", get(house.file, permit)), "it is not hers"
    assert not shows(door, house, "ada", get(house.file, b"")), "none"
    assert not shows(door, house, "ada", get(house.file, permit[:-1] + b"\0")), "a false one"
    assert not shows(door, house, "ada", get(Ino(0), permit)), "copies of the metadata"
    reading = house.ask("reader", wire.Beat(1, 0, 0, (), (), ())).permit
    assert shows(door, house, "reader", get(house.file, reading))
    with pytest.raises(Posix):
        door.welcome(house.caller("reader"), put(house.file, reading))


def test_a_confined_client_has_one_for_each_file(house: House) -> None:
    door = gate(house)
    assert not house.ask("inside", wire.Beat(1, 0, 0, (), (), ())).permit
    permit = house.ask("inside", wire.ReadMap(house.file, 0, 1)).permit  # type: ignore[arg-type]
    assert shows(door, house, "inside", get(house.file, permit))
    assert not shows(door, house, "inside", get(house.out, permit))
    assert not shows(door, house, "inside", put(house.file, permit)), "it has no grant"
    house.ask("inside", wire.Grant(house.file))
    writing = house.ask("inside", wire.ReadMap(house.file, 0, 1)).permit  # type: ignore[arg-type]
    assert shows(door, house, "inside", put(house.file, writing))


def test_nodes_and_administrators_need_none(house: House) -> None:
    door = gate(house)
    fetch = wire.Fetch(bytes(16), get(house.file, b"").blocks)
    door.welcome(house.caller("node", session=Session(0)), fetch)
    door.welcome(house.caller("root"), get(house.file, b""))
    with pytest.raises(Posix):
        door.welcome(house.caller("ada"), fetch)


def test_a_gate_that_was_told_nothing_asks_for_patience(house: House) -> None:
    permit = house.ask("ada", wire.Beat(1, 0, 0, (), (), ())).permit
    with pytest.raises(Unavailable):
        Admission().welcome(house.caller("ada"), get(house.file, permit))


def test_whether_a_server_serves_may_be_asked_by_everybody(house: House) -> None:
    wanted = wire.Wanted(NOTHING, Seal(0, 0), Epoch(0), Slot(0), 0)
    for key in ("inside", "reader", "squashed"):
        gate(house).welcome(house.caller(key), wire.Check(bytes(16), (wanted,)))
        with pytest.raises(NoPass):
            permit = house.ask(key, wire.ReadMap(house.file, PageNo(0), 1)).permit
            gate(house).welcome(house.caller(key), wire.Get(bytes(16), (wanted,), True, permit))


def test_secrets_are_for_nodes_only(house: House) -> None:
    assert house.refused("ada", _report(house)) == EACCES
    assert passes.PASS_BYTES < 64
