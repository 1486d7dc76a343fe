"""A metaserver without a usable store took the newest set of copies that anybody had been
*told* for the one in force (`Regain._judge` hands `newest_set(...)` to `copies.judge` as
`known`), and so asked for enough of that one alone. Its members need not have on disk yet what
was answered before it counts (`Copying._holds` waits for that, and then only is it in force):
with the power of all and the metaserver's disk gone, it began from less than what fsync had
acknowledged, instead of waiting."""

from tests.issues.test_reports import report
from tests.world.stores import MemoryMetaStore
from zdfs import copies, wire
from zdfs.chain import GENESIS, NO_COPIES, CopySet
from zdfs.cluster import Heard
from zdfs.copied import CopiedStore
from zdfs.ids import Incarnation, Round, Slot
from zdfs.regain import Regain

RING = tuple(f"127.0.0.1:{port}" for port in range(1, 6))
OURS = Incarnation(7)
FORCE = CopySet(1, (Slot(0), Slot(1), Slot(2)), 2)  # 1 and 2 have round 100, synced; 0 was away
TOLD = CopySet(2, (Slot(1), Slot(3), Slot(4)), 2)  # 3 and 4 had round 100, and not on their disks
AT = GENESIS._replace(incarnation=Incarnation(5), round=Round(99))


def _heard(slot: int) -> Heard:
    """After the power cut."""
    copy = wire.CopyReport(TOLD, AT, True, FORCE)
    fields = {"promised": OURS, "cluster": b"c" * 16, "copy": copy, "addresses": RING}
    return Heard(0.0, report(slot, **fields))


def test_a_set_that_was_only_told_does_not_count_alone() -> None:
    regain = Regain(CopiedStore(MemoryMetaStore()), bytes(16), None)
    regain.claimed = OURS
    living = {Slot(slot): _heard(slot) for slot in (0, 3, 4)}
    right = copies.judge(None, NO_COPIES, living, RING, OURS)
    assert right.source is None and "waiting for 1 more" in right.text
    verdict = regain._judge(living)
    assert verdict.source is None and "waiting for 1 more" in verdict.text, verdict
