"""Whether images are still like those of the calibration: light, lens and product change, and verdicts with them.

Three figures of each image are compared with their distribution at calibration, over a rolling window: the network's
score, the brightness and the contrast. Two distances are taken, since each sees what the other is blind to:

- the population stability index (PSI) over classes that hold the same share of the reference,
  sum of (p - q) log(p / q), by convention "look at it" from 0.1 and "it has changed" from 0.25 (Siddiqi, "Credit Risk
  Scorecards", 2006);
- the Kolmogorov-Smirnov distance (KS), the largest difference of the two cumulative distributions.

Both are above 0 by chance alone, the more so the fewer images the reference (n) and the window (m) hold: a limit is the
convention or what chance does at a stated rate, whichever is larger. By chance KS exceeds
sqrt(-log(a / 2) / 2 (1/n + 1/m)) at the rate a (Smirnov, 1939), and PSI behaves as (1/n + 1/m) times chi-square with
one degree of freedom less than there are classes (Yurdakul and Naranjo, 2020). Neighbours on a web resemble each other,
so a window says no more than fewer independent images would: `effective_count` of them.
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
        psi_limit, ks_limit: from where on they mean "act".
        reference: where the reference comes from.
    """

    state: DriftState
    median: float
    reference_median: float
    psi: float
    ks: float
    psi_limit: float
    ks_limit: float
    reference: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        figures = ("median", "reference_median", "psi", "ks", "psi_limit", "ks_limit")
        rounded = {name: float(f"{getattr(self, name):.4g}") for name in figures}
        return {"state": str(self.state), **rounded, "reference": self.reference}


@dataclass(frozen=True)
class Drift:
    """How the images that pass compare with the calibration.

    Attributes:
        state: the worst of all quantities; "learning" until a window is full.
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


class _Watched:
    """One quantity: its reference, and what the last windows said."""

    def __init__(self, distribution: Distribution, source: str) -> None:
        self.distribution = distribution
        self.source = source
        # The newest look, and those before it down to the one that shares no image with it.
        self._looks: deque[DriftState] = deque(maxlen=LOOKS_PER_WINDOW + 1)
        self._state = DriftState.OK

    def look(self, values: NDArray[np.floating]) -> QuantityDrift:
        psi, ks = self.distribution.psi(values), self.distribution.ks(values)
        count = effective_count(values)
        now = DriftState.OK
        for state, limit in ((DriftState.WATCH, WATCH), (DriftState.ACT, ACT)):
            psi_limit, ks_limit = self.distribution.limits(count, limit)
            if psi >= psi_limit or ks >= ks_limit:
                now = state
        self._looks.append(now)
        before = self._looks[0] if len(self._looks) == LOOKS_PER_WINDOW + 1 else DriftState.OK
        if now == before == DriftState.ACT:
            self._state = DriftState.ACT
        elif DriftState.ACT not in (now, before):
            # It is left when two windows that share no image are within its limits.
            self._state = DriftState.WATCH if DriftState.WATCH in (now, before) else DriftState.OK
        elif self._state == DriftState.OK:
            self._state = DriftState.WATCH
        return QuantityDrift(
            self._state,
            float(np.median(values)),
            self.distribution.median,
            psi,
            ks,
            psi_limit,
            ks_limit,
            self.source,
        )


class DriftMonitor:
    """Watches images as they pass; see the module for what is compared.

    A window is looked at eight times while it is filled anew. "watch" is one window beyond the limits of `WATCH`. "act"
    is two windows that share no image, both beyond those of `ACT`, in the same quantity: it comes one window after the
    change at the earliest, and chance, which is looked at hundreds of times a shift, does not bring it. A state is left
    when two such windows are within its limits.

    Without a reference, the first images that pass are taken for it, as many as a window holds: then it tells what
    changes from there on, not whether they were as they should be. So are the scores where the reference has those of
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
        self.window = window = -(-window // LOOKS_PER_WINDOW) * LOOKS_PER_WINDOW
        self.notes: list[str] = []
        self._watched: dict[str, _Watched] = {}
        if reference is not None:
            self._take(reference, precision)
        else:
            self.notes.append(f"drift: the package has no reference; the first {window:,} tiles become the reference")
        self._recent = np.empty((window, len(QUANTITIES)))
        self._seen = 0
        self._tiles = 0
        self.drift = self._learning()

    def _take(self, reference: Reference, precision: str) -> None:
        for name in QUANTITIES:
            if name != SCORE or reference.precision == precision:
                source = f"calibration, {reference.images:,} images"
                self._watched[name] = _Watched(reference.quantities[name], source)
        if SCORE not in self._watched:
            self.notes.append(
                f"drift: the package was calibrated with {reference.precision} scores, and these are {precision}; "
                f"the first {self.window:,} tiles become the reference"
            )
        _, ks_limit = reference.quantities[BRIGHTNESS].limits(self.window, ACT)
        if ks_limit > 0.5:
            self.notes.append(
                f"drift: the package was calibrated on {reference.images} images only; a small change is not told "
                "from chance"
            )

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
        step = self.window // LOOKS_PER_WINDOW
        while len(figures):
            # To the next look, and no further.
            part, figures = figures[: step - self._seen % step], figures[step - self._seen % step :]
            places = (self._seen + np.arange(len(part))) % self.window
            self._recent[places] = part
            self._seen += len(part)
            self._tiles += len(part)
            if self._seen % step == 0 and self._seen >= self.window:
                self._look()
        if self.drift.state == DriftState.LEARNING:
            self.drift = self._learning()
        return self.drift

    def _learning(self) -> Drift:
        missing = len(QUANTITIES) - len(self._watched)
        what = "reference" if missing else "first window"
        reason = f"{what}: {min(self._seen, self.window):,} of {self.window:,} tiles"
        return Drift(DriftState.LEARNING, reason, self._tiles, self.window, {})

    def _look(self) -> None:
        if missing := [name for name in QUANTITIES if name not in self._watched]:
            for name in missing:
                values = self._recent[:, QUANTITIES.index(name)]
                source = f"first {self.window:,} tiles"
                self._watched[name] = _Watched(Distribution.of(values, effective_count(values)), source)
            if len(missing) == len(QUANTITIES):
                self._seen = 0
                return
        found = {name: self._watched[name].look(self._recent[:, number]) for number, name in enumerate(QUANTITIES)}
        states = list(DriftState)
        worst = max((one.state for one in found.values()), key=states.index)
        self.drift = Drift(worst, _reason(found, worst), self._tiles, self.window, found)


def _reason(found: Mapping[str, QuantityDrift], worst: DriftState) -> str:
    if worst == DriftState.OK:
        return ""
    return "; ".join(
        f"{name} {one.median:.4g}, was {one.reference_median:.4g} (PSI {one.psi:.2f}, act at {one.psi_limit:.2f}; "
        f"KS {one.ks:.2f}, act at {one.ks_limit:.2f}; against {one.reference})"
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
