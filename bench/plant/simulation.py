"""Many lines and one server, event by event: arrivals on schedule, a bounded queue, batches as Triton makes them.

Each line sends a request of some images at fixed intervals, and lines are not in step: their phases are drawn. The
server has one engine. When it is free it takes the requests that wait, in order, up to the most images of a batch; a
batch that is not full is held back for `delay` after its first request arrived. A request that finds the queue full is
refused. The time of a batch is drawn from measured ones.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_fast.errors import ConfigError

DRAWS = 10
SECONDS = 120.0


@dataclass(frozen=True)
class ServiceTimes:
    """Measured seconds of batches.

    Attributes:
        batches: sizes that were measured, ascending.
        samples: for each size the sorted times.
    """

    batches: tuple[int, ...]
    samples: tuple[NDArray[np.float64], ...]

    @classmethod
    def of(cls, measured: Mapping[int, Sequence[float]]) -> "ServiceTimes":
        """From seconds for each batch size."""
        sizes = tuple(sorted(measured))
        return cls(sizes, tuple(np.sort(np.asarray(measured[size], np.float64)) for size in sizes))

    def draw(self, images: int, share: float) -> float:
        """Seconds of a batch: the `share` quantile (0..1) of the sizes around it, linear between them.

        Less than the smallest size takes as long as that one; more than the largest takes longer in proportion.
        """
        place = bisect.bisect_left(self.batches, images)
        if place == len(self.batches):
            return images / self.batches[-1] * self._quantile(-1, share)
        if place == 0 or self.batches[place] == images:
            return self._quantile(place, share)
        low, high = self.batches[place - 1], self.batches[place]
        weight = (images - low) / (high - low)
        return (1 - weight) * self._quantile(place - 1, share) + weight * self._quantile(place, share)

    def _quantile(self, place: int, share: float) -> float:
        times = self.samples[place]
        return float(times[min(len(times) - 1, int(share * len(times)))])


@dataclass(frozen=True)
class Server:
    """How requests are queued and joined, as in a model's configuration.

    Attributes:
        batch: most images together.
        queue: requests that may wait.
        delay: seconds that a batch which is not full is held back.
        overhead: seconds that a request takes in addition to the engine, there and back.
    Raises:
        ConfigError: a value out of range.
    """

    batch: int = 8
    queue: int = 64
    delay: float = 0.0
    overhead: float = 0.0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.queue < 1:
            raise ConfigError(f"batch {self.batch} and queue {self.queue} must be at least 1")
        if not (0 <= self.delay < math.inf and 0 <= self.overhead < math.inf):
            raise ConfigError(f"delay {self.delay} and overhead {self.overhead} are seconds of 0 or more")


@dataclass(frozen=True)
class Run:
    """What became of the requests.

    Attributes:
        latencies: (N,) seconds from the scheduled arrival to the answer.
        refused: requests that found the queue full.
        busy: share of the time that the engine worked.
    """

    latencies: NDArray[np.float64]
    refused: int
    busy: float

    @property
    def p99(self) -> float:
        """Seconds; infinite where more than a hundredth was refused, or nothing was answered."""
        total = len(self.latencies) + self.refused
        if not len(self.latencies) or 100 * self.refused > total:
            return math.inf
        return float(
            np.percentile(np.concatenate([self.latencies, np.full(self.refused, np.inf)]), 99, method="higher")
        )


def simulate(
    lines: int,
    interval: float,
    images: int,
    server: Server,
    times: ServiceTimes,
    rng: np.random.Generator,
    seconds: float = SECONDS,
) -> Run:
    """One run.

    Args:
        lines: that send.
        interval: seconds between two requests of a line.
        images: in each request, at most a batch.
        seconds: duration of the arrivals.
    """
    phases = rng.uniform(0, interval, lines)
    arrivals = np.sort((phases[:, None] + np.arange(0, seconds, interval)).ravel())
    latencies, refused, worked = [], 0, 0.0
    waiting: list[float] = []
    free = 0.0
    following = 0

    def take(until: float) -> None:
        """Arrivals until then, as far as the queue has room."""
        nonlocal following, refused
        while following < len(arrivals) and arrivals[following] <= until:
            if len(waiting) < server.queue:
                waiting.append(float(arrivals[following]))
            else:
                refused += 1
            following += 1

    most = max(1, server.batch // images)
    while waiting or following < len(arrivals):
        if not waiting:
            take(float(arrivals[following]))
        start = max(free, waiting[0])
        take(start)
        # Held back until it is full, or until its first request has waited for the delay.
        held_until = waiting[0] + server.delay
        while len(waiting) < most and following < len(arrivals) and arrivals[following] <= held_until:
            start = max(start, float(arrivals[following]))
            take(start)
        if len(waiting) < most:
            start = max(start, held_until)
            take(start)
        part, waiting = waiting[:most], waiting[most:]
        service = times.draw(len(part) * images, rng.uniform())
        free = start + service
        worked += service
        latencies += [free + server.overhead - arrival for arrival in part]
    return Run(np.array(latencies), refused, worked / max(free, seconds))


def lines_held(
    bound: float,
    most: int,
    interval: float,
    images: int,
    server: Server,
    times: ServiceTimes,
    seed: int = 0,
    draws: int = DRAWS,
) -> tuple[int, list[Run]]:
    """The most lines, up to `most`, of which each draw of the phases keeps p99 within a bound; and the runs with them.

    Fewer than a number that is held are taken to be held too. 0 and no runs where a single line is not.
    """

    def runs(lines: int) -> list[Run]:
        # A draw gives the same phases to the lines that it has in common with another number of lines.
        return [
            simulate(lines, interval, images, server, times, np.random.default_rng((seed, draw)))
            for draw in range(draws)
        ]

    held, found = 0, []
    low, high = 1, most
    while low <= high:
        middle = (low + high) // 2
        tried = runs(middle)
        if max(run.p99 for run in tried) <= bound:
            held, found, low = middle, tried, middle + 1
        else:
            high = middle - 1
    return held, found
