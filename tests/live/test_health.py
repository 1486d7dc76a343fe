"""`zdfs health` on a real cluster: its exit status is what a monitor goes by."""

import json
from pathlib import Path
from typing import Any

from tests.conftest import until
from tests.live.cluster import Cluster, started


def health(cluster: Cluster, *words: str) -> tuple[int, dict[str, Any]]:
    done = cluster.command("zdfs", "health", "--meta", cluster.meta_port, "--json", *words)
    return done.returncode, json.loads(done.stdout)


def state(found: dict[str, Any], name: str) -> tuple[str, str]:
    (one,) = [check for check in found["checks"] if check["name"] == name]
    return one["state"], one["text"]


def test_health_says_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    with started(tmp_path, 4) as cluster:
        _look(cluster)


def _look(cluster: Cluster) -> None:
    mount = cluster.mount()
    code, found = health(cluster, "--over", "0")
    assert state(found, "clocks")[0] == state(found, "releases")[0] == "ok", found
    assert state(found, "dataservers") == ("ok", "all 4 are up")
    bad = [one for one in found["checks"] if one["state"] != "ok"]
    assert {one["name"] for one in bad} <= {
        "space",
        "open files",
        "pace",
    }, bad  # this machine's own
    assert code == {"ok": 0, "warning": 1, "critical": 2}[found["state"]]

    cluster.kill("data-2")
    until(lambda: "down" in cluster.states(), 30, "the server is down")
    code, found = health(cluster, "--over", "0")
    assert code == 2 and state(found, "dataservers")[0] == "critical"
    assert str(cluster.ports[2]) in state(found, "dataservers")[1]
    done = cluster.command("zdfs", "health", "--meta", cluster.meta_port, "--over", "0")
    assert "CRITICAL  dataservers" in done.stdout and "what to do: start them" in done.stdout
    cluster.start_data(2)
    cluster.wait_serving()

    cluster.kill("meta")
    code, found = health(cluster)
    assert code == 2 and state(found, "metaserver")[0] == "critical"
    cluster.start_meta()
    cluster.wait_serving()
    cluster.unmount(mount)
