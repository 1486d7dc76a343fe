"""What a careful user of `zdfs://` met: a symlink to its own directory had `find` go on for ever;
a transaction forgot the mode of what it replaced, stumbled over append and long names, and lost
files behind one that failed; `rm` of a pattern failed once all was gone; what failed left
directories behind; a URL that is none said `invalid literal for int()`."""

import os
import stat
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from tests.live.test_fsspec import cluster
from tests.live.test_fsspec import zdfs_fs as fs
from zdfs.api.fsspec import ZdfsFileSystem

__all__ = ["cluster", "fs"]
pytestmark = pytest.mark.shared


@pytest.fixture
def top(fs: ZdfsFileSystem) -> str:
    """A directory of its own."""
    path = f"/{uuid.uuid4().hex}"
    fs.mkdir(path)
    return path


def below(fs: ZdfsFileSystem, top: str) -> list[str]:
    """All that is there, whatever fsspec makes of it."""
    return sorted(
        f"{where}/{name}".removeprefix(f"{top}/")
        for where, directories, files in fs.files.walk(top)
        for name in (*directories, *files)
    )


def mode(fs: ZdfsFileSystem, path: str) -> int:
    return stat.S_IMODE(fs.files.stat(path).st_mode)


# --- walks -------------------------------------------------------------------------------------


def test_symlinks_to_directories_are_not_walked_into(
    fs: ZdfsFileSystem, top: str, tmp_path: Path
) -> None:
    local = fsspec.filesystem("file")
    here = str(tmp_path / "tree")
    fs.pipe({f"{top}/a/f": b"12", f"{top}/g": b"345"})
    local.makedirs(f"{here}/a")
    local.pipe({f"{here}/a/f": b"12", f"{here}/g": b"345"})
    for name, target in (("s1", "."), ("s2", "."), ("a/up", ".."), ("lf", "g"), ("gone", "no")):
        fs.files.symlink(target, f"{top}/{name}")
        os.symlink(target, f"{here}/{name}")

    def names(one: Callable[..., list[str]], base: str, **more: bool) -> list[str]:
        return [path.removeprefix(base) for path in one(base, **more)]

    assert names(fs.find, top) == names(local.find, here)
    assert names(fs.find, top, withdirs=True) == names(local.find, here, withdirs=True)
    assert fs.glob(f"{top}/**/f") == [f"{top}/a/f"] and fs.isdir(f"{top}/s1")
    assert len(fs.find(f"{top}/s1")) == len(local.find(f"{here}/s1"))
    fs.files.remove(f"{top}/gone")
    sizes = fs.du(top, total=False)
    assert sizes[f"{top}/a/f"] == 2 and sizes[f"{top}/lf"] == 3 and len(sizes) == 6
    fs.get(top, str(tmp_path / "got"), recursive=True)
    assert (tmp_path / "got/a/f").read_bytes() == b"12" and not list(
        (tmp_path / "got/s1").iterdir()
    )


def test_rm_of_what_went_with_a_tree(fs: ZdfsFileSystem, top: str) -> None:
    fs.pipe({f"{top}/{name}": b"" for name in ("a/b", "a/c/d", "a-b", "e")})
    fs.rm(f"{top}/a/**", recursive=True)
    assert below(fs, top) == ["a-b", "e"]
    fs.pipe({f"{top}/{name}": b"" for name in ("a/b", "a/c/d")})
    fs.rm([f"{top}/a", f"{top}/a/b", f"{top}/a/c", f"{top}/a-b"], recursive=True)
    assert below(fs, top) == ["e"]
    with pytest.raises(FileNotFoundError):
        fs.rm([f"{top}/e", f"{top}/none"], recursive=True)


def test_rm_to_a_depth(fs: ZdfsFileSystem, top: str) -> None:
    fs.pipe({f"{top}/t/{name}": b"" for name in ("a/b", "c")})
    fs.mkdir(f"{top}/t/empty")
    fs.rm(f"{top}/t", recursive=True, maxdepth=1)
    assert below(fs, top) == ["t", "t/a", "t/a/b"], "what is not empty stays"
    fs.files.symlink("t", f"{top}/link")
    fs.rm(f"{top}/link", recursive=True, maxdepth=2)
    assert below(fs, top) == ["t", "t/a", "t/a/b"], "what a symlink leads to stays"
    fs.rm(f"{top}/t", recursive=True, maxdepth=2)
    assert below(fs, top) == []


def test_what_fails_makes_no_directories(fs: ZdfsFileSystem, top: str) -> None:
    for do in (fs.mv, fs.cp_file):
        with pytest.raises(FileNotFoundError):
            do(f"{top}/none", f"{top}/x/y")
    assert below(fs, top) == []


# --- transactions ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ab", "r+b"])
def test_append_in_a_transaction_is_refused_before_anything(
    fs: ZdfsFileSystem, top: str, kind: str
) -> None:
    fs.pipe(f"{top}/f", b"old")
    with pytest.raises(OSError, match="as a whole"), fs.transaction:
        fs.pipe(f"{top}/new", b"new")
        fs.open(f"{top}/f", kind)
    assert below(fs, top) == ["f"] and fs.cat(f"{top}/f") == b"old" and not fs._intrans


def test_a_transaction_keeps_modes_owners_and_symlinks(fs: ZdfsFileSystem, top: str) -> None:
    fs.pipe({f"{top}/private": b"old", f"{top}/there/program": b"old"})
    fs.chmod(f"{top}/private", 0o600)
    fs.files.chown(f"{top}/private", 1234, 5678)
    fs.chmod(f"{top}/there/program", 0o4755)
    fs.files.symlink("there/program", f"{top}/link")
    with fs.transaction:
        fs.pipe({f"{top}/private": b"new", f"{top}/link": b"new", f"{top}/fresh": b"new"})
        fs.pipe(f"{top}/{'ü' * 120}", b"new")
        hidden = [one for one in fs.ls(top) if one["name"].startswith(f"{top}/.private")]
        assert [one["mode"] & 0o077 for one in hidden] == [0], "nor may others read it meanwhile"
    found = fs.files.stat(f"{top}/private")
    assert (mode(fs, f"{top}/private"), found.st_uid, found.st_gid) == (0o600, 1234, 5678)
    assert mode(fs, f"{top}/there/program") == 0o4755 and fs.islink(f"{top}/link")
    assert fs.cat(f"{top}/there/program") == fs.cat(f"{top}/private") == b"new"
    assert mode(fs, f"{top}/fresh") & 0o600 == 0o600
    assert below(fs, top) == ["fresh", "link", "private", "there", "there/program", "ü" * 120]


def test_a_commit_that_fails_keeps_what_it_had_and_leaves_nothing_beside(
    fs: ZdfsFileSystem, top: str
) -> None:
    with pytest.raises(OSError), fs.transaction:
        fs.pipe(f"{top}/1", b"new")
        fs.pipe(f"{top}/2", b"new")
        fs.pipe(f"{top}/3", b"new")
        fs.mkdir(f"{top}/2")
    assert below(fs, top) == ["1", "2"] and not fs._intrans
    fs.pipe(f"{top}/3", b"later")
    with pytest.raises(IsADirectoryError), fs.transaction:
        fs.pipe(f"{top}/4", b"new")
        fs.pipe(f"{top}/2", b"new")
    assert below(fs, top) == ["1", "2", "3"]


def test_what_can_not_be_stored_renames_nothing(
    fs: ZdfsFileSystem, top: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*words: object) -> None:
        raise OSError(28, "No space left on device")

    fs.pipe(f"{top}/1", b"old")
    with pytest.raises(OSError, match="No space"), fs.transaction:
        fs.pipe(f"{top}/1", b"new")
        file = fs.open(f"{top}/2", "wb")
        monkeypatch.setattr(file.deferred, "store", full)
    assert below(fs, top) == ["1"] and fs.cat(f"{top}/1") == b"old"


# --- URLs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["host:abc", "host:99999", "[::1]:2222", "user@host:2222"])
def test_a_url_that_is_none_is_told_what_one_looks_like(place: str) -> None:
    with pytest.raises(ValueError, match=r"zdfs://HOST:PORT/path"):
        fsspec.open(f"zdfs://{place}/x")
    if place == "host:99999":
        with pytest.raises(ValueError, match="1 to 65535"):
            fsspec.open(f"zdfs://{place}/x")
