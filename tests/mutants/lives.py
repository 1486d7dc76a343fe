"""Lives of one kind: `python -m tests.mutants.lives MODULE KIND COUNT [FIRST SEED]`.

The seeds are fixed, so that a mutant that was caught once is caught again.  The exit status is 1
as soon as one of them fails, whose story is printed.
"""

import importlib
import logging
import sys
import traceback

FIRST = 1000


def main() -> int:
    """Play them."""
    module, kind, count, *rest = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    played = importlib.import_module(f"tests.sim.{module}")
    first = int(rest[0]) if rest else FIRST
    for seed in range(first, first + int(count)):
        try:
            played.play(kind, seed)
        except Exception:
            traceback.print_exc(limit=-3)
            print(f"RED {module} {kind}, seed {seed}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
