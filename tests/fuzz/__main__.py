"""Fuzzing: python -m tests.fuzz corpus | run WHAT --seconds N | replay FILE...

`run decode` and `run dispatch` look for scripts that break something, led by the coverage of zdfs,
with atheris (libFuzzer).  What they learn stands in build/fuzz and is used by the next run; what
breaks is saved in tests/fuzz/crashes, where a test plays it until it does not break any more.
"""

import argparse
import logging
import random
import subprocess
import sys
import traceback
from pathlib import Path

LEARNT = Path("build") / "fuzz"
SECONDS = 25  # one input must not take longer
MEGABYTES = 2048  # nor the fuzzer be larger
STRUCTURED = 0.7  # of mutations; the others are libFuzzer's own


def hunt(what: str, seconds: int) -> None:
    """Never returns: libFuzzer ends the process, with another status than 0 after a crash."""
    import atheris

    with atheris.instrument_imports(include=["zdfs"], enable_loader_override=False):
        from tests.fuzz import fuzzing, scripts
    play = fuzzing.PLAYS[what]()

    def one(data: bytes) -> None:
        play(scripts.unpack(data))

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        dice = random.Random(seed)
        if dice.random() < STRUCTURED:
            return fuzzing.mutated(data, dice)[:most]
        return bytes(atheris.Mutate(data, most))

    learnt = LEARNT / what
    learnt.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}",
        "-max_len=16384", "-print_final_stats=1", f"-artifact_prefix={LEARNT}/",
    ]  # fmt: skip
    words = [sys.argv[0], *options, str(learnt), str(fuzzing.CORPUS)]
    atheris.Setup(words, one, custom_mutator=mutate)
    atheris.Fuzz()


def run(what: str, seconds: int) -> int:
    """Fuzz in a process of its own; what broke there is made small here, and shown."""
    from tests.fuzz import fuzzing, scripts

    before = set(fuzzing.files(fuzzing.CRASHES))
    words = [sys.executable, "-m", "tests.fuzz", "hunt", what, "--seconds", str(seconds)]
    status = subprocess.run(words).returncode
    for path in sorted(set(fuzzing.files(fuzzing.CRASHES)) - before):
        script = scripts.unpack(path.read_bytes())
        print(f"{len(script)} messages broke something: looking for those that do it alone")
        small = fuzzing.keep(fuzzing.smallest(script, fuzzing.ALONE[what]))
        if small != path:
            path.unlink()
        replay([small])
    return min(status, 1)


def replay(paths: list[Path]) -> int:
    """Play scripts as the fuzzer does, and say what becomes of each."""
    from tests.fuzz import fuzzing, scripts

    broken = 0
    for path in paths:
        script = scripts.unpack(path.read_bytes())
        try:
            fuzzing.decode(script)
            fuzzing.dispatch(script)
            print(f"{path}: {len(script)} messages: all is well")
        except Exception:
            broken += 1
            traceback.print_exc()
            print(f"{path}: {len(script)} messages: broken, see above")
    return min(broken, 1)


def main() -> int:
    """As the words say."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("corpus", help="make tests/fuzz/corpus anew from the messages")
    for name in ("run", "hunt"):
        running = commands.add_parser(name, help="fuzz" if name == "run" else "what run starts")
        running.add_argument("what", choices=["decode", "dispatch"])
        running.add_argument("--seconds", type=int, default=300)
    commands.add_parser("replay", help="play scripts").add_argument("file", type=Path, nargs="+")
    chosen = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if chosen.command == "corpus":
        from tests.fuzz import fuzzing

        print(f"{fuzzing.make_corpus()} seeds written to {fuzzing.CORPUS}")
        return 0
    if chosen.command == "replay":
        return replay(chosen.file)
    if chosen.command == "run":
        return run(chosen.what, chosen.seconds)
    hunt(chosen.what, chosen.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
