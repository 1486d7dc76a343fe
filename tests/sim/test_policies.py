"""Which policy does what under which failures: the table of docs/CONSISTENCY.md, cell by cell.

Each row is a situation; for each policy it has the words that stand in the table, and the scenario
that shows them on a simulated cluster of four servers.
"""

from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.sim.scene import FILE, NEW, NEWER, OLD, Scene, Write
from tests.world.world import told
from zdfs import limits
from zdfs.errors import Silent
from zdfs.ids import Policy
from zdfs.wire import Held

CONSISTENCY = Path(__file__).parents[2] / "docs" / "CONSISTENCY.md"
Scenario = Callable[[Scene], None]


class Cell(NamedTuple):
    """What a policy promises in a situation."""

    text: str
    show: Scenario


class Row(NamedTuple):
    """A situation."""

    situation: str
    all: Cell
    quorum: Cell


# --- everybody is up ---------------------------------------------------------------------------


def three_copies(scene: Scene) -> None:
    """When it is acknowledged all three have it, and nobody is owed anything."""
    Write(scene, NEW).done(5.0)
    assert scene.copies() == [True] * 3 and not scene.owed()
    assert scene.read() == NEW


def full(scene: Scene) -> None:
    """ENOSPC, once the metaserver has said that nothing is let go of; what was there is there."""
    scene.two.store.total_bytes = 0
    write = Write(scene, NEW)
    scene.world.run(lambda: bool(write.ended), 6.0)
    (failure,) = write.ended
    assert failure is not None and failure.number == ENOSPC
    assert scene.read() == OLD and not scene.owed()
    scene.two.store.total_bytes = 1 << 40


# --- one server is down ------------------------------------------------------------------------


def waits_for_one(scene: Scene) -> None:
    """And goes through, with three copies, when it is back."""
    scene.kill(scene.three)
    write = Write(scene, NEW)
    write.waits()
    assert scene.blocked() == {scene.slot(scene.three)} and not scene.scarce()
    assert scene.read() == OLD
    scene.three.restart()
    write.done()
    assert scene.copies() == [True] * 3 and not scene.owed()


def owes_one(scene: Scene) -> None:
    """Two copies, synced, when it is acknowledged; the third is owed; one timeout in all."""
    scene.kill(scene.three)
    Write(scene, NEW).done(limits.BULK_TIMEOUT_S + 1.0)
    assert scene.copies() == [True, True, False] and scene.owed() == [scene.three]
    for data in (NEWER, NEW, NEWER):
        Write(scene, data).done(limits.TIMEOUT_S)  # a slow network, but no timeout of its own
    account = scene.account(scene.three)
    assert (account.replicas, account.stored) == (1, 64) and account.since_ns
    assert scene.read() == NEWER and not scene.blocked()


def waits_for_the_other(scene: Scene) -> None:
    """Any server of the ring."""
    scene.kill(scene.other)
    scene.known()
    write = Write(scene, NEW)
    write.waits()
    assert scene.blocked() == {scene.slot(scene.other)}
    scene.other.restart()
    write.done()


def needs_not_the_other(scene: Scene) -> None:
    """It has nothing of this block."""
    scene.kill(scene.other)
    three_copies(scene)


def waits_for_the_unheard(scene: Scene) -> None:
    """Whatever the metaserver says of it."""
    scene.part((scene.mount.address, scene.three.address))
    write = Write(scene, NEW)
    write.waits()
    assert scene.blocked() == {scene.slot(scene.three)}
    scene.join()
    write.done()
    assert scene.copies() == [True] * 3 and not scene.owed()


def owes_the_unheard(scene: Scene) -> None:
    """It collects at once, although it never was down."""
    scene.part((scene.mount.address, scene.three.address))
    Write(scene, NEW).done(limits.BULK_TIMEOUT_S + 1.0)
    scene.settled(10.0)


# --- it comes back -----------------------------------------------------------------------------


def applied_once(scene: Scene) -> None:
    """The write that waited; what was there before it is served until then."""
    waits_for_one(scene)
    scene.rest(5.0)
    assert scene.read() == NEW and scene.do(scene.volume.lookup(FILE)).size == len(NEW)


def missing_until_collected(scene: Scene) -> None:
    """A server that is behind has the old version under its old name, and says so of no other."""
    old = scene.current()
    scene.kill(scene.three)
    scene.known()
    Write(scene, NEW).done()
    scene.isolate(scene.three)
    scene.three.restart()
    scene.rest(10.0)
    assert scene.says(scene.three) in (Held.MISSING, Held.NOT_YET)
    assert scene.owed() == [scene.three] and scene.current().name != old.name
    scene.part(*((scene.reader.address, one.address) for one in (scene.one, scene.two)))
    with pytest.raises(Silent):
        scene.read()
    scene.join()
    scene.settled()
    assert scene.says(scene.three) is Held.OK and scene.read() == NEW


# --- more fails --------------------------------------------------------------------------------


def waits_for_both(scene: Scene) -> None:
    """For the second, too, when the first is back."""
    scene.kill(scene.two, scene.three)
    write = Write(scene, NEW)
    write.waits()
    assert scene.read() == OLD
    scene.two.restart()
    write.waits()
    scene.three.restart()
    write.done()
    assert scene.copies() == [True] * 3


def says_so(scene: Scene) -> None:
    """Never with one copy; it goes on as soon as one of the two is back."""
    scene.kill(scene.two, scene.three)
    write = Write(scene, NEW)
    write.waits()
    assert scene.scarce() == {scene.slot(scene.two), scene.slot(scene.three)}
    assert scene.read() == OLD and not scene.owed()
    scene.two.restart()
    write.done()
    assert scene.copies() == [True, True, False] and scene.owed() == [scene.three]
    scene.rest(10.0)
    assert not scene.blocked()


def another_dies(scene: Scene) -> None:
    """What is there is read from the one that is left."""
    scene.kill(scene.three)
    write = Write(scene, NEW)
    write.waits()
    scene.kill(scene.one)
    write.waits()
    assert scene.read() == OLD


def another_dies_of_two(scene: Scene) -> None:
    """What was acknowledged is read from the other; writes wait."""
    scene.kill(scene.three)
    Write(scene, NEW).done()
    scene.kill(scene.one)
    assert scene.read() == NEW
    write = Write(scene, NEWER)
    write.waits()
    assert scene.scarce() == {scene.slot(scene.one), scene.slot(scene.three)}


def nothing_is_owed(scene: Scene) -> None:
    """All three have it: any one of them serves it."""
    Write(scene, NEW).done()
    scene.kill(scene.one, scene.two)
    assert scene.read() == NEW


def both_that_have_it_die(scene: Scene) -> None:
    """EIO, never the bytes before, although the third is there and has those."""
    scene.kill(scene.three)
    Write(scene, NEW).done()
    scene.kill(scene.one, scene.two)
    scene.three.restart()
    with pytest.raises(Silent):
        scene.read()
    scene.rest(10.0)
    with pytest.raises(Silent):
        scene.read()
    scene.two.restart()
    scene.world.run(lambda: not scene.owed(), 60.0)
    assert scene.read() == NEW


def rebuilt(scene: Scene) -> None:
    """From the two others."""
    Write(scene, NEW).done()
    scene.kill(scene.one)
    scene.wipe(scene.one)
    scene.world.run(lambda: scene.has(scene.one), 60.0)
    assert scene.copies() == [True] * 3


def rebuilt_from_one(scene: Scene) -> None:
    """While the third is away; then that collects from either."""
    scene.kill(scene.three)
    Write(scene, NEW).done()
    scene.kill(scene.one)
    scene.wipe(scene.one)
    scene.world.run(lambda: scene.has(scene.one), 60.0)
    assert scene.copies() == [True, True, False] and scene.owed() == [scene.three]
    scene.kill(scene.two)
    assert scene.read() == NEW
    scene.three.restart()
    scene.settled()


# --- the metaserver ----------------------------------------------------------------------------


def still_waits(scene: Scene) -> None:
    """Over its restart."""
    scene.kill(scene.three)
    write = Write(scene, NEW)
    write.waits()
    scene.cluster.meta.crash()
    scene.cluster.meta.restart()
    write.waits()
    scene.three.restart()
    write.done()


def still_owed(scene: Scene) -> None:
    """The debt was of the same transaction as the write."""
    scene.kill(scene.three)
    Write(scene, NEW).done()
    scene.cluster.meta.crash()
    scene.cluster.meta.restart()
    assert scene.owed() == [scene.three]
    scene.rest(5.0)
    assert scene.read() == NEW
    scene.three.restart()
    scene.settled()


# --- the policy, the file ----------------------------------------------------------------------


def goes_on(scene: Scene) -> None:
    """Whoever waits, too."""
    scene.kill(scene.three)
    write = Write(scene, NEW)
    write.waits()
    scene.give(Policy.QUORUM, b"/")
    write.waits()  # the directory has its own
    scene.give(Policy.INHERIT, b"/d")
    write.done(limits.BULK_TIMEOUT_S + 2 * limits.RETRY_S)  # the Put that is underway ends first
    assert scene.owed() == [scene.three]


def waits_from_now_on(scene: Scene) -> None:
    """What is owed is owed."""
    scene.kill(scene.three)
    Write(scene, NEW).done()
    scene.give(Policy.ALL, b"/d")
    scene.rest(limits.CACHE_S)
    write = Write(scene, NEWER)
    write.waits()
    assert scene.owed() == [scene.three] and not scene.scarce()
    scene.three.restart()
    write.done()
    scene.settled()


def nothing_to_forget(scene: Scene) -> None:
    """Cutting and removing don't wait for anybody."""
    scene.kill(scene.three)
    scene.known()
    scene.do(scene.volume.truncate(FILE, None, 0))
    scene.do(scene.volume.unlink(FILE))
    assert not scene.owed()


def gone_with_it(scene: Scene) -> None:
    """Overwritten: the new version is owed; cut or removed: nothing."""
    scene.kill(scene.three)
    Write(scene, NEW).done()
    since = scene.account(scene.three).since_ns
    Write(scene, NEWER).done()
    account = scene.account(scene.three)
    assert (account.replicas, account.since_ns) == (1, since)
    scene.do(scene.volume.truncate(FILE, None, 10))
    assert scene.owed() == [scene.three]  # of the first bytes, a part is left
    scene.do(scene.volume.truncate(FILE, None, 0))
    assert not scene.owed()
    Write(scene, NEW).done()
    assert scene.owed() == [scene.three]
    scene.do(scene.volume.unlink(FILE))
    scene.world.run(lambda: not scene.owed(), 10.0)


GOES_THROUGH = Cell("it goes through: three copies", three_copies)
NO_SPACE = Cell("`ENOSPC`, within seconds: nothing overwritten makes room", full)
TABLE = (
    Row("everybody is up", GOES_THROUGH, GOES_THROUGH),
    Row("a server of the block is full", NO_SPACE, NO_SPACE),
    Row(
        "a server of the block is down",
        Cell("it waits; reads go on", waits_for_one),
        Cell("it goes on after one timeout in all: two copies, the third is owed", owes_one),
    ),
    Row(
        "another server of the ring is down",
        Cell("it waits", waits_for_the_other),
        Cell("it goes through: three copies", needs_not_the_other),
    ),
    Row(
        "a server of the block is not heard by this mount, but by the others",
        Cell("it waits", waits_for_the_unheard),
        Cell("it goes on; the server collects at once", owes_the_unheard),
    ),
    Row(
        "the server comes back",
        Cell("the write that waited is applied, once", applied_once),
        Cell(
            "it answers Missing until it has collected what it is owed, never old bytes; then "
            "nothing is owed",
            missing_until_collected,
        ),
    ),
    Row(
        "two servers of the block are down",
        Cell("it waits, until both are back; reads go on", waits_for_both),
        Cell(
            "it waits and says so, until one of them is back: never fewer than two copies; reads "
            "go on",
            says_so,
        ),
    ),
    Row(
        "one was down while it was written, then one that has it dies",
        Cell("it waits on; the content before it is read from the one that is left", another_dies),
        Cell("reads go on from the other that has it; writes wait", another_dies_of_two),
    ),
    Row(
        "then both that have it are dead, and only the third is up",
        Cell("cannot be: nothing is ever owed; reads go on", nothing_is_owed),
        Cell(
            "reads are `EIO` within seconds, never old bytes, until one of the two is back",
            both_that_have_it_die,
        ),
    ),
    Row(
        "a disk that has it is lost",
        Cell("rebuilt from the two others", rebuilt),
        Cell("rebuilt from the one that has it, also while the third is away", rebuilt_from_one),
    ),
    Row(
        "the metaserver loses power meanwhile",
        Cell("it waits on, and goes through once", still_waits),
        Cell("what is owed is known as before", still_owed),
    ),
    Row(
        "the policy is changed meanwhile",
        Cell("to `quorum`: what waits goes on", goes_on),
        Cell("to `all`: writes wait from then on; what is owed stays owed", waits_from_now_on),
    ),
    Row(
        "the block is overwritten, cut or removed meanwhile",
        Cell("overwriting waits, the rest waits for nobody", nothing_to_forget),
        Cell("what was owed of it is forgotten with it", gone_with_it),
    ),
)
CELLS = [(row, policy) for row in TABLE for policy in (Policy.ALL, Policy.QUORUM)]


@pytest.mark.parametrize(
    ("row", "policy"), CELLS, ids=[f"{policy.name.lower()}: {r.situation}" for r, policy in CELLS]
)
def test_a_cell(row: Row, policy: Policy, seed: int) -> None:
    scene = Scene(seed, policy)
    with told(scene.world, "tests/sim/test_policies.py", seed):
        cell = row.all if policy is Policy.ALL else row.quorum
        cell.show(scene)
        scene.end()


def test_the_table_says_what_is_shown() -> None:
    shown = [f"| {row.situation} | {row.all.text} | {row.quorum.text} |" for row in TABLE]
    lines = CONSISTENCY.read_text().splitlines()
    first = lines.index("| a block is written while | policy `all` | policy `quorum` |") + 2
    assert lines[first : first + len(shown)] == shown and not lines[first + len(shown)]
