"""Run one operation on a directory."""

import os
import sys
from pathlib import Path

from live.operations import attributes, content, names

OPERATIONS = {
    work.__name__: work for work in (*content.OPERATIONS, *names.OPERATIONS, *attributes.OPERATIONS)
}

if __name__ == "__main__":
    os.umask(0o022)
    OPERATIONS[sys.argv[1]](Path(sys.argv[2]))
