"""`zdfs health` said of a metaserver that answered, and would not tell this key, that it "does not
answer", and to start it again; so did it of a dataserver's port, and the web page's checks.  Where
the cluster had keys and the command had none, it ended with 1, as if somebody should look at it
some day.  (`why.status` took every failure but two for silence.)"""

import pytest

from tests.unit.test_health_checks import NOW_NS, bad, seen
from tests.unit.test_reasons import META
from zdfs.errors import (
    BadMessage,
    Failure,
    Interrupted,
    Mistrusted,
    Posix,
    Refused,
    Unavailable,
    Unreachable,
)
from zdfs.health import Grade, worst
from zdfs.reasons import Facts
from zdfs.tools import why
from zdfs.tools.web.snapshot import Heard, snapshot

TEXT = "the key ada may not ask for GetStatus"


@pytest.mark.parametrize(
    "answer", [Mistrusted(TEXT), Refused(TEXT), Posix(13, TEXT), BadMessage(TEXT)]
)
def test_who_answers_and_does_not_tell_is_heard(answer: Failure) -> None:
    assert why.refusal(answer) == TEXT


@pytest.mark.parametrize("answer", [Unreachable("x"), Unavailable("x"), Interrupted("x"), None])
def test_who_is_silent_refused_nothing(answer: Failure | None) -> None:
    assert why.refusal(answer) == ""


def test_health_says_what_was_refused() -> None:
    (check,) = bad(seen(facts=Facts(META, None), refusal=TEXT))
    assert check.name == "metaserver" and worst([check]) is Grade.CRITICAL
    assert TEXT in check.text and "does not answer" not in check.text
    assert "--keys DIR" in check.advice and "start it again" not in check.advice


def test_so_does_the_page() -> None:
    shown = snapshot(Heard(META, NOW_NS, "1.0", "fastcrc", refusal=TEXT))
    texts = [one["text"] for one in shown["health"]["checks"] if one["name"] == "metaserver"]
    assert len(texts) == 1 and TEXT in texts[0] and "does not answer" not in texts[0]
