"""What people are told about policies and debts: status, where, debts, fsck, simulated."""

import json
from collections.abc import Iterator

import pytest

from tests.sim.scene import FILE, NEW, OLD, Scene, Write
from tests.world.cluster import META
from tests.world.world import told
from zdfs import findings, fsck
from zdfs.errors import StartError
from zdfs.ids import Policy, Slot
from zdfs.tools import admin, owing
from zdfs.wire import Harm

SHOWN = FILE.decode()


@pytest.fixture
def scene(seed: int) -> Iterator[Scene]:
    """Under quorum; `three` is owed the file's block, and up again but apart from its fellows."""
    made = Scene(seed, Policy.QUORUM)
    with told(made.world, "tests/sim/test_owing.py", seed):
        made.kill(made.three)
        Write(made, NEW).done()
        made.isolate(made.three)
        made.three.restart()
        made.rest(10.0)
        assert made.owed() == [made.three]
        yield made
        made.end()


def states(scene: Scene) -> dict[Slot, str]:
    """What `zdfs where` says of the three replicas."""
    shown = scene.do(admin.where(scene.volume, FILE))
    json.dumps(shown)
    text = admin.where_text(shown)
    assert ("block 0 owed" in text) == ("owed" in str(shown["blocks"])), text
    return {Slot(one["slot"]): one["state"] for one in shown["blocks"][0]["replicas"]}


def test_where_marks_what_is_owed(scene: Scene) -> None:
    slots = [scene.slot(server) for server in (scene.one, scene.two, scene.three)]
    assert states(scene) == dict(zip(slots, ("ok", "ok", "owed")))
    scene.kill(scene.three)
    assert states(scene) == dict(zip(slots, ("ok", "ok", "owed")))
    scene.kill(scene.two)
    assert states(scene) == dict(zip(slots, ("ok", "down", "owed")))
    scene.join()
    scene.cluster.restart()
    scene.settled()
    assert set(states(scene).values()) == {"ok"}


def test_status_and_debts_sum_up(scene: Scene) -> None:
    slot = scene.slot(scene.three)
    shown = scene.do(admin.status(META))
    owed = shown["servers"][slot]["owed"]
    assert (owed["replicas"], owed["bytes"]) == (1, 64) and owed["since_ns"] > 0
    assert "owed 1 blocks, 64 B, since" in admin.status_text(shown)
    assert "owed" in {event["kind"] for event in shown["events"]}
    listed = scene.do(owing.debts(META))
    assert listed["owed"] == 1
    server = listed["servers"][slot]
    (file,) = server["files"]
    assert (file["path"], file["replicas"], file["bytes"]) == (SHOWN, 1, 64)
    assert file["since_ns"] == server["since_ns"] == owed["since_ns"]
    assert f"    {SHOWN}: 1 blocks, 64 B" in owing.debts_text(listed)
    scene.join()
    scene.settled()
    listed = scene.do(owing.debts(META))
    assert listed["owed"] == 0 and owing.debts_text(listed) == "nobody is owed anything"
    shown = scene.do(admin.status(META))
    assert "settled" in {event["kind"] for event in shown["events"]}
    assert shown["servers"][slot]["owed"]["since_ns"] is None


def test_fsck_says_owed_and_not_missing(scene: Scene) -> None:
    report = scene.do(fsck.check(META))
    assert report.counts == {"owed": 1} and report.status == 1, findings.text(report)
    (one,) = report.findings
    assert (one.path, one.slot) == (FILE, scene.slot(scene.three)) and "2 other good" in one.text
    scene.join()
    found, left = scene.do(fsck.check_and_repair(META))
    assert left.status == 0, findings.text(left, found)


def test_fsck_still_says_missing_of_what_nobody_was_spared(scene: Scene) -> None:
    name = scene.current().name
    scene.one.store.harm(name, Harm.LOSE, 1)
    report = scene.do(fsck.check(META))
    assert report.counts == {"owed": 1, "missing": 1}
    assert {one.text for one in report.findings} == {
        "owed; 1 other good copies", "missing; 1 other good copies"
    }  # fmt: skip
    scene.two.store.harm(name, Harm.LOSE, 1)
    assert scene.do(fsck.check(META)).counts == {"lost": 3}
    scene.do(scene.volume.unlink(FILE))
    scene.world.run(lambda: not scene.owed(), 10.0)


def test_a_blocked_write_says_why(scene: Scene) -> None:
    scene.kill(scene.three, scene.two)
    write = Write(scene, OLD)
    write.waits()
    shown = scene.do(admin.status(META))
    assert {one["policy"] for one in shown["writes_blocked"]} == {"quorum"}
    assert "fewer than two of its three servers are left" in admin.status_text(shown)
    scene.join()
    scene.cluster.restart()
    write.done()


def test_policy_says_where_it_comes_from(scene: Scene) -> None:
    def ask(path: bytes, wanted: str | None = None) -> dict[str, str | None]:
        shown = scene.do(owing.policy(scene.volume, path, wanted))
        assert f"{shown['path']}: {shown['policy']} (" in owing.policy_text(shown)
        del shown["path"]
        return shown

    assert ask(FILE) == {"policy": "quorum", "given": None, "from": "/d"}
    assert ask(b"/d") == {"policy": "quorum", "given": "quorum", "from": "/d"}
    assert ask(b"/") == {"policy": "all", "given": None, "from": None}
    assert scene.do(admin.status(META))["policy"] == "all"
    assert ask(b"/", "quorum") == {"policy": "quorum", "given": "quorum", "from": "/"}
    assert scene.do(admin.status(META))["policy"] == "quorum"
    assert ask(b"/d", "inherit") == {"policy": "quorum", "given": None, "from": "/"}
    assert ask(FILE, "all") == {"policy": "all", "given": "all", "from": SHOWN}
    assert "policy" in {one["kind"] for one in scene.do(admin.status(META))["events"]}
    with pytest.raises(StartError, match="No such file"):
        ask(b"/nothing")
