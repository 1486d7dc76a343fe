"""Words that sent people the wrong way.

`zdfs-mount` without arguments said that "data" was required, which may be left out.  `zdfs ping`
said "no answer within 5 s", after one, of a server that wants keys.  `zdfs scrub` had a server that
is down read on, at so many MiB/s, and one at full speed at 0 B/s.  `zdfs top --every x` spoke of an
"invalid _seconds value".  Who lacked the rights for `zdfs fsck` was told that it needs a node,
though an administrator's key does.
"""

import pytest

from zdfs import cli, rights, wire
from zdfs.errors import Mistrusted
from zdfs.ids import Ino, Slot
from zdfs.tools import ping, scrub
from zdfs.wire import ScrubStatus


def test_what_may_be_left_out_is_not_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.mount_parser().parse_args([])
    assert "required: directory (see" in capsys.readouterr().err


def test_a_server_that_wants_keys_is_no_silent_one() -> None:
    found = ping.facts("127.0.0.1:2222", Mistrusted("the server at 2222 wants keys"))
    assert not found["answers"] and ping.text(found) == "2222: the server at 2222 wants keys"
    assert "no answer within 5 s" in ping.text(ping.facts("127.0.0.1:2222", None))


def test_a_server_that_is_down_does_not_scrub() -> None:
    assert "of 2.0 MiB, 1.0 MiB/s" in _scrub("serving", 1 << 20)
    assert "of 2.0 MiB, at full speed" in _scrub("serving", 0), "it said 0 B/s"
    down = _scrub("down", 1 << 20)
    assert " down " in down and "MiB" not in down


def _scrub(state: str, bytes_per_s: int) -> str:
    underway = scrub.facts(ScrubStatus(1, 0, 1 << 20, 2 << 20, bytes_per_s, 0, 0, 0, 0))
    servers = [{"slot": 0, "address": "3333", "state": state, "scrub": underway}]
    return scrub._shown({"servers": servers})


@pytest.mark.parametrize(
    "words", [["top", "--every"], ["health", "--over"], ["profile", "mnt", "--over"]]
)
def test_a_span_that_is_none(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit):
        cli.zdfs_parser().parse_args([*words, "x"])
    assert "invalid seconds value: 'x'" in capsys.readouterr().err


def test_what_an_administrator_may_is_said_to_be_so() -> None:
    refused = rights.refusal("laptop", rights.Rights(), wire.Inventory(Slot(0), Ino(1), -1))
    assert refused is not None and "an administrator or a node" in refused.text
