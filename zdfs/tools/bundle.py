"""`zdfs bundle FILE.tar.gz`: everything a maintainer needs, and nothing private.

Asked are the metaserver, the servers, the mounts and the kernel of this machine; whatever doesn't
answer is said and left out, for a bundle is made when something is broken.  All texts go through
`redaction`: what is not a word of zdfs itself or a number is a hash.  Only versions are as they
are.  Nothing is asked that knows the content or the names of files, but logs and what waits name
some: they are hashes, too.
"""

import argparse
import io
import json
import os
import platform
import resource
import secrets
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

import zdfs
from zdfs import __version__, addresses, checksum, fuse, limits, progress, redaction, wire
from zdfs.amounts import printable, size
from zdfs.calls import Peer, call
from zdfs.errors import Failure, StartError
from zdfs.health import checks
from zdfs.link import Link, library
from zdfs.tools import admin, checkup, visiting, why

LOG_BYTES = 8 * limits.MIB  # of each log: its end
ABOUT = """Collect what a maintainer needs to find out what is wrong: status, health, events,
versions, limits, our processes' command lines, what waits, and logs that are named.  Names of files
and directories, of hosts and users, keys, and every word that is not zdfs's own are hashes.  Look
into it before you send it: it is JSON and text."""
README = """A bundle of `zdfs bundle`, zdfs {release}, made {at} UTC.

A word that begins with ~ is a hash of something that was taken out.  The same words have the same
hash, in this bundle only.

What is in it:
{inside}

What was left out, and why:
{outside}
"""
NEVER = (
    ("content of files", "it is never asked for"),
    ("names of files, directories, hosts and users", "hashes stand for them"),
    ("keys, and the environment of processes", "they are never read"),
    ("results of zdfs fsck", "it takes long: run it yourself, and say what it found"),
)


@dataclass(slots=True)
class Bundle:
    """What goes into it, by name; and what doesn't."""

    redactor: redaction.Redactor
    files: dict[str, tuple[bytes, str]] = field(default_factory=dict)  # content, and what it is
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, about: str, ask: Callable[[], Any]) -> None:
        """Facts, redacted; or why there are none."""
        try:
            facts = ask()
        except (Failure, StartError, OSError) as error:
            self.left_out.append((about, self.redactor.text(str(error))))
            return
        text = json.dumps(self.redactor.value(plain(facts)), indent=1, ensure_ascii=True)
        self.files[name] = text.encode() + b"\n", about

    def add_versions(self) -> None:
        """What is public anyway stays as it is."""
        self.files["versions.json"] = json.dumps(versions(), indent=1).encode(), "versions"

    def add_log(self, number: int, path: Path) -> None:
        """The end of a log, line by line."""
        name = f"logs/{number}.log"
        try:
            with path.open("rb") as file:
                length = file.seek(0, os.SEEK_END)
                file.seek(max(0, length - LOG_BYTES))
                text = file.read().decode(errors="surrogateescape")
        except OSError as error:
            self.left_out.append((f"log {number}", f"it can't be read: {error.strerror}"))
            return
        lines = text.splitlines(keepends=True)[1 if length > LOG_BYTES else 0 :]
        shown = "".join(map(self.redactor.text, lines))
        about = f"log {number}" + (f", its last {size(LOG_BYTES)}" if length > LOG_BYTES else "")
        self.files[name] = shown.encode(errors="backslashreplace"), about

    def readme(self) -> bytes:
        """What is in it, in words."""
        return README.format(
            release=__version__, at=time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
            inside="\n".join(f"  {name}: {about}" for name, (_, about) in self.files.items()),
            outside="\n".join(f"  {what}: {reason}" for what, reason in self.left_out),
        ).encode(errors="backslashreplace")  # fmt: skip


def options(commands: Any) -> None:
    """Its arguments, for argparse."""
    parser = commands.add_parser(
        "bundle", help="everything a maintainer needs, nothing private", description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE.tar.gz",
        help="default: zdfs-bundle-DATE-TIME.tar.gz here",
    )  # fmt: skip
    parser.add_argument(
        "--list", action="store_true", help="say what would be in it; write nothing"
    )
    parser.add_argument(
        "--log", type=Path, action="append", default=[], metavar="FILE",
        help=f"a log of a node or a mount: its last {size(LOG_BYTES)}; may be given again",
    )  # fmt: skip
    visiting.reach(parser)
    parser.set_defaults(do=command)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """Collect, write, and say what was left out."""
    target = chosen.file or Path(time.strftime("zdfs-bundle-%Y%m%d-%H%M%S.tar.gz"))
    if not chosen.list and target.exists():
        raise StartError(f"{target} is there already: name a new file")
    with progress.Shown(words="collecting") as tell:
        bundle = collect(link, visiting.meta_of(chosen), chosen.log, tell)
        if not chosen.list:
            write(bundle, target)
    for name, (content, about) in bundle.files.items():
        print(f"{size(len(content)):>10}  {name:<18}{about}")
    for what, reason in bundle.left_out:
        print(f"  left out  {what}: {reason}")
    if chosen.list:
        print("nothing was written (--list)")
    else:
        shown = f"{printable(str(target))}: {size(target.stat().st_size)}"
        print(f"{shown}; look into it before you send it")
    return 0


def collect(link: Link, meta: str, logs: list[Path], tell: progress.Shown) -> Bundle:
    """Ask everybody; who is silent is left out."""
    bundle = Bundle(our_redactor())
    try:
        told = why.status(link, meta)
    except StartError:  # it does not tell us: each question says so
        told = None
    for name, about, ask in questions(link, meta, told):
        tell(f"collecting: {about}")
        bundle.add(name, about, ask)
    bundle.add_versions()
    for number, path in enumerate(logs, 1):
        tell(f"collecting: log {number} of {len(logs)}")
        bundle.add_log(number, path)
    if not logs:
        bundle.left_out.append(("logs", "none was named: --log FILE, for nodes and mounts"))
    bundle.left_out += NEVER
    bundle.files["README.txt"] = bundle.readme(), "what is in it, and what is not"
    return bundle


def our_redactor() -> redaction.Redactor:
    """One that knows the words of this release."""
    home = Path(zdfs.__file__).parent
    sources = sorted(home.rglob("*.py"))
    words = redaction.vocabulary("\n".join(path.read_text() for path in sources))
    modules = [str(path.relative_to(home.parent)) for path in sources]
    return redaction.Redactor(words, secrets.token_bytes(16), modules)


Question = tuple[str, str, Callable[[], Any]]


def questions(link: Link, meta: str, told: wire.Status | None) -> Iterator[Question]:
    """Files of the bundle: name, what it is, and how it is asked for."""
    peer = Peer(meta)
    yield "status.json", "status", lambda: link.run(admin.status(meta))
    yield "health.json", "health", lambda: checkup.facts(checks(checkup.look(link, meta, 0.0)))
    yield "events.json", "events", lambda: events(link, peer)
    yield "waits.json", "what waits, and why", lambda: why.why(link, None, addresses.short(meta))
    yield "space.json", "space", lambda: link.run(call(peer, wire.StatFs()))
    servers = [peer, *[Peer(one.member.address) for one in (told.servers if told else ())]]
    yield "servers.json", "who answers", lambda: [identity(link, server) for server in servers]
    yield "measures.json", "measures", lambda: [measures(link, server) for server in servers]
    yield "machine.json", "this machine", machine
    yield "processes.json", "our processes here", lambda: list(processes())


def events(link: Link, peer: Peer) -> list[wire.Happened]:
    """All that the metaserver keeps."""
    found: list[wire.Happened] = []
    while True:
        after = found[-1].number if found else 0
        told: wire.Events = link.run(call(peer, wire.GetEvents(after, 0, 0)))
        if not told.events:
            return found
        found += told.events


def answer(link: Link, server: Peer, request: Any) -> Any:
    """What a server says, or that it says nothing."""
    try:
        return link.run(call(server, request))
    except Failure as error:
        return f"no answer: {error}"


def measures(link: Link, server: Peer) -> dict[str, Any]:
    """All that a server measures."""
    pages: list[Any] = []
    after = ""
    while not pages or after:
        pages.append(answer(link, server, wire.GetMeasures((), after)))
        after = getattr(pages[-1], "more", "")
    return {"address": addresses.short(server), "says": pages}


def identity(link: Link, server: Peer) -> dict[str, Any]:
    """Who a server is."""
    return {"address": addresses.short(server), "says": answer(link, server, wire.Identify())}


# --- this machine ------------------------------------------------------------------------------


def versions() -> dict[str, Any]:
    """Of everything that matters, as it is."""
    libraries = {}
    for name in ("pyzmq", "msgpack", "mfusepy", "lmdb", "crcmod", "fastcrc", "rich"):
        try:
            libraries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            libraries[name] = "not installed"
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        system = "unknown"
    return {
        "zdfs": __version__,
        "protocol": wire.PROTOCOL,
        "python": sys.version.replace("\n", " "),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "distribution": system,
        "checksums": checksum.engine(),
        "libfuse": libfuse(),
        "libzmq": library(),
        "libraries": libraries,
    }


def libfuse() -> str:
    """Which one a mount would take."""
    try:
        return fuse.version()
    except StartError:
        return "none that a mount could use"


def machine() -> dict[str, Any]:
    """What this machine is and allows."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    bounds = {
        name.removeprefix("RLIMIT_").lower(): resource.getrlimit(getattr(resource, name))
        for name in ("RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_MEMLOCK", "RLIMIT_AS", "RLIMIT_FSIZE")
    }
    return {
        "processors": os.cpu_count(),
        "memory_bytes": memory,
        "load": os.getloadavg(),
        "uid_is_root": os.geteuid() == 0,
        "limits": bounds,
        "dev_fuse": os.access("/dev/fuse", os.R_OK | os.W_OK),
        "mounts": [one for one in _read("/proc/self/mountinfo").splitlines() if " zdfs:" in one],
    }


def processes() -> Iterator[dict[str, Any]]:
    """Nodes, mounts and what started them, with what they use."""
    for name in sorted(filter(str.isdecimal, os.listdir("/proc")), key=int):
        here = f"/proc/{name}"
        words = _read(f"{here}/cmdline").split("\0")[:-1]
        if not any(ours(word) for word in words[:4]) or int(name) == os.getpid():
            continue
        lines = _read(f"{here}/status").splitlines()
        state = dict(line.split(":", 1) for line in lines if ":" in line)
        shown = ("State", "Threads", "VmRSS", "VmSize", "RssAnon")
        yield {
            "pid": int(name),
            "command": words,
            "state": {key: state[key].strip() for key in shown if key in state},
            "open_files": _count(f"{here}/fd"),
            "limits": [one for one in _read(f"{here}/limits").splitlines() if "open files" in one],
        }


def ours(word: str) -> bool:
    """Whether a word of a command line says that it is one of ours."""
    return Path(word).name.startswith("zdfs") or "zdfs" in word.split(" ")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="surrogateescape")
    except OSError:
        return ""


def _count(path: str) -> int | None:
    try:
        return len(os.listdir(path))
    except OSError:
        return None


# --- writing it --------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Facts of any of our types, as JSON has them."""
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, bytes):
        return f"x{value.hex()}"  # a word that is not ours: a hash, in the end
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {key: plain(one) for key, one in value._asdict().items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one) for one in value]
    return value


def write(bundle: Bundle, target: Path) -> None:
    """A tar.gz that only its owner can read, whole or not at all.  StartError."""
    top = target.name.removesuffix(".gz").removesuffix(".tar")
    part = target.with_name(f".{target.name}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
            for name, (content, _) in bundle.files.items():
                member = tarfile.TarInfo(f"{top}/{name}")
                member.size, member.mtime, member.mode = len(content), int(time.time()), 0o600
                tar.addfile(member, io.BytesIO(content))
        os.rename(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StartError(f"{target} can't be written: {error.strerror}") from error
