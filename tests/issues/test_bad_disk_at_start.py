"""A disk that refused writes at the start was reported as a bug of ours, with a traceback."""

import errno
import os
from pathlib import Path

import pytest

from zdfs.disk import Lock
from zdfs.errors import StartError


@pytest.mark.parametrize("name", ["ftruncate", "pwrite"])
def test_a_lock_that_cannot_be_written_is_said(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*words: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(StartError, match="lock: can't be written: Input/output error"):
            Lock(tmp_path)
    Lock(tmp_path).release()
