"""Whether images are still like those of the calibration: light, lens and product change, and verdicts with them.

Three figures of each image are watched: the network's score, the brightness and the contrast. Two questions are asked
of each.

Is the line like the calibration? Two distances between a rolling window and the calibration answer, since each sees
what the other is blind to:

- the population stability index (PSI) over classes that hold the same share of the reference,
  sum of (p - q) log(p / q), by convention "look at it" from 0.1 and "it has changed" from 0.25 (Siddiqi, "Credit Risk
  Scorecards", 2006);
- the Kolmogorov-Smirnov distance (KS), the largest difference of the two cumulative distributions.

Both are above 0 by chance alone, the more so the fewer images the reference (n) and the window (m) hold: a limit is the
convention or what chance does at a stated rate, whichever is larger. By chance KS exceeds
sqrt(-log(a / 2) / 2 (1/n + 1/m)) at the rate a (Smirnov, 1939), and PSI behaves as (1/n + 1/m) times chi-square with
one degree of freedom less than there are classes (Yurdakul and Naranjo, 2020).

Does the line change? A window answers late: it must fill first. A cumulative sum (CUSUM; Page, 1954) needs no window.
It adds up how far each image's rank in the reference, 0..1, lies from the target, less an allowance, and never falls
below 0 (`_Cusum`). Ranks do not care how figures are spread, and no defect counts for more than half an image.

Neighbours on a web resemble each other, so images say no more than fewer independent ones would: `effective_count`.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from prn_fast.errors import ConfigError, DataError

SCORE, BRIGHTNESS, CONTRAST = "score", "brightness", "contrast"
QUANTITIES = (SCORE, BRIGHTNESS, CONTRAST)
WINDOW = 1000
MIN_WINDOW = 100
# Number of times that a window is checked while it fills.
LOOKS_PER_WINDOW = 8
# Of these, as many as the line's first tiles take, which tell where it starts.
START_LOOKS = LOOKS_PER_WINDOW // 2
# Quantiles that describe a distribution, however many images it has.
MAX_QUANTILES = 101
MAX_CLASSES = 10
# Images whose mean is one piece of evidence of how much neighbours resemble each other.
_BATCH = 25
# A class of the PSI holds at least this many images of the reference.
IMAGES_PER_CLASS = 5


class DriftState(StrEnum):
    """What to do: nothing yet is known, nothing, have a look, or calibrate again (or repair the line)."""

    LEARNING = "learning"
    OK = "ok"
    WATCH = "watch"
    ACT = "act"


@dataclass(frozen=True)
class Limit:
    """When a distance counts: from `psi` and `ks` on, and by chance never more often than at the rate."""

    psi: float
    ks: float
    chance: float


# A thousand good windows give ten of "watch" for each quantity and distance. "act" takes two windows that share no
# image: by chance, 1e-8 each, so that a hundred thousand images, looked at eight times a window, bring none.
WATCH = Limit(psi=0.1, ks=0.1, chance=1e-2)
ACT = Limit(psi=0.25, ks=0.2, chance=1e-4)

# The rank of an image of an unchanged line is spread evenly from 0 to 1.
_RANK_VARIANCE = 1 / 12
# A KS of 0.2 is half a standard deviation of a normal figure, which moves the mean rank by 0.14. A CUSUM finds a change
# soonest if it allows for half of it.
ALLOWANCE = 0.07
# In images. Chance brings a sum d below its allowance to a limit h once in about exp(2 h d / v) v / 2 d^2 images, with
# v the variance of a rank (Siegmund, 1985): 1e7 where half of the allowance is used up by a target that is off.
CUSUM_LIMIT = 15.0
# Looks that a change must last, however large it is: a lamp that flickers asks for nothing.
LOOKS_TO_ACT = 4
# Looks that tell how much the line goes up and down anyway.
LOOKS_REMEMBERED = 64


# -- the reference ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Distribution:
    """How a figure is spread over images.

    Attributes:
        images: how many it was taken of.
        quantiles: float64, ascending, at evenly spaced probabilities from 0 to 1.
    """

    images: int
    quantiles: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.floating], count: float | None = None) -> "Distribution":
        """Of values (N,), N of one or more; `count` if they say no more than fewer independent ones."""
        steps = np.linspace(0, 1, min(len(values), MAX_QUANTILES)) if len(values) > 1 else np.array([0.5])
        return cls(max(1, int(count or len(values))), np.quantile(np.asarray(values, np.float64), steps))

    @property
    def median(self) -> float:
        """The value that half of the images lie below."""
        return float(np.median(self.quantiles))

    @property
    def classes(self) -> int:
        """Number of classes of the PSI, where no two quantiles are equal."""
        return max(2, min(MAX_CLASSES, self.images // IMAGES_PER_CLASS))

    def share_up_to(self, index: NDArray[np.integer] | NDArray[np.floating]) -> NDArray[np.float64]:
        """Expected share of a new image's values up to the quantile of an index.

        Of n images, the k-th smallest lies where k / (n + 1) of all are below, on average.
        """
        steps = max(1, len(self.quantiles) - 1)
        share = (np.asarray(index, np.float64) / steps * (self.images - 1) + 1) / (self.images + 1)
        return share if len(self.quantiles) > 1 else np.full_like(share, 0.5)

    def ks(self, values: NDArray[np.floating]) -> float:
        """Kolmogorov-Smirnov distance to values (m,), taken at the quantiles."""
        edges, first, count = np.unique(self.quantiles, return_index=True, return_counts=True)
        ordered = np.sort(values)
        # Where the reference has one value many times, what lies just below it counts, too.
        below = np.searchsorted(ordered, edges, side="left") / len(ordered)
        up_to = np.searchsorted(ordered, edges, side="right") / len(ordered)
        expected_up_to = self.share_up_to(first + count - 1)
        expected_below = np.where(count > 1, self.share_up_to(first), expected_up_to)
        smooth = np.where(count > 1, below, up_to)
        return float(max(np.abs(expected_up_to - up_to).max(), np.abs(expected_below - smooth).max()))

    def ranks(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Share of the reference below each of values (m,), above 0 and below 1; of equal ones, half count."""
        edges, first, count = np.unique(self.quantiles, return_index=True, return_counts=True)
        shares = (self.share_up_to(first) + self.share_up_to(first + count - 1)) / 2
        outside = 0.5 / (self.images + 1)
        return np.interp(values, edges, shares, left=outside, right=1 - outside)

    def psi(self, values: NDArray[np.floating]) -> float:
        """Population stability index of values (m,)."""
        places = np.linspace(0, len(self.quantiles) - 1, self.classes + 1)[1:-1]
        edges = np.interp(places, np.arange(len(self.quantiles)), self.quantiles)
        # Of equal edges, the last one counts all that is at or below that value.
        last = np.append(edges[1:] != edges[:-1], True)
        expected = np.diff(self.share_up_to(places[last]), prepend=0.0, append=1.0)
        counts = np.bincount(np.searchsorted(edges[last], values, side="left"), minlength=len(expected))
        found = np.maximum(counts, 0.5) / len(values)  # an empty class must not make it infinite
        return float(np.sum((found - expected) * np.log(found / expected)))

    def limits(self, count: float, limit: Limit) -> tuple[float, float]:
        """The limits of PSI and KS for a number of independent values."""
        noise = 1 / self.images + 1 / count
        by_chance = math.sqrt(-math.log(limit.chance / 2) / 2 * noise)
        return max(limit.psi, _chi_square(self.classes - 1, limit.chance) * noise), max(limit.ks, by_chance)


def effective_count(values: NDArray[np.floating]) -> float:
    """How many independent values say as much as values (m,) of a sequence in which neighbours may be alike.

    m divided by the ratio of two variances of the means of batches: as found between neighbouring batches (half the
    mean squared difference, after von Neumann, 1941, which a slow drift leaves as it is), and as independent values
    would have. m itself where there are fewer than two batches.
    """
    batches = values[: len(values) // _BATCH * _BATCH].reshape(-1, _BATCH)
    if len(batches) < 2:
        return float(len(values))
    between = np.square(np.diff(batches.mean(axis=1))).mean() / 2
    within = batches.var(axis=1).mean()
    if between == 0:
        return float(len(values))
    return float(len(values) / np.clip(_BATCH * between / (within + between), 1, _BATCH))


def _mean_rank_limit(count: float) -> float:
    """How far the mean rank of an unchanged line is from that of a number of images, at the rate of `ACT`."""
    return NormalDist().inv_cdf(1 - ACT.chance / 2) * math.sqrt(_RANK_VARIANCE / count) if count else 1.0


def _chi_square(degrees: int, chance: float) -> float:
    """What chi-square exceeds at a rate; Wilson and Hilferty's approximation (1931), here up to 8 % too large."""
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + NormalDist().inv_cdf(1 - chance) * math.sqrt(spread)) ** 3


@dataclass(frozen=True, eq=False)
class Reference:
    """What images were like when a package was calibrated.

    Attributes:
        images: how many.
        precision: of the engine that gave the scores, such as "fp32"; those of another precision differ anyway.
        quantities: the distribution of each of `QUANTITIES`.
    """

    images: int
    precision: str
    quantities: Mapping[str, Distribution]

    @classmethod
    def of(cls, scores: NDArray[np.floating], images: NDArray[np.uint8], precision: str) -> "Reference":
        """Of good images.

        Args:
            scores: (N,), the network's own.
            images: uint8 (N, S, S, C), as the network gets them.
            precision: of the engine that gave the scores.
        Raises:
            DataError: there are none, the two differ in number, or a score is not a number.
        """
        figures = image_figures(scores, images)
        return cls(len(images), precision, {name: Distribution.of(figures[name]) for name in QUANTITIES})

    @classmethod
    def of_calibration(cls, calibration: Mapping[str, Any]) -> "Reference | None":
        """Of a manifest's calibration; None where it has none, as packages of earlier versions."""
        values = calibration.get("reference")
        return None if values is None else cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Reference":
        """As a manifest holds it, which has checked the types."""
        quantities = {}
        for name in QUANTITIES:
            quantiles = np.array(values[name], np.float64)
            if not len(quantiles) or (np.diff(quantiles) < 0).any() or values["images"] < 1:
                raise DataError(
                    f"the calibration's reference of {name} is not a list of ascending values; "
                    "calibrate or train the package again"
                )
            quantities[name] = Distribution(int(values["images"]), quantiles)
        return cls(int(values["images"]), str(values["precision"]), quantities)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; 6 digits."""
        return {
            "images": self.images,
            "precision": self.precision,
            **{
                name: [float(f"{value:.6g}") for value in distribution.quantiles.tolist()]
                for name, distribution in self.quantities.items()
            },
        }


def image_figures(scores: NDArray[np.floating], images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """The figures that show drift, of each of N images.

    Args:
        scores: (N,).
        images: uint8 (N, S, S, C).
    Returns:
        float64 (N,) each: "score"; "brightness", the mean of all values, 0..255; "contrast", their standard deviation
        around each channel's mean.
    Raises:
        DataError: no images, another number of scores, or a score that is not a number.
    """
    if len(images) == 0 or len(scores) != len(images):
        raise DataError(f"{len(scores)} scores of {len(images)} images; give one or more images, and a score of each")
    if not np.isfinite(scores).all():
        raise DataError("a score is not a number; do not use this engine")
    moments = [cv2.meanStdDev(image) for image in images]
    return {
        SCORE: np.asarray(scores, np.float64),
        BRIGHTNESS: np.array([mean.mean() for mean, _ in moments]),
        CONTRAST: np.array([math.sqrt(np.square(spread).mean()) for _, spread in moments]),
    }


# -- the watch -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QuantityDrift:
    """One figure of the last window against its reference.

    Attributes:
        state: ok, watch or act.
        median, reference_median: of the window and of the reference.
        psi, ks: the two distances.
        cusum: the larger of the sums for lower and for higher values; it stays at its limit.
        psi_limit, ks_limit, cusum_limit: from where on they mean "act".
        reference: where the reference comes from.
    """

    state: DriftState
    median: float
    reference_median: float
    psi: float
    ks: float
    cusum: float
    psi_limit: float
    ks_limit: float
    cusum_limit: float
    reference: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        figures = ("median", "reference_median", "psi", "ks", "cusum", "psi_limit", "ks_limit", "cusum_limit")
        rounded = {name: float(f"{getattr(self, name):.4g}") for name in figures}
        return {"state": str(self.state), **rounded, "reference": self.reference}


@dataclass(frozen=True)
class Drift:
    """How the images that pass compare with the calibration.

    Attributes:
        state: the worst of all quantities; "learning" while the line starts.
        reason: why, in words; empty where all is well.
        tiles: images seen so far.
        window: images that are compared.
        quantities: by name; empty while learning.
    """

    state: DriftState
    reason: str
    tiles: int
    window: int
    quantities: Mapping[str, QuantityDrift]

    @property
    def states(self) -> tuple[DriftState, ...]:
        """That of all, and that of each quantity: observers are notified when one of these changes."""
        return (self.state, *(one.state for one in self.quantities.values()))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "state": str(self.state),
            "reason": self.reason,
            "tiles": self.tiles,
            "window": self.window,
            "quantities": {name: one.to_dict() for name, one in self.quantities.items()},
        }


class _Cusum:
    """Sums of how far the ranks of images lie below and above a target, less an allowance.

    The target is the mean rank at the line's start, within what chance leaves open: 20 images do not tell where the
    mean of the line is, and 1,000 do. The allowance is no less than what chance may have put the target off. The limit
    rises with how much more the means of successive looks differ (half the mean squared difference, after von Neumann,
    1941) than those of independent images would: a line that goes up and down is given time to come back.

    Args:
        reference: among which images are ranked.
        images: of the calibration; 0 where the line's start is the reference itself.
        start: (m,) values of the line's first images, oldest first.
    Attributes:
        sum: the larger of the two, from 0 to the limit.
        limit: see above.
    """

    def __init__(self, reference: Distribution, images: int, start: NDArray[np.floating]) -> None:
        self._reference = reference
        self._images = images
        self._start = reference.ranks(start)
        self._step = len(start) // START_LOOKS
        self._means = deque(self._start.reshape(START_LOOKS, -1).mean(axis=1), maxlen=LOOKS_REMEMBERED)
        self._sums = np.zeros(2)
        self.sum, self.limit = 0.0, CUSUM_LIMIT

    def look(self, values: NDArray[np.floating]) -> None:
        """Take a window's values (m,), oldest first; one look of them is new."""
        ranks = self._reference.ranks(values)
        mean = ranks[-self._step :].mean()
        self._means.append(mean)
        between = np.square(np.diff(self._means)).mean() / 2
        alike = max(len(ranks) / effective_count(ranks), self._step * between / _RANK_VARIANCE)
        known = max(self._images, len(self._start) / alike)
        uncertain = _mean_rank_limit(known)
        left_open = _mean_rank_limit(self._images) - uncertain
        target = np.clip(self._start.mean(), 0.5 - left_open, 0.5 + left_open)
        beyond = np.array([target - mean, mean - target]) - max(ALLOWANCE, uncertain)
        self.limit = CUSUM_LIMIT * alike
        self._sums += np.minimum(self._step * beyond, self.limit / LOOKS_TO_ACT)
        self._sums = self._sums.clip(0, self.limit)
        self.sum = float(self._sums.max())


class _Watched:
    """One quantity: its reference, and what its windows and its sums said.

    Args:
        calibration: what it was at calibration; None where the line itself is the reference.
        start: (m,) values of the line's first images, oldest first.
    """

    def __init__(self, calibration: Distribution | None, start: NDArray[np.floating]) -> None:
        images = 0 if calibration is None else calibration.images
        self._source = f"calibration, {images:,} images"
        self._reference = calibration or Distribution.of(start, effective_count(start))
        self._cusum = _Cusum(self._reference, images, start)
        # The last looks, down to one whose window shares no image with the next.
        self._looks: deque[DriftState] = deque(maxlen=LOOKS_PER_WINDOW)
        self._state = DriftState.OK

    def learn(self, values: NDArray[np.floating]) -> None:
        """Windows are compared with these, the line's first ones (m,), from now on."""
        self._source = f"first {len(values):,} tiles"
        self._reference = Distribution.of(values, effective_count(values))

    def look(self, values: NDArray[np.floating]) -> QuantityDrift:
        """At a window's values (m,), oldest first; one look of them is new."""
        reference, cusum = self._reference, self._cusum
        psi, ks = reference.psi(values), reference.ks(values)
        count = effective_count(values)
        now = DriftState.OK
        for state, limit in ((DriftState.WATCH, WATCH), (DriftState.ACT, ACT)):
            psi_limit, ks_limit = reference.limits(count, limit)
            if psi >= psi_limit or ks >= ks_limit:
                now = state
        before = self._looks[0] if len(self._looks) == LOOKS_PER_WINDOW else DriftState.OK
        cusum.look(values)
        if cusum.sum >= cusum.limit or now == before == DriftState.ACT:
            self._state = now = DriftState.ACT
        elif DriftState.ACT in (now, before):
            self._state = max(self._state, DriftState.WATCH, key=_severity)
        else:
            # It is left when two windows that share no image are within its limits.
            if cusum.sum >= cusum.limit / 2:
                now = DriftState.WATCH
            self._state = max(now, before, key=_severity)
        self._looks.append(now)
        return QuantityDrift(
            self._state,
            float(np.median(values)),
            reference.median,
            psi,
            ks,
            cusum.sum,
            psi_limit,
            ks_limit,
            cusum.limit,
            self._source,
        )


class DriftMonitor:
    """Watches images as they pass; see the module for what is compared.

    A window is looked at eight times while it is filled anew. "watch" is one window beyond the limits of `WATCH`, or a
    CUSUM at half of its limit. "act" is a CUSUM at its limit, which takes four looks at least, or two windows that
    share no image, both beyond the limits of `ACT`, in the same quantity. Chance, which is looked at hundreds of times
    a shift, does not bring it. A state is left when two such windows are within its limits.

    The first half window is the line's start. Until the window is full, those that have passed are compared.

    Without a reference, the first window is taken for it, and its first half by the CUSUM: then the monitor tells what
    changes from there on, not whether it was as it should be. So are the scores where the reference has those of
    another precision. `Drift` says which reference was taken.

    Args:
        reference: of the calibration; None where the package has none.
        precision: of the engine that gives the scores.
        window: images that are compared, rounded up to a multiple of eight. It should hold more of the web than its
            ordinary ups and downs last.
    Attributes:
        window: images that are compared.
        drift: the present state; may be read from any thread.
        notes: for people, what replaces a missing or small reference.
    Raises:
        ConfigError: a window of fewer than 100 images.
    """

    def __init__(self, reference: Reference | None, precision: str, window: int = WINDOW) -> None:
        if window < MIN_WINDOW:
            raise ConfigError(f"a drift window of {window} tiles is too small to compare; give {MIN_WINDOW} or more")
        # Looks divide it evenly: so the eighth before shares no image with the newest.
        self._step = -(-window // LOOKS_PER_WINDOW)
        self._start = START_LOOKS * self._step
        self.window = LOOKS_PER_WINDOW * self._step
        self.notes: list[str] = []
        self._calibration: dict[str, Distribution] = {}
        becomes = f"the first {self.window:,} tiles become the reference"
        if reference is None:
            self.notes.append(f"drift: the package has no reference; {becomes}")
        else:
            self._calibration = dict(reference.quantities)
            if reference.precision != precision:
                del self._calibration[SCORE]
                self.notes.append(
                    f"drift: the package was calibrated with {reference.precision} scores, and these are {precision}; "
                    f"{becomes}"
                )
            _, ks_limit = reference.quantities[BRIGHTNESS].limits(self.window, ACT)
            if ks_limit > 0.5:
                self.notes.append(
                    f"drift: the package was calibrated on {reference.images} images only; a small difference from "
                    "them is not told from chance"
                )
        self._watched: dict[str, _Watched] = {}
        self._recent = np.empty((self.window, len(QUANTITIES)))
        self._seen = 0
        self.drift = self._learning()

    def observe(self, scores: NDArray[np.floating], images: NDArray[np.uint8]) -> Drift:
        """Take images in the order in which they pass.

        Args:
            scores: (N,), the network's own.
            images: uint8 (N, S, S, C), as the network gets them.
        Returns:
            the present state; the same object as before, unless a window was evaluated.
        Raises:
            DataError: as `image_figures`.
        """
        figures = image_figures(scores, images)
        return self.add(np.stack([figures[name] for name in QUANTITIES], axis=1))

    def add(self, figures: NDArray[np.floating]) -> Drift:
        """As `observe`, of figures that are known: (N, 3) score, brightness, contrast of each image."""
        if not np.isfinite(figures).all():
            raise DataError("a score, brightness or contrast is not a number; do not use this engine")
        while len(figures):
            # To the next look, and no further.
            missing = self._step - self._seen % self._step
            part, figures = figures[:missing], figures[missing:]
            self._recent[(self._seen + np.arange(len(part))) % self.window] = part
            self._seen += len(part)
            if self._seen == self._start:
                self._watched = {
                    name: _Watched(self._calibration.get(name), self._recent[: self._start, number])
                    for number, name in enumerate(QUANTITIES)
                }
            elif self._seen > self._start and self._seen % self._step == 0:
                self._look()
        if self.drift.state == DriftState.LEARNING:
            self.drift = self._learning()
        return self.drift

    def _learning(self) -> Drift:
        reason = f"first tiles: {min(self._seen, self._start):,} of {self._start:,}"
        return Drift(DriftState.LEARNING, reason, self._seen, self.window, {})

    def _look(self) -> None:
        size = min(self._seen, self.window)
        # Oldest first.
        window = np.roll(self._recent[:size], -self._seen % size, axis=0)
        found = {}
        for number, name in enumerate(QUANTITIES):
            if name not in self._calibration and self._seen <= self.window:
                self._watched[name].learn(window[:, number])
            found[name] = self._watched[name].look(window[:, number])
        worst = max((one.state for one in found.values()), key=_severity)
        self.drift = Drift(worst, _reason(found, worst), self._seen, size, found)


def _severity(state: DriftState) -> int:
    return list(DriftState).index(state)


def _reason(found: Mapping[str, QuantityDrift], worst: DriftState) -> str:
    if worst == DriftState.OK:
        return ""
    return "; ".join(
        f"{name} {one.median:.4g}, was {one.reference_median:.4g} (PSI {one.psi:.2f}, act at {one.psi_limit:.2f}; "
        f"KS {one.ks:.2f}, act at {one.ks_limit:.2f}; CUSUM {one.cusum:.1f}, act at {one.cusum_limit:.1f}; "
        f"against {one.reference})"
        for name, one in found.items()
        if one.state == worst
    )


def describe_drift(drift: Drift) -> str:
    """One line for people."""
    if drift.state == DriftState.LEARNING:
        return f"drift: learning ({drift.reason})"
    if drift.state == DriftState.OK:
        return f"drift: ok, the last {drift.window:,} tiles are like the reference"
    what = "look at it" if drift.state == DriftState.WATCH else "calibrate again, or repair the line"
    return f"drift: {drift.state} ({what}): {drift.reason}"
