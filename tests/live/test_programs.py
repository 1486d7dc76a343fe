"""Programs that people use, on a real mount: git, SQLite, tar, make and gcc, Python's own tests.

Small here; `make soak` runs them large.  Each runs under a timeout.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.cluster import Cluster

pytestmark = pytest.mark.shared
LIBRARY = Path(sysconfig.get_paths()["stdlib"])
AUTHOR = "-c user.name=n -c user.email=n@example.org"
PYTHON_TESTS = "test_posix test_io test_mmap test_tempfile test_sqlite3 test_genericpath".split()
MORE_PYTHON_TESTS = "test_os test_shutil test_pathlib test_tarfile test_zipfile test_glob".split()


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A mount of a cluster."""
    cluster = Cluster(tmp_path_factory.mktemp("programs"))
    try:
        cluster.start()
        yield cluster.mount()
    finally:
        cluster.close()


def shell(where: Path, words: str, timeout_s: float = 100) -> str:
    """A shell's output, run in a directory; its failure is ours."""
    done = subprocess.run(
        ["bash", "-ec", words],
        cwd=where,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout_s,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def needs(*programs: str) -> None:
    """Skip where a program isn't installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


# --- copies ------------------------------------------------------------------------------------


def copied(mount: Path, source: Path, name: str, timeout_s: float = 100) -> None:
    shell(mount, f"cp -r {source} {name}; diff -r {source} {name}", timeout_s)
    shell(
        mount, f"tar cf {name}.tar {name}; mkdir {name}2; tar xf {name}.tar -C {name}2", timeout_s
    )
    shell(mount, f"diff -r {source} {name}2/{name}; rm -r {name} {name}2 {name}.tar", timeout_s)


def test_copy_and_tar(mount: Path) -> None:
    copied(mount, LIBRARY / "email", "email")


@pytest.mark.soak
def test_copy_the_whole_library(mount: Path) -> None:
    copied(mount, LIBRARY, "library", 1500)


def test_rsync(mount: Path) -> None:
    needs("rsync")
    source = LIBRARY / "json"
    shell(mount, f"rsync -a {source}/ copy/; diff -r {source} copy")
    assert shell(mount, f"rsync -ai {source}/ copy/") == ""  # sizes and times are as it set them


# --- git ---------------------------------------------------------------------------------------


def versioned(mount: Path, source: Path, name: str, timeout_s: float = 100) -> None:
    needs("git")
    shell(
        mount,
        f"git init -q {name}; cd {name}; cp -r {source} tree; git add .;"
        f"git {AUTHOR} commit -qm one; git mv tree wood; git {AUTHOR} commit -qm two;"
        "git fsck --full --strict; git gc -q; git fsck --full",
        timeout_s,
    )
    shell(mount, f"git clone -q {name} {name}2; cd {name}2; git fsck --full", timeout_s)
    shell(mount, f"diff -r -x .git {name} {name}2; diff -r {source} {name}2/wood", timeout_s)
    assert shell(mount / f"{name}2", "git status --porcelain", timeout_s) == ""
    shell(mount, f"rm -rf {name} {name}2", timeout_s)


def test_git(mount: Path) -> None:
    versioned(mount, LIBRARY / "json", "small")


@pytest.mark.soak
def test_git_the_whole_library(mount: Path) -> None:
    versioned(mount, LIBRARY, "large", 1500)


# --- SQLite ------------------------------------------------------------------------------------

TRANSACTIONS = """
import sqlite3, sys
path, mode, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
database = sqlite3.connect(path)
assert database.execute(f"pragma journal_mode={mode}").fetchone()[0] == mode
database.execute("create table t (a integer primary key, b text)")
other = sqlite3.connect(path)
for number in range(count):
    with database:
        database.execute("insert into t values (?, ?)", (number, str(number) * 50))
    if number % 50 == 0:
        assert other.execute("select max(a) from t").fetchone()[0] == number
other.close()
with database:
    database.execute("delete from t where a % 3 = 0")
assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
assert database.execute("select count(*) from t").fetchone()[0] == count - (count + 2) // 3
database.execute("vacuum")
database.close()
again = sqlite3.connect(path)
assert again.execute("pragma integrity_check").fetchall() == [("ok",)]
"""


def transactions(mount: Path, mode: str, count: int, timeout_s: float) -> None:
    words = [sys.executable, "-c", TRANSACTIONS, str(mount / f"{mode}{count}.db"), mode, str(count)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_sqlite(mount: Path, mode: str) -> None:
    transactions(mount, mode, 200, 100)


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_sqlite_ten_thousand(mount: Path, mode: str) -> None:
    transactions(mount, mode, 10_000, 1500)


# --- make and gcc ------------------------------------------------------------------------------


def test_make_and_gcc(mount: Path) -> None:
    """A small C project: built, unchanged the second time, rebuilt where a source moved."""
    needs("make", "gcc")
    top = mount / "project"
    parts = range(12)
    script = ["mkdir project; cd project"]
    for part in parts:
        text = f"int part{part}(void) {{ return {part}; }}"
        script.append(f"echo '{text}' > part{part}.c")
    declared = "".join(f"int part{part}(void);" for part in parts)
    total = "+".join(f"part{part}()" for part in parts)
    script.append(f"echo '{declared} int main(void) {{ return {total} != 66; }}' > main.c")
    script.append(
        r"printf 'O := $(patsubst %%.c,%%.o,$(wildcard *.c))\nall: $O\n\tgcc -o all $O\n'"
    )
    script[-1] += " > Makefile"
    shell(mount, "\n".join(script))
    shell(top, "make -j4 && ./all")
    assert "up to date" in shell(top, "make")
    again = shell(top, "touch part3.c; make; ./all")
    assert "part3.c" in again and "part4.c" not in again
    shell(mount, "rm -r project")


# --- Python's own tests ------------------------------------------------------------------------


def python_tests(mount: Path, names: list[str], timeout_s: float) -> None:
    base = Path(sys.base_prefix) / "bin" / "python3"
    if subprocess.run([base, "-c", "import test.test_os"], capture_output=True).returncode:
        pytest.skip("this Python has no tests of its own")
    done = subprocess.run(
        [base, "-m", "test", "--tempdir", mount / "python", *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout_s,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    )
    assert done.returncode == 0, done.stdout[-5000:]


def test_some_of_pythons_tests(mount: Path) -> None:
    python_tests(mount, PYTHON_TESTS, 110)


@pytest.mark.soak
def test_more_of_pythons_tests(mount: Path) -> None:
    python_tests(mount, MORE_PYTHON_TESTS, 1500)
