"""`timeout 60 zdfs-mount ...`, `kill`, or a terminal that was closed, ended the command that waited
for its cluster, but not the process that it had sent to the background: that tried on for ever, and
mounted some day what nobody wanted any more.  Only ^C ended both, and nothing did if it came in the
moment in which the background process began."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import until

PARENT = """
import os, signal, subprocess, sys
from pathlib import Path
from zdfs import starting
signal.signal(signal.SIGINT, signal.default_int_handler)  # also beneath nohup, or in a shell's &
signal.signal(signal.SIGHUP, signal.SIG_DFL)
class Born(subprocess.Popen):
    def __init__(self, *words, **more):
        super().__init__(*words, **more)
        if len(sys.argv) > 2:
            os.kill(os.getpid(), int(sys.argv[2]))
subprocess.Popen = Born
tries = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
sys.exit(starting.start_detached([sys.executable, "-c", tries], Path(sys.argv[1])))
"""


DASHES = """
import sys
from pathlib import Path
from zdfs import starting
tries = "import sys; print(sys.argv[1:], flush=True)"
words = [sys.executable, "-c", tries, "--", "-dir"]
sys.exit(starting.start_detached(words, Path(sys.argv[1])))
"""


def test_options_for_the_child_stand_before_dashes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DASHES, str(tmp_path)], capture_output=True, text=True, timeout=30
    )
    flag, herald, _, *rest = ast.literal_eval(done.stdout)
    assert [flag, herald, *rest] == ["-f", "--herald", "--", "-dir"]


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("newborn", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_child_goes_on(tmp_path: Path, number: signal.Signals, newborn: bool) -> None:
    """`newborn`: the signal comes before there is anything to do for the child."""
    words = [sys.executable, "-c", PARENT, str(tmp_path), *([str(int(number))] * newborn)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None and parent.stderr is not None
        said = parent.stdout.readline()  # nothing, if a newborn was ended before it spoke
        child = int(said or 0)
        try:
            if not newborn:
                parent.send_signal(number)
            until(lambda: not child or _gone(child))
            assert "stopped" in parent.stderr.readline() and parent.wait() == 1
        finally:
            if child and not _gone(child):
                os.kill(child, signal.SIGKILL)
