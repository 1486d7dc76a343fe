"""mount.zdfs: a line of fstab as zdfs-mount's command line, and as the kernel's remount."""

from pathlib import Path

import pytest

from zdfs import arguments, cli, helper
from zdfs.errors import StartError

OWN = arguments.own(cli.mount_parser())


def order(*words: str) -> helper.Order:
    return helper.order(helper.parser().parse_args(words))


def words(spec: str, options: str, *more: str) -> list[str]:
    return helper.words(order(spec, "/mnt", "-o", options, *more), OWN, None)


def test_a_line_of_fstab() -> None:
    options = "rw,_netdev,nofail,noauto,user,x-systemd.automount,x-systemd.idle-timeout=60,defaults"
    assert words("storage1:2222", options) == [
        "/mnt", "storage1:2222", "-o", "fsname=storage1:2222,rw",
    ]  # fmt: skip


def test_options_of_zdfs_mount_are_told_from_those_of_fuse() -> None:
    found = words("none", "attr-timeout=0,entry_timeout=2,watchers,log=/var/log/m,ro,max_read=4096")
    assert found[:1] == ["/mnt"] and found[-2:] == ["-o", "ro,max_read=4096"]
    assert found[1:-2] == [
        "--attr-timeout=0", "--entry-timeout=2", "--watchers", "--log=/var/log/m",
    ]  # fmt: skip
    chosen = cli.mount_parser().parse_args(found)
    assert (chosen.attr_timeout, chosen.watchers, chosen.log) == (0, True, Path("/var/log/m"))


def test_what_each_option_becomes_is_an_argument_of_zdfs_mount() -> None:
    for name, wants in OWN.items():
        if name not in ("help", "version"):
            found = words("h:1", f"{name}=1" if wants else name)
            assert cli.mount_parser().parse_args(found).meta == "h:1"


@pytest.mark.parametrize(
    "words",
    [["h:1", "/mnt", "-o", "attr-timeout=x"], ["h:1", "/mnt", "-o", "attr-timeout"], ["h:1"], []],
)
def test_a_wrong_call_is_told_as_mount_wants_it(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1: of the 2 that a parser says, mount(8) would make an error of the system."""
    monkeypatch.setattr("sys.argv", ["mount.zdfs", *words])
    assert cli.helper() == helper.WRONG == 1
    assert capsys.readouterr().err


def test_the_journal_unless_a_log_is_named() -> None:
    asked = order("h:1", "/mnt", "-o", "ro")
    assert helper.words(asked, OWN, "journal")[2:4] == ["--log", "journal"]
    named = order("h:1", "/mnt", "-o", "log=/l")
    assert "journal" not in helper.words(named, OWN, "journal")


@pytest.mark.parametrize(
    "spec, meta",
    [
        ("storage1:2222", "storage1:2222"),
        ("zdfs:storage1:2222", "storage1:2222"),
        ("storage1:2222:/", "storage1:2222"),
        ("2222", "127.0.0.1:2222"),
        ("none", None),
        ("zdfs", None),
    ],
)
def test_the_first_field(spec: str, meta: str | None) -> None:
    assert helper.metaserver(spec) == meta


@pytest.mark.parametrize(
    "spec, wanted", [("storage1:2222:/a", "only the root"), ("storage1", "is no address")]
)
def test_what_the_first_field_may_not_be(spec: str, wanted: str) -> None:
    with pytest.raises(StartError, match=wanted):
        helper.metaserver(spec)


@pytest.mark.parametrize("option", ["attr-timeout", "attr-timeout=", "watchers=1"])
def test_values_stand_where_they_are_wanted(option: str) -> None:
    with pytest.raises(StartError, match="value"):
        words("h:1", option)


def test_unknown_options_are_fuses_business_or_left_out() -> None:
    assert words("h:1", "colour=red")[-1] == "fsname=h:1,colour=red"
    assert words("h:1", "colour=red,ro", "-s")[-1] == "fsname=h:1,ro"


def test_commas_in_quotes() -> None:
    text = 'ro,context="a:b:c0,c1",,noexec'
    assert helper.split(text) == ["ro", 'context="a:b:c0,c1"', "noexec"]
    assert helper.split("") == []


def test_remount_is_the_kernels_and_changes_flags_only() -> None:
    asked = order("h:1", "/mnt", "-o", "rw,attr-timeout=0,_netdev,remount,ro")
    found = helper.remounting(asked, "rw,nosuid,nodev,relatime")
    flags = "remount,rw,nosuid,nodev,relatime,rw,ro"  # the last word counts
    assert found == ["mount", "-i", "-o", flags, "--", "/mnt"]


def test_exit_status_is_what_mount_wants(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ran: list[list[str]] = []

    def fails(words: object) -> int:
        assert isinstance(words, list)
        ran.append(words)
        raise StartError("the metaserver h:1 does not answer")

    where = str(tmp_path)
    assert helper.run(order("h:1", where), OWN, fails) == 32
    assert "mount.zdfs: the metaserver h:1 does not answer" in capfd.readouterr().err
    assert helper.run(order("h:1", where, "-o", "nofail"), OWN, fails) == 32  # nothing is there
    assert "does not answer" in capfd.readouterr().err
    assert helper.run(order("h:1:/a", where), OWN, fails) == 1
    assert helper.run(order("h:1", where, "-o", "remount,ro"), OWN, fails) == 1
    assert "is no mount of zdfs" in capfd.readouterr().err
    assert len(ran) == 2
    assert helper.run(order("h:1", where, "-f", "-v"), OWN, fails) == 0
    assert len(ran) == 2 and f"zdfs-mount {where} h:1" in capfd.readouterr().out
    assert helper.run(order("h:1", where), OWN, lambda words: 0) == 0
