"""A drill: what is skipped and why, and that it tells when a promise is broken."""

from typing import Any

import pytest

from tests.world.cluster import Cluster
from tests.world.world import World
from zdfs.ids import Slot
from zdfs.tools.drill import FILL_MOST, STEPS, Broken, Step, plan, report, text, verify, write_file
from zdfs.tools.nodes import Node
from zdfs.wire import Harm

YES = {Slot(0): True, Slot(1): True}
OURS = Node(Slot(1), 7, ("x",), "", "127.0.0.1:4444")
HOUSE = Node(Slot(0), 8, ("x",), "make run", "127.0.0.1:3333")


@pytest.mark.parametrize(
    "arguments, skipped",
    [
        ((YES, [OURS], True, True, 10), {"partition"}),
        ((YES, [OURS], False, False, 10), {"partition", "wipe", "fill"}),
        ((YES, [], True, True, 10), {"partition", "stop", "kill", "wipe"}),
        ((YES, [HOUSE], True, True, 10), {"partition", "wipe"}),
        ((YES, [HOUSE, OURS], True, True, 10), {"partition"}),
        (({Slot(0): True, Slot(1): False}, [OURS], True, True, 10), {"partition", "corrupt"}),
        ((YES, [OURS], True, True, FILL_MOST + 1), {"partition", "fill"}),
    ],
)
def test_what_is_skipped(arguments: Any, skipped: set[str]) -> None:
    found = plan(*arguments)
    assert set(found) == skipped <= set(STEPS) and all(found.values())


def test_the_report() -> None:
    steps = [Step("write", done=["a"], seen=["b"]), Step("kill", "broken", seen=["lost"])]
    facts = report(b"/x", steps)
    assert not facts["held"] and not facts["removed"]
    assert "A PROMISE DID NOT HOLD" in text(facts) and "-> lost" in text(facts)
    steps[1] = Step("kill", "skipped", seen=["why"])
    assert report(b"/x", steps)["held"] and "every promise held" in text(report(b"/x", steps))


def test_other_bytes_and_errors_break_a_promise(seed: int) -> None:
    cluster = Cluster(World(seed))
    cluster.mount()
    truth = {b"/one": b"first" * 50, b"/two": b"second" * 50}
    for path, data in truth.items():
        cluster.do(write_file(cluster.volume, path, data))
    assert cluster.do(verify(cluster.volume, truth)) == 550
    for wrong in (b"first" * 49 + b"firsT", b"first" * 49, b"first" * 51):
        with pytest.raises(Broken, match="other bytes"):
            told(cluster, truth | {b"/one": wrong})
    with pytest.raises(Broken, match="can't be read"):
        told(cluster, {b"/none": b""})
    cluster.heal()  # nothing is remembered
    for server in cluster.data:
        for name, entry in server.store.scan(None, 100):
            if entry.length:
                server.store.harm(name, Harm.FLIP, 1)
    with pytest.raises(Broken, match="no replica has its current version intact"):
        told(cluster, truth)


def told(cluster: Cluster, truth: dict[bytes, bytes]) -> None:
    """`verify`, which raises what is no failure of the file system."""
    broken: list[Broken] = []

    async def tried() -> None:
        try:
            await verify(cluster.volume, truth)
        except Broken as error:
            broken.append(error)

    cluster.do(tried())
    if broken:
        raise broken[0]
