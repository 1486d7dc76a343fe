"""Configuration files: what they mean, which one holds, and what is said of what is wrong."""

import argparse
import os
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies

from zdfs import arguments, cli
from zdfs.configuration import IDENTITY, Settings, line_of, merged, read
from zdfs.errors import StartError

SCHEMA = arguments.schema_of(cli.node_parser(), cli.mount_parser())
WHOLE = """
meta = "storage1:2222"
data = ["storage1:3333", "storage2:3333", 4444]
keys = "/etc/zdfs/keys"

[mount]
attr-timeout = 0
watchers = true
options = ["ro", "noexec"]

[node]
stores = "/var/lib/zdfs"
keys = "/etc/zdfs/node-keys"

[node.data]
scrub-rate = 1000000

[node.meta]
session-life = 20

[cluster.archive]
meta = 5555
[cluster.archive.mount]
entry-timeout = 2.5
"""


def values(found: Settings) -> dict[tuple[str, str], object]:
    assert not found.problems
    return {place: value.value for place, value in found.values.items()}


def test_a_whole_file() -> None:
    assert values(read(WHOLE, "F", SCHEMA)) == {
        ("", "meta"): "storage1:2222",
        ("", "data"): ["storage1:3333", "storage2:3333", "127.0.0.1:4444"],
        ("", "keys"): Path("/etc/zdfs/keys"),
        ("mount", "attr-timeout"): 0.0,
        ("mount", "watchers"): True,
        ("mount", "options"): ["ro", "noexec"],
        ("node", "stores"): Path("/var/lib/zdfs"),
        ("node", "keys"): Path("/etc/zdfs/node-keys"),
        ("node.data", "scrub-rate"): 1000000,
        ("node.meta", "session-life"): 20.0,
    }


def test_a_cluster_by_name_has_nothing_of_the_others() -> None:
    assert values(read(WHOLE, "F", SCHEMA, "archive")) == {
        ("", "meta"): "127.0.0.1:5555",
        ("mount", "entry-timeout"): 2.5,
    }


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("meta = ", "not TOML: Invalid value (at end of document)"),
        ("meta = 1\nmeta = 2", "F: not TOML: Cannot overwrite a value"),
        ("metta = 1", "F, line 1: metta: there is no such key; 'meta' perhaps?"),
        ("\nzzz = 1", "F, line 2: zzz: there is no such key; there are data, keys, meta, mount"),
        ("meta = true", "F, line 1: meta: True: wanted is an address"),
        ("meta = 'a b:1'", "'a b' is no host name"),
        ("meta = 70000", "is no address"),
        ("data = 3333", "F, line 1: data: 3333: wanted is a list of addresses, in ring order"),
        ("data = []", "wanted is a list of addresses"),
        ("data = [1, 1]", "wanted is every address once"),
        ("meta = 1\ndata = [1, 2, 3]", "F: data: 1 is the metaserver's address (meta)"),
        ("mount = 1", "F, line 1: mount: a section is wanted, [mount]"),
        (
            "[mount]\nattr_timeout = 1",
            "F, line 2: mount.attr_timeout: there is no such key; 'attr-",
        ),
        ("[mount]\nattr-timeout = 'x'", "line 2: mount.attr-timeout: 'x': wanted is x: seconds"),
        ("[mount]\nattr-timeout = -1", "wanted is -1: seconds, from 0 to 86400"),
        ("[mount]\nwatchers = 1", "line 2: mount.watchers: 1: wanted is true or false"),
        ("[mount]\noptions = 'ro'", "mount.options: 'ro': wanted is a list"),
        ("[mount]\noptions = [['ro']]", "wanted is a string or a number"),
        ("[node]\nscrub-rate = 1", "node.scrub-rate: there is no such key"),
        ("[node.data]\nscrub-rate = 1.5", "scrub-rate: 1.5: wanted is a whole number"),
        ("[node.data]\nscrub-rate = {}", "scrub-rate: a section: wanted is a whole number"),
        ("[node.data]\nstore = '/x'", "node.data.store: there is no such key; 'stores' perhaps?"),
        ("[node]\nstores = 'x'", "node.stores: 'x': wanted is a path from / or ~"),
        ("[node.other]", "F, line 1: node.other: there is no such key"),
        ("cluster = 1", "F: cluster: sections are wanted, [cluster.NAME]"),
        ("cluster.x = 1", "F: cluster: sections are wanted"),
        ("[cluster.x]\nmta = 1", "F, line 2: cluster.x.mta: there is no such key; 'meta' perhaps?"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, wanted: str) -> None:
    problems = merged([read(text, "F", SCHEMA)]).problems
    assert len(problems) == 1 and wanted in problems[0], problems


def test_a_cluster_that_no_file_has() -> None:
    (problem,) = merged([read(WHOLE, "F", SCHEMA, "arhive")], "arhive").problems
    assert problem == "--cluster arhive: no file has [cluster.arhive]; named: archive"


def test_later_files_go_over_earlier_ones_key_by_key() -> None:
    user = read("keys = '/home/me/keys'\n[mount]\nwatchers = false", "U", SCHEMA)
    found = merged([read(WHOLE, "F", SCHEMA), user])
    assert found.get("", "keys") == Path("/home/me/keys")
    assert found.get("", "meta") == "storage1:2222" and found.get("mount", "attr-timeout") == 0
    assert found.values["mount", "watchers"] == (False, "U", 3)


def test_another_metaserver_has_neither_this_ring_nor_these_keys() -> None:
    found = merged([read(WHOLE, "F", SCHEMA), read("meta = 2222", "U", SCHEMA)])
    assert all(found.get("", key) is None for key in IDENTITY)
    assert found.get("node", "keys") is None
    assert found.get("node", "stores") == Path("/var/lib/zdfs")
    same = merged([read(WHOLE, "F", SCHEMA), read("meta = 'storage1:2222'", "U", SCHEMA)])
    assert all(same.get("", key) is not None for key in IDENTITY)


def test_lines_are_found_as_people_write_them() -> None:
    text = "a = 1\n[ b . c ]\n'a' = 2\n# a = 3\n[d]\na.x = 4\n"
    assert [line_of(text, where, "a") for where in ("", "b.c", "d", "e")] == [1, 3, 6, None]
    assert line_of(text, "b", "c") == 2


@hypothesis.given(strategies.text())
def test_no_text_is_too_wild(text: str) -> None:
    found = merged([read(text, "F", SCHEMA), read(f"[mount]\nattr-timeout = {text}", "G", SCHEMA)])
    assert all(problem.startswith(("F", "G")) for problem in found.problems)


# --- command lines -----------------------------------------------------------------------------


def mount(words: list[str], **environment: str) -> argparse.Namespace:
    return arguments.settled(cli.mount_parser(), words, SCHEMA, environment)


def node(words: list[str], **environment: str) -> argparse.Namespace:
    return arguments.settled(cli.node_parser(), words, SCHEMA, environment)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "cluster.toml"
    path.write_text(WHOLE)
    return str(path)


def test_a_command_line_goes_over_the_file(file: str) -> None:
    chosen = mount(["/mnt"], ZDFS_CONFIG=file)
    assert (chosen.meta, chosen.attr_timeout, chosen.entry_timeout) == ("storage1:2222", 0, 1)
    assert chosen.o == ["ro", "noexec"] and chosen.watchers and chosen.data == []
    chosen = mount(["/mnt", "9999", "--attr-timeout", "3", "-o", "rw"], ZDFS_CONFIG=file)
    assert (chosen.meta, chosen.attr_timeout) == ("9999", 3)
    assert chosen.o == ["ro", "noexec", "rw"]  # later ones win
    assert mount(["/mnt"], ZDFS_CONFIG=file).o == ["ro", "noexec"]  # the default is as it was


def test_nodes_need_no_ports(file: str) -> None:
    meta = node(["meta"], ZDFS_CONFIG=file)
    assert (meta.port, meta.session_life) == ("storage1:2222", 20)
    data = node(["data", "1"], ZDFS_CONFIG=file)
    assert data.ports == ["storage1:3333", "storage2:3333", "4444"] and data.index == 1
    assert (data.meta, data.scrub_rate) == ("storage1:2222", 1000000)
    assert data.stores == meta.stores == Path("/var/lib/zdfs")
    assert data.keys == meta.keys == Path("/etc/zdfs/node-keys")
    assert mount(["/mnt"], ZDFS_CONFIG=file).keys == Path("/etc/zdfs/keys")  # whom no section says
    asked = arguments.settled(cli.zdfs_parser(), ["ping"], SCHEMA, {"ZDFS_CONFIG": file})
    assert asked.keys == Path("/etc/zdfs/keys")
    given = node(["data", "1", "7", "8", "9", "--meta", "6"], ZDFS_CONFIG=file)
    assert (given.ports, given.meta) == (["7", "8", "9"], "6")


@pytest.mark.parametrize("before", [True, False])
def test_the_cluster_is_named_before_or_behind_a_command(file: str, before: bool) -> None:
    named = ["--cluster", "archive", f"--config={file}"]
    words = [*named, "meta"] if before else ["meta", *named]
    chosen = node(words)
    assert (chosen.port, chosen.cluster) == ("127.0.0.1:5555", "archive")


def test_which_files_are_read(file: str) -> None:
    def files(words: list[str], **environment: str) -> tuple[str, ...]:
        return tuple(map(str, arguments.located(words, environment).files))

    system = "/etc/zdfs/cluster.toml"
    assert files([], HOME="/h") == (system, "/h/.config/zdfs/cluster.toml")
    assert files([], HOME="/h", XDG_CONFIG_HOME="/x") == (system, "/x/zdfs/cluster.toml")
    assert files([]) == (system,)
    assert files([], HOME="/h", ZDFS_CONFIG="/z") == ("/z",)
    assert files(["x", "--config", "/c"], ZDFS_CONFIG="/z") == ("/c",)
    assert files(["--config"], ZDFS_CONFIG="/z") == ("/z",)  # argparse says what is missing


def test_a_wrong_file_stops_a_command_and_not_its_help(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("metta = 1\nkees = 2\n")
    with pytest.raises(StartError, match=r"line 1: metta.* \(and 1 more: zdfs config check\)$"):
        mount(["/mnt"], ZDFS_CONFIG=str(wrong))
    with pytest.raises(SystemExit, match="0"):
        mount(["--help"], ZDFS_CONFIG=str(wrong))
    with pytest.raises(StartError, match="there is no such file"):
        mount(["/mnt"], ZDFS_CONFIG=str(tmp_path / "none"))
    wrong.write_bytes(b"\xff")
    with pytest.raises(StartError, match="not UTF-8"):
        mount(["/mnt"], ZDFS_CONFIG=str(wrong))
    with pytest.raises(StartError, match="can't be read: Is a directory"):
        mount(["/mnt"], ZDFS_CONFIG=str(tmp_path))
    os.mkfifo(tmp_path / "pipe")  # it waited for somebody to write into it
    with pytest.raises(StartError, match="pipe: no regular file"):
        mount(["/mnt"], ZDFS_CONFIG=str(tmp_path / "pipe"))
    assert mount(["/mnt"], ZDFS_CONFIG=os.devnull).attr_timeout == 1


def test_what_no_file_may_say() -> None:
    said = {key for keys in SCHEMA.values() for key in keys}
    assert not said & {"help", "version", "config", "cluster", "store", "herald", "foreground"}
    assert set(SCHEMA["node"]) == set(SCHEMA["node.meta"]) & set(SCHEMA["node.data"])
