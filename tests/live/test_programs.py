"""Programs that people use, on a real mount: what they did is right, not only that they ended.

Small here; `make soak` runs them large.  Each runs under a timeout.  What isn't installed fails:
`.ci/setup programs` installs it.  Databases are in test_databases.py, programs on two mounts at
once in test_programs_on_two_mounts.py.
"""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.cluster import Cluster
from tests.live.files import shell

pytestmark = pytest.mark.shared
LIBRARY = Path(sysconfig.get_paths()["stdlib"])
PYTHON_TESTS = "test_posix test_io test_mmap test_tempfile test_genericpath".split()
MORE_PYTHON_TESTS = "test_os test_shutil test_pathlib test_tarfile test_zipfile test_glob".split()
Tell = Callable[[str], None]


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A mount of a cluster."""
    cluster = Cluster(tmp_path_factory.mktemp("programs"))
    try:
        cluster.start()
        yield cluster.mount()
    finally:
        cluster.close()


@pytest.fixture
def top(mount: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory of the test's own on the mount; it can be removed at the end."""
    name = request.node.name.partition("[")[0]
    shell(mount, f"mkdir {name}")
    yield mount / name
    shell(mount, f"rm -rf {name}; test ! -e {name}", 300)


def count(where: Path, words: str) -> int:
    """How many lines a command prints."""
    return len(shell(where, words, 300).splitlines())


# --- copies ------------------------------------------------------------------------------------

# A tree with all that a copy must keep: links, names, times, modes, owners, attributes, holes.
ODD_TREE = r"""
mkdir -p odd/sub/empty; cd odd
printf 'one' > file; ln file hard; ln -s file soft; ln -s nowhere/at/all dangling
mkfifo fifo; : > sub/nothing; printf 'x' > $'sub/a b\n\377'; truncate -s 3M sub/sparse
printf 'end' | dd of=sub/sparse bs=1 seek=2000000 conv=notrunc status=none
head -c 300000 /dev/urandom > sub/large; setfattr -n user.note -v value file
chmod 4711 file; chmod 1777 sub; [ $(id -u) != 0 ] || chown 1234:4321 sub/large
touch -hd '2001-02-03 04:05:06.789012345' soft sub/large; touch -d '1999-12-31 23:59:59.5' sub
"""
# Kinds, modes, owners, links, sizes, times, targets; directories have sizes of their own.
LISTING = r"find . ! -name . -printf '%y %m %U %G %n %T@ %P %l' \( -type d -o -printf ' %s' \)"
LISTING += r" -printf '\n' | sort; getfattr -dhR . | grep -v '^$'"


@pytest.mark.parametrize("source", ["email", pytest.param("", marks=pytest.mark.soak)])
def test_tar(top: Path, tell: Tell, source: str) -> None:
    """Library and odd tree: packed, compared, unpacked; the same listing and the same bytes."""
    shell(top, f"cp -a {LIBRARY / source} tree\n{ODD_TREE}\ncd ..; mv odd tree/odd", 1000)
    shell(top, "tar --xattrs -S -cf all.tar tree; tar --xattrs --compare -f all.tar", 1000)
    shell(top, "mkdir out; tar --xattrs -xpSf all.tar -C out", 1000)
    assert shell(top / "tree", LISTING, 300) == shell(top / "out/tree", LISTING, 300)
    shell(
        top, "diff -r --no-dereference tree/odd/sub out/tree/odd/sub; rm tree/odd out/tree/odd -r"
    )
    shell(top, "diff -r --no-dereference tree out/tree", 1000)
    tell(f"tar of {count(top, 'find tree')} names: packed, --compare, unpacked, same listing")


def test_cp_mv_and_dd(top: Path, tell: Tell) -> None:
    """cp -a keeps all; mv to another directory moves a tree whole; dd conv=fsync; du's blocks."""
    shell(top, ODD_TREE)
    before = shell(top / "odd", LISTING)
    shell(top, "cp -a odd copy")
    assert shell(top / "copy", LISTING) == before
    shell(top, "mkdir -p deep/er; mv odd deep/er/; mv deep there; test ! -e odd")
    assert shell(top / "there/er/odd", LISTING) == before
    shell(top, "head -c 5000000 /dev/urandom | tee >(sha256sum > sum) | dd of=f bs=64k conv=fsync")
    shell(top, "sed -i 's/-$/f/' sum; sha256sum -c sum; cmp f <(dd if=f bs=7777 status=none)")
    used, blocks = shell(top, "du -B512 f | cut -f1; stat -c %b f").split()
    assert used == blocks and 5_000_000 <= int(used) * 512 < 5_200_000
    sparse = int(shell(top, "stat -c %b copy/sub/sparse"))
    assert sparse * 512 < 1_000_000, "holes take no room"
    tell("cp -a, mv of a tree, dd conv=fsync of 5 MB: same listing, same bytes, du agrees")


def test_find_grep_zip(top: Path, tell: Tell) -> None:
    """What find and grep see is what they see in the original; zip and back."""
    shell(top, f"cp -a {LIBRARY / 'json'} {LIBRARY / 'email'} .")
    for words in ("grep -rc import json email | sort", "find json email -size +8k -name '*.py'"):
        assert shell(top, words + " | sort") == shell(LIBRARY, words + " | sort")
    shell(top, "zip -qr all.zip json email; unzip -tq all.zip; unzip -q all.zip -d out")
    shell(top, "diff -r --no-dereference json out/json; diff -r --no-dereference email out/email")
    tell(f"find, grep -r, zip, unzip over {count(top, 'find json email')} names")


RSYNC = "rsync -aHX --modify-window=-1"  # times to the nanosecond


def test_rsync(top: Path, tell: Tell) -> None:
    """-aHX keeps all; the second time nothing is sent; --delete and --checksum do what they say."""
    shell(top, f"{ODD_TREE}\ncd ..; cp -a {LIBRARY / 'json'} odd/json")
    shell(top, f"{RSYNC} odd/ copy/")
    assert shell(top / "copy", LISTING) == shell(top / "odd", LISTING)
    assert shell(top, f"{RSYNC} -i --checksum --delete odd/ copy/") == ""
    shell(top, "rm odd/json/decoder.py odd/hard; echo more >> odd/sub/large; mkdir odd/new")
    sent = shell(top, f"{RSYNC} -i --checksum --delete --inplace odd/ copy/")
    assert "*deleting   json/decoder.py" in sent and "sub/large" in sent and "encoder" not in sent
    assert shell(top / "copy", LISTING) == shell(top / "odd", LISTING)
    shell(top, "diff -r --no-dereference odd/sub copy/sub")
    tell(f"rsync -aHX of {count(top, 'find odd')} names: same listing, 2nd run sends nothing")


# --- git ---------------------------------------------------------------------------------------

GIT = """
export GIT_AUTHOR_NAME=n GIT_AUTHOR_EMAIL=n@example.org GIT_CONFIG_GLOBAL=/dev/null
export GIT_COMMITTER_NAME=n GIT_COMMITTER_EMAIL=n@example.org
"""


@pytest.mark.parametrize("source", ["json", pytest.param("", marks=pytest.mark.soak)])
def test_git(top: Path, tell: Tell, source: str) -> None:
    """init, add, commit, branch, merge, worktree, gc, fsck, clone: all sound, and the same tree."""
    shell(
        top,
        f"{GIT}git init -q -b main a; cd a; cp -r {LIBRARY / source} tree; git add .;"
        "git commit -qm one; git checkout -qb side; git mv tree wood; git commit -qm two;"
        "git checkout -q main; echo x > x; git add x; git commit -qm three;"
        "git merge -q --no-edit side; test -e wood -a -e x -a ! -e tree;"
        "git worktree add -q ../b side; test ! -e ../b/x; echo y > ../b/y; cd ../b; git add y;"
        "git commit -qm four; cd ../a; git merge -q --no-edit side; git worktree remove ../b;"
        "git fsck --full --strict; git gc -q; git fsck --full",
        1000,
    )
    shell(top, "git clone -q a c; git clone -q --no-local a d; cd d; git fsck --full", 1000)
    for clone in "cd":
        shell(top, f"diff -r -x .git a {clone}; diff -r {LIBRARY / source} {clone}/wood", 1000)
        assert shell(top / clone, "git status --porcelain", 300) == ""
    number = count(top / "c", "git ls-files")
    tell(f"git: {number} files, 2 merges, a worktree, gc, 2 clones; fsck --strict is clean")


# --- make and gcc ------------------------------------------------------------------------------

MAKEFILE = """
O := $(patsubst %.c,%.o,$(wildcard *.c))
all: $O
\tgcc -o all $O
%.o: %.c all.h
\tgcc -c -o $@ $<
"""


@pytest.mark.parametrize("parts", [12, pytest.param(50, marks=pytest.mark.soak)])
def test_make_and_gcc(top: Path, tell: Tell, parts: int) -> None:
    """A C project: built by two jobs, unchanged the second time, rebuilt where a source moved."""
    names = [f"part{part}" for part in range(parts)]
    for name, part in zip(names, range(parts), strict=True):
        (top / f"{name}.c").write_text(f'#include "all.h"\nint {name}(void) {{ return {part}; }}')
    (top / "all.h").write_text("".join(f"int {name}(void);\n" for name in names))
    total = "+".join(f"{name}()" for name in names)
    text = f'#include "all.h"\nint main(void) {{ return {total} != {sum(range(parts))}; }}'
    (top / "main.c").write_text(text)
    (top / "Makefile").write_text(MAKEFILE)
    assert shell(top, "make -j2 && ./all", 600).count("gcc -c") == parts + 1
    assert "up to date" in shell(top, "make")
    again = shell(top, "touch part3.c; make -j2; ./all")
    assert again.count("gcc") == 2 and "part3.c" in again
    assert shell(top, "touch all.h; make -j2; ./all", 600).count("gcc -c") == parts + 1
    tell(f"make -j2 of {parts + 1} C files, thrice: all, one, all; nothing when nothing changed")


# --- pip ---------------------------------------------------------------------------------------

# A wheel, made by hand: setuptools and wheel need not be there.
WHEEL = """
import zipfile
FILES = {
    "METADATA": "Metadata-Version: 2.1\\nName: hello\\nVersion: 1.2\\n",
    "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    "entry_points.txt": "[console_scripts]\\nhello = hello:main\\n",
    "RECORD": "",
}
with zipfile.ZipFile("hello-1.2-py3-none-any.whl", "w") as wheel:
    for number in range(40):
        wheel.writestr(f"hello/part{number}.py", f"value = {number}\\n" * 100)
    wheel.writestr("hello/__init__.py", "def main():\\n    print('hello from', __file__)\\n")
    for name, text in FILES.items():
        wheel.writestr("hello-1.2.dist-info/" + name, text)
"""


@pytest.mark.parametrize("own_pip", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_pip_into_a_venv(top: Path, tell: Tell, own_pip: bool) -> None:
    """A venv on the mount; a wheel installed into it; its command runs; it is uninstalled."""
    pip = "env/bin/python -m pip" if own_pip else f"{sys.executable} -m pip --python env"
    pip += " --disable-pip-version-check"
    python = Path(sys.base_prefix) / "bin/python3"
    shell(top, f"{python} -m venv env {'' if own_pip else '--without-pip'}", 600)
    shell(top, f"env/bin/python - <<'END'\n{WHEEL}\nEND")
    shell(top, f"{pip} install -q --no-index hello*.whl; {pip} check")
    assert str(top / "env") in shell(top, "env/bin/hello")
    assert count(top, "find env -path '*/hello/*.pyc'") == 41
    files = count(top, "find env -type f")
    shell(top, f"{pip} uninstall -qy hello; test ! -e env/bin/hello")
    assert count(top, "find env -path '*/hello*'") == 0
    tell(f"a venv of {files} files; a wheel installed, run and uninstalled")


# --- editors -----------------------------------------------------------------------------------


def test_vi(top: Path, tell: Tell) -> None:
    """vi keeps a backup and the mode; and the bare calls: write aside, sync, rename over."""
    (top / "text").write_text("one\ntwo")
    shell(top, "chmod 640 text; ln text other")
    for turn in range(5):
        words = f"vi -u NONE -es -c 'set backup backupskip=' -c '%s/$/ {turn}/' -c wq text"
        shell(top, words + "; test $(stat -c %a text) = 640; test ! -e .text.swp; test -e text~")
        numbers = "".join(f" {past}" for past in range(turn + 1))
        assert (top / "text").read_text() == f"one{numbers}\ntwo{numbers}\n"
    for turn in range(20):
        fd = os.open(top / ".new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, b"%d" % turn * 5000)
        os.fsync(fd)
        os.close(fd)
        os.rename(top / ".new", top / "saved")
        assert (top / "saved").read_bytes() == b"%d" % turn * 5000
    tell("vi saved 5 times with a backup, 20 times written aside, synced and renamed over")


# --- Python's own tests ------------------------------------------------------------------------


def python_tests(mount: Path, names: list[str], timeout_s: float) -> str:
    """Run them with their temporary directory on the mount; the last line of their summary."""
    base = Path(sys.base_prefix) / "bin" / "python3"
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
    return f"{len(names)} of Python's own test modules: {' '.join(names)}"


def test_some_of_pythons_tests(mount: Path, tell: Tell) -> None:
    tell(python_tests(mount, PYTHON_TESTS, 110))


@pytest.mark.soak
def test_more_of_pythons_tests(mount: Path, tell: Tell) -> None:
    tell(python_tests(mount, MORE_PYTHON_TESTS, 1500))
