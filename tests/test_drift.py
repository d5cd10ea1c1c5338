"""Drift: the two distances against their definitions, what chance does, and a line that changes."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import signal, stats

import prn_fast.drift
from prn_fast.drift import (
    ACT,
    BRIGHTNESS,
    LOOKS_PER_WINDOW,
    LOOKS_TO_ACT,
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


def reference_of_line(line, count, seed=500):
    figures = line.drawn(np.zeros(count), seed)
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


@pytest.mark.parametrize("count", [20, 96, 5000])
def test_ranks_are_scipys_up_to_the_steps_of_the_quantiles(count):
    rng = np.random.default_rng(0)
    reference, values = rng.normal(size=count), rng.normal(size=500)
    expected = stats.percentileofscore(reference, values, kind="mean") / 100
    assert Distribution.of(reference).ranks(values) == pytest.approx(expected, abs=1 / min(count, 100))
    tied = Distribution.of(np.repeat([1.0, 2.0, 3.0], [10, 30, 10]))
    assert tied.ranks(np.array([0.0, 1.0, 2.0, 3.0, 4.0])) == pytest.approx([0.01, 0.1, 0.5, 0.9, 0.99], abs=0.02)


@pytest.mark.parametrize("count", [1, 20, 96, 500])
def test_the_mean_rank_of_an_unchanged_line_is_within_what_chance_does(count):
    rng = np.random.default_rng(0)
    means = [Distribution.of(rng.normal(size=count)).ranks(rng.normal(size=10_000)).mean() for _ in range(300)]
    assert np.mean(means) == pytest.approx(0.5, abs=0.05)
    limit = prn_fast.drift._mean_rank_limit(count)
    assert np.abs(np.array(means) - 0.5).max() < limit
    if count > 1:
        assert np.std(means) == pytest.approx(limit / stats.norm.isf(ACT.chance / 2), rel=0.3)


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


def asks_for_action(known, seed, alike=0.0, tiles=100_000):
    """Whether "act" comes while nothing changes."""
    monitor = DriftMonitor(None if known is None else reference_of(known, 1000 + seed), "fp32")
    return "act" in states(monitor, line(tiles, seed, alike=alike), step=500)


@pytest.mark.parametrize(("known", "alike"), [(96, 0.0), (None, 0.0), (96, 0.9)])
def test_a_hundred_thousand_unchanged_tiles_never_ask_for_action(known, alike):
    assert not asks_for_action(known, 0, alike)


@pytest.mark.long
@pytest.mark.parametrize("alike", [0.0, 0.9])
@pytest.mark.parametrize("known", [20, 96, 1000, None])
def test_ten_lines_of_a_hundred_thousand_unchanged_tiles_never_ask_for_action(known, alike):
    assert not [seed for seed in range(10) if asks_for_action(known, seed, alike)]


@pytest.mark.parametrize(
    ("fault", "alike"),
    [
        ({"ALLOWANCE": 0.0, "_mean_rank_limit": lambda count: 0.0}, 0.0),  # it allows for nothing
        ({"CUSUM_LIMIT": 0.1, "LOOKS_TO_ACT": 1}, 0.9),  # chance reaches its limit
    ],
)
def test_a_watch_that_acts_on_unchanged_tiles_is_caught(monkeypatch, fault, alike):
    for name, value in fault.items():
        monkeypatch.setattr(prn_fast.drift, name, value)
    assert any(asks_for_action(96, seed, alike, 20_000) for seed in range(5))


def told_and_doubled(known, seed):
    """The tile at which each state was seen first while the lamp fades, and that of twice the false alarms."""
    monitor = DriftMonitor(None if known is None else reference_of(known), "fp32")
    fading = line(TILES, seed, FADED)
    threshold = np.quantile(line(100_000, 99)[:, 0], 0.99)
    first = states(monitor, fading)
    # The lamp fades evenly: the expected rate of false alarms at a tile is a normal tail.
    logit = np.log(threshold / (1 - threshold))
    rate = stats.norm.sf(logit, -4 + RISEN * 0.8 * np.arange(TILES) / TILES, 0.8)
    doubled = int(np.argmax(rate >= 0.02))
    assert (fading[-1000:, 0] >= threshold).mean() > 0.04, "false alarms do become many"
    return first, doubled, monitor.drift


@pytest.mark.parametrize("known", [20, 96, 1000, None])
@pytest.mark.parametrize("seed", range(3))
def test_a_fading_lamp_asks_for_action_long_before_false_alarms_have_doubled(known, seed):
    first, doubled, drift = told_and_doubled(known, seed)
    assert first["watch"] < first["act"] < doubled / 2, (first, doubled)
    assert drift.state == "act"
    assert "brightness" in drift.reason


def test_a_watch_that_never_acts_is_caught(monkeypatch):
    monkeypatch.setattr(prn_fast.drift, "ACT", prn_fast.drift.Limit(psi=np.inf, ks=np.inf, chance=1e-4))
    monkeypatch.setattr(prn_fast.drift, "CUSUM_LIMIT", np.inf)
    first, _, drift = told_and_doubled(96, 0)
    assert "act" not in first
    assert drift.state != "act"


def moved(figures, quantity, start, stop=None, by=1.0):
    """Figures whose quantity differs by so many of its standard deviations, from a tile to another."""
    changed = figures.copy()
    changed[start:stop, QUANTITIES.index(quantity)] += by * figures[:, QUANTITIES.index(quantity)].std()
    return changed


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("known", [20, 96, None])
@pytest.mark.parametrize("by", [-3.0, 1.5])
def test_a_step_of_any_figure_asks_for_action_within_a_window(quantity, known, by):
    monitor = DriftMonitor(None if known is None else reference_of(known), "fp32")
    first = states(monitor, moved(line(8000, 3), quantity, 4000, by=by))
    # Not at once: it takes so many looks.
    assert 4000 + (LOOKS_TO_ACT - 1) * monitor.window / LOOKS_PER_WINDOW <= first["act"] <= 5000, first
    assert monitor.drift.quantities[quantity].state == "act"


@pytest.mark.parametrize("known", [20, 96, None])
def test_a_quarter_window_that_differs_never_asks_for_action(known):
    """As of another roll, or while the lamp flickers."""
    for start in (3000, 3070):
        monitor = DriftMonitor(None if known is None else reference_of(known), "fp32")
        figures = moved(line(8000, 3), BRIGHTNESS, start, start + 250, by=-10.0)
        seen = states(monitor, figures)
        assert "watch" in seen
        assert "act" not in seen
        assert monitor.drift.state == "ok"


def test_defects_ask_for_nothing():
    figures = line(50_000, 4)
    figures[::100, 0] = 0.999
    assert "act" not in states(DriftMonitor(reference_of(96), "fp32"), figures, step=500)


def test_a_line_that_starts_dark_and_is_repaired_is_ok_then():
    monitor = DriftMonitor(reference_of(96), "fp32")
    first = states(monitor, moved(line(12_000, 5), BRIGHTNESS, 0, 4000, by=-3.0))
    assert first["act"] < 4000, "the calibration tells"
    assert monitor.drift.state == "ok"


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
        reference = None if known is None else reference_of_line(line, known, 500 + seed)
        first = states(DriftMonitor(reference, "fp32"), line.drawn(np.arange(line.tiles), seed))
        assert first["act"] < doubled, (seed, first, doubled)
        unchanged = states(DriftMonitor(reference, "fp32"), line.drawn(np.zeros(100_000), 900 + seed), step=500)
        assert "act" not in unchanged, (seed, unchanged)


def test_a_state_is_left_when_two_windows_are_within_its_limits():
    monitor = DriftMonitor(reference_of(1000), "fp32")
    good, dark = line(10_000, 1), line(10_000, 2) - np.array([0, 12, 0])
    assert monitor.add(good[:1000]).state == "ok"
    assert monitor.add(dark[:250]).state == "watch"
    assert monitor.add(dark[250:1000]).state == "act"
    assert [name for name, one in monitor.drift.quantities.items() if one.state == "act"] == ["brightness"]
    assert describe_drift(monitor.drift).startswith("drift: act (calibrate again")
    assert monitor.add(good[1000:2000]).state == "act"
    assert monitor.add(good[2000:3000]).state == "ok"
    assert describe_drift(monitor.drift).startswith("drift: ok")


def test_without_a_reference_the_first_tiles_are_it_and_that_is_said():
    monitor = DriftMonitor(None, "fp32", window=200)
    assert "has no reference; the first 200 tiles" in monitor.notes[0]
    figures = line(1000, 1)
    assert monitor.add(figures[:60]).reason == "first tiles: 60 of 100"
    assert monitor.add(figures[60:110]).reason == "first tiles: 100 of 100"
    drift = monitor.add(figures[110:150])
    assert (drift.state, drift.tiles, drift.window) == ("ok", 150, 150)
    drift = monitor.add(figures[150:400])
    assert (drift.state, drift.tiles, drift.window) == ("ok", 400, 200)
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
