"""`zdfs web` showed all checks of `zdfs health` but those that mounts answer: a server that was
slow for every mount, or a mount that hung, was seen by the command alone."""

from dataclasses import replace

from tests.unit.test_reasons import META, status
from zdfs.reasons import Seen
from zdfs.tools.web.snapshot import Heard, snapshot


def shown(*mounts: Seen) -> dict[str, dict[str, str]]:
    """The checks of a page, by name."""
    heard = Heard(META, 10**18, "1.0", "fastcrc", True, status=status())
    found = snapshot(replace(heard, mounts=mounts))
    return {one["name"]: one for one in found["health"]["checks"]}


def test_a_mount_that_hangs_is_on_the_page() -> None:
    pace = shown(Seen("/mnt/files", None))["pace"]
    assert pace["state"] == "warning" and "/mnt/files" in pace["text"] and pace["advice"]


def test_without_mounts_nobody_knows_the_pace() -> None:
    assert "pace" not in shown()
