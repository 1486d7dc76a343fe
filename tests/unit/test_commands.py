"""What is loaded for a command is what it needs, and the same command as with all of them."""

import argparse
import importlib
import subprocess
import sys

import pytest

from zdfs import arguments, cli


@pytest.mark.parametrize("module", cli.COMMANDS)
def test_the_table_names_what_a_module_adds(module: str) -> None:
    commands = argparse.ArgumentParser().add_subparsers()
    importlib.import_module(f"zdfs.tools.{module}").options(commands)
    assert tuple(commands.choices) == cli.COMMANDS[module]


def _helps(parser: argparse.ArgumentParser) -> dict[str, str]:
    return {one.prog: one.format_help() for one in [*arguments.parsers(parser)][1:]}


def test_a_command_alone_is_as_among_all() -> None:
    every = _helps(cli.zdfs_parser())
    found: dict[str, str] = {}
    for names in cli.COMMANDS.values():
        for name in names:
            alone = _helps(cli.zdfs_parser([name, "more"]))
            assert f"zdfs {name}" in alone
            found |= alone
    assert found == every


@pytest.mark.parametrize("words", [(), ("--help",), ("statsu",), ("--config", "f", "status")])
def test_otherwise_all_are_there(words: tuple[str, ...]) -> None:
    assert len(_helps(cli.zdfs_parser(words))) == len(_helps(cli.zdfs_parser()))


def test_what_only_waits_for_a_mount_loads_little() -> None:
    """`zdfs-mount` starts a process that mounts: what that needs, it does not load twice."""
    code = "import sys; from zdfs import cli; cli.mount_parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout
    assert not {b"zmq", b"lmdb", b"zdfs.wire", b"prometheus_client"} & {*loaded.split()}
