"""Background work of a mount: no job waits for one that never ends, no waiter is left behind."""

import threading

from tests.conftest import until
from zdfs.calls import Condition, notify, spawn, wait
from zdfs.link import Link


def test_a_job_is_never_left_to_a_busy_thread() -> None:
    """A thread that has just taken a job that runs for ever is not idle: else the next job, a
    flight of dirty blocks, waits for good, and so does fsync."""
    for _ in range(30):
        link = Link()
        for_ever = Condition()
        ran = [threading.Event() for _ in range(4)]

        async def job(number: int, ran: list[threading.Event], ever: Condition) -> None:
            ran[number].set()
            await wait(ever)

        async def main(ran: list[threading.Event], ever: Condition) -> None:
            for number in range(len(ran)):
                await spawn(job(number, ran, ever), f"job {number}")

        try:
            link.run(main(ran, for_ever))
            until(lambda ran=ran: all(event.is_set() for event in ran), 5, "all jobs run")
        finally:
            link.close()


def test_who_waits_again_and_again_leaves_nothing_behind() -> None:
    """A blocked write waits anew each second: no waiter stays in the condition."""
    link = Link()
    condition = Condition()

    async def patient() -> list[bool]:
        return [await wait(condition, 0.001) for _ in range(5)]

    async def woken() -> bool:
        await spawn(waker(), "waker")
        return await wait(condition, 5)

    async def waker() -> None:
        while not condition.waiters:
            await wait(Condition(), 0.001)
        notify(condition)

    try:
        assert link.run(patient()) == [False] * 5
        assert condition.waiters == []
        assert link.run(woken())
    finally:
        link.close()
