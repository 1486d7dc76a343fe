"""A copy took what waited in its log for the mirror all at once or not at all, and wanted four
times its bytes free for it (`Mirror.apply`).  What had come in while a disk was full (16 MiB) was
never taken when there was room for most of it again: the member refused every round, so that no
name could be changed, and none be deleted to make more room."""

from tests.unit.test_mirror import change, fill_of, made, sending
from zdfs import limits

PAYLOAD = bytes(limits.MIB)


def test_rounds_are_taken_as_far_as_there_is_room() -> None:
    meta, blocks, mirror = made()
    mirror.fill(fill_of(meta))
    for number in range(6):
        before = meta.head.round
        change(meta, b"x%d" % number, payload=PAYLOAD)
        mirror.append(*sending(meta, before))
    copy = blocks.copy
    copy.total_bytes += 16 * limits.MIB - copy.free_bytes()  # of four times six
    mirror.apply()
    assert mirror.applied == mirror.head == meta.head and mirror.waiting_bytes == 0
    assert mirror.agrees
