"""Many simulated lives: `make sim SEEDS=200`, or `python -m tests.sim 200 [first seed]`.

Every kind of life on every seed.  A failing one is printed with the end of its story and with the
command that plays it again; the exit status says whether there was one.
"""

import contextlib
import io
import logging
import os
import secrets
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.sim import test_cluster, test_mounts

Life = tuple[str, str, int]  # module, kind, seed
MODULES = {"test_cluster": test_cluster, "test_mounts": test_mounts}


def lives(first: int, count: int) -> Iterator[Life]:
    """All of them."""
    for seed in range(first, first + count):
        for name, module in MODULES.items():
            yield from ((name, kind, seed) for kind in module.KINDS)


def story(life: Life) -> str:
    """What a failing life has to say; empty: it went well."""
    name, kind, seed = life
    logging.disable(logging.CRITICAL)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            MODULES[name].play(kind, seed)
        except Exception:
            return f"{traceback.format_exc(limit=-3)}{said.getvalue()}"
    return ""


def main() -> int:
    """Run them, two at a time on two processors."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    first = int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbelow(2**32)
    print(f"seeds {first} to {first + count - 1}", flush=True)
    tried = failed = 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for text in pool.map(story, lives(first, count), chunksize=4):
            tried += 1
            failed += bool(text)
            if text:
                print(text, flush=True)
    print(f"{tried} lives, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
