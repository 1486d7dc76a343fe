"""What a machine gets: the Debian package, manual pages, completions, units."""

import argparse
import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from contrib import manual, package
from zdfs import __version__, arguments

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "contrib" / "systemd").glob("*"))


def run(*words: object) -> str:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout + done.stderr


# --- pages and completions ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manual")
    manual.write(folder)
    return folder


def shown(path: Path) -> str:
    """A page as a reader sees it, in one line."""
    text = run("mandoc", "-T", "ascii", path)
    return re.sub(r"\s+", " ", re.sub(r".\x08", "", text))


def test_every_command_has_a_page_with_every_option(pages: Path) -> None:
    for one in manual.PAGES:
        name = one.parser.prog
        text = shown(pages / "man" / f"man{one.section}" / f"{name}.{one.section}")
        assert f"{name} - {one.what}" in text
        for parser in arguments.parsers(one.parser):
            assert parser.prog in text or parser.prog.upper() in text, parser.prog
            for action in parser._actions:
                if action.help != argparse.SUPPRESS:
                    for option in action.option_strings:
                        assert option in text, (parser.prog, option)
    scripts = configparser.ConfigParser()
    scripts.read(ROOT / "setup.cfg")
    lines = scripts["options.entry_points"]["console_scripts"].strip().splitlines()
    assert {line.partition(" ")[0] for line in lines} == {one.parser.prog for one in manual.PAGES}


def test_the_page_of_the_configuration_has_every_key(pages: Path) -> None:
    text = shown(pages / "man" / "man5" / "cluster.toml.5")
    for section in ("mount", "node.meta", "node.data"):
        for key in manual.SCHEMA[section]:
            assert key in text, (section, key)


def test_pages_are_sound(pages: Path) -> None:
    for path in pages.glob("man/*/*"):
        assert run("mandoc", "-T", "lint", "-W", "warning", path) == "", path


def test_completions_are_sound(pages: Path) -> None:
    for shell in manual.SHELLS:
        files = list((pages / "completions" / shell).iterdir())
        assert len(files) == 4
        if shutil.which(shell):  # bash is everywhere
            for path in files:
                run(shell, "-n", path)
    ask = f". {pages}/completions/bash/zdfs; COMP_WORDS=(zdfs stat); COMP_CWORD=1"
    assert "status" in run("bash", "-c", f"{ask}; _shtab_zdfs; echo ${{COMPREPLY[*]}}").split()


# --- units -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_are_sound(path: Path, tmp_path: Path) -> None:
    """By systemd's own look at them, with the commands that they start at hand."""
    text = path.read_text()
    started = re.findall(r"^ExecStart=/usr/bin/(\S+) ?(.*)$", text, re.M)
    for command, words in started:
        parser = {one.parser.prog: one.parser for one in manual.PAGES}[command]
        parser.parse_args(words.replace("%i", "0").replace("%f", "/mnt").split())
    for other in UNITS:
        text = re.sub(
            r"^ExecStart=/usr/bin/\S+", "ExecStart=/bin/true", other.read_text(), flags=re.M
        )
        (tmp_path / other.name).write_text(re.sub(r"^Documentation=.*\n", "", text, flags=re.M))
    said = run("systemd-analyze", "verify", "--recursive-errors=no", tmp_path / path.name)
    assert [line for line in said.splitlines() if "zdfs" in line] == []


# --- the package -------------------------------------------------------------------------------


def test_the_package_has_all_of_it_and_runs(tmp_path: Path) -> None:
    deb = package.build(tmp_path, level=0)
    told = run("dpkg-deb", "-I", deb)
    assert f"Version: {__version__}" in told and "Depends: python3 (>= 3." in told
    listed = {line.split()[5].lstrip(".") for line in run("dpkg-deb", "-c", deb).splitlines()}
    wanted = {f"/{place}" for place in package.COMMANDS} | {"/etc/zdfs/cluster.toml"}
    wanted |= {f"/usr/lib/systemd/system/{unit.name}" for unit in UNITS}
    for one in manual.PAGES:
        wanted.add(f"/usr/share/man/man{one.section}/{one.parser.prog}.{one.section}.gz")
    wanted |= {
        f"/{package.SHARES[shell]}/{form.format('zdfs')}" for shell, form in manual.SHELLS.items()
    }
    wanted |= {"/usr/lib/zdfs/zmq/__init__.py", "/usr/lib/zdfs/zdfs/cli.py"}
    assert wanted <= listed, wanted - listed
    strange = [path for path in listed if "__pycache__" in path or path.endswith(".pyc")]
    assert not strange

    tree = tmp_path / "extracted"
    run("dpkg-deb", "-x", deb, tree)
    for place, prog in {"usr/bin/zdfs": "zdfs", "usr/bin/zdfs-node": "zdfs-node"}.items():
        said = run("env", "-i", "/usr/bin/python3", "-I", tree / place, "--version")
        assert said == f"{prog} {__version__}\n"
    ask = f"import sys; sys.path.insert(0, '{tree}/usr/lib/zdfs'); import zmq; print(zmq.__file__)"
    assert str(tree) in run("/usr/bin/python3", "-I", "-c", ask)
    shown = run(
        "env", "-i", tree / "usr/bin/zdfs", "config", "--config", tree / "etc/zdfs/cluster.toml"
    )
    assert 'stores = "/var/lib/zdfs"' in shown and 'meta = "2222"' in shown
    for script in ("postinst", "prerm", "postrm"):
        run("sh", "-n", tmp_path / "tree" / "DEBIAN" / script)


def test_a_package_is_for_the_distributions_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package.sys, "version_info", (3, 99, 0))
    with pytest.raises(SystemExit, match="and .venv has 3.99"):
        package.check()
