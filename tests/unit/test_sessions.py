"""Sessions: slots that keep a reply each, open files, grants."""

import pytest

from zdfs import limits, wire
from zdfs.calls import Condition
from zdfs.errors import BadMessage, NoSession
from zdfs.ids import Incarnation, Ino, Session, Token
from zdfs.schema import SessionRecord
from zdfs.sessions import Sessions

ONE, TWO = Session(1), Session(2)
INO = Ino(9)


@pytest.fixture
def sessions() -> Sessions:
    made = Sessions()
    for number in (ONE, TWO):
        record = SessionRecord(bytes([number]) * 16, "host", "/mnt", 0)
        made.born(number, record, 100.0, announced=True)
    return made


def head(sequence: int, slot: int = 0, session: Session = ONE) -> wire.RequestHead:
    return wire.RequestHead(session, slot, sequence, 1000, Incarnation(0))


# --- slots -------------------------------------------------------------------------------------


def test_a_repeat_is_given_the_kept_reply(sessions: Sessions) -> None:
    assert sessions.admit(head(1)) is None
    assert sessions.keep(head(1), wire.Done())
    assert sessions.admit(head(1)) == wire.Done()
    assert sessions.admit(head(2)) is None


def test_what_failed_without_an_answer_may_run_again(sessions: Sessions) -> None:
    sessions.admit(head(1))
    sessions.keep(head(1), None)
    assert sessions.admit(head(1)) is None


def test_a_late_repeat_is_refused(sessions: Sessions) -> None:
    sessions.admit(head(7))
    with pytest.raises(BadMessage):
        sessions.admit(head(6))


def test_a_late_reply_does_not_replace_a_newer_one(sessions: Sessions) -> None:
    """The older change was parked when its sender gave up and used the slot again."""
    sessions.admit(head(1))
    sessions.admit(head(2))
    assert sessions.keep(head(2), wire.Done())
    assert not sessions.keep(head(1), wire.Target(b"old"))
    assert sessions.admit(head(2)) == wire.Done()


def test_slots_are_apart_and_bounded(sessions: Sessions) -> None:
    sessions.admit(head(5, 0))
    assert sessions.admit(head(1, 1)) is None
    assert sessions.admit(head(1, 0, TWO)) is None
    with pytest.raises(BadMessage):
        sessions.admit(head(1, limits.SLOTS))


def test_a_dead_session_has_no_slots(sessions: Sessions) -> None:
    sessions.admit(head(1))
    sessions.died(ONE)
    assert not sessions.keep(head(1), wire.Done())
    with pytest.raises(NoSession):
        sessions.admit(head(2))


# --- life --------------------------------------------------------------------------------------


def test_silence_ends_a_session(sessions: Sessions) -> None:
    sessions.heard(ONE, 100.0 + limits.SESSION_S)
    assert sessions.silent(100.0 + limits.SESSION_S) == []
    assert sessions.silent(100.5 + limits.SESSION_S) == [TWO]


def test_a_mount_that_hears_nothing_has_ended_although_it_speaks(sessions: Sessions) -> None:
    """What can't be recalled would keep others waiting for ever."""
    for second in range(1, 30):
        sessions.beaten(ONE, number=second, heard=second - 1, now=100.0 + second)
        sessions.beaten(TWO, number=second, heard=3, now=100.0 + second)
    deaf_since = 100.0 + 3 + limits.DEAF_BEATS
    assert sessions.silent(deaf_since + limits.SESSION_S) == []
    assert sessions.silent(deaf_since + limits.SESSION_S + 0.5) == [TWO]


def test_a_late_heartbeat_is_no_news(sessions: Sessions) -> None:
    assert sessions.beaten(ONE, 2, 0, 102.0)
    assert not sessions.beaten(ONE, 1, 0, 103.0)
    assert sessions.beaten(ONE, 3, 2, 104.0)


def test_a_nonce_finds_its_mount(sessions: Sessions) -> None:
    found = sessions.by_nonce(bytes([TWO]) * 16)
    assert found is not None and found.session == TWO
    assert sessions.by_nonce(bytes(16)) is None


def test_death_frees_grants_and_wakes_who_waits(sessions: Sessions) -> None:
    sessions.grant(INO, ONE, Token(4))
    held = sessions.holder(INO)
    assert held is not None
    woken: list[str] = []
    held.freed.waiters.append(lambda: woken.append("freed"))
    sessions.settled.waiters.append(lambda: woken.append("settled"))
    sessions.opened(ONE, INO, 1)
    assert sessions.died(ONE) == [INO]
    assert sessions.holder(INO) is None and not sessions.is_open(INO)
    assert woken == ["freed", "settled"]
    assert sessions.died(ONE) == []


def test_unannounced_until_each_has_said_or_died(sessions: Sessions) -> None:
    sessions.mounts[ONE].announced = sessions.mounts[TWO].announced = False
    assert not sessions.all_announced()
    sessions.mounts[ONE].announced = True
    assert not sessions.all_announced()
    sessions.died(TWO)
    assert sessions.all_announced()


# --- open files --------------------------------------------------------------------------------


def test_a_close_that_comes_after_a_newer_open_closes_nothing(sessions: Sessions) -> None:
    sessions.opened(ONE, INO, 1)
    sessions.opened(ONE, INO, 2)
    assert not sessions.closed(ONE, INO, 1) and sessions.is_open(INO)
    sessions.opened(ONE, INO, 1)  # a late repeat
    assert sessions.closed(ONE, INO, 2) and not sessions.is_open(INO)


def test_each_mount_has_its_own(sessions: Sessions) -> None:
    sessions.opened(ONE, INO, 1)
    sessions.opened(TWO, INO, 9)
    sessions.closed(TWO, INO, 9)
    assert sessions.is_open(INO)


# --- grants ------------------------------------------------------------------------------------


def test_recalls_are_repeated_until_the_grant_is_back(sessions: Sessions) -> None:
    sessions.grant(INO, ONE, Token(4))
    assert sessions.recalls(ONE) == ()
    held = sessions.holder(INO)
    assert held is not None
    held.recalled_at = 1.0
    assert sessions.recalls(ONE) == (wire.Recalled(INO, Token(4)),)
    assert sessions.recalls(TWO) == ()
    sessions.free(INO)
    assert sessions.recalls(ONE) == () and isinstance(held.freed, Condition)


def test_who_has_a_file_open(sessions: Sessions) -> None:
    """What has no name opens only where it is open."""
    sessions.opened(ONE, INO, 1)
    assert sessions.has_open(ONE, INO) and not sessions.has_open(ONE, Ino(INO + 1))
    assert not sessions.has_open(TWO, INO) and not sessions.has_open(Session(9), INO)
    sessions.closed(ONE, INO, 1)
    assert not sessions.has_open(ONE, INO)
