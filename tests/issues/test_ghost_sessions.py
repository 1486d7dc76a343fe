"""A mount that fell silent while its writes waited for a dataserver was buried, and then its record
was written anew, to say that it waits no more (`Meta.watch_sessions` -> `Chronicle.went`).  The
metaserver took it for alive at its next start: no file could be written by another mount, nor any
deleted file let go of, before the ghost had been silent for a whole session's life."""

from tests.sim.towns import pair
from zdfs import limits, schema


def test_a_blocked_mount_that_died_stays_dead(seed: int) -> None:
    cluster = pair(seed, servers=3)
    mount, other = cluster.mounts
    mount.put(b"/a", b"before")
    cluster.data[0].crash()
    cluster.rest(2 * limits.DOWN_S)
    mount.spawn(_writes(mount.volume))
    cluster.rest(20.0)
    mount.kill()
    cluster.rest(3 * limits.SESSION_S)
    keys = [key for key in cluster.meta.store.records.keys if key[:1] == b"n"]
    assert keys == [schema.number_key(b"n", other.session)]


async def _writes(volume: object) -> None:
    handle = await volume.create(b"/b", 0o644, 0, 0, 2)  # type: ignore[attr-defined]
    await volume.write(handle, b"x" * 4096, 0)  # type: ignore[attr-defined]
    await volume.flush(handle)  # type: ignore[attr-defined]
