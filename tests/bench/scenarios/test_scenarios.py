"""Scenarios with sound and faulty engines, and the search for a rate."""

import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from prn_fast.bench.engines.answers import answers_to
from prn_fast.bench.engines.output_checks import KnownAnswers
from prn_fast.bench.engines.runner import mixture
from prn_fast.bench.scenarios import ScenarioRun, loadgen, run_scenarios
from prn_fast.bench.scenarios import line_camera as camera
from prn_fast.bench.scenarios.cameras import CAMERAS, Tiling
from prn_fast.bench.scenarios.engine_under_test import EngineUnderTest
from prn_fast.bench.scenarios.rate_search import RateSearch
from prn_fast.bench.settings import OPEN_LOOPS, ScenarioSettings
from prn_fast.engine import Detections
from prn_fast.errors import ConfigError
from tests.bench import stand_ins
from tests.bench.stand_ins import SIDE, ConvolutionEngine, blob_images

SETTINGS = ScenarioSettings(OPEN_LOOPS, p99_ms=2000.0, camera_width=100, overlap=8)


def subject(engine: ConvolutionEngine, name: str = "tested") -> EngineUnderTest:
    """An engine that is known to answer as a sound one does."""
    images, _ = blob_images()
    known = KnownAnswers.of(images, answers_to(ConvolutionEngine(), images, 12))
    return EngineUnderTest(name, engine, known, np.random.default_rng(0))


def run(*subjects: EngineUnderTest, names: tuple[str, ...] = OPEN_LOOPS, seconds: float = 0.6) -> ScenarioRun:
    settings = ScenarioSettings(names, SETTINGS.batch, SETTINGS.p99_ms, SETTINGS.camera_width, SETTINGS.overlap)
    return run_scenarios(subjects, settings, seconds)


def test_every_scenario_gives_every_sound_engine_a_result() -> None:
    quick, slow = subject(ConvolutionEngine(), "quick"), subject(stand_ins.SlowEngine(), "slow")
    outcome = run(quick, slow)
    assert quick.faults == slow.faults == []
    assert {(result.engine, result.scenario) for result in outcome.results} == {
        (name, scenario) for name in ("quick", "slow") for scenario in OPEN_LOOPS
    }
    assert set(outcome.others_share) == set(OPEN_LOOPS)
    for result in outcome.results:
        if result.scenario == "offline":
            assert min(result.rates) > 0
            assert result.queries % result.batch == 0
        else:
            assert all(one.rate > 0 for one in result.runs)
            assert (result.sustained is None) == (result.reason is not None)


@pytest.mark.parametrize("scenario", OPEN_LOOPS)
@pytest.mark.parametrize(
    "make",
    [
        stand_ins.ZeroEngine,
        stand_ins.FirstAnswerEngine,
        stand_ins.LastAnswerEngine,
        stand_ins.EarlyEngine,
        stand_ins.RaisingEngine,
    ],
    ids=["zeros", "caches-first-answer", "answers-one-call-late", "returns-too-early", "raises"],
)
def test_a_faulty_engine_gets_no_figure(make: Callable[[], ConvolutionEngine], scenario: str) -> None:
    faulty = subject(make())
    outcome = run(faulty, names=(scenario,), seconds=0.6)
    assert outcome.results == []
    assert faulty.faults


def test_an_interruption_keeps_the_scenarios_that_ended() -> None:
    def interrupt(phase: str, detail: str, share: float) -> None:
        if detail.startswith("server"):
            raise KeyboardInterrupt

    outcome = run_scenarios([subject(ConvolutionEngine())], SETTINGS, 2.0, on_progress=interrupt)
    assert outcome.interrupted
    assert [result.scenario for result in outcome.results] == ["offline"]


def test_a_scenario_that_fails_costs_no_other_its_results() -> None:
    def fail(phase: str, detail: str, share: float) -> None:
        if detail.startswith("server, tested") and "first" not in detail:
            raise ZeroDivisionError("a fault of the bench")

    outcome = run_scenarios([subject(ConvolutionEngine())], SETTINGS, 1.0, on_progress=fail)
    assert outcome.failed == {"server": "ZeroDivisionError: a fault of the bench"}
    assert {result.scenario for result in outcome.results} == {"offline", "line-camera"}
    assert not outcome.interrupted


def test_loadgen_that_counts_another_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = loadgen._logged

    def jumped(path: object) -> dict:
        values = honest(path)
        return values | {"result_samples_per_second": values["result_samples_per_second"] * 1000}

    monkeypatch.setattr(loadgen, "_logged", jumped)
    monkeypatch.setattr(loadgen, "OVERHEAD_SECONDS", 0.0)
    outcome = loadgen.offline(subject(stand_ins.SlowEngine()), batch=4, queries=80)
    assert "the clock jumped" in "; ".join(outcome.faults)


class Held:
    """A run that holds up to a rate."""

    def __init__(self, rate: float, sustained: bool) -> None:
        self.rate, self.sustained = rate, sustained


@pytest.mark.parametrize("first", [5.0, 100.0, 400.0])
def test_the_search_ends_just_under_the_limit_and_confirms(first: float) -> None:
    search = RateSearch(first, 0.1, 1, lambda rate, seconds: Held(rate, rate <= 100.0))
    while search.step(seconds_left=1e9):
        pass
    assert search.sustained is not None
    assert 95.0 < search.sustained.rate <= 100.0
    assert search.confirmed
    assert search.runs[-1].rate == search.sustained.rate


def test_no_rate_over_the_most_is_tried() -> None:
    search = RateSearch(10.0, 0.1, 1, lambda rate, seconds: Held(rate, True), most=50.0)
    while search.step(seconds_left=1e9):
        pass
    assert 48.0 <= max(run.rate for run in search.runs) <= 50.0
    assert search.confirmed


def test_a_search_without_time_says_so() -> None:
    search = RateSearch(10.0, 1.0, 100, lambda rate, seconds: Held(rate, True))
    # The first run of a slow engine may take three times as long as it should.
    assert not search.step(seconds_left=3.0)
    assert search.sustained is None
    assert search.reason is not None
    assert "needs 10 s" in search.reason


def test_a_rate_that_fails_to_confirm_is_lowered() -> None:
    outcomes = {100.0: [True, False]}

    def attempt(rate: float, seconds: float) -> Held:
        return Held(rate, outcomes.get(rate, [rate < 100.0]).pop(0))

    search = RateSearch(100.0, 1.0, 1, attempt)
    while search.step(seconds_left=3.0):
        pass
    assert search.sustained is not None
    assert search.sustained.rate == pytest.approx(95.0)


def test_without_time_to_confirm_a_lower_rate_the_best_of_the_search_under_the_failed_one_is_kept() -> None:
    left = [60.0]

    def attempt(rate: float, seconds: float) -> Held:
        confirming = seconds > 10.0
        left[0] -= 40.0 if confirming else seconds
        return Held(rate, rate <= 110.0 and not confirming)

    search = RateSearch(85.0, 7.0, 1, attempt)
    while search.step(left[0]):
        pass
    assert search.sustained is not None
    assert not search.confirmed
    assert search.sustained.rate < min(run.rate for run in search.runs if not run.sustained)


@pytest.mark.parametrize("first", [5.0, 70.0, 95.0, 400.0])
def test_runs_that_say_what_could_be_held_end_the_search_soon(first: float) -> None:
    search = RateSearch(first, 0.1, 1, lambda rate, seconds: Held(rate, rate <= 100.0), estimate=lambda run: 100.0)
    while search.step(seconds_left=1e9):
        pass
    assert search.sustained is not None
    assert search.sustained.rate == pytest.approx(95.0 if first == 95.0 else 97.0)
    assert search.confirmed
    assert len(search.runs) <= 3


def test_estimates_that_promise_too_much_still_lead_to_a_rate_that_is_held() -> None:
    search = RateSearch(80.0, 0.1, 1, lambda rate, seconds: Held(rate, rate <= 100.0), estimate=lambda run: 200.0)
    while search.step(seconds_left=1e9):
        pass
    assert search.sustained is not None
    assert 95.0 < search.sustained.rate <= 100.0
    assert search.confirmed


# Line cameras


TILING = Tiling(100, SIDE, 8)


class PausingEngine(ConvolutionEngine):
    """Takes its time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def infer(self, images: np.ndarray) -> Detections:
        time.sleep(self.seconds)
        return super().infer(images)


def play(engine: ConvolutionEngine, rate: float, strips: int) -> camera.CameraRun:
    images, labels = blob_images()
    one = subject(engine)
    surface = camera.Surface(images, labels, np.arange(len(images)), TILING, np.random.default_rng(0))
    inspector = camera.TimedInspector(camera._Asked(one), TILING, 1, lambda row, answers: None)
    return camera.run_camera(inspector, surface.strip, TILING, rate, strips)


def test_a_rate_far_below_an_engines_is_held_and_every_strip_inspected() -> None:
    run = play(PausingEngine(0.0), 500.0, 10)
    assert run.lines_lost == 0
    assert run.inspected == run.blocks == 10
    assert run.latency_ms["max"] > 0


def test_an_engine_that_is_far_too_slow_loses_whole_strips_and_every_line_is_accounted_for() -> None:
    run = play(PausingEngine(0.05), 24_000.0, 60)  # a strip each millisecond
    assert not run.sustained
    assert run.busy > 1
    assert run.inspected < run.blocks
    assert run.lines_lost > 0
    assert 1 < run.queue_depth <= camera.BUFFERS + 1


def test_each_answer_of_a_line_is_held_against_the_known_one() -> None:
    """The planted fault: rows of tiles whose answers changed places."""

    class OneRowLate(ConvolutionEngine):
        def infer(self, images: np.ndarray) -> Detections:
            return super().infer(np.roll(images, 1, axis=0))

    sound = subject(ConvolutionEngine())
    scenario = camera.LineCameraScenario(sound, TILING, 1.0)
    sound.engine = OneRowLate()
    assert scenario._run(500.0, 0.5) is None
    assert "is not the checked answer" in "; ".join(sound.faults)


class LeavingEngine(ConvolutionEngine):
    """The planted fault: everything leaves."""

    screening = SimpleNamespace(alone=False)

    def infer(self, images: np.ndarray) -> Detections:
        found = super().infer(images)
        return Detections.of(0.4 * found.raw_scores, 0.4 * found.maps, 0.5, np.ones(len(images), bool))

    def infer_whole(self, images: np.ndarray) -> Detections:
        found = ConvolutionEngine.infer(self, images)
        return Detections.of(found.raw_scores, found.maps, 0.01)


def test_an_engine_that_loses_a_detection_gets_no_speed() -> None:
    images, labels = blob_images()
    losing = subject(LeavingEngine())
    losing.known = KnownAnswers.of(images, answers_to(losing.engine, images, 12))
    losing.labels = labels
    outcome = run(losing, names=("line-camera",))
    assert outcome.results == []
    assert "detected defects leave early" in "; ".join(losing.faults)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 1.0])
def test_the_mixture_is_the_one_that_was_asked_for(share: float) -> None:
    _, labels = blob_images()
    assert labels[mixture(labels, share, seed=1)].mean() == pytest.approx(share)
    assert sorted(mixture(labels, None, seed=1)) == list(range(len(labels)))


def test_a_scenario_states_what_it_fed() -> None:
    _, labels = blob_images()
    one = subject(ConvolutionEngine())
    one.labels, one.library = labels, mixture(labels, 0.25, seed=1)
    outcome = run(one, names=("offline",), seconds=0.2)
    mix = outcome.mixes["tested", "offline"]
    assert 0 < mix.defects < mix.images
    assert mix.left == mix.lost == 0


@pytest.mark.parametrize(("index", "tiles"), [(0, 2036), (1, 1982), (2, 6786), (3, 13214), (4, 16295), (5, 46250)])
def test_tiles_a_second_of_the_cameras(index: int, tiles: int) -> None:
    known = CAMERAS[index]
    assert Tiling(known.width, 256, 32).tiles_per_second(known.rate) == pytest.approx(tiles, rel=1e-3)


@pytest.mark.parametrize(("width", "overlap"), [(256, 0), (257, 0), (1000, 32), (4096, 32), (300, 255)])
def test_tiles_cover_the_line(width: int, overlap: int) -> None:
    tiling = Tiling(width, 256, overlap)
    covered = np.zeros(width, bool)
    for column in tiling.columns:
        assert 0 <= column <= width - 256
        covered[column : column + 256] = True
    assert covered.all()
    steps = np.diff(tiling.columns)
    assert (steps <= tiling.stride).all()


def test_tiles_are_cut_from_continuous_lines() -> None:
    images, labels = blob_images()
    surface = camera.Surface(images, labels, np.arange(len(images)), TILING, np.random.default_rng(0))
    first, second = surface.tiles(0), surface.tiles(1)
    assert first.shape == (len(TILING.columns), SIDE, SIDE, 1)
    # The last lines of a row of tiles are the first of the next one, and neighbours share their columns.
    assert np.array_equal(first[:, TILING.stride :], second[:, : TILING.overlap])
    assert np.array_equal(first[0, :, TILING.stride :], first[1, :, : TILING.overlap])
    assert np.array_equal(surface.tiles(camera.PATTERN_ROWS), first)


def test_a_tile_is_its_image_where_no_neighbour_reaches() -> None:
    images, labels = blob_images()
    surface = camera.Surface(images, labels, np.arange(len(images)), TILING, np.random.default_rng(0))
    inner = slice(TILING.overlap, SIDE - TILING.overlap)
    for row in range(camera.PATTERN_ROWS):
        found = surface.tiles(row)[0][inner, inner]
        matches = [index for index, image in enumerate(images) if np.array_equal(image[inner, inner], found)]
        assert [labels[index] == 1 for index in matches] == [surface.defective[row, 0]]


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_a_surface_has_the_share_of_defects_of_its_library(share: float) -> None:
    images, labels = blob_images()
    surface = camera.Surface(images, labels, mixture(labels, share, 0), TILING, np.random.default_rng(0))
    count = surface.defective.size
    assert surface.defective.sum() == max(1, round(share * count))


@pytest.mark.parametrize(
    ("width", "overlap", "message"), [(100, 0, "less than a tile"), (512, 129, "must be 0 to 128")]
)
def test_lines_that_cannot_be_cut_are_refused(width: int, overlap: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        camera.check_geometry(width, 256, overlap)
