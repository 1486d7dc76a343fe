"""The clock of the metaserver's machine was set back by ten minutes.  For that long, chmod, chown
and touch left the change time of a file as it was: backups that go by it passed over the file."""

from tests.sim.towns import pair


def test_a_chmod_moves_the_change_time(seed: int) -> None:
    cluster = pair(seed)
    a = cluster.mounts[0]
    a.put(b"/f", b"one")
    before = a.do(a.volume.lookup(b"/f"))
    cluster.meta.clock.wall_s -= 600.0
    after = a.do(a.volume.set_ino(before.ino, mode=0o600))
    assert after.ctime_ns != before.ctime_ns
