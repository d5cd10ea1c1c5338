"""Latency of a queue, by hand and by queueing theory."""

import numpy as np
import pytest

from prn_fast.bench.scenarios.queueing import latencies, rate_within


def test_latencies_by_hand() -> None:
    # The second waits for the first; the third and fourth are served together, the fifth finds nobody.
    arrivals = np.array([0.0, 1.0, 2.5, 3.0, 20.0])
    assert latencies(arrivals, single=2.0, batch=2, whole=3.0) == pytest.approx([2.0, 3.0, 4.5, 4.0, 2.0])


def test_no_more_than_a_batch_is_served_at_once() -> None:
    assert latencies(np.zeros(5), single=1.0, batch=2, whole=1.5) == pytest.approx([1.5, 1.5, 3.0, 3.0, 4.0])


@pytest.mark.parametrize("load", [0.2, 0.5, 0.8])
def test_mean_waiting_is_that_of_the_pollaczek_khinchine_formula(load: float) -> None:
    arrivals = np.cumsum(np.random.default_rng(1).exponential(1 / load, size=200_000))
    waiting = latencies(arrivals, single=1.0, batch=1, whole=1.0) - 1.0
    assert waiting.mean() == pytest.approx(load / (2 * (1 - load)), rel=0.05)


def test_the_rate_found_reaches_the_bound() -> None:
    rate = rate_within(0.1, single=0.05, batch=8, whole=0.2)
    arrivals = np.cumsum(np.random.default_rng(2).exponential(1 / rate, size=100_000))
    assert np.percentile(latencies(arrivals, 0.05, 8, 0.2), 99) == pytest.approx(0.1, rel=0.05)


def test_a_looser_bound_allows_more_and_an_impossible_one_nothing() -> None:
    rates = [rate_within(bound, single=0.05, batch=8, whole=0.2) for bound in (0.04, 0.08, 0.2, 1.0)]
    assert rates[0] == 0.0
    assert rates == sorted(rates)
    assert rates[1] > 0.0
    assert rates[-1] <= 8 / 0.2
