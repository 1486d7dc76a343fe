"""After a restart of the metaserver a mount began anew to say what it holds with each answer to a
heartbeat, four times in a second while it was at work.  All of that was said beside the first time,
which took the longer: with very many open files longer than the minute after which it is ended."""

from typing import Any

from tests.sim.towns import begun
from zdfs import wire
from zdfs.calls import CallAll
from zdfs.ids import Incarnation


def asked(mount: Any) -> list[Any]:
    """What is to be run when a heartbeat's answer wants to know what a mount holds."""
    jobs: list[Any] = mount.volume.heard(wire.Beaten(0, None, (), True, 0))
    return jobs


def begins(job: Any) -> Any:
    """The request that a job parks at."""
    trap = job.send(None)
    assert isinstance(trap, CallAll)
    return trap.asks[0].request


def test_what_is_held_is_said_once(seed: int) -> None:
    (mount,) = begun(seed).cluster.mounts
    (first,) = asked(mount)
    assert isinstance(begins(first), wire.Announce)
    assert not asked(mount), "it is being said"
    mount.incarnation = Incarnation(mount.incarnation + 1)
    (second,) = asked(mount)
    assert begins(second).incarnation == mount.incarnation, "to another one it was not"
    first.close()
    assert not asked(mount), "nor does the end of the first end the second"
    second.close()
    (third,) = asked(mount)
    third.close()
