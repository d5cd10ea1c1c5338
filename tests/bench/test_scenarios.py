"""Scenarios with sound and faulty engines, and the search for a rate."""

from collections.abc import Callable

import numpy as np
import pytest

from prn_fast.bench.answers import answers_to
from prn_fast.bench.cameras import CAMERAS, Tiling
from prn_fast.bench.clock import ClockError
from prn_fast.bench.known import Known
from prn_fast.bench.scenarios import OPEN_LOOPS, ScenarioRun, ScenarioSettings, loadgen, run_scenarios
from prn_fast.bench.scenarios import line_camera as camera
from prn_fast.bench.scenarios.rate_search import RateSearch
from prn_fast.bench.scenarios.subject import Subject
from prn_fast.errors import ConfigError
from tests.bench import engines
from tests.bench.engines import SIDE, ConvolutionEngine, blob_images

SETTINGS = ScenarioSettings(OPEN_LOOPS, p99_ms=2000.0, camera_width=100, overlap=8)


def subject(engine: ConvolutionEngine, name: str = "tested") -> Subject:
    """An engine that is known to answer as a sound one does."""
    images, _ = blob_images()
    known = Known.of(images, answers_to(ConvolutionEngine(), images, 12))
    return Subject(name, engine, known, np.random.default_rng(0))


def run(*subjects: Subject, names: tuple[str, ...] = OPEN_LOOPS, seconds: float = 0.6) -> ScenarioRun:
    settings = ScenarioSettings(names, SETTINGS.batch, SETTINGS.p99_ms, SETTINGS.camera_width, SETTINGS.overlap)
    return run_scenarios(subjects, settings, seconds)


def test_every_scenario_gives_every_sound_engine_a_result() -> None:
    quick, slow = subject(ConvolutionEngine(), "quick"), subject(engines.SlowEngine(), "slow")
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
            assert (result.held is None) == (result.reason is not None)


@pytest.mark.parametrize("scenario", OPEN_LOOPS)
@pytest.mark.parametrize(
    "make",
    [
        engines.ZeroEngine,
        engines.FirstAnswerEngine,
        engines.LastAnswerEngine,
        engines.EarlyEngine,
        engines.RaisingEngine,
    ],
    ids=["zeros", "caches-first-answer", "answers-one-call-late", "returns-too-early", "raises"],
)
def test_a_faulty_engine_gets_no_figure(make: Callable[[], ConvolutionEngine], scenario: str) -> None:
    faulty = subject(make())
    outcome = run(faulty, names=(scenario,), seconds=0.6)
    assert outcome.results == []
    assert faulty.faults


def test_no_image_of_a_scenario_can_be_looked_up() -> None:
    memory = engines.MemoryEngine()
    outcome = run(subject(memory), names=("offline",), seconds=0.5)
    assert outcome.results
    assert memory.hits == 0


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
    outcome = loadgen.offline(subject(engines.SlowEngine()), batch=4, queries=80)
    assert "the clock jumped" in "; ".join(outcome.faults)


class Held:
    """A run that holds up to a rate."""

    def __init__(self, rate: float, held: bool) -> None:
        self.rate, self.held = rate, held


@pytest.mark.parametrize("first", [5.0, 100.0, 400.0])
def test_the_search_ends_just_under_the_limit_and_confirms(first: float) -> None:
    search = RateSearch(first, 0.1, 1, lambda rate, seconds: Held(rate, rate <= 100.0))
    while search.step(seconds_left=1e9):
        pass
    assert search.held is not None
    assert 95.0 < search.held.rate <= 100.0
    assert search.confirmed
    assert search.runs[-1].rate == search.held.rate


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
    assert search.held is None
    assert search.reason is not None
    assert "needs 10 s" in search.reason


def test_a_rate_that_fails_to_confirm_is_lowered() -> None:
    outcomes = {100.0: [True, False]}

    def attempt(rate: float, seconds: float) -> Held:
        return Held(rate, outcomes.get(rate, [rate < 100.0]).pop(0))

    search = RateSearch(100.0, 1.0, 1, attempt)
    while search.step(seconds_left=3.0):
        pass
    assert search.held is not None
    assert search.held.rate == pytest.approx(95.0)


def test_without_time_to_confirm_a_lower_rate_the_best_of_the_search_under_the_failed_one_is_kept() -> None:
    left = [60.0]

    def attempt(rate: float, seconds: float) -> Held:
        confirming = seconds > 10.0
        left[0] -= 40.0 if confirming else seconds
        return Held(rate, rate <= 110.0 and not confirming)

    search = RateSearch(85.0, 7.0, 1, attempt)
    while search.step(left[0]):
        pass
    assert search.held is not None
    assert not search.confirmed
    assert search.held.rate < min(run.rate for run in search.runs if not run.held)


@pytest.mark.parametrize("first", [5.0, 70.0, 95.0, 400.0])
def test_runs_that_say_what_could_be_held_end_the_search_soon(first: float) -> None:
    search = RateSearch(first, 0.1, 1, lambda rate, seconds: Held(rate, rate <= 100.0), estimate=lambda run: 100.0)
    while search.step(seconds_left=1e9):
        pass
    assert search.held is not None
    assert search.held.rate == pytest.approx(95.0 if first == 95.0 else 97.0)
    assert search.confirmed
    assert len(search.runs) <= 3


def test_estimates_that_promise_too_much_still_lead_to_a_rate_that_is_held() -> None:
    search = RateSearch(80.0, 0.1, 1, lambda rate, seconds: Held(rate, rate <= 100.0), estimate=lambda run: 200.0)
    while search.step(seconds_left=1e9):
        pass
    assert search.held is not None
    assert 95.0 < search.held.rate <= 100.0
    assert search.confirmed


# Line cameras: time is simulated, so that outcomes are exact.


class Time:
    """A clock that moves only when something waits."""

    def __init__(self) -> None:
        self.ns = 0

    def wait(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9) + 1

    def now(self) -> int:
        return self.ns


def simulate(row_seconds: float, rate: float, blocks: int) -> camera.CameraRun:
    time = Time()
    return camera.run_camera(
        lambda row: time.wait(row_seconds), Tiling(512, 256, 32), rate, blocks, clock=time.now, wait=time.wait
    )


def test_a_fast_engine_holds_the_rate_with_its_own_latency() -> None:
    # A block of 256 lines at 2.56 kHz comes every 100 ms; a row of tiles takes 20 ms, a block completes one or two.
    run = simulate(0.020, 2560.0, 70)
    assert run.held
    assert run.lines_lost == 0
    assert run.queue_depth == 1
    assert run.inspected == 70
    assert run.busy == pytest.approx(0.2 * 256 / 224, rel=1e-3)
    assert run.latency_ms["p50"] == pytest.approx(20.0, abs=0.1)
    assert run.latency_ms["max"] == pytest.approx(40.0, abs=0.1)


@pytest.mark.parametrize("blocks", [8, 9, 11, 16, 17, 60])
def test_whether_a_rate_is_held_does_not_hang_on_where_a_run_ends(blocks: int) -> None:
    # In seven blocks one completes two rows of tiles, and those after it wait.
    assert simulate(0.080, 2560.0, blocks).held
    assert not simulate(0.085, 2560.0, blocks).held


def test_waiting_counts_from_the_scheduled_arrival() -> None:
    # Each row takes 1.2 intervals of a block, so each block waits 0.2 longer than the one before.
    run = simulate(0.120, 2560.0, 7)
    assert not run.held
    assert run.lines_lost == 0
    assert run.latency_ms["max"] == pytest.approx(7 * 120.0 - 6 * 100.0, abs=1.0)


def test_an_engine_at_half_the_speed_loses_half_of_the_lines() -> None:
    run = simulate(0.200, 2560.0, 400)
    assert not run.held
    assert run.queue_depth == camera.BUFFERS
    assert run.lines_lost % camera.BLOCK_LINES == 0
    # Rows that need a lost block's lines are not inspected either, which frees time: a little less than half is lost.
    assert 0.2 < run.lines_lost / (400 * camera.BLOCK_LINES) < 0.6


def test_every_line_is_accounted_for() -> None:
    for row_seconds in (0.01, 0.11, 0.3):
        run = simulate(row_seconds, 2560.0, 100)
        assert run.inspected + run.lines_lost / camera.BLOCK_LINES <= run.blocks


def test_rows_of_tiles_need_exactly_the_blocks_that_hold_their_lines() -> None:
    tiling = Tiling(512, 256, 32)
    rows = [row for block in range(50) for row in camera._rows_of(block, tiling)]
    assert rows == list(range(tiling.rows_after(50 * camera.BLOCK_LINES)))
    for row in rows:
        lines = range(row * tiling.stride, row * tiling.stride + tiling.side)
        assert camera._blocks_of(row, tiling) == {line // camera.BLOCK_LINES for line in lines}


def test_a_clock_that_jumps_while_lines_come_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "raw_clock", lambda: 0)
    with pytest.raises(ClockError, match="clock jumped"):
        camera.run_camera(lambda row: None, Tiling(512, 256, 32), 1e6, 3)


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
    images, _ = blob_images()
    tiling = Tiling(100, SIDE, 8)
    surface = camera.Surface(images, tiling, np.random.default_rng(0))
    first, second = surface.tiles(0), surface.tiles(1)
    assert first.shape == (len(tiling.columns), SIDE, SIDE, 1)
    # The last lines of a row of tiles are the first of the next one, and neighbours share their columns.
    assert np.array_equal(first[:, tiling.stride :], second[:, : tiling.overlap])
    assert np.array_equal(first[0, :, tiling.stride :], first[1, :, : tiling.overlap])
    assert np.array_equal(surface.tiles(camera.PATTERN_ROWS), first)


@pytest.mark.parametrize(
    ("width", "overlap", "message"), [(100, 0, "less than a tile"), (512, 256, "must be 0 to 255")]
)
def test_lines_that_cannot_be_cut_are_refused(width: int, overlap: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        camera.check_geometry(width, 256, overlap)
