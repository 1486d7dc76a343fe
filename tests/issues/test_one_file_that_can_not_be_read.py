"""A mount could not say what it holds, after a restart of the metaserver, if the record of one file
that it may write can't be read.  All others waited, and it was ended after a minute: with its
session went what it had not flushed of all its files."""

import pytest

from tests.issues.test_rights_that_reached_too_far import restarted
from tests.sim.towns import spoil
from tests.unit.test_guard import House, setting
from zdfs import schema, wire
from zdfs.ids import Ino


@pytest.fixture
def house() -> House:
    return House()


def granted(house: House, key: str, ino: Ino) -> wire.Holding:
    return wire.Holding(ino, house.ask(key, wire.Grant(ino)).token, 0)


def all_said(house: House, key: str, *holdings: wire.Holding) -> None:
    openings = tuple(wire.Opening(one.ino, 1) for one in holdings)
    incarnation = house.meta.incarnation
    house.ask(key, wire.Announce(openings, holdings, (), incarnation, True))


@pytest.mark.parametrize("key", ["ada", "inside", "squashed"])
def test_what_else_it_holds_is_its_own(house: House, key: str) -> None:
    for ino in (house.leaf, house.file):
        house.change("root", setting(ino, 0o100666))
    leaf, file = granted(house, key, house.leaf), granted(house, key, house.file)
    restarted(house)
    spoil(house.store.records, schema.inode_key(house.file))
    all_said(house, key, file, leaf)
    held = house.meta.sessions.holder(house.leaf)
    assert held is not None and held.session == house.sessions[key]
    assert house.meta.sessions.mount(house.sessions[key]).announced, "nobody waits for it"


def test_what_can_be_read_again_is_its_own_as_well(house: House) -> None:
    file = granted(house, "ada", house.file)
    restarted(house)
    key = schema.inode_key(house.file)
    whole = house.store.records.values[key]
    spoil(house.store.records, key)
    all_said(house, "ada", file)
    house.store.records.values[key] = whole
    held = house.meta.sessions.holder(house.file)
    assert held is not None and held.token == file.token
