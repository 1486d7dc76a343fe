"""A Debian package of zdfs with the Python libraries that it was tested with.

    python -m contrib.package DIR      DIR/zdfs_VERSION_ARCH.deb

Debian 12 lacks current versions of most of them, so they stand in /usr/lib/zdfs, where nothing else
finds them: the very files that this interpreter has, by their own lists of files (the closure of
install_requires).  Some are compiled, so the package is for this interpreter's version and this
architecture, and says so.  The interpreter is the distribution's own.

    /usr/bin, /usr/sbin/mount.zdfs    launchers, which find /usr/lib/zdfs beside them
    /usr/lib/systemd/system           units; none is enabled or started
    /etc/zdfs/cluster.toml            five servers on this machine, to begin with
    man pages, completions, documents
"""

import email.utils
import gzip
import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

from contrib import manual
from zdfs import __version__

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("", "web", "metrics")  # of setup.cfg, where there are such
PEOPLE = "The zdfs developers <zdfs@example.org>"  # nobody reads this: it is for dpkg
LEFT_OUT = {"crcmod"}  # stands in where fastcrc is missing, and here it is not
COMMANDS = {
    "usr/bin/zdfs": "zdfs",
    "usr/bin/zdfs-node": "node",
    "usr/bin/zdfs-mount": "mount",
    "usr/bin/zdfs-corrupt": "corrupt",
    "usr/sbin/mount.zdfs": "helper",
}
LAUNCHER = """#!/usr/bin/python3 -I
import os.path
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../lib/zdfs"))
from zdfs import cli

sys.exit(cli.{}())
"""
CONTROL = """Package: zdfs
Version: {version}
Architecture: {architecture}
Maintainer: {people}
Installed-Size: {kib}
Depends: python3 (>= {python}~), python3 (<< {next_python}~), fuse3, libfuse3-3, libc6 (>= 2.34), libgcc-s1, libstdc++6, adduser, mount
Recommends: systemd
Section: net
Priority: optional
Description: replicated POSIX file system
 One metaserver keeps names and block maps, three or more dataservers keep
 the blocks, each block on three of them; FUSE shows them as a directory.
 .
 This package has the servers, the mount, mount.zdfs for fstab, the tools,
 systemd units and manual pages.  Nothing is started by installing it:
 /usr/share/doc/zdfs/OPERATING.md says how.
"""  # noqa: E501
COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: zdfs

Files: *
Copyright: 2026 the zdfs developers
License: Apache-2.0
 On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.
"""
SHARES = {  # where completions go
    "bash": "usr/share/bash-completion/completions",
    "zsh": "usr/share/zsh/vendor-completions",
    "fish": "usr/share/fish/vendor_completions.d",
}


# --- what goes in ------------------------------------------------------------------------------


def libraries(name: str = "zdfs") -> list[importlib.metadata.Distribution]:
    """What zdfs needs, and what that needs, as it is installed here."""
    found: dict[str, importlib.metadata.Distribution] = {}
    wanted = [(name, extra) for extra in EXTRAS]
    seen = set(wanted)
    while wanted:
        one, extra = wanted.pop()
        distribution = importlib.metadata.distribution(one)
        found[_plain(one)] = distribution
        for text in distribution.requires or []:
            needs = Requirement(text)
            if needs.marker is None or needs.marker.evaluate({"extra": extra}):
                more = [(needs.name, e) for e in ("", *needs.extras)]
                wanted += [pair for pair in more if pair not in seen]
                seen.update(more)
    return [found[key] for key in sorted(set(found) - {_plain(name)} - LEFT_OUT)]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def copy_library(distribution: importlib.metadata.Distribution, into: Path) -> None:
    """Its files, but for commands and compiled Python."""
    for file in distribution.files or []:
        if ".." in file.parts or "__pycache__" in file.parts or file.suffix == ".pyc":
            continue
        if file.name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
            continue
        target = into / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(distribution.locate_file(file)), target)


def licences(found: list[importlib.metadata.Distribution]) -> Iterator[str]:
    """A paragraph for each library."""
    for one in found:
        said = one.metadata.json
        kinds = [kind for kind in said.get("classifier", []) if kind.startswith("License")]
        short = said.get("license_expression") or said.get("license", "")
        if not isinstance(short, str) or not 0 < len(short) < 40 or "\n" in short:
            short = " or ".join(kind.rpartition(" :: ")[2] for kind in kinds) or "see below"
        yield f"\nFiles: usr/lib/zdfs/{one.name}*\nCopyright: the authors of {one.name}"
        yield f"License: {short}"
        yield f" {one.name} {one.version}: its licence is with its metadata in /usr/lib/zdfs."


def lay(tree: Path) -> None:
    """Everything where it will stand."""
    found, home, doc = libraries(), tree / "usr/lib/zdfs", tree / "usr/share/doc/zdfs"
    for one in found:
        copy_library(one, home)
    shutil.copytree(ROOT / "zdfs", home / "zdfs", ignore=shutil.ignore_patterns("__pycache__"))
    for place, function in COMMANDS.items():
        _put(tree / place, LAUNCHER.format(function), 0o755)
    (tree / "usr/sbin/mount.fuse.zdfs").symlink_to("mount.zdfs")  # what mount -o remount calls
    for unit in (ROOT / "contrib/systemd").iterdir():
        _put(tree / "usr/lib/systemd/system" / unit.name, unit.read_text())
    _put(tree / "etc/zdfs/cluster.toml", (ROOT / "contrib/cluster.toml").read_text())
    for name in ("README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))):
        _put(doc / Path(name).name, (ROOT / name).read_text())
    _put(doc / "copyright", COPYRIGHT + "\n".join(licences(found)) + "\n")
    changed = f"zdfs ({__version__}) stable; urgency=low\n\n  * See CHANGELOG.md of zdfs.\n\n"
    changed += f" -- {PEOPLE}  {email.utils.formatdate(_moment())}\n"
    _put(doc / "changelog.gz", gzip.compress(changed.encode(), 9, mtime=0))
    _put(
        tree / "usr/share/lintian/overrides/zdfs",
        (ROOT / "contrib/debian/lintian-overrides").read_text(),
    )
    _manual(tree)


def _manual(tree: Path) -> None:
    made = tree.parent / "manual"
    for path in manual.write(made):
        kind = path.relative_to(made).parts[0]
        if kind == "man":
            place = tree / "usr/share/man" / path.parent.name / f"{path.name}.gz"
            _put(place, gzip.compress(path.read_bytes(), 9, mtime=0))
        else:
            _put(tree / SHARES[path.parent.name] / path.name, path.read_text())


def _put(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


def _moment() -> float:
    return time.time()


# --- the package -------------------------------------------------------------------------------


def control(tree: Path) -> None:
    """DEBIAN/, for dpkg-deb."""
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    kib = sum((path.stat().st_size + 1023) // 1024 for path in files)
    sums = [f"{hashlib.md5(p.read_bytes()).hexdigest()}  {p.relative_to(tree)}\n" for p in files]
    major, minor = sys.version_info[:2]
    text = CONTROL.format(
        version=__version__, architecture=architecture(), people=PEOPLE, kib=kib,
        python=f"{major}.{minor}", next_python=f"{major}.{minor + 1}",
    )  # fmt: skip
    _put(tree / "DEBIAN/control", text)
    _put(tree / "DEBIAN/md5sums", "".join(sums))
    _put(tree / "DEBIAN/conffiles", "/etc/zdfs/cluster.toml\n")
    for script in ("postinst", "prerm", "postrm"):
        _put(tree / "DEBIAN" / script, (ROOT / "contrib/debian" / script).read_text(), 0o755)


def architecture() -> str:
    """As dpkg calls it."""
    done = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def check() -> None:
    """What is compiled here must run under the distribution's interpreter.  SystemExit if not."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run(["/usr/bin/python3", "-c", ask], capture_output=True, text=True)
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if done.stdout.strip() != ours:
        raise SystemExit(
            f"/usr/bin/python3 is Python {done.stdout.strip() or 'nothing'}, and .venv has {ours}: "
            "say make clean; make PYTHON=/usr/bin/python3 deb"
        )


def build(folder: Path, level: int = 6) -> Path:
    """The package, in a folder; its tree stays beside it."""
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    lay(tree)
    for path in (tree, *tree.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    control(tree)
    made = folder / f"zdfs_{__version__}_{architecture()}.deb"
    command = [
        "dpkg-deb",
        "--root-owner-group",
        f"-z{level}",
        "-Zxz",
        "--build",
        str(tree),
        str(made),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return made


if __name__ == "__main__":
    check()
    print(build(Path(sys.argv[1])))
