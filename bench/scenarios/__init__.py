"""Scenarios beyond a closed loop: offline, server and line-camera, run for all engines in turn.

Names and definitions are MLPerf's, except line-camera, which no benchmark has. `single-stream` (one image) and
`multi-stream` (several in one call) are closed loops, timed by `runner.run_bench`: their ratios between engines need
interleaved calls, which LoadGen does not give.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from prn_fast.bench.machine.load import LoadMeter
from prn_fast.bench.scenarios.cameras import Tiling
from prn_fast.bench.scenarios.engine_under_test import EngineUnderTest, Mix
from prn_fast.bench.scenarios.line_camera import LineCameraResult, LineCameraScenario
from prn_fast.bench.scenarios.offline import OfflineResult, OfflineScenario
from prn_fast.bench.scenarios.server import ServerResult, ServerScenario
from prn_fast.bench.settings import SCENARIOS, ScenarioSettings

ScenarioResult = OfflineResult | ServerResult | LineCameraResult


@dataclass
class ScenarioRun:
    """What scenarios found.

    Attributes:
        results: of the engines that stayed sound.
        others_share: share (0..1) of the machine that others used, by scenario.
        mixes: what each engine was fed, by (engine, scenario).
        failed: scenarios that could not be run, and why; they have no results.
    """

    results: list[ScenarioResult] = field(default_factory=list)
    others_share: dict[str, float] = field(default_factory=dict)
    mixes: dict[tuple[str, str], Mix] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


class _Steps(Protocol):
    """A scenario of one engine, a run at a time."""

    subject: EngineUnderTest

    @property
    def result(self) -> Any: ...

    def step(self, seconds_left: float) -> bool: ...


def run_scenarios(
    subjects: Sequence[EngineUnderTest],
    settings: ScenarioSettings,
    seconds: float,
    *,
    seed: int = 0,
    on_progress: Callable[[str, str, float], None] = lambda phase, detail, share: None,
) -> ScenarioRun:
    """Run scenarios for engines in turn, a new random order each time; an engine that is found faulty gets no result.

    Args:
        seconds: for each engine in each scenario.
    Returns:
        The results; an interruption (ctrl-C) returns what had been found until then.
    """
    outcome = ScenarioRun()
    for position, name in enumerate(settings.names):
        within = (position / len(settings.names), 1 / len(settings.names))
        meter = LoadMeter()
        try:
            _run_one(name, subjects, settings, seconds, seed, within, on_progress, outcome)
        except KeyboardInterrupt:
            outcome.interrupted = True
            break
        except Exception as error:
            # Of the bench itself: what other scenarios have measured must not be lost with it.
            outcome.failed[name] = f"{type(error).__name__}: {error}"
            outcome.results = [result for result in outcome.results if result.scenario != name]
        finally:
            outcome.others_share[name] = meter.others_share()
    faulty = {subject.name for subject in subjects if subject.faults}
    outcome.results = [result for result in outcome.results if result.engine not in faulty]
    on_progress("scenarios", "", 1.0)
    return outcome


def _run_one(
    name: str,
    subjects: Sequence[EngineUnderTest],
    settings: ScenarioSettings,
    seconds: float,
    seed: int,
    within: tuple[float, float],
    on_progress: Callable[[str, str, float], None],
    outcome: ScenarioRun,
) -> None:
    begin = time.monotonic()
    rng = np.random.default_rng([seed, SCENARIOS.index(name)])
    sound = [subject for subject in subjects if not subject.faults]

    def report(detail: str) -> None:
        share = min(1.0, (time.monotonic() - begin) / (seconds * len(sound)))
        on_progress("scenarios", f"{name}, {detail}", within[0] + share * within[1])

    steps: list[_Steps] = []
    for subject in sound:
        subject.mix = outcome.mixes[subject.name, name] = Mix()
        report(f"{subject.name}, first calls")
        try:
            steps.append(_prepare(name, subject, settings, seconds))
        except Exception as error:
            # Whatever a backend raises is its fault; the figures of the others must not be lost.
            subject.faults.append(f"raised {type(error).__name__} in scenario {name}: {error}")
    everything = list(steps)
    # Each engine has its own budget, spent in turns, so that drift of the machine hits all alike.
    spent = {id(one): 0.0 for one in steps}
    budget = seconds - (time.monotonic() - begin) / max(1, len(steps))
    try:
        while steps:
            for index in rng.permutation(len(steps)):
                one = steps[index]
                report(one.subject.name)
                start = time.monotonic()
                going_on = one.step(budget - spent[id(one)])
                spent[id(one)] += time.monotonic() - start
                if not going_on:
                    spent.pop(id(one))
            steps = [one for one in steps if id(one) in spent]
    finally:
        found = [one.result for one in everything]
        outcome.results += [result for result in found if not (isinstance(result, OfflineResult) and not result.rates)]


def _prepare(name: str, subject: EngineUnderTest, settings: ScenarioSettings, seconds: float) -> _Steps:
    if name == "offline":
        return OfflineScenario(subject, settings.batch)
    if name == "server":
        return ServerScenario(subject, settings.batch, settings.p99_ms, seconds)
    tiling = Tiling(settings.camera_width, subject.images.shape[1], settings.overlap)
    return LineCameraScenario(subject, tiling, seconds)


def images_per_second(result: ScenarioResult) -> float | None:
    """The rate that a result claims; None where none was sustained."""
    if isinstance(result, OfflineResult):
        return float(np.median(result.rates))
    if result.sustained is None:
        return None
    return (
        result.tiling.tiles_per_second(result.sustained.rate)
        if isinstance(result, LineCameraResult)
        else result.sustained.rate
    )
