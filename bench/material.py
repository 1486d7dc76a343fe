"""What the race works with, made from a fixed seed on the local disk: the same for everybody.

    tree.tar      a source tree of 3,000 files, sizes as in real ones: most small, few large
    repository    the same tree as a git repository with one commit
    program       a C program of 60 files, with its Makefile
    proof         a file whose copies are looked for in the servers' stores

Only the proof has other bytes each time, so that no earlier one is taken for it.
"""

import os
import random
import shutil
import subprocess
from pathlib import Path

from bench.load import MIB

NEEDLE = "needle"  # one file in fifty has it
FILES = 3000
FILES_A_DIRECTORY = 20
SOURCES = 60
HEADERS = 12
PROOF_BYTES = 3 * MIB
WORDS = ("block", "inode", "replica", "server", "mount", "lease", "epoch", "slot", "version", "log")

# Programs run the same whatever this machine's owner has set up.
QUIET = os.environ | {
    "LC_ALL": "C",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "race",
    "GIT_AUTHOR_EMAIL": "race@localhost",
    "GIT_COMMITTER_NAME": "race",
    "GIT_COMMITTER_EMAIL": "race@localhost",
}


def make(folder: Path, scale: float) -> None:
    """All of it, in a new directory."""
    dice = random.Random(1)
    folder.mkdir()
    tree = folder / "repository"
    _tree(tree, max(20, round(FILES * scale)), dice)
    _run("tar", "-cf", folder / "tree.tar", "-C", tree, ".")
    _run("git", "-C", tree, "init", "-q")
    _run("git", "-C", tree, "add", ".")
    _run("git", "-C", tree, "commit", "-q", "-m", "all")
    _program(folder / "program", max(4, round(SOURCES * scale)), dice)


def renew_proof(folder: Path) -> bytes:
    """Write the next proof; its bytes."""
    content = os.urandom(PROOF_BYTES)
    (folder / "proof").write_bytes(content)
    return content


def _run(*words: str | Path) -> None:
    subprocess.run(words, stdout=subprocess.DEVNULL, env=QUIET, check=True)


def _tree(top: Path, files: int, dice: random.Random) -> None:
    for number in range(files):
        directory = number // FILES_A_DIRECTORY
        below = top / f"part-{directory % 8}" / f"module-{directory}"
        below.mkdir(parents=True, exist_ok=True)
        size = min(256 * 1024, round(dice.lognormvariate(8.3, 1.2)))  # half are below 4 KiB
        words = dice.choices(WORDS, k=size // 6 + 1)
        words += [NEEDLE] * (number % 50 == 0)
        lines = [" ".join(words[at : at + 12]) for at in range(0, len(words), 12)]
        (below / f"file-{number}.txt").write_text("\n".join(lines) + "\n")


FUNCTION = """int {name}(int a, int b)
{{
    int sum = 0;
    for (int i = a; i < b; i++)
        sum += i % {divisor} ? i * {factor} : sum / (i * i + 1);
    return sum;
}}
"""


def _program(top: Path, sources: int, dice: random.Random) -> None:
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    for number in range(HEADERS):
        lines = [f"#define LIMIT_{number}_{i} {dice.randrange(1000)}\n" for i in range(50)]
        (top / f"limits_{number}.h").write_text("#pragma once\n" + "".join(lines))
    for number in range(sources):
        picked = dice.sample(range(HEADERS), 3)
        text = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
        text += "".join(f'#include "limits_{header}.h"\n' for header in picked)
        for i in range(30):
            text += FUNCTION.format(
                name=f"work_{number}_{i}", divisor=dice.randrange(2, 9), factor=dice.randrange(99)
            )
        text += "int main(void) { return work_0_0(1, 2) == 0; }\n" if number == 0 else ""
        (top / f"part_{number}.c").write_text(text)
    (top / "Makefile").write_text(
        "OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))\n"
        "CFLAGS := -O1\n"
        "all: $(OBJECTS)\n\tgcc -o all $(OBJECTS)\n"
        "%.o: %.c $(wildcard *.h)\n\tgcc $(CFLAGS) -c -o $@ $<\n"
        "small: part_0.c\n\tgcc $(CFLAGS) -o small part_0.c\n"  # to have the compiler at hand
    )
