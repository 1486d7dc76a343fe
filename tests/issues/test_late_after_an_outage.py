"""A mount that has not said within a minute what it holds is ended after the metaserver's restart.
That clock ran on while nothing was heard of the mount: who was cut off for longer was ended as soon
as he was back, however long a life `--session-life` gives."""

import pytest

from tests.issues.test_announcements_without_end import Watch, announce
from tests.issues.test_rights_that_reached_too_far import restarted
from tests.unit.test_guard import House
from zdfs import limits


@pytest.fixture
def house() -> House:
    return House()


def test_time_in_which_it_is_not_heard_is_none_that_it_wastes(house: House) -> None:
    for key in ("ada", "eve"):
        house.caller(key)
    restarted(house)
    house.meta.sessions.life_s = 1000.0
    watch = Watch(house)
    watch.passes(5, "ada", "eve")
    announce(house, "ada")
    watch.passes(limits.ANNOUNCE_S + 60, "ada")
    watch.passes(5, "ada", "eve")
    assert house.sessions["eve"] in house.meta.sessions.mounts, "it is back, within its life"
    announce(house, "eve", last=False)
    watch.passes(limits.ANNOUNCE_S, "ada", "eve")
    assert house.sessions["eve"] not in house.meta.sessions.mounts
