"""Two looks at a process: growth, rates, quantiles, and processes that were started again."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdfs import wire
from zdfs.rates import Between, Look, look, quantile

INF = float("inf")


def at(at_s: float, **values: float) -> Look:
    """A look at some metrics without labels."""
    return Look(at_s, {(name, ()): value for name, value in values.items()})


def test_pages_are_one_look() -> None:
    def page(name: str, value: float) -> wire.Measures:
        labels = (wire.Label("request", "Put"),)
        return wire.Measures("data", 2500, 0, (wire.Sample(name, labels, value),), "")

    seen = look([page("a", 1.0), page("b", 2.0)])
    assert seen.at_s == 2.5
    assert seen.value("a", request="Put") == 1.0 and seen.value("b") == 2.0
    assert seen.value("a", request="Get") is None and seen.value("c") is None


def test_growth_in_a_second() -> None:
    between = Between(at(10, n=5), at(14, n=13, new=2))
    assert between.count("n") == 8 and between.rate("n") == 2
    assert between.count("new") == 2 and between.count("unknown") == 0


def test_a_process_that_was_started_again_counts_from_its_start() -> None:
    assert Between(at(10, n=500), at(12, n=3)).count("n") == 3


def test_a_machine_that_was_started_again_has_a_clock_that_began_anew() -> None:
    between = Between(at(5000, n=500), at(4, n=8))
    assert between.rate("n") == 2


def test_growth_by_a_label() -> None:
    def seen(at_s: float, put: float, get: float) -> Look:
        values = {("n", (("request", "Put"),)): put, ("n", (("request", "Get"),)): get}
        return Look(at_s, values)

    between = Between(seen(0, 1, 1), seen(1, 2, 4))
    assert between.by("request", "n") == {"Put": 1, "Get": 3}
    assert between.count("n") == 4 and between.count("n", request="Get") == 3


def test_buckets_leave_out_what_is_not_asked_for() -> None:
    def bucket(request: str, le: str) -> tuple[str, tuple[tuple[str, str], ...]]:
        return "s_bucket", (("le", le), ("request", request))

    values = {bucket("Put", "0.1"): 3.0, bucket("Put", "+Inf"): 4.0, bucket("Beat", "+Inf"): 9.0}
    between = Between(Look(0, {}), Look(1, values))
    assert between.buckets("s", "request", ["Beat"]) == {0.1: 3.0, INF: 4.0}
    assert between.buckets("s") == {0.1: 3.0, INF: 13.0}


def test_quantiles() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({1.0: 0.0, INF: 0.0}, 0.5) is None
    assert quantile({1.0: 10.0, 2.0: 10.0, INF: 10.0}, 0.5) == pytest.approx(0.5)
    assert quantile({1.0: 0.0, 2.0: 10.0, INF: 10.0}, 0.9) == pytest.approx(1.9)
    assert quantile({1.0: 5.0, INF: 10.0}, 0.99) == 1.0, "what is above the last bound is that"


@given(st.lists(st.floats(0, 20), min_size=1), st.floats(0.01, 1.0))
def test_a_quantile_is_right_within_its_bucket(values: list[float], share: float) -> None:
    bounds = [0.5, 1.0, 5.0, 10.0, INF]
    buckets = {bound: float(sum(value <= bound for value in values)) for bound in bounds}
    found = quantile(buckets, share)
    exact = sorted(values)[math.ceil(share * len(values) - 1e-9) - 1]
    assert found is not None
    above = next(bound for bound in bounds if exact <= bound)
    below = max([0.0, *[bound for bound in bounds if bound < above]])
    assert below - 1e-9 <= found <= (above if above < INF else 10.0) + 1e-9
