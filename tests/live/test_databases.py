"""Databases on a real mount, killed in the middle: what they said is committed is there, and sound.

PostgreSQL is Debian's, run as its own user; SQLite is Python's and the `sqlite3` command.
"""

import contextlib
import os
import pwd
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live.cluster import Cluster, free_ports
from tests.live.files import shell
from tests.live.programs import line

pytestmark = pytest.mark.shared
Tell = Callable[[str], None]
SUPER = os.geteuid() == 0


@pytest.fixture(scope="module")
def mount() -> Iterator[Path]:
    """A mount that another user may use; pytest's own directories let nobody else in."""
    folder = Path(tempfile.mkdtemp(prefix="zdfs-databases-"))
    folder.chmod(0o711)
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster.mount("mnt", *(("-o", "allow_other") if SUPER else ()))
    finally:
        cluster.close()
        shutil.rmtree(folder)


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
# Two tables that move together; each number is said after its commit.
FOREVER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=60)
database.execute(f"pragma journal_mode={sys.argv[2]}")
database.execute("pragma synchronous=full")
database.execute("create table if not exists t (a integer primary key, b text)")
database.execute("create table if not exists total (a)")
number = (database.execute("select max(a) from t").fetchone()[0] or 0) + 1
while True:
    with database:
        database.execute("insert into t values (?, ?)", (number, str(number) * (number % 900)))
        database.execute("delete from total")
        database.execute("insert into total select sum(a) from t")
    print(number, flush=True)
    number += 1
"""
MODES = pytest.mark.parametrize("mode", ["delete", "wal"])


def transactions(mount: Path, mode: str, count: int, timeout_s: float) -> None:
    words = [sys.executable, "-c", TRANSACTIONS, str(mount / f"{mode}{count}.db"), mode, str(count)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stderr


@MODES
def test_sqlite(mount: Path, tell: Tell, mode: str) -> None:
    transactions(mount, mode, 200, 100)
    tell(f"200 transactions, journal_mode={mode}, a second reader, integrity_check ok")


@pytest.mark.soak
@MODES
def test_sqlite_ten_thousand(mount: Path, tell: Tell, mode: str) -> None:
    transactions(mount, mode, 10_000, 1500)
    tell(f"10,000 transactions, journal_mode={mode}, integrity_check ok")


def killed_sqlite(mount: Path, mode: str, kills: int, dice: random.Random) -> str:
    """A writer that is killed again and again loses nothing that it said was committed."""
    name = f"killed-{mode}-{kills}.db"
    said = 0
    for _ in range(kills):
        words = [sys.executable, "-c", FOREVER, str(mount / name), mode]
        writer = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        for _ in range(dice.randrange(1, 25)):
            said = int(line(writer))
        writer.kill()
        rest, _ = writer.communicate(timeout=30)
        said = int(rest.split()[-1]) if rest.split() else said
        ask = f"sqlite3 {name} 'pragma integrity_check; select max(a), sum(a) from t; "
        sound, numbers, total = shell(mount, ask + "select a from total'").split()
        last, added = map(int, numbers.split("|"))
        assert sound == "ok" and last in (said, said + 1)
        assert added == int(total) == last * (last + 1) // 2
    return f"{said} transactions, journal_mode={mode}, {kills} x kill -9: none lost, sound"


@MODES
def test_sqlite_killed(mount: Path, tell: Tell, dice: random.Random, mode: str) -> None:
    tell(killed_sqlite(mount, mode, 5, dice))


@pytest.mark.soak
@MODES
def test_sqlite_killed_often(mount: Path, tell: Tell, dice: random.Random, mode: str) -> None:
    tell(killed_sqlite(mount, mode, 100, dice))


# --- PostgreSQL --------------------------------------------------------------------------------


class Postgres:
    """A database server on the mount, with its own settings but for the port."""

    def __init__(self, mount: Path):
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        assert found, "PostgreSQL is not installed: .ci/setup programs"
        self.bin, self.home, self.port = found[-1].parent, mount / "pg", free_ports(1)[0]
        self.home.mkdir()
        self.user: dict[str, str | int] = {}
        if SUPER:  # it refuses to be run by root
            entry = pwd.getpwnam("postgres")
            os.chown(self.home, entry.pw_uid, entry.pw_gid)
            self.user = {"user": entry.pw_uid, "group": entry.pw_gid}

    def start(self, name: str, *words: object) -> "subprocess.Popen[str]":
        """Start one of its programs, as its user."""
        return subprocess.Popen(
            [self.bin / name, *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            extra_groups=[] if SUPER else None,
            **self.user,  # type: ignore[call-overload]
        )

    def processes(self) -> list[int]:
        """The server's: they have its directory as theirs.  Dead ones don't count."""
        found = []
        for link in Path("/proc").glob("[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                if os.readlink(link).startswith(str(self.home)):
                    found.append(int(link.parts[2]))
        return found

    def run(self, name: str, *words: object, patience_s: float = 120) -> str:
        """Run one of its programs to its end; what it printed."""
        process = self.start(name, *words)
        try:
            text, _ = process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode == 0, f"{name}: {text[-3000:]}"
        return text

    def client(self, name: str, *words: object, patience_s: float = 120) -> str:
        """Run a client, connected to the server."""
        place = ("-h", self.home, "-p", self.port)
        return self.run(name, *place, *words, patience_s=patience_s)

    def ask(self, query: str) -> str:
        """One value."""
        return self.client("psql", "-XAtqc", query, "postgres").strip()

    @contextlib.contextmanager
    def server(self) -> Iterator["subprocess.Popen[str]"]:
        """The server runs, as our child, and ends cleanly unless it was killed."""
        words = ["-D", self.home / "data", "-k", self.home, "-p", self.port, "-h", ""]
        words += ["-c", "logging_collector=on", "-c", f"log_directory={self.home}"]
        process = self.start("postgres", *words, "-c", "log_filename=log")
        try:
            until(self.ready, 100, "the database is ready")
            yield process
        except BaseException:
            print((self.home / "log").read_text()[-3000:])
            raise
        finally:
            process.send_signal(signal.SIGINT)  # "fast": clients are sent away
            process.communicate(timeout=100)

    def ready(self) -> bool:
        """Whether it takes connections."""
        asked = self.start("pg_isready", "-h", self.home, "-p", self.port)
        asked.communicate(timeout=30)
        return asked.returncode == 0


def killed_postgres(mount: Path, seconds: int) -> str:
    """pgbench, kill -9 of the postmaster under load, recovery; balances and checksums agree."""
    one = Postgres(mount)
    # Its own sync of all that initdb made is 30 s of small files: sync is asked for once, below.
    one.run("initdb", "-D", one.home / "data", "-k", "-N", "-A", "trust", "--no-instructions")
    shell(mount, "sync -f .")
    with one.server() as server:
        one.client("pgbench", "-iq", "-s", 1, "postgres", patience_s=300)
        said = one.client(
            "pgbench", "-n", "-c", 4, "-T", seconds, "postgres", patience_s=seconds + 100
        )
        done = int(re.findall(r"actually processed: (\d+)", said)[0])
        assert done > 0 and "failed transactions: 0" in said
        kept = int(one.ask("select count(*) from pgbench_history"))
        assert kept == done
        load = one.start(
            "pgbench", "-n", "-h", one.home, "-p", one.port, "-c", 4, "-T", 600, "postgres"
        )
        try:
            query = "select count(*) from pgbench_history"
            until(lambda: int(one.ask(query)) > kept + 20, 60, "pgbench is at work")
            kept = int(one.ask(query))
            server.kill()
        finally:
            load.kill()
            load.communicate(timeout=30)
        until(lambda: not one.processes(), 60, "the server's processes end")
    with one.server():  # it recovers
        assert "redo done" in (one.home / "log").read_text()
        found = int(one.ask("select count(*) from pgbench_history"))
        assert found >= kept
        sums = "select sum(delta) from pgbench_history"
        for table, column in (("accounts", "abalance"), ("tellers", "tbalance")):
            assert one.ask(f"select sum({column}) from pgbench_{table}") == one.ask(sums)
        one.client("vacuumdb", "-qz", "postgres")
        one.client("pg_dump", "-f", one.home / "dump", "postgres")
    said = one.run("pg_checksums", "--check", "-D", one.home / "data")
    assert re.search(r"Bad checksums: +0\n", said)
    return f"PostgreSQL: pgbench {done} transactions, kill -9, recovered {found}, checksums good"


def test_postgres(mount: Path, tell: Tell) -> None:
    try:
        tell(killed_postgres(mount, 5))
    finally:
        shell(mount, "rm -rf pg", 300)


@pytest.mark.soak
def test_postgres_for_long(mount: Path, tell: Tell) -> None:
    try:
        tell(killed_postgres(mount, 60))
    finally:
        shell(mount, "rm -rf pg", 300)
