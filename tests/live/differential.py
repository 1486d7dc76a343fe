"""The same steps on a mount and on a local directory: answers, attributes, times and contents.

A **sequence** is a list of lines, each a call of a `Twin` or of the world around the mounts: so a
failing one can be read, cut by hand and run again on a cluster of its own:

    .venv/bin/python -m tests.live.differential one < STEPS

`TEMPLATES` says what is drawn and how often.  What comes new into the file system is added there,
with an operation in twin.py.
"""

import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.live.cluster import Cluster
from tests.live.hands import Hand

ROOT = Path(__file__).parents[2]
SUPER = os.geteuid() == 0  # else we can't be another user, nor empty the kernel's caches
STRICT = ("--attr-timeout", "0", "--entry-timeout", "0")
# How many mounts, and how they look at names: two of them see one another's changes at once.
MOUNTS: dict[str, dict[str, tuple[str, ...]]] = {
    "one": {"a": ()},
    "two": {"a": STRICT, "b": STRICT},
}
LOOK = "  # look"
SERVERS = 4
BLOCK = 4096  # small: blocks meet, files stand on every server
START = ("put('a', 1, 5000)", "mkdir('d')", "put('d/a', 2, 9000)", "symlink('d/a', 'l')")

# Weight, then the step; {field}s are drawn.
TEMPLATES = """
9 open({slot}, {path}, {flags})                  2 open({slot}, {path}, {flags}, {mode})
4 close({slot})                                  2 dup({slot}, {slot})
7 pwrite({slot}, {seed}, {size}, {at})           5 write({slot}, {seed}, {size})
3 pread({slot}, {size}, {at})                    3 read({slot}, {size})
1 writev({slot}, {seed}, {size})                 2 seek({slot}, {at}, {whence})
4 ftruncate({slot}, {at})                        2 fsync({slot})
1 fdatasync({slot})                              1 fchmod({slot}, {mode})
1 fchown({slot}, {user}, {user})                 2 futime({slot}, {time})
4 map_write({slot}, {seed}, {size}, {at})        2 map_read({slot})
4 put({path}, {seed}, {size})                    4 put({path}, {seed}, {size}, O_APPEND)
2 put({path}, {seed}, {size}, 0)                 5 content({path})
3 truncate({path}, {at})                         5 mkdir({path}, {mode})
3 rmdir({path})                                  6 unlink({path})
6 rename({path}, {path})                         2 rename({path}, {path}, {how})
5 link({path}, {path})                           3 symlink({path}, {path})
1 readlink({path})                               1 mkfifo({path})
3 chmod({path}, {mode})                          2 chown({path}, {user}, {user})
3 utime({path}, {time})                          1 touch({path})
2 listdir({path})                                2 stat({path})
1 access({path}, {bits})                         1 mkdir({odd})
1 rmdir({odd})                                   1 unlink({odd})
1 rename({odd}, {path})                          1 rename({path}, {odd})
1 open({slot}, {odd}, {flags})                   1 chmod({odd}, {mode})
3 setxattr({path}, {name}, {seed}, {small})      1 getxattr({path}, {name})
1 setxattr({path}, {name}, {seed}, 9, {xattr})   2 removexattr({path}, {name})
1 xattrs({path})                                 3 become({user})
3 fallocate({slot}, {mend}, {at}, {size})        2 copy({slot}, {slot}, {size}, {at}, {at})
3 holes({slot})                                  2 setacl({path}, 'access', {user}, {acl})
2 setacl({path}, 'default', {user}, {acl})       1 dropacl({path}, {kind})
"""
WORLD = """
9 drop()    2 remount()    2 meta()    2 data({server})    2 down({server})
"""
OFTEN = 3  # each template above comes so much oftener
TWO = "90 on({mount})"

PATHS = ["a", "b", "d", "d/a", "d/b", "l", "d/e", "d/e/a", "e", "e/b", "nothing/a"]
ODD = [".", "..", "a/", "d/", "d/.", "d/e/..", "l/", "b/", "", "x" * 255, "x" * 256, "\xe4\udcff"]
ACCESS = ["O_RDONLY", "O_WRONLY", "O_RDWR", "O_RDWR"]
MORE_FLAGS = [
    "", "", "", " | O_CREAT", " | O_CREAT", " | O_CREAT | O_EXCL", " | O_CREAT | O_TRUNC",
    " | O_TRUNC", " | O_APPEND", " | O_CREAT | O_APPEND", " | O_NOFOLLOW", " | O_DIRECTORY",
    " | O_CREAT | O_SYNC", " | O_CREAT | O_DSYNC | O_APPEND",
]  # fmt: skip
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "slot": st.sampled_from([0, 0, 1, 1, 2]),
    "path": st.sampled_from(PATHS).map(repr),
    "odd": st.sampled_from(ODD).map(ascii),
    "flags": st.builds(str.__add__, st.sampled_from(ACCESS), st.sampled_from(MORE_FLAGS)),
    "mode": st.sampled_from(["0o644", "0o600", "0o755", "0o4755", "0o2770", "0o1777", "0"]),
    "seed": st.integers(0, 255),
    "size": st.sampled_from([1, 0, 100, BLOCK - 1, BLOCK, BLOCK + 1, 10_000, 70_000]),
    "at": st.sampled_from([0, 1, BLOCK - 1, BLOCK, 5000, 2 * BLOCK, 20_000, 100_000]),
    "whence": st.sampled_from([0, 1, 2]),
    "user": st.sampled_from([0, 1000]),
    "time": st.integers(0, 10**18 - 2),
    "how": st.sampled_from([1, 2, 3]),
    "bits": st.sampled_from([0, 1, 2, 4, 6]),
    "name": st.sampled_from(["'x'", "'y'"]),
    "small": st.sampled_from([0, 1, 100]),
    "xattr": st.sampled_from(["'create'", "'replace'"]),
    "mend": st.sampled_from([0, 1, 3, 16, 17, 2]),
    "acl": st.sampled_from(["'rwx'", "'r--'", "'---'"]),
    "kind": st.sampled_from(["'access'", "'default'"]),
    "server": st.integers(0, SERVERS - 1),
    "mount": st.sampled_from(["'a'", "'b'"]),
}
QUIET = (
    "pread read seek map_read content readlink listdir stat access getxattr xattrs become".split()
)


def templates(text: str) -> list[str]:
    """A table's steps, each as often as it weighs."""
    found = re.findall(r"(\d+) (\w+\(.*?\))(?=\s{2}|\s*\n|$)", text)
    found = [one for one in found if SUPER or one[1] not in ("become({user})", "drop()")]
    return [step for weight, step in found for _ in range(int(weight))]


@st.composite
def _step(draw: st.DrawFn, table: list[str]) -> tuple[str, bool]:
    """A step, and whether the whole tree is looked at before and after it."""
    template: str = draw(st.sampled_from(table))
    step = re.sub(r"{(\w+)}", lambda field: str(draw(FIELDS[field[1]])), template)
    return step, draw(st.sampled_from([False, False, False, True]))


def sequences(kind: str) -> st.SearchStrategy[list[tuple[str, bool]]]:
    """Sequences of some 30 steps, for "one" mount or "two"."""
    table = templates(TEMPLATES) * OFTEN + templates(WORLD)
    table += templates(TWO) if kind == "two" else []
    # A list of lists: Hypothesis draws short lists, and can only cut those that may be short.
    parts = st.lists(st.lists(_step(table), max_size=12), min_size=1, max_size=12)
    return parts.map(lambda many: [step for part in many for step in part])


class Difference(Exception):
    """The two sides differ."""


class Stage:
    """A cluster with its mounts, and a local directory; each sequence has a directory of its own.

    After a step that did not end, everything is made anew: a shrunk sequence must show the fault
    by itself.
    """

    def __init__(self, folder: Path, kind: str):
        self.folder, self.kind = folder, kind
        self.sequences = self.steps = self.built = 0
        self.stuck = True
        self.hands: dict[str, Hand] = {}

    def _build(self) -> None:
        self.close()
        home = self.folder / f"{self.kind}{self.built + 1}"
        home.mkdir()
        self.cluster = Cluster(home, SERVERS, block_size=BLOCK)
        self.stuck, self.built = False, self.built + 1
        self.cluster.start()
        self.down = -1
        for name in MOUNTS[self.kind]:
            self._mount(name)
        (home / "local").mkdir()
        self._enter("local", home / "local")
        self.at = "a"

    def _mount(self, name: str) -> None:
        words = MOUNTS[self.kind][name] + (("-o", "allow_other") if SUPER else ())
        self._enter(name, self.cluster.mount(name, *words))

    def _enter(self, name: str, where: Path) -> None:
        hand = self.hands[name] = Hand(where)
        hand(f"sys.path[0] = {str(ROOT)!r}")
        hand("from tests.live.twin import Twin")
        hand(f"top, twin = {str(where)!r}, Twin()")
        hand("os.umask(0o022)")

    def close(self) -> None:
        """End the cluster."""
        for hand in self.hands.values():
            with hand:
                hand.kill()
        self.hands.clear()
        if self.built:
            self.cluster.close()

    # --- a sequence ----------------------------------------------------------------------------

    def run(self, sequence: Sequence[tuple[str, bool]]) -> None:
        """Do it on both sides; AssertionError at the first difference, with what led to it."""
        if self.stuck:
            self._build()
        self.stuck = True  # until we know
        self.sequences += 1
        done: list[str] = []
        try:
            self._wake()
            self._begin()
            for step in START:
                self._both(step, False)
            for step, look in sequence:
                done.append(step + LOOK * look)
                self._step(step, look)
            self._finish()
        except Difference as error:
            self.stuck = False
            print(
                *done, f"# {error}\n", sep="\n"
            )  # Hypothesis shows only the last, if it gets there
            raise AssertionError("\n".join([*done, f"# {error}"])) from None
        except BaseException:
            print(*done, "# did not end", sep="\n")
            raise
        self.stuck = False
        self.steps += len(done)

    def rest(self) -> None:
        """Nothing is open, every server is up."""
        self._wake()
        self._both("leave()", False)

    def _begin(self) -> None:
        """A new directory, on every mount."""
        self._both("leave()", False)
        self.at, self.place = "a", f"s{self.sequences}"
        for name in ("local", "a"):
            self.hands[name]("os.chdir(top)")
            self.hands[name](f"twin.enter({self.place!r})")
        if "b" in self.hands:
            self.hands["b"](f"os.chdir(os.path.join(top, {self.place!r}))")

    def _finish(self) -> None:
        """Both trees, whole: as this mount knows them, then past the kernel's caches."""
        self.rest()
        self._both("whole()", False)
        for hand in self.hands.values():
            hand("twin.leave()")
        if "b" in self.hands:
            self.at = "b" if self.at == "a" else "a"
            self._both("whole()", False)

    def _both(self, step: str, look: bool) -> None:
        """One step, on the mount where we are and beside it."""
        words = f"twin.do({step!r}, {look})"
        here, there = self.hands[self.at], self.hands["local"]
        here.start(words)
        wanted = there(words)
        found = here.end()
        if found != wanted:
            raise Difference(difference(step, found, wanted))

    def _step(self, step: str, look: bool) -> None:
        name, _, rest = step.rstrip(")").partition("(")
        if name in ("drop", "remount", "meta", "data", "down", "on"):
            getattr(self, f"_{name}")(*([rest.strip("'")] if rest else []))
            return
        if name not in QUIET:
            self._wake()
        self._both(step, look)

    # --- the world -----------------------------------------------------------------------------

    def _wake(self) -> None:
        """A server that is down comes back: what is written would wait for it."""
        if self.down >= 0:
            self.cluster.start_data(self.down)
            self.down = -1

    def _drop(self) -> None:
        """The kernel forgets pages, names and attributes."""
        Path("/proc/sys/vm/drop_caches").write_text("3")

    def _remount(self) -> None:
        """What is open is closed; the mount is another process then."""
        self._wake()
        self._both("leave()", False)
        where = self.cluster.folder / self.at
        with self.hands[self.at] as hand:
            hand.kill()
        self.cluster.unmount(where)
        self._mount(self.at)
        self.hands[self.at](f"os.chdir({self.place!r})")

    def _meta(self) -> None:
        """kill -9 the metaserver and start it."""
        self.cluster.kill("meta")
        self.cluster.start_meta()

    def _data(self, index: str) -> None:
        """kill -9 a dataserver and start it."""
        self._wake()
        self.cluster.kill(f"data-{index}")
        self.cluster.start_data(int(index))

    def _down(self, index: str) -> None:
        """kill -9 a dataserver; it comes back before the next step that may change anything."""
        self._wake()
        self.cluster.kill(f"data-{index}")
        self.down = int(index)

    def _on(self, name: str) -> None:
        """Close everything and go on with this mount: close-to-open."""
        self._wake()
        self._both("leave()", False)
        self.at = name


def difference(step: str, found: Any, wanted: Any) -> str:
    """What differs, without what doesn't."""
    if isinstance(found, tuple) and isinstance(wanted, tuple) and found[:1] == wanted[:1]:
        found, wanted = found[-1], wanted[-1]
    if isinstance(found, list) and isinstance(wanted, list):
        found, wanted = (
            [one for one in found if one not in wanted],
            [one for one in wanted if one not in found],
        )
    return f"{step}\n# mount {found!r:.1500}\n# local {wanted!r:.1500}"


def main(kind: str) -> None:
    """Run the steps on standard input, one a line."""
    lines = [line.rstrip("\n") for line in sys.stdin if line.strip() and line[0] != "#"]
    with tempfile.TemporaryDirectory(prefix="zdfs") as folder:
        stage = Stage(Path(folder), kind)
        try:
            stage.run([(line.removesuffix(LOOK), line.endswith(LOOK)) for line in lines])
            print(f"no difference in {stage.steps} steps")
        finally:
            stage.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
