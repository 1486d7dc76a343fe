"""Starting a mount without fork: threads, sockets and LMDB would not survive one.

    parent                                          child (the same command again, with -f)
    prepare(DIR)   a dead mount goes, DIR is empty
    start_detached -- pipe, new session -->         ... connects, mounts
                   <-- "ready", or why not --       Herald.ready() / Herald.failed(why)
    asks the mount (statvfs, under a time limit)    serves; its output goes to the log
    exits 0, or prints why not and exits 1

The child has the parent's stderr until it is ready, so libfuse's own complaints are seen.  A pipe
that closes without a word means that the child died: that is a reason too.
"""

import errno
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from zdfs import limits, processes
from zdfs.errors import StartError

READY = b"ready"
KIND = "fuse.zdfs"  # a mount of ours, in mountinfo
SYMLINKS = 40  # as Linux


class MountLine(NamedTuple):
    """What /proc/self/mountinfo says of a mount."""

    device: str  # major:minor
    kind: str
    source: str
    flags: str = ""  # rw,nosuid,...


def again(command: str) -> list[str]:
    """The words that run a command of `cli`, with this interpreter and this code, wherever both are
    installed."""
    home = str(Path(__file__).resolve().parent.parent)
    code = f"import sys; sys.path.insert(0, {home!r}); from zdfs import cli; sys.argv[0] = 'zdfs'; "
    return [sys.executable, "-P", "-c", f"{code}sys.exit(cli.{command}())"]


class Herald:
    """The child's end of the pipe; without a pipe (-f by hand) it says nothing."""

    def __init__(self, descriptor: int | None, log: Path | None, grouped: bool = False):
        """`grouped`: it was started in its parent's process group, and leaves it when it serves."""
        self._descriptor = descriptor
        self._log = log
        self._grouped = grouped
        if descriptor is not None:
            os.set_inheritable(descriptor, False)

    def ready(self) -> None:
        """The mount serves.  From here on output goes to the log file, or nowhere, and no directory
        is kept busy."""
        if self._descriptor is None:
            return
        sink = os.open(self._log or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os.close(sink)
        os.chdir("/")
        if self._grouped:
            os.setsid()
        self._say(READY)

    def failed(self, why: str) -> None:
        """It can't be mounted; the parent prints this."""
        self._say(why.encode(errors="backslashreplace"))

    def _say(self, word: bytes) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(BrokenPipeError):  # the parent was told to stop waiting
                os.write(descriptor, word[: limits.TEXT_BYTES])
            os.close(descriptor)


def start_detached(
    argv: Sequence[str],
    directory: Path,
    log: Path | None = None,
    *,
    patience_s: float | None = None,
    grouped: bool = False,
) -> int:
    """Run `argv` + ["-f", "--herald", FD] in a session of its own until it mounted; exit status.

    The child writes through Herald(FD, log).  Without `patience_s` the parent waits as long as the
    child tries; ^C, `kill` and a hangup end both.  `grouped`: it gets its session only when it
    mounted, for autofs lets none but its own process group see the directory before.
    """
    if log is not None:
        _touch(log)
    with _stoppable() as stop:
        why = _started(argv, directory, log, patience_s, grouped, stop)
    if why:
        print(f"zdfs-mount: {why}", file=sys.stderr)
        return 1
    return 0


def _started(
    argv: Sequence[str], directory: Path, log: Path | None, patience_s: float | None,
    grouped: bool, stop: "_Stop",
) -> str:  # fmt: skip
    """Empty when it mounted, else why not."""
    hears, says = os.pipe()
    end = argv.index("--") if "--" in argv else len(argv)  # of options
    child = subprocess.Popen(
        [*argv[:end], "-f", "--herald", str(says), *argv[end:]],
        stdin=subprocess.DEVNULL,
        pass_fds=[says],
        start_new_session=not grouped,
    )
    os.close(says)
    try:
        stop.now()
        why = _hear(hears, child, patience_s)
        if not why and not answers(directory):
            child.terminate()
            why = f"{directory} is mounted and does not answer; see {log or 'zdfs-mount -f --log'}"
    except KeyboardInterrupt:
        child.terminate()
        why = "stopped"
    finally:
        os.close(hears)
    return why


class _Stop:
    """A signal's handler that raises KeyboardInterrupt, at once or when `now` is called.  One that
    comes while a child is born must wait until there is somebody to pass it on to."""

    def __init__(self) -> None:
        self._came, self._at_once = False, False

    def __call__(self, number: int, frame: object) -> None:
        self._came = True
        if self._at_once:
            raise KeyboardInterrupt

    def now(self) -> None:
        """From now on at once."""
        self._at_once = True
        if self._came:
            raise KeyboardInterrupt


@contextmanager
def _stoppable() -> Iterator[_Stop]:
    """What else ends us counts as ^C, or the child would go on, and mount some day."""
    stop, theirs = _Stop(), (signal.SIG_DFL, signal.default_int_handler)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: was for n in numbers if (was := signal.getsignal(n)) in theirs}
    for number in before:
        signal.signal(number, stop)
    try:
        yield stop
    finally:
        for number, was in before.items():
            signal.signal(number, was)


def _touch(log: Path) -> None:
    """Say now that a log can't be written, not when nobody reads stderr any more."""
    try:
        log.open("ab").close()
    except OSError as error:
        raise StartError(f"the log file {log} can't be written: {error.strerror}") from error


def _hear(pipe: int, child: "subprocess.Popen[bytes]", patience_s: float | None) -> str:
    """Empty when the child is ready, else why it is not."""
    said = b""
    while select.select([pipe], [], [], patience_s)[0]:
        chunk = os.read(pipe, limits.TEXT_BYTES)
        said += chunk
        if said == READY:
            return ""
        if not chunk:
            break
    else:
        child.terminate()
        return f"not mounted within {patience_s} s"
    if said:
        return said.decode()
    try:
        status: int | str = child.wait(limits.TIMEOUT_S)
    except subprocess.TimeoutExpired:
        status = "unknown"
    return f"the mount process ended without a word (status {status})"


def answers(directory: Path, patience_s: float = limits.MOUNT_ANSWERS_S) -> bool:
    """Whether a file system says something about itself in time."""
    return _ask(directory, patience_s) == 0


def _ask(directory: Path, patience_s: float) -> int | None:
    """errno of statvfs, 0 when it answers, None when it doesn't in time.

    In a thread that may stay behind: nothing else gets out of a system call that hangs.
    """
    said: list[int] = []

    def ask() -> None:
        try:
            os.statvfs(directory)
            said.append(0)
        except OSError as error:
            said.append(error.errno or errno.EIO)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience_s)
    return said[0] if said else None


def real(directory: Path | str) -> str:
    """The path as mountinfo knows it.  Asks nothing of what is mounted there: it may hang."""
    path = os.path.abspath(directory)
    for _ in range(SYMLINKS):
        parent, name = os.path.split(path)
        path = os.path.join(os.path.realpath(parent), name)
        try:
            target = os.readlink(path)
        except OSError:  # no symlink
            return path
        path = os.path.abspath(os.path.join(os.path.dirname(path), target))
    raise StartError(f"{directory}: too many symbolic links")


def mounted_on(directory: Path) -> MountLine | None:
    """The uppermost mount that sits on a directory, without touching it."""
    wanted = real(directory)
    found = None
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        front, _, back = line.partition(" - ")
        _, _, device, _, where, flags, *_ = front.split(" ")
        if processes.unescaped(where) == wanted:
            kind, source, *_ = back.split(" ")
            found = MountLine(device, kind, source, flags)
    return found


def prepare(directory: Path) -> None:
    """See that DIR is an empty directory; a dead zdfs mount on it is detached first."""
    line = mounted_on(directory)
    if line is not None and line.kind.startswith("fuse"):
        number = _ask(directory, limits.MOUNT_ANSWERS_S)
        if number in (errno.ENOTCONN, errno.ECONNABORTED) and line.kind == KIND:
            detach(directory)
        elif number is None:
            raise StartError(
                f"{directory} is a mount of {line.source} that does not answer: "
                f"end its process, or umount -l {directory}"
            )
        else:
            raise StartError(f"{directory} is already a mount of {line.source}")
    try:
        if any(directory.iterdir()):
            raise StartError(f"{directory} is not empty: mount on an empty directory")
    except FileNotFoundError:
        raise StartError(f"{directory} does not exist: make it first (mkdir)") from None
    except NotADirectoryError:
        raise StartError(f"{directory} is no directory") from None
    except OSError as error:
        raise StartError(f"{directory} can't be read: {error.strerror}") from error


def detach(directory: Path) -> None:
    """Take a mount out of sight at once, whoever still uses it (umount -l)."""
    tools = (["fusermount3", "-u", "-z"], ["fusermount", "-u", "-z"], ["umount", "-l"])
    for tool in tools[::-1] if os.geteuid() == 0 else tools:
        try:
            done = subprocess.run(
                [*tool, "--", real(directory)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=limits.MOUNT_ANSWERS_S,
            )
        except (FileNotFoundError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return
    raise StartError(f"the dead mount on {directory} can't be detached: umount -l {directory}")


def may_allow_other() -> bool:
    """Whether other users may be let in: fusermount lets root do so, and others where the
    administrator says so in fuse.conf."""
    if os.geteuid() == 0:
        return True
    try:
        lines = Path("/etc/fuse.conf").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)
