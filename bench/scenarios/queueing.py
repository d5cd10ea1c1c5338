"""What a queue does to latency: an estimate, from which the search with real arrivals begins."""

import math

import numpy as np
from numpy.typing import NDArray

ARRIVALS = 4000
HALVINGS = 20
SEED = 0


def rate_within(bound: float, single: float, batch: int, whole: float) -> float:
    """The rate of random arrivals at which the 99th percentile of latency reaches a bound.

    Arrivals are a Poisson process of `ARRIVALS` draws; one server takes all that wait, up to `batch`, at a time. Its
    time for n of them lies on the line from (1, single) to (batch, whole).

    Args:
        bound, single, whole: seconds.
        batch: most that are served together.
    Returns:
        Arrivals a second; 0 where a single one takes longer than the bound.
    """
    if single > bound:
        return 0.0
    unit = np.cumsum(np.random.default_rng(SEED).exponential(size=ARRIVALS))
    low, high = 0.0, max(1 / single, batch / whole)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if np.percentile(latencies(unit / middle, single, batch, whole), 99) <= bound:
            low = middle
        else:
            high = middle
    return low


def latencies(arrivals: NDArray[np.float64], single: float, batch: int, whole: float) -> NDArray[np.float64]:
    """Seconds from each arrival to the end of its service; arguments as of `rate_within`.

    Args:
        arrivals: (N,) times in seconds, in order.
    """
    each = max(0.0, whole - single) / (batch - 1) if batch > 1 else 0.0
    result = np.empty(len(arrivals))
    free, first = -math.inf, 0
    while first < len(arrivals):
        start = max(free, arrivals[first])
        waiting = int(np.searchsorted(arrivals, start, side="right")) - first
        count = min(waiting, batch)
        free = start + single + (count - 1) * each
        result[first : first + count] = free - arrivals[first : first + count]
        first += count
    return result
