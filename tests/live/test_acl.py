"""Access control lists and extended attributes: programs that people use, and two mounts.

What single calls do is told in tests/live/posix; here is what only a cluster can show.
"""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live.cluster import Cluster
from tests.live.posix.acl_text import ACCESS, DEFAULT, acl, packed
from zdfs import limits

pytestmark = pytest.mark.shared
BOB = 61_002
LIST = f"u::rw-,u:{BOB}:rw-,g::r--,m::rw-,o::---"
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two mounts, `mnt` and `other`."""
    one = Cluster(tmp_path_factory.mktemp("acl"), servers=3)
    try:
        one.start()
        one.mount("mnt")
        one.mount("other")
        yield one
    finally:
        one.close()


@pytest.fixture
def here(cluster: Cluster, request: pytest.FixtureRequest) -> Path:
    """A directory of this test's own, on the first mount."""
    path = cluster.folder / "mnt" / request.node.name
    path.mkdir()
    return path


def there(path: Path) -> Path:
    """The same on the other mount."""
    return Path(str(path).replace("/mnt/", "/other/", 1))


def shell(where: Path, words: str) -> str:
    """A shell's output, run in a directory."""
    done = subprocess.run(
        ["bash", "-ec", words], cwd=where, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def reads(path: Path, uid: int = BOB) -> bool:
    """Whether a user can open a file of the directory where it stands."""
    code = "import os, sys; os.setgroups([]); os.setgid({0}); os.setuid({0}); open(sys.argv[1])"
    words = [sys.executable, "-c", code.format(uid), path.name]
    done = subprocess.run(words, cwd=path.parent, capture_output=True, timeout=60)
    assert done.returncode == 0 or b"PermissionError" in done.stderr, done.stderr
    return done.returncode == 0


# --- programs ------------------------------------------------------------------------------------


def test_setfacl_and_getfacl(here: Path) -> None:
    shell(here, f"touch f && chmod 640 f && setfacl -m u:{BOB}:rw,g:7:r f")
    shown = shell(here, "getfacl -ncp f").split()
    assert shown == [
        "user::rw-", f"user:{BOB}:rw-", "group::r--", "group:7:r--", "mask::rw-", "other::---",
    ]  # fmt: skip
    assert shell(here, "ls -l f").startswith("-rw-rw----+ ")
    assert shell(here, "stat -c %a f").strip() == "660"
    shell(here, f"setfacl -x g:7 f; setfacl -m m::r f; setfacl -x u:{BOB} f")
    assert "mask::r--" in shell(here, "getfacl -cp f")
    shell(here, "setfacl -b f")
    assert shell(here, "ls -l f").startswith("-rw-r----- ")
    assert "mask" not in shell(here, "getfacl -cp f")


def test_default_lists(here: Path) -> None:
    shell(here, f"mkdir d; setfacl -d -m u:{BOB}:rwx d; umask 077; mkdir d/e; touch d/e/f d/g")
    assert f"default:user:{BOB}:rwx" in shell(here, "getfacl -ncp d/e")
    shown = shell(here, "getfacl -ncp d/e/f").split()
    assert shown[shown.index(f"user:{BOB}:rwx") + 1] == "#effective:rw-"
    shell(here, "setfacl -k d; touch d/h")
    assert shell(here, "ls -l d/h").startswith("-rw-r--r-- ")


def test_a_tree_and_its_backup(here: Path) -> None:
    shell(here, "mkdir -p a/b a/c; touch a/f a/b/g; ln -s f a/l")
    shell(here, f"setfacl -R -m u:{BOB}:rX a; setfacl -R -d -m g:7:rwX a; chmod 750 a/b")
    wanted = shell(here / "a", "getfacl -Rn .")
    shell(here, "getfacl -Rn a > saved; setfacl -R -b a; setfacl --restore=saved")
    assert shell(here / "a", "getfacl -Rn .") == wanted


@pytest.mark.parametrize(
    "copy",
    [
        "cp -a a z",
        "mkdir z; tar --acls --xattrs --xattrs-include='*' -C a -cf - . "
        "| tar --acls --xattrs --xattrs-include='*' -C z -xpf -",
        "rsync -aAX a/ z/",
        "mv a z; cp -a z a",
    ],
    ids=["cp", "tar", "rsync", "mv"],
)
def test_copies_keep_them(copy: str, cluster: Cluster, tmp_path: Path, here: Path) -> None:
    shell(here, "mkdir -p a/d; touch a/f a/d/g; setfattr -n user.note -v text a/f a/d")
    shell(here, f"setfacl -m u:{BOB}:rw a/f; setfacl -m g:7:x a/d; setfacl -d -m g:7:rx a/d")
    shell(here, f"setcap cap_net_raw+ep a/f; {copy}")
    for what in ("getfacl -Rn .", "getfattr -dRm user .", "getcap f"):
        assert shell(here / "z", what) == shell(here / "a", what) != ""


def test_setcap_and_getcap(here: Path) -> None:
    shell(here, "cp /bin/true f; setcap cap_net_raw+ep f")
    assert shell(here, "getcap f").strip() == "f cap_net_raw=ep"
    shell(here, "printf x >> f")
    assert shell(here, "getcap f") == ""
    shell(here, "setcap cap_net_raw+ep f; chown 5 f")
    assert shell(here, "getcap f") == ""
    shell(here, "setcap cap_net_raw+ep f; setcap -r f")
    assert shell(here, "getcap f") == ""


# --- two mounts ----------------------------------------------------------------------------------


def test_another_mount_enforces_a_list_that_it_had_cached(here: Path) -> None:
    file = here / "f"
    file.touch(mode=0o600)
    for turn in range(3):
        assert not reads(there(file))
        os.setxattr(file, ACCESS, packed(LIST))
        until(lambda: reads(there(file)), 10, "Bob may read on the other mount")
        assert reads(file) and acl(str(there(file))) == LIST
        if turn == 1:
            os.removexattr(file, ACCESS)
        os.chmod(file, 0o600)
        until(lambda: not reads(there(file)), 10, "Bob may no longer")
        assert not reads(file)


def test_another_mount_makes_files_by_a_default_list_that_is_new(here: Path) -> None:
    folder = there(here)
    folder.joinpath("before").touch()
    os.setxattr(here, DEFAULT, packed(LIST))
    folder.joinpath("after").touch(mode=0o600)
    assert acl(str(here / "after")) == LIST.replace("m::rw-", "m::---")
    assert (here / "after").stat().st_mode & 0o777 == 0o600


def capabilities(path: Path) -> bytes:
    """b"": none."""
    try:
        return os.getxattr(path, "security.capability")
    except OSError as error:
        assert error.errno == errno.ENODATA
        return b""


def test_capabilities_that_another_mount_gave_end_with_a_write(here: Path) -> None:
    file = here / "f"
    with open(file, "wb", buffering=0) as writer:
        writer.write(b"program")
        os.setxattr(there(file), "security.capability", CAPABILITY)
        assert capabilities(there(file))
        until(lambda: writer.write(b"x") and not capabilities(there(file)), 10, "they ended")
    assert os.listxattr(file) == []


def test_capabilities_that_another_mount_gave_end_with_a_new_owner(here: Path) -> None:
    file = here / "f"
    file.touch()
    assert not capabilities(file)
    os.setxattr(there(file), "security.capability", CAPABILITY)
    until(lambda: capabilities(file), 10, "seen")
    os.chown(file, 5, 5)
    assert not capabilities(file)
    until(lambda: not capabilities(there(file)), 10, "gone there too")


def test_attributes_are_seen_on_another_mount(here: Path) -> None:
    file = here / "f"
    file.touch()
    assert os.listxattr(there(file)) == []
    os.setxattr(file, "user.a", b"1")
    until(lambda: os.listxattr(there(file)) == ["user.a"], 10, "seen")
    os.setxattr(there(file), "user.b", b"2")
    until(lambda: sorted(os.listxattr(file)) == ["user.a", "user.b"], 10, "seen")
    os.removexattr(file, "user.b")
    assert os.listxattr(file) == ["user.a"]


# --- what is larger than on ext4 -----------------------------------------------------------------


def test_values_of_64_kib(here: Path) -> None:
    file = here / "f"
    file.touch()
    value = os.urandom(limits.XATTR_VALUE_BYTES)
    for name in ("user.a", "user.b", "user.c"):
        os.setxattr(file, name, value)
    assert os.getxattr(file, "user.b") == value == os.getxattr(there(file), "user.c")


def test_as_many_names_as_a_list_holds(here: Path) -> None:
    """64 KiB of names, as listxattr has; then ENOSPC, until there is room again."""
    file = here / "f"
    file.touch()
    names = [f"user.{number:03}.".ljust(255, "n") for number in range(256)]
    for name in names:
        os.setxattr(file, name, b"")
    assert sorted(os.listxattr(file)) == names
    with pytest.raises(OSError) as caught:
        os.setxattr(file, "user.more", b"")
    assert caught.value.errno == errno.ENOSPC
    os.setxattr(file, names[5], b"changed")
    os.removexattr(file, names[7])
    os.setxattr(file, "user.more", b"")


def test_the_longest_list(here: Path) -> None:
    """511 entries, as the kernel reads of FUSE; E2BIG for more."""
    file = here / "f"
    file.touch()

    def entries(count: int) -> str:
        users = ",".join(f"u:{70_000 + number}:r--" for number in range(count - 4))
        return f"u::rw-,{users},g::r--,m::r--,o::---"

    os.setxattr(file, ACCESS, packed(entries(511)))
    assert acl(str(file)) == entries(511) and reads(file, 70_506) and not reads(file, 70_507)
    with pytest.raises(OSError) as caught:
        os.setxattr(file, ACCESS, packed(entries(512)))
    assert caught.value.errno == errno.E2BIG
    assert acl(str(file)) == entries(511)


def test_they_are_there_after_a_restart(cluster: Cluster, here: Path) -> None:
    file = here / "f"
    file.touch()
    os.setxattr(file, "user.a", b"1")
    os.setxattr(file, ACCESS, packed(LIST))
    cluster.kill("meta")
    cluster.start_meta()
    cluster.wait_serving()
    assert os.getxattr(there(file), "user.a") == b"1" and acl(str(there(file))) == LIST
    until(lambda: sorted(os.listxattr(file)) == [ACCESS, "user.a"], 10, "still there")
