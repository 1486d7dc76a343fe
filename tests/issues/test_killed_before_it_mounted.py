"""`timeout 60 zdfs-mount ...`, `kill`, or a terminal that was closed, ended the command that waited
for its cluster, but not the process that it had sent to the background: that tried on for ever, and
mounted some day what nobody wanted any more.  Only ^C ended both."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import until

PARENT = """
import sys
from pathlib import Path
from zdfs import starting
tries = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
sys.exit(starting.start_detached([sys.executable, "-c", tries], Path(sys.argv[1])))
"""


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_child_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None and parent.stderr is not None
        child = int(parent.stdout.readline())
        try:
            parent.send_signal(number)
            until(lambda: _gone(child))
            assert "stopped" in parent.stderr.readline() and parent.wait() == 1
        finally:
            if not _gone(child):
                os.kill(child, signal.SIGKILL)
