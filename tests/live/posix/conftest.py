"""What Linux does with a local directory, zdfs does: every case runs on both.

A module says `pytestmark = pytest.mark.usefixtures("place")`, and each of its cases runs twice: in
a directory of pytest's (the control: what is asserted there is what Linux does, not what we believe
it does) and on a mount of one cluster that the whole package shares.

Each run is a **child process** of its own, in an empty directory, as root with umask 022.  So a
case may change its user, its limits and its working directory, be killed by SIGBUS, and hang: then
it is ended after a while, and the next one goes on.  The local directory should be of ext4, xfs or
btrfs; most holds on tmpfs, too.
"""

import itertools
import os
import select
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.cluster import Cluster
from tests.live.posix import stretches
from tests.live.posix.differences import DIFFERENCES

PATIENCE_S = 60.0


@pytest.fixture(scope="package")
def posix_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster of all cases, mounted at `mnt`."""
    one = Cluster(tmp_path_factory.mktemp("posix"), servers=3)
    try:
        one.start()
        one.mount()
        yield one
    finally:
        one.close()


@pytest.fixture(params=["local", "zdfs"])
def place(request: pytest.FixtureRequest) -> Path:
    """A directory that isn't there yet: the case's child makes it and works in it."""
    top: Path
    if request.param == "local":
        top = request.getfixturevalue("posix_local")
    else:
        top = request.getfixturevalue("posix_cluster").folder / "mnt"
    case = request.node.stash[CASE] = top / f"{next(CASES):04}"
    return case


CASES = itertools.count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for a module that looks at blocks and holes: `local` and `mnt` have the same size."""
    with stretches.cluster_of_sides(tmp_path_factory.mktemp("stretches")) as one:
        yield one


@pytest.fixture(params=["local", "mnt"])
def file(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A name, on either side."""
    path: Path = cluster.folder / request.param / "file"
    yield path
    path.unlink(missing_ok=True)


CASE = pytest.StashKey[Path]()  # who has it runs in a child


@pytest.fixture(scope="package")
def posix_local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the same cases run without zdfs."""
    return tmp_path_factory.mktemp("local")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the cases on the mount: what differs must differ; the cluster is not theirs."""
    if not isinstance(item, pytest.Function) or "place" not in item.fixturenames:
        return
    item.add_marker(pytest.mark.shared)
    mark = item.get_closest_marker("differs")
    if mark is not None and item.callspec.params["place"] == "zdfs":
        told = DIFFERENCES[mark.args[0]]
        item.add_marker(pytest.mark.xfail(reason=f"{told.what}: {told.why}", strict=True))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a case in a child."""
    place = pyfuncitem.stash.get(CASE, None)
    if place is None:
        return None
    wanted = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in wanted}

    def work() -> None:
        os.umask(0o022)
        os.mkdir(place)
        os.chdir(place)
        pyfuncitem.obj(**arguments)

    failure = failure_in_child(work, PATIENCE_S)
    if failure:
        pytest.fail(failure, pytrace=False)
    return True


def failure_in_child(work: Callable[[], None], patience_s: float) -> str:
    """Run something in a child: what went wrong there, or ""."""
    report = os.memfd_create("report")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            work()
            status = 0
        except BaseException:
            os.write(report, traceback.format_exc().encode(errors="backslashreplace"))
        finally:
            os._exit(status)
    waiter = os.pidfd_open(child)
    ended, _, _ = select.select([waiter], [], [], patience_s)
    for kill in (os.killpg, os.kill):  # with everything that it started
        try:
            kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = os.pread(report, 1 << 20, 0).decode(errors="replace")
    os.close(waiter)
    os.close(report)
    if not ended:
        return f"not done within {patience_s:g} s\n{text}"
    if status < 0:
        return f"ended by {signal.Signals(-status).name}\n{text}"
    return text or ("" if status == 0 else f"ended with status {status}")
