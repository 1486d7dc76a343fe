"""Passes: who may show them, for what, and when they end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdfs import passes
from zdfs.ids import Ino
from zdfs.passes import ALL, READ, WRITE, Known, Mint, genuine, new_secret, opened, sign

SECRET = new_secret(7)


@given(st.text(max_size=40), st.integers(1, 3), st.integers(0, 2**64 - 1))
def test_there_and_back(holder: str, uses: int, ino: int) -> None:
    text = sign(SECRET, holder, uses, Ino(ino))
    found = opened(text)
    assert found is not None and found[:3] == (7, uses, ino)
    assert genuine(SECRET, text, holder)
    assert not genuine(SECRET, text, holder + "x"), "another's"
    assert not genuine(new_secret(7), text, holder), "of another metaserver"


@given(st.integers(0, passes.PASS_BYTES * 8 - 1))
def test_no_bit_of_it_may_change(bit: int) -> None:
    text = bytearray(sign(SECRET, "ada", READ, Ino(5)))
    text[bit // 8] ^= 1 << bit % 8
    assert not genuine(SECRET, bytes(text), "ada")


@pytest.mark.parametrize("text", [b"", b"x", bytes(passes.PASS_BYTES + 1)])
def test_what_is_none(text: bytes) -> None:
    assert opened(text) is None


def test_what_it_covers() -> None:
    one, every = opened(sign(SECRET, "a", READ, Ino(5))), opened(sign(SECRET, "a", READ | WRITE))
    assert one is not None and every is not None
    assert one.covers(Ino(5), READ) and not one.covers(Ino(6), READ)
    assert not one.covers(Ino(5), WRITE)
    assert every.ino == ALL and every.covers(Ino(6), WRITE)


def test_a_secret_is_known_before_it_is_used_and_ends_twice_its_life_later() -> None:
    mint, known = Mint(1 << 24, 300.0), Known(300.0)
    text = mint.sign("ada", READ)
    known.heard(mint.told(0.0), 0.0)
    first = opened(text)
    assert first is not None
    for at in range(0, 600, 60):
        if at < 600:
            known.heard(mint.told(float(at)), float(at))
        assert known.genuine(text, first.number, "ada"), at
        fresh = opened(mint.sign("ada", READ))
        assert fresh is not None and not known.later(fresh.number)
    known.heard(mint.told(600.0), 600.0)
    assert not known.genuine(text, first.number, "ada"), "its time is over"


def test_what_was_right_once_is_not_right_for_ever() -> None:
    known = Known(10.0)
    text = sign(SECRET, "ada", READ)
    known.heard((SECRET,), 0.0)
    assert known.genuine(text, 7, "ada") and known.genuine(text, 7, "ada")
    assert not known.genuine(text, 7, "eve")
    known.heard((new_secret(8),), 1.0)
    assert known.genuine(text, 7, "ada"), "it is not spoken of any more, but not ended"
    known.heard((new_secret(8),), 12.0)
    assert not known.genuine(text, 7, "ada")


def test_while_nobody_speaks_nothing_ends() -> None:
    known = Known(10.0)
    known.heard((SECRET,), 0.0)
    assert known.genuine(sign(SECRET, "ada", READ), 7, "ada")  # an hour later, for all it knows


def test_a_later_secret_is_not_yet_known() -> None:
    known = Known(10.0)
    assert known.later(0), "just started: it has heard of none"
    known.heard((SECRET,), 0.0)
    assert known.later(8) and not known.later(7) and not known.later(6)


def test_memory_is_bounded() -> None:
    known = Known(10.0)
    known.heard((SECRET,), 0.0)
    for ino in range(passes.REMEMBERED + 10):
        assert known.genuine(sign(SECRET, "ada", READ, Ino(ino)), 7, "ada")
    assert len(known._right) == passes.REMEMBERED
