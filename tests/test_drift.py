"""Drift: the two distances against their definitions, what chance does, and a line that changes."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import signal, stats

from prn_fast.drift import (
    ACT,
    BRIGHTNESS,
    LOOKS_PER_WINDOW,
    QUANTITIES,
    WATCH,
    Distribution,
    DriftMonitor,
    Reference,
    _chi_square,
    describe_drift,
    effective_count,
    image_figures,
)
from prn_fast.errors import ConfigError, DataError
from prn_fast.manifest import MANIFEST_SHAPE, first_fault
from prn_fast.training.reference import reference_statistics

FADED = 0.3
TILES = 10_000
# Standard deviations that the logits of scores have risen by when the lamp has faded by so much. A network trained on
# brushed metal had twice as many false alarms when 0.17 of the light was gone, which is 0.5.
RISEN = 0.8


def line(count, seed, faded=0.0, alike=0.0):
    """(count, 3) score, brightness, contrast of good tiles; the lamp fades evenly by a share, until the last tile.

    The darker a tile, the higher its score.

    Args:
        alike: correlation of neighbours.
    """
    rng = np.random.default_rng(seed)
    light = 1 - faded * np.arange(count) / TILES
    noise = rng.standard_normal((3, count))
    if alike:
        noise = signal.lfilter([np.sqrt(1 - alike**2)], [1, -alike], noise, axis=1)
    logit = -4 + 0.8 * noise[0] + RISEN * 0.8 / FADED * (1 - light)
    return np.stack([1 / (1 + np.exp(-logit)), (120 + 4 * noise[1]) * light, (18 + 1.5 * noise[2]) * light], axis=1)


def reference_of(count, seed=1000):
    figures = line(count, seed)
    return Reference(count, "fp32", {name: Distribution.of(figures[:, i]) for i, name in enumerate(QUANTITIES)})


def states(monitor, figures, step=25):
    """The tile count at which each state was seen first."""
    first = {}
    for start in range(0, len(figures), step):
        first.setdefault(str(monitor.add(figures[start : start + step]).state), start + step)
    return first


# -- distances -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0, 20.0])
def test_ks_is_scipys_up_to_the_steps_of_the_quantiles(shift):
    rng = np.random.default_rng(0)
    reference, values = rng.normal(0, 1, 5000), rng.normal(shift, 1, 1000)
    expected = stats.ks_2samp(reference, values).statistic
    assert Distribution.of(reference).ks(values) == pytest.approx(expected, abs=0.011)


@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0])
def test_psi_is_its_formula_over_ten_classes_of_the_reference(shift):
    rng = np.random.default_rng(0)
    reference, values = rng.normal(0, 1, 5000), rng.normal(shift, 1, 1000)
    edges = np.quantile(reference, np.linspace(0, 1, 11))[1:-1]
    expected = np.bincount(np.searchsorted(edges, reference), minlength=10) / 5000
    found = np.maximum(np.bincount(np.searchsorted(edges, values), minlength=10), 0.5) / 1000
    by_hand = np.sum((found - expected) * np.log(found / expected))
    assert Distribution.of(reference).psi(values) == pytest.approx(by_hand, rel=0.02, abs=1e-3)


@pytest.mark.parametrize("count", [1, 2, 7, 500])
@pytest.mark.parametrize("moved", [-0.5, 0.5])
def test_a_reference_of_one_value_sees_what_lies_on_either_side(count, moved):
    distribution = Distribution.of(np.full(count, 3.0))
    same = distribution.ks(np.full(200, 3.0))
    assert same <= 1 / (count + 1) + 1e-9
    assert distribution.ks(np.full(200, 3.0 + moved)) >= 1 - 1 / (count + 1) - 1e-9
    assert np.isfinite(distribution.psi(np.full(200, 3.0 + moved)))


@pytest.mark.parametrize("degrees", [1, 3, 9])
@pytest.mark.parametrize("chance", [ACT.chance, WATCH.chance])
def test_chi_square_is_scipys_or_a_little_more(degrees, chance):
    assert 0.97 <= _chi_square(degrees, chance) / stats.chi2.isf(chance, degrees) <= 1.08


def test_independent_values_count_whole_and_neighbours_alike_less():
    independent, alike = line(4000, 0)[:, 1], line(4000, 0, alike=0.9)[:, 1]
    assert effective_count(independent) > 3000
    assert effective_count(alike) < 800
    fading = independent - np.linspace(0, 20, 4000)
    assert effective_count(fading) > 3000, "a slow change is no likeness of neighbours"
    assert effective_count(np.ones(1000)) == 1000
    assert effective_count(np.ones(30)) == 30


@pytest.mark.parametrize("count", [20, 96, 2000])
def test_limits_are_passed_by_chance_no_more_often_than_stated(count):
    window, tries = 1000, 400
    beyond = {"watch": 0, "act": 0}
    for seed in range(tries):
        rng = np.random.default_rng(seed)
        distribution = Distribution.of(rng.normal(size=count))
        values = rng.normal(size=window)
        psi, ks = distribution.psi(values), distribution.ks(values)
        for name, limit in (("watch", WATCH), ("act", ACT)):
            psi_limit, ks_limit = distribution.limits(window, limit)
            beyond[name] += psi >= psi_limit or ks >= ks_limit
    # Two distances, each at 1 % and at 0.01 %; PSI of few classes has a heavier tail than chi-square.
    assert beyond["watch"] <= 0.03 * tries
    assert beyond["act"] <= 1


# -- figures and reference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_and_contrast_are_mean_and_standard_deviation(channels):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, channels), dtype=np.uint8)
    figures = image_figures(np.linspace(0, 1, 5), images)
    values = images.astype(np.float64)
    assert figures["brightness"] == pytest.approx(values.mean(axis=(1, 2, 3)))
    assert figures["contrast"] == pytest.approx(np.sqrt(values.var(axis=(1, 2)).mean(axis=1)))


@pytest.mark.parametrize(
    ("scores", "images", "message"),
    [
        (np.zeros(2), np.zeros((3, 8, 8, 1), np.uint8), "2 scores of 3 images"),
        (np.zeros(0), np.zeros((0, 8, 8, 1), np.uint8), "0 scores of 0 images"),
        (np.array([0.1, np.nan]), np.zeros((2, 8, 8, 1), np.uint8), "not a number"),
    ],
)
def test_what_has_no_figures_is_refused(scores, images, message):
    with pytest.raises(DataError, match=message):
        image_figures(scores, images)
    with pytest.raises(DataError, match=message):
        reference_statistics(scores, images)


def test_a_figure_that_is_not_a_number_never_passes_as_good():
    monitor = DriftMonitor(None, "fp32")
    with pytest.raises(DataError, match="not a number"):
        monitor.add(np.array([[0.1, np.nan, 3.0]]))


@pytest.mark.parametrize("count", [1, 20, 3000])
def test_a_reference_goes_through_the_manifest(count):
    rng = np.random.default_rng(0)
    scores, images = rng.random(count), rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
    values = reference_statistics(scores, images, "int8")
    assert first_fault(values, MANIFEST_SHAPE["calibration"]["reference?"]) is None
    again = Reference.of_calibration({"threshold": 0.5, "reference": values})
    assert (again.images, again.precision) == (count, "int8")
    assert again.to_dict() == values
    assert again.quantities["score"].median == pytest.approx(np.median(scores), rel=1e-5)
    assert Reference.of_calibration({"threshold": 0.5}) is None


@pytest.mark.parametrize("change", [{"score": []}, {"contrast": [3.0, 2.0]}, {"images": 0}])
def test_a_reference_that_makes_no_sense_is_refused(change):
    values = reference_of(20).to_dict() | change
    with pytest.raises(DataError, match="reference of"):
        Reference.from_dict(values)


# -- a line ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [96, None])
def test_a_hundred_thousand_unchanged_tiles_never_ask_for_action(known):
    monitor = DriftMonitor(None if known is None else reference_of(known), "fp32")
    seen = states(monitor, line(100_000, 0), step=500)
    assert "ok" in seen
    assert "act" not in seen, monitor.drift.reason


@pytest.mark.long
@pytest.mark.parametrize("alike", [0.0, 0.9])
@pytest.mark.parametrize("known", [20, 96, 1000, None])
def test_twenty_lines_of_a_hundred_thousand_unchanged_tiles_never_ask_for_action(known, alike):
    for seed in range(20):
        monitor = DriftMonitor(None if known is None else reference_of(known, 1000 + seed), "fp32")
        assert "act" not in states(monitor, line(100_000, seed, alike=alike), step=500), (seed, monitor.drift.reason)


@pytest.mark.parametrize("known", [96])
def test_neighbours_that_are_alike_do_not_ask_for_action_either(known):
    monitor = DriftMonitor(reference_of(known), "fp32")
    assert "act" not in states(monitor, line(100_000, 7, alike=0.9), step=500)


@pytest.mark.parametrize("known", [20, 96, 1000, None])
@pytest.mark.parametrize("seed", range(3))
def test_a_fading_lamp_asks_for_action_before_false_alarms_have_doubled(known, seed):
    monitor = DriftMonitor(None if known is None else reference_of(known), "fp32")
    fading = line(TILES, seed, FADED)
    threshold = np.quantile(line(100_000, 99)[:, 0], 0.99)
    first = states(monitor, fading)
    # The lamp fades evenly: the expected rate of false alarms at a tile is a normal tail.
    logit = np.log(threshold / (1 - threshold))
    rate = stats.norm.sf(logit, -4 + RISEN * 0.8 * np.arange(TILES) / TILES, 0.8)
    doubled = int(np.argmax(rate >= 0.02))
    assert (fading[-1000:, 0] >= threshold).mean() > 0.04, "false alarms do become many"
    assert first["watch"] < first["act"] < doubled, (first, doubled)
    assert monitor.drift.state == "act"
    assert "brightness" in monitor.drift.reason


class MeasuredLine:
    """What a trained network scored while a lamp faded, as `prn_fast.bench.linescan.drift` has recorded it."""

    def __init__(self, path):
        self.record = json.loads(path.read_text())
        steps = [self.record["unchanged_quantiles"], *(step["quantiles"] for step in self.record["steps"])]
        # (steps, quantities, quantiles), at these tiles.
        self.quantiles = np.array([[step[name] for name in QUANTITIES] for step in steps])
        ends = np.cumsum([0, *(step["tiles"] for step in self.record["steps"])])
        self.tiles = int(ends[-1])
        self.places = np.concatenate([[0], (ends[1:] + ends[:-1]) / 2])

    def drawn(self, at, seed):
        """(len(at), 3) figures of tiles at these places of the fading web; 0 is full light."""
        shares = np.random.default_rng(seed).random((len(at), 3)) * (self.quantiles.shape[2] - 1)
        low = np.minimum(shares.astype(int), self.quantiles.shape[2] - 2)
        step = np.clip(np.interp(at, self.places, np.arange(len(self.places))), 0, len(self.places) - 1 - 1e-9)
        before, part = step.astype(int)[:, None], step % 1
        values = [
            self.quantiles[before + more, np.arange(3), low]
            + (shares - low)
            * (self.quantiles[before + more, np.arange(3), low + 1] - self.quantiles[before + more, np.arange(3), low])
            for more in (0, 1)
        ]
        return values[0] + part[:, None] * (values[1] - values[0])


MEASURED = sorted((Path(__file__).parents[1] / "bench" / "results").glob("*/linescan/drift-*.json"))


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
@pytest.mark.parametrize("known", [100, None])
def test_on_measured_scores_the_lamp_is_told_in_time_and_nothing_else_is(path, known):
    line = MeasuredLine(path)
    # None where the network bears the darkness, and false alarms have not doubled at the end.
    doubled = line.record["doubled"] or line.tiles
    for seed in range(3):
        reference = None
        if known is not None:
            figures = line.drawn(np.zeros(known), 500 + seed)
            reference = Reference(
                known, "fp32", {name: Distribution.of(figures[:, i]) for i, name in enumerate(QUANTITIES)}
            )
        first = states(DriftMonitor(reference, "fp32"), line.drawn(np.arange(line.tiles), seed))
        # It takes two windows, and one more where the line itself is learned first: nothing is told before.
        earliest = 2000 if known is not None else 3000
        assert first["act"] <= max(doubled, earliest), (seed, first, doubled)
        unchanged = states(DriftMonitor(reference, "fp32"), line.drawn(np.zeros(100_000), 900 + seed), step=500)
        assert "act" not in unchanged, (seed, unchanged)


def test_a_state_is_left_when_two_windows_are_within_its_limits():
    monitor = DriftMonitor(reference_of(1000), "fp32")
    good, dark = line(10_000, 1), line(10_000, 2) - np.array([0, 12, 0])
    assert monitor.add(good[:1000]).state == "ok"
    assert monitor.add(dark[:1000]).state == "watch"
    assert monitor.add(dark[1000:2000]).state == "act"
    assert [name for name, one in monitor.drift.quantities.items() if one.state == "act"] == ["brightness"]
    assert describe_drift(monitor.drift).startswith("drift: act (calibrate again")
    assert monitor.add(good[1000:2000]).state == "act"
    assert monitor.add(good[2000:3000]).state == "ok"
    assert describe_drift(monitor.drift).startswith("drift: ok")


def test_without_a_reference_the_first_tiles_are_it_and_that_is_said():
    monitor = DriftMonitor(None, "fp32", window=200)
    assert "has no reference; the first 200 tiles" in monitor.notes[0]
    figures = line(1000, 1)
    assert monitor.add(figures[:150]).reason == "reference: 150 of 200 tiles"
    assert monitor.add(figures[150:300]).reason == "first window: 100 of 200 tiles"
    drift = monitor.add(figures[300:400])
    assert (drift.state, drift.tiles) == ("ok", 400)
    assert {one.reference for one in drift.quantities.values()} == {"first 200 tiles"}


def test_scores_of_another_precision_are_compared_with_the_lines_own():
    monitor = DriftMonitor(reference_of(96), "int8")
    assert monitor.notes == [
        "drift: the package was calibrated with fp32 scores, and these are int8; "
        "the first 1,000 tiles become the reference"
    ]
    figures = line(5000, 3)
    figures[:, 0] = figures[:, 0] ** 0.5  # quantised networks score by themselves
    drift = monitor.add(figures)
    assert drift.state == "ok"
    assert drift.quantities["score"].reference == "first 1,000 tiles"
    assert drift.quantities[BRIGHTNESS].reference == "calibration, 96 images"


def test_few_images_are_said_to_tell_little():
    assert "calibrated on 12 images only" in DriftMonitor(reference_of(12), "fp32").notes[0]
    assert DriftMonitor(reference_of(40), "fp32").notes == []


def test_a_window_too_small_is_refused_and_others_fit_their_looks():
    with pytest.raises(ConfigError, match="a drift window of 99 tiles"):
        DriftMonitor(None, "fp32", 99)
    assert DriftMonitor(None, "fp32", 1001).window == 1008
    assert 1008 % LOOKS_PER_WINDOW == 0


def test_parts_of_any_size_give_the_same():
    figures = line(4000, 5, FADED)
    found = []
    for step in (1, 9, 1000, 4000):
        monitor = DriftMonitor(reference_of(96), "fp32")
        for start in range(0, len(figures), step):
            monitor.add(figures[start : start + step])
        found.append(monitor.drift.to_dict())
    assert found[1:] == found[:1] * 3
