"""The traps, driven by hand: what a coroutine yields, and how it is resumed."""

from collections.abc import Coroutine
from typing import Any

import pytest

from zdfs import calls, wire
from zdfs.calls import Ask, CallAll, Condition, Now, Peer, Sleep, Spawn, Wait
from zdfs.errors import Interrupted, Posix, Unreachable

HERE = Peer("127.0.0.1:2222")
THERE = Peer("127.0.0.1:3333")


def drive(coroutine: Coroutine[Any, Any, Any], *answers: Any) -> tuple[list[Any], Any]:
    """Run a coroutine, answering its traps in order; the traps and its result."""
    traps, step = [], lambda: coroutine.send(None)
    for answer in answers:
        traps.append(step())
        if isinstance(answer, Exception):
            step = lambda error=answer: coroutine.throw(error)  # noqa: E731
        else:
            step = lambda value=answer: coroutine.send(value)  # noqa: E731
    with pytest.raises(StopIteration) as stopped:
        step()
    return traps, stopped.value.value


def test_call_asks_one_peer() -> None:
    request, reply = wire.Identify(), wire.Done()
    traps, result = drive(calls.call(HERE, request, 1.5, (3, 4)), [reply])
    assert traps == [CallAll([Ask(HERE, request, 1.5, (3, 4))])] and result is reply


@pytest.mark.parametrize("failure", [Posix(2), Unreachable("no reply")])
def test_call_raises_what_the_peer_answered(failure: Exception) -> None:
    with pytest.raises(type(failure)) as raised:
        drive(calls.call(HERE, wire.Identify()), [failure])
    assert raised.value is failure


def test_call_all_hands_failures_out_in_order() -> None:
    asks = [Ask(HERE, wire.Identify()), Ask(THERE, wire.Identify())]
    answers = [Unreachable("no reply"), wire.Done()]
    traps, result = drive(calls.call_all(asks), answers)
    assert traps == [CallAll(asks)] and result == answers


def test_time() -> None:
    async def both() -> tuple[float, int]:
        await calls.sleep(2.5)
        return await calls.now(), await calls.clock()

    traps, result = drive(both(), None, 12.5, 99)
    assert traps == [Sleep(2.5), Now(), Now(wall=True)] and result == (12.5, 99)


def test_an_interruption_comes_out_of_the_trap() -> None:
    async def patient() -> str:
        try:
            await calls.sleep(9)
        except Interrupted:
            return "interrupted"
        return "slept"

    assert drive(patient(), Interrupted())[1] == "interrupted"


def test_spawn_hands_the_coroutine_over() -> None:
    async def beside() -> None:
        return None

    coroutine = beside()
    traps, _ = drive(calls.spawn(coroutine, "beside"), None)
    assert traps == [Spawn(coroutine, "beside")]
    coroutine.close()


@pytest.mark.parametrize("woken", [True, False])
def test_wait_says_whether_it_was_woken(woken: bool) -> None:
    condition = Condition()
    traps, result = drive(calls.wait(condition, 3.0), woken)
    assert traps == [Wait(condition, 3.0)] and result is woken


def test_notify_wakes_everybody_once() -> None:
    condition, woken = Condition(), []
    for number in range(3):
        condition.waiters.append(lambda number=number: woken.append(number))
    calls.notify(condition)
    calls.notify(condition)
    assert woken == [0, 1, 2]


def test_a_waiter_that_waits_again_is_not_woken_twice() -> None:
    condition, woken = Condition(), []

    def again() -> None:
        woken.append(1)
        condition.waiters.append(again)

    condition.waiters.append(again)
    calls.notify(condition)
    assert woken == [1] and condition.waiters == [again]


def test_conditions_differ_by_identity() -> None:
    assert Condition() != Condition()
