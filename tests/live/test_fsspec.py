"""fsspec's own suites on a real cluster, and what stands on fsspec: pandas, pyarrow, dask, zarr."""

import asyncio
import io
import os
import pickle
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.dataframe
import fsspec
import numpy
import pandas
import pyarrow
import pyarrow.dataset
import pyarrow.parquet
import pytest
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.tests import abstract

from tests.live.cluster import Cluster, started
from zdfs.api.fsspec import ZdfsFileSystem

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("fsspec"), 3) as one:
        yield one


@pytest.fixture(scope="module")
def zdfs_fs(cluster: Cluster) -> Iterator[ZdfsFileSystem]:
    fs = fsspec.filesystem("zdfs", host="127.0.0.1", port=cluster.meta_port)
    assert isinstance(fs, ZdfsFileSystem)
    yield fs
    fs.files.close()


@pytest.fixture
def top(zdfs_fs: ZdfsFileSystem) -> Iterator[str]:
    """A directory of its own, as a URL."""
    path = f"/{uuid.uuid4().hex}"
    zdfs_fs.mkdir(path)
    yield zdfs_fs.unstrip_protocol(path)
    if zdfs_fs.exists(path):
        zdfs_fs.rm(path, recursive=True)


class Fixtures(abstract.AbstractFixtures):  # type: ignore[misc]
    """What fsspec's suites want to know."""

    @pytest.fixture
    def fs(self, zdfs_fs: ZdfsFileSystem) -> ZdfsFileSystem:
        return zdfs_fs

    @pytest.fixture
    def fs_path(self, top: str) -> str:
        path = ZdfsFileSystem._strip_protocol(top)
        assert isinstance(path, str)
        return path

    @pytest.fixture
    def fs_sanitize_path(self) -> Callable[[str], str]:
        return str


class TestCopy(abstract.AbstractCopyTests, Fixtures):  # type: ignore[misc]
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):  # type: ignore[misc]
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):  # type: ignore[misc]
    pass


class TestOpen(abstract.AbstractOpenTests, Fixtures):  # type: ignore[misc]
    pass


class TestPipe(abstract.AbstractPipeTests, Fixtures):  # type: ignore[misc]
    pass


# --- what the suites leave out -----------------------------------------------------------------


def test_a_url_names_the_cluster(zdfs_fs: ZdfsFileSystem, top: str) -> None:
    fs, path = fsspec.url_to_fs(f"{top}/a b.txt")
    assert fs is zdfs_fs, "one connection for one cluster"
    with fsspec.open(f"{top}/a b.txt", "wt", encoding="utf-8") as file:
        file.write("größe\n")
    with fsspec.open(f"{top}/a b.txt", "rt", encoding="utf-8") as file:
        assert file.read() == "größe\n"
    assert fs.unstrip_protocol(path) == f"{top}/a b.txt"
    assert ZdfsFileSystem._get_kwargs_from_urls("zdfs://a:1/b") == {"host": "a", "port": 1}
    assert ZdfsFileSystem._strip_protocol(["zdfs://a:1", "x/", "/y//"]) == ["/", "/x", "/y"]


def test_mv_renames(zdfs_fs: ZdfsFileSystem, top: str) -> None:
    zdfs_fs.pipe({f"{top}/d/1": b"one", f"{top}/d/2": b"two"})
    ino = zdfs_fs.info(f"{top}/d/1")["ino"]
    zdfs_fs.mv(f"{top}/d", f"{top}/e")
    assert zdfs_fs.info(f"{top}/e/1")["ino"] == ino
    zdfs_fs.mv(f"{top}/e/1", f"{top}/e/sub/")  # made, as put and cp would
    assert zdfs_fs.cat(f"{top}/e/sub/1") == b"one"
    zdfs_fs.mv(f"{top}/e/2", f"{top}/e/sub")
    zdfs_fs.mv(f"{top}/e/sub/*", f"{top}/f/", recursive=True)
    assert [path.rpartition("/")[2] for path in zdfs_fs.find(f"{top}/f")] == ["1", "2"]
    with pytest.raises(FileNotFoundError):
        zdfs_fs.mv(f"{top}/none", f"{top}/g")


def test_find_du_glob_and_ranges(zdfs_fs: ZdfsFileSystem, top: str) -> None:
    zdfs_fs.pipe({f"{top}/{d}/{n}.bin": bytes(n) for d in "ab" for n in range(5)})
    base = ZdfsFileSystem._strip_protocol(top)
    assert zdfs_fs.du(top) == 20 and len(zdfs_fs.find(top)) == 10
    assert zdfs_fs.glob(f"{top}/*/[34].bin") == [f"{base}/{d}/{n}.bin" for d in "ab" for n in "34"]
    assert zdfs_fs.glob(f"{top}/**/1.bin") == [f"{base}/a/1.bin", f"{base}/b/1.bin"]
    zdfs_fs.pipe(f"{top}/digits", b"0123456789")
    paths = [f"{top}/digits"] * 4
    found = zdfs_fs.cat_ranges([*paths, f"{top}/none"], [0, 3, -2, None, 0], [2, -3, None, 1, 1])
    assert found[:4] == [b"01", b"3456", b"89", b"0"]
    assert isinstance(found[4], FileNotFoundError)
    assert zdfs_fs.head(paths[0], 3) == b"012" and zdfs_fs.tail(paths[0], 3) == b"789"


def test_a_change_changes_the_key(zdfs_fs: ZdfsFileSystem, top: str) -> None:
    zdfs_fs.touch(f"{top}/f")
    before = zdfs_fs.ukey(f"{top}/f"), zdfs_fs.checksum(f"{top}/f")
    assert before == (zdfs_fs.ukey(f"{top}/f"), zdfs_fs.checksum(f"{top}/f"))
    made = zdfs_fs.modified(f"{top}/f")
    zdfs_fs.pipe(f"{top}/f", b"more")
    assert before[0] != zdfs_fs.ukey(f"{top}/f") and before[1] != zdfs_fs.checksum(f"{top}/f")
    assert zdfs_fs.modified(f"{top}/f") > made and zdfs_fs.created(f"{top}/f") > made
    zdfs_fs.touch(f"{top}/f", truncate=False)
    assert zdfs_fs.cat(f"{top}/f") == b"more"


def test_links_and_modes(zdfs_fs: ZdfsFileSystem, top: str) -> None:
    zdfs_fs.pipe(f"{top}/f", b"12345")
    zdfs_fs.symlink(f"{top}/f", f"{top}/l")
    zdfs_fs.symlink(f"{top}/none", f"{top}/broken")
    zdfs_fs.link(f"{top}/f", f"{top}/h")
    zdfs_fs.chmod(f"{top}/f", 0o600)
    found = {one["name"].rpartition("/")[2]: one for one in zdfs_fs.ls(top)}
    assert found["l"]["islink"] and found["l"]["size"] == 5 and found["l"]["type"] == "file"
    assert found["broken"]["type"] == "link" and not zdfs_fs.exists(f"{top}/broken")
    assert zdfs_fs.lexists(f"{top}/broken") and zdfs_fs.islink(f"{top}/broken")
    assert found["h"]["ino"] == found["f"]["ino"] and found["h"]["nlink"] == 2
    assert found["f"]["mode"] & 0o777 == 0o600
    assert zdfs_fs.ls(f"{top}/f", detail=False) == [ZdfsFileSystem._strip_protocol(f"{top}/f")]
    with pytest.raises(IsADirectoryError):
        zdfs_fs.rm(top)


def test_a_transaction_replaces_in_one_step(zdfs_fs: ZdfsFileSystem, top: str) -> None:
    zdfs_fs.pipe(f"{top}/f", b"old")
    with zdfs_fs.transaction:
        with zdfs_fs.open(f"{top}/f", "wb") as file:
            file.write(b"new")
        with zdfs_fs.open(f"{top}/new/g", "xb") as file:
            file.write(b"more")
        assert zdfs_fs.cat(f"{top}/f") == b"old" and not zdfs_fs.exists(f"{top}/new/g")
    assert zdfs_fs.cat([f"{top}/f", f"{top}/new/g"]) == {
        ZdfsFileSystem._strip_protocol(f"{top}/f"): b"new",
        ZdfsFileSystem._strip_protocol(f"{top}/new/g"): b"more",
    }
    with pytest.raises(RuntimeError, match="on purpose"), zdfs_fs.transaction:
        zdfs_fs.open(f"{top}/f", "wb").write(b"never")  # not even closed
        raise RuntimeError("on purpose")
    assert zdfs_fs.cat(f"{top}/f") == b"new"
    assert len(zdfs_fs.find(top)) == 2, "nothing is left beside"


@pytest.mark.parametrize("kind", ["simplecache", "filecache", "blockcache"])
def test_cached_variants(zdfs_fs: ZdfsFileSystem, top: str, tmp_path: Path, kind: str) -> None:
    data = os.urandom(300_000)
    zdfs_fs.pipe(f"{top}/f", data)
    url, options = f"{kind}::{top}/f", {"cache_storage": str(tmp_path), "check_files": True}
    if kind == "simplecache":
        del options["check_files"]
    for _ in range(2):
        with fsspec.open(url, "rb", **{kind: options}) as file:
            file.seek(100_000)
            assert file.read(10) == data[100_000:100_010]
            file.seek(0)
            assert file.read() == data
    assert any(tmp_path.iterdir())
    if kind == "filecache":
        zdfs_fs.pipe(f"{top}/f", b"another")
        with fsspec.open(url, "rb", **{kind: options}) as file:
            assert file.read() == b"another", "ukey says that it changed"


def test_the_async_variant(zdfs_fs: ZdfsFileSystem, top: str) -> None:
    async def work() -> None:
        fs = AsyncFileSystemWrapper(zdfs_fs, asynchronous=True)
        await fs._pipe({f"{top}/{n}": b"%d" % n for n in range(20)})
        found = await fs._cat([f"{top}/{n}" for n in range(20)])
        assert sorted(found.values()) == sorted(b"%d" % n for n in range(20))
        assert len(await fs._find(top)) == 20 and (await fs._info(f"{top}/7"))["size"] == 1
        assert await fs._cat_file(f"{top}/13", 1, 2) == b"3"
        await fs._cp_file(f"{top}/7", f"{top}/copy")
        await fs._rm_file(f"{top}/7")
        assert await fs._exists(f"{top}/copy") and not await fs._exists(f"{top}/7")

    asyncio.run(work())


def test_an_instance_may_be_sent_and_forked(zdfs_fs: ZdfsFileSystem, top: str) -> None:
    zdfs_fs.pipe(f"{top}/f", b"content")
    assert pickle.loads(pickle.dumps(zdfs_fs)).cat(f"{top}/f") == b"content"
    assert ZdfsFileSystem.from_json(zdfs_fs.to_json()).cat(f"{top}/f") == b"content"
    hears, says = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(says, zdfs_fs.cat(f"{top}/f"))  # by a session of its own
            zdfs_fs.files.close()
        finally:
            os._exit(0)
    assert os.read(hears, 100) == b"content"
    assert os.waitpid(child, 0)[1] == 0
    assert zdfs_fs.cat(f"{top}/f") == b"content", "ours goes on"


def test_parents_are_made_unless_told_not_to(cluster: Cluster, top: str) -> None:
    strict = ZdfsFileSystem(port=cluster.meta_port, auto_mkdir=False)
    with pytest.raises(FileNotFoundError):
        strict.open(f"{top}/no/such/directory", "wb")
    strict.files.close()


# --- what stands on it -------------------------------------------------------------------------


def frame() -> Any:
    return pandas.DataFrame(
        {"n": range(10_000), "name": [f"row {n}" for n in range(10_000)], "part": ["a", "b"] * 5000}
    )


def test_pandas(top: str) -> None:
    for kind, read in (("csv", pandas.read_csv), ("parquet", pandas.read_parquet)):
        getattr(frame(), f"to_{kind}")(f"{top}/t.{kind}", index=False)
        pandas.testing.assert_frame_equal(read(f"{top}/t.{kind}"), frame(), check_dtype=False)
    frame().to_csv(f"{top}/t.csv.gz", index=False)
    assert len(pandas.read_csv(f"{top}/t.csv.gz")) == 10_000
    frame().to_json(f"{top}/t.jsonl", orient="records", lines=True)
    assert pandas.read_json(f"{top}/t.jsonl", lines=True)["n"].sum() == 49_995_000


def test_pyarrow(zdfs_fs: ZdfsFileSystem, top: str) -> None:
    base = ZdfsFileSystem._strip_protocol(top)
    table = pyarrow.Table.from_pandas(frame())
    pyarrow.dataset.write_dataset(
        table, f"{base}/set", format="parquet", filesystem=zdfs_fs, partitioning=["part"]
    )
    found = pyarrow.dataset.dataset(f"{base}/set", filesystem=zdfs_fs, partitioning=["part"])
    assert found.count_rows() == 10_000 and len(found.files) == 2
    some = found.to_table(columns=["n"], filter=pyarrow.dataset.field("part") == "b")
    assert sum(some["n"].to_pylist()) == sum(range(1, 10_000, 2))
    pyarrow.parquet.write_table(table, f"{base}/one.parquet", filesystem=zdfs_fs)
    again = pyarrow.parquet.read_table(f"{base}/one.parquet", filesystem=zdfs_fs)
    assert again.column("n").equals(table.column("n"))


def test_dask(top: str) -> None:
    parts = dask.dataframe.from_pandas(frame(), npartitions=4)
    parts.to_parquet(f"{top}/dask")
    found = dask.dataframe.read_parquet(f"{top}/dask")
    with dask.config.set(scheduler="threads"):
        assert found["n"].sum().compute() == 49_995_000
        parts.to_csv(f"{top}/csv/*.csv", index=False)
        assert len(dask.dataframe.read_csv(f"{top}/csv/*.csv")) == 10_000


def test_directories_that_another_thread_makes_meanwhile(
    zdfs_fs: ZdfsFileSystem, top: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who found none, and then saw that they were there, gave up."""
    path = f"{top}/new/file"

    def overtaken(*words: Any) -> Any:
        monkeypatch.undo()
        zdfs_fs.makedirs(f"{top}/new")
        raise FileNotFoundError(path)

    monkeypatch.setattr(zdfs_fs.files, "open", overtaken)
    zdfs_fs.pipe_file(path, b"there")
    assert zdfs_fs.cat_file(path) == b"there"


def test_reading_makes_no_directories(zdfs_fs: ZdfsFileSystem, top: str) -> None:
    for mode in ("rb", "r+b"):
        with pytest.raises(FileNotFoundError):
            zdfs_fs.open(f"{top}/none/of/these", mode)
    assert not zdfs_fs.exists(f"{top}/none")


def test_zarr(top: str) -> None:
    data = numpy.random.default_rng(1).integers(0, 1000, (200, 300))
    array = zarr.create_array(f"{top}/z", shape=data.shape, chunks=(50, 100), dtype=data.dtype)
    array[:] = data
    again = zarr.open_array(f"{top}/z", mode="r+")
    assert (again[:] == data).all() and (again[60:70, 90:110] == data[60:70, 90:110]).all()
    again[0, 0] = 12345
    assert zarr.open_array(f"{top}/z", mode="r")[0, 0] == 12345
    group = zarr.open_group(f"{top}/g", mode="w")
    group.create_array("inner", data=data)
    assert list(zarr.open_group(f"{top}/g", mode="r").array_keys()) == ["inner"]


def test_numpy_by_file_object(zdfs_fs: ZdfsFileSystem, top: str) -> None:
    with zdfs_fs.open(f"{top}/a.npy", "wb") as file:
        numpy.save(file, numpy.arange(1000))
    with zdfs_fs.open(f"{top}/a.npy") as file:
        assert isinstance(file, io.BufferedIOBase)
        assert numpy.load(file).sum() == 499_500
