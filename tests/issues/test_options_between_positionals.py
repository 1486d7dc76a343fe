"""`zdfs-node data 0 --meta 2222 2223 2224 2225` was "unrecognized arguments: 2223 2224 2225" since
the ports may be left out, for a configuration file has them: command lines of the release before
did not start any more.  `zdfs-mount mnt --log FILE host:2222` never worked.
"""

from pathlib import Path
from typing import Any

import pytest

from zdfs import cli


def chosen(parser: cli.Parser, *words: str) -> dict[str, Any]:
    return {key: value for key, value in vars(parser.parse_args(words)).items() if key != "do"}


@pytest.mark.parametrize(
    "words",
    [
        "data 0 2223 2224 2225 --meta 2222 --store s",
        "data 0 --meta 2222 2223 2224 2225 --store s",
        "data 0 2223 --meta 2222 2224 --store s 2225",
        "data --store s --meta 2222 0 2223 2224 2225",
    ],
)
def test_a_dataserver(words: str) -> None:
    found = chosen(cli.node_parser(), *words.split())
    assert (found["index"], found["ports"]) == (0, ["2223", "2224", "2225"])
    assert (found["meta"], found["store"]) == ("2222", Path("s"))


@pytest.mark.parametrize(
    "words", ["mnt 2222 2223 --log f", "mnt --log f 2222 2223", "--log f mnt 2222 2223"]
)
def test_a_mount(words: str) -> None:
    found = chosen(cli.mount_parser(), *words.split())
    assert (found["meta"], found["data"], found["log"]) == ("2222", ["2223"], Path("f"))


def test_a_path_that_looks_like_an_option() -> None:
    found = chosen(cli.node_parser(), "meta", "--log", "f", "--", "-host:2222")
    assert (found["port"], found["log"]) == ("-host:2222", Path("f"))


def test_what_is_left_out_stays_so() -> None:
    found = chosen(cli.node_parser(), "data", "1", "--faults")
    assert (found["index"], found["ports"], found["faults"]) == (1, [], True)
    with pytest.raises(SystemExit):
        chosen(cli.node_parser(), "data", "--faults")
