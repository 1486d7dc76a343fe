"""`zdfs status` without keys said "the server at 2222 wants keys: give --keys DIR" twice: as a
warning, without its name, and as the reason of its end."""

import logging

import pytest

from zdfs import journal
from zdfs.errors import StartError

TEXT = "the server at 2222 wants keys"


def test_a_reason_that_was_said_is_not_said_again(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, journal.Aloud("zdfs"):
        logging.getLogger("zdfs.keys").warning("%s", TEXT)
        raise StartError(TEXT)
    assert ended.value.code == 1 and capsys.readouterr().err == f"zdfs: {TEXT}\n"
    assert not [h for h in logging.getLogger("zdfs").handlers if isinstance(h, journal.Aloud)]


def test_another_reason_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StartError), journal.Aloud("zdfs"):
        logging.getLogger("zdfs.contact").warning("dataserver 3333 is down")
        raise StartError(TEXT)
    assert capsys.readouterr().err == "zdfs: dataserver 3333 is down\n"
