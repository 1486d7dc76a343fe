"""Which server is slow, beside the others."""

from zdfs import wire
from zdfs.pace import Paces, is_slow


def shown(paces: Paces, at: float) -> list[wire.Pace1]:
    """As a mount tells it."""
    return [
        wire.Pace1(
            one.peer, one.kind, int(one.pace.mean_s * 1e6), int(one.others_s * 1e6),
            one.pace.count, int((at - one.pace.at) * 1000),
        )
        for one in paces.slowest()
    ]  # fmt: skip


def filled(slow_s: float, count: int = 10) -> Paces:
    """Four servers, one of which takes longer."""
    paces = Paces()
    for number in range(count):
        for server in "abcd":
            paces.answered(server, wire.Put, slow_s if server == "c" else 0.002, number)
    return paces


def slow(paces: Paces, at: float = 10.0) -> list[tuple[str, str]]:
    return [(one.address, one.kind) for one in shown(paces, at) if is_slow(one)]


def test_the_slow_one_is_named() -> None:
    assert slow(filled(0.3)) == [("c", "write")]
    assert slow(filled(0.04)) == []  # slower than the others, and nobody minds
    assert slow(filled(0.3, count=2)) == []  # a hiccup
    assert slow(filled(0.3), at=100.0) == []  # long ago


def test_who_is_quick_again_is_not_named() -> None:
    paces = filled(0.3)
    for number in range(20):
        paces.answered("c", wire.Put, 0.002, 10 + number)
    assert slow(paces, 30.0) == []


def test_all_slow_is_not_one_slow() -> None:
    paces = Paces()
    for number in range(10):
        for server in "abcd":
            paces.answered(server, wire.Put, 0.3, number)
    assert slow(paces) == []


def test_kinds_are_apart_and_waits_don_t_count() -> None:
    paces = filled(0.3)
    for server in "abcd":
        paces.answered(server, wire.Get, 0.001, 9.0)
        paces.answered(server, wire.Grant, 9.0, 9.0)
    assert slow(paces) == [("c", "write")]
    assert {kind for _, kind in paces.known} == {"read", "write"}


def test_alone_nobody_is_slower() -> None:
    paces = Paces()
    for number in range(10):
        paces.answered("a", wire.Put, 0.9, number)
    assert slow(paces) == []
