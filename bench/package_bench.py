"""The whole bench of one package: open its engines, check and time them, run scenarios, measure memory, report."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.bench.engines.baselines import open_any
from prn_fast.bench.engines.memory import measure_memory
from prn_fast.bench.engines.network_only import network_milliseconds
from prn_fast.bench.engines.profile import profile
from prn_fast.bench.engines.runner import BenchResult, Checked, Progress, run_bench
from prn_fast.bench.machine.ceilings import (
    ceiling_fault,
    copy_rate,
    flop_per_image,
    matrix_rates,
    screen_flop_per_image,
    traffic_of,
)
from prn_fast.bench.machine.environment import describe_environment
from prn_fast.bench.machine.hardware_state import read_hardware_state
from prn_fast.bench.report.document import BASELINE, Machine, Report, build_report
from prn_fast.bench.scenarios import ScenarioRun, images_per_second, run_scenarios
from prn_fast.bench.scenarios.engine_under_test import EngineUnderTest
from prn_fast.bench.scenarios.line_camera import check_geometry
from prn_fast.bench.scenarios.loadgen import import_loadgen
from prn_fast.bench.settings import CHECK_IMAGES, ClosedLoopSettings, ScenarioSettings
from prn_fast.engine import BACKENDS, Engine, open_engine
from prn_fast.engine.names import WAYS, split_way, with_way
from prn_fast.errors import ConfigError, EngineError, PackageError
from prn_fast.package import Package


def bench_package(
    path: Path | str,
    engine_names: Sequence[str] | None = None,
    settings: ClosedLoopSettings | None = None,
    *,
    scenarios: ScenarioSettings | None = None,
    baselines: Sequence[str] = (),
    check_images: int = CHECK_IMAGES,
    command: str = "",
    on_progress: Progress = lambda phase, detail, share: None,
) -> Report:
    """Check and time the engines of a package on its validation images.

    Args:
        path: the package.
        engine_names: such as "eager", "openvino:int8"; None is all that the package holds and all backends that need no
            build. Of those that are not named here, one that this machine cannot open is reported as unavailable.
        baselines: keys of `baselines.BASELINES`, measured beside the engines; one that cannot be opened is reported.
        settings: its seconds are for each engine in each scenario, and in each batch of a closed loop.
        scenarios: what to run beyond the closed loops of `settings`.
        check_images: how many validation images to check on and to time with, good and anomalous in equal number
            where there are as many.
        command: the command line, for the report.
        on_progress: called with (phase, detail, share of the phase); phases are "check", "measure", "scenarios",
            "profile", "memory".
    Returns:
        The report; an interruption (ctrl-C) while measuring gives a report of what was measured until then.
    Errors: ConfigError, PackageError, EngineError.
    """
    settings, scenarios = settings or ClosedLoopSettings(), scenarios or ScenarioSettings()
    if check_images < 2:
        raise ConfigError(f"--check-images must be at least 2, not {check_images}")
    package = Package.open(path)
    if "line-camera" in scenarios.names:
        check_geometry(scenarios.camera_width, package.config.image_size, scenarios.overlap)
    if {"offline", "server"} & set(scenarios.names):
        import_loadgen()
    validation = package.validation()
    chosen = choose_images(validation.labels, check_images, settings.seed)
    images, labels = validation.images[chosen], validation.labels[chosen]
    if len(np.unique(images, axis=0)) < 2:
        raise PackageError(
            f"{package.path}: needs at least two different validation images to tell a working engine from one that "
            "always gives the same answer; train with more images"
        )

    environment = describe_environment()  # of the code that runs, whatever is committed meanwhile
    state_before = read_hardware_state()
    with ExitStack() as stack:
        engines, unavailable = _open_engines(package, engine_names, baselines, settings, stack)
        reference = engines.get(BASELINE) or stack.enter_context(open_engine(package, BASELINE, early_exit=False))
        closed = settings.seconds * max(1, len(engines)) * len(settings.batches)
        timing = dataclasses.replace(settings, seconds=closed)
        result = run_bench(engines, reference, images, labels, timing, on_progress=on_progress)
        run = ScenarioRun()
        if scenarios.names and not result.interrupted:
            run = _run_scenarios(engines, labels, result, scenarios, settings, on_progress)
        notes = [f"scenario {name} could not be run: {why}" for name, why in run.failed.items()]
        network_ms, profiles = _look_inside(engines, package, result, images, on_progress, notes)

    ceilings: dict[str, Any] = {}
    memory: dict[tuple[str, int], dict[str, Any]] = {}
    flop = flop_per_image(package.config)
    screen_flop = None if package.why_whole else screen_flop_per_image(package)
    if not result.interrupted:
        try:
            ceilings = _ceilings()
            if impossible_claims(result, run, flop, ceilings["matrix_rates"], screen_flop):
                # The machine may have been busy at that moment; no engine is refused for that.
                ceilings = _higher(ceilings, _ceilings())
            refuse_impossible(result, run, flop, ceilings["matrix_rates"], screen_flop)
            memory = _measure_memories(package, result, on_progress)
        except KeyboardInterrupt:
            result.interrupted = True
    machine = Machine(
        **ceilings,
        hardware_state=(state_before, read_hardware_state()),
        memory=memory,
        network_ms=network_ms,
        profiles=profiles,
    )

    training = package.manifest["training"]
    return build_report(
        result,
        settings,
        scenarios=scenarios,
        scenario_run=run,
        command=command,
        package={
            "name": package.path.name,
            "sha256": package.digest,
            "config": package.config.to_dict(),
            "training": {key: training[key] for key in ("preset", "seed", "validation") if key in training},
            "flop_per_image": flop,
            "images": len(images),
            "anomalies": int(labels.sum()),
        },
        environment=environment,
        machine=machine,
        traffic=traffic_of(package.config),
        unavailable=unavailable,
        notes=notes,
    )


def choose_images(labels: NDArray[np.integer], count: int, seed: int) -> NDArray[np.int64]:
    """Indices of `count` images (all, if there are fewer), half of them anomalous as far as there are enough."""
    rng = np.random.default_rng(seed)
    anomalous, good = (rng.permutation(np.flatnonzero(labels == label)) for label in (1, 0))
    count = min(count, len(labels))
    anomalies = min(len(anomalous), max(count // 2, count - len(good)))
    return np.sort(np.concatenate([anomalous[:anomalies], good[: count - anomalies]]))


def refuse_impossible(
    result: BenchResult,
    run: ScenarioRun,
    flop: float,
    rates: dict[str, float] | None,
    screen_flop: float | None = None,
) -> None:
    """Take what engines claim that is more than the machine can do out of the results, with the reason."""
    for check, fault in impossible_claims(result, run, flop, rates, screen_flop):
        check.faults.append(fault)
    drop_faulty(result, run)


def impossible_claims(
    result: BenchResult,
    run: ScenarioRun,
    flop: float,
    rates: dict[str, float] | None,
    screen_flop: float | None = None,
) -> list[tuple[Checked, str]]:
    """Engines whose rate is over the machine's, and the reason.

    Args:
        flop: of an image that runs whole.
        screen_flop: of an image in the screen, which is all that an engine with early exit does for each.
    """
    found_faults = []
    for check in result.checks:
        claims = [
            (f"batch {m.batch}", 1000 * m.batch / float(np.mean(np.concatenate(m.rounds))))
            for m in result.measurements
            if m.engine == check.engine
        ]
        for found in run.results:
            rate = images_per_second(found)
            if found.engine == check.engine and rate is not None:
                claims.append((found.scenario, rate))
        least = screen_flop if split_way(check.engine)[1] else flop
        for where, rate in claims:
            if least is not None and (fault := ceiling_fault(check.precision, least * rate, rates or {})):
                found_faults.append((check, f"{where}: {fault}"))
    return found_faults


def drop_faulty(result: BenchResult, run: ScenarioRun) -> None:
    """Take the results of engines with faults out."""
    faulty = {check.engine for check in result.checks if check.faults}
    result.measurements = [m for m in result.measurements if m.engine not in faulty]
    run.results = [found for found in run.results if found.engine not in faulty]


def _run_scenarios(
    engines: Mapping[str, Engine],
    labels: NDArray[np.integer],
    result: BenchResult,
    scenarios: ScenarioSettings,
    settings: ClosedLoopSettings,
    on_progress: Progress,
) -> ScenarioRun:
    """The scenarios with the engines that are sound so far; faults that they find go to the checks."""
    checks = {check.engine: check for check in result.checks if not check.faults}
    subjects = [
        EngineUnderTest(
            name,
            engines[name],
            result.known[name],
            np.random.default_rng([settings.seed, position]),
            labels,
            result.library,
        )
        for position, name in enumerate(checks)
    ]
    begin = time.monotonic()
    run = run_scenarios(subjects, scenarios, settings.seconds, seed=settings.seed, on_progress=on_progress)
    result.seconds += time.monotonic() - begin
    result.interrupted = run.interrupted
    for subject in subjects:
        checks[subject.name].faults += subject.faults
    drop_faulty(result, run)
    return run


def _open_engines(
    package: Package,
    names: Sequence[str] | None,
    baselines: Sequence[str],
    settings: ClosedLoopSettings,
    stack: ExitStack,
) -> tuple[dict[str, Engine], dict[str, str]]:
    """Engines by name, and why others cannot be opened. What the user named as an engine must open."""
    engines: dict[str, Engine] = {}
    unavailable: dict[str, str] = {}
    batch = max((ScenarioSettings.batch, *settings.batches))
    for name in [*(names or usual_engines(package)), *baselines]:
        try:
            engine = open_any(package, name, batch)
        except EngineError as error:
            if name in (names or ()):
                raise
            unavailable[name] = str(error)
            continue
        engines.setdefault(engine.name, stack.enter_context(engine))
    return engines, unavailable


def usual_engines(package: Package) -> list[str]:
    """Eager, what the package holds, and backends of which it holds nothing: those are listed with the reason.

    Engines that hold the package's screen are named three times: whole, with early exit, and the screen alone.
    """
    names = [BASELINE, *package.engines]
    if package.early_exit is not None:
        names += [with_way(name, way) for name, entry in package.engines.items() if "screen" in entry for way in WAYS]
    held = {name.partition(":")[0] for name in names}
    return names + [backend for backend in BACKENDS if backend not in held]


def _higher(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The higher of two measured ceilings, one by one."""
    rates = {name: max(rate, second["matrix_rates"].get(name, 0)) for name, rate in first["matrix_rates"].items()}
    return {"matrix_rates": rates, "copy_rate": max(first["copy_rate"], second["copy_rate"])}


def _ceilings() -> dict[str, Any]:
    """The machine's measured ceilings, on the GPU where there is one: engines there may run on either."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {"matrix_rates": matrix_rates(device=device), "copy_rate": copy_rate(device=device)}


def _look_inside(
    engines: Mapping[str, Engine],
    package: Package,
    result: BenchResult,
    images: NDArray[np.uint8],
    on_progress: Progress,
    notes: list[str],
) -> tuple[dict[tuple[str, int], dict[str, float]], list[dict[str, Any]]]:
    """Times of the network alone, and where it goes: of engines that are sound, after all else was timed."""
    network_ms: dict[tuple[str, int], dict[str, float]] = {}
    profiles: list[dict[str, Any]] = []
    sound = [check.engine for check in result.checks if not check.faults]
    if result.interrupted:
        return network_ms, profiles
    try:
        for done, name in enumerate(sound):
            on_progress("profile", name, done / len(sound))
            try:
                for measurement in result.measurements:
                    chosen = np.resize(images, (measurement.batch, *images.shape[1:]))
                    if measurement.engine == name and (times := network_milliseconds(engines[name], chosen)):
                        network_ms[name, measurement.batch] = times
                if found := profile(engines[name], package, images[:1]):
                    profiles.append(found.to_dict())
            except Exception as error:
                # Speeds are measured by now, and a profiler that fails must not cost them.
                notes.append(f"{name} could not be profiled: {type(error).__name__}: {error}")
        on_progress("profile", "", 1.0)
    except KeyboardInterrupt:
        result.interrupted = True
    return network_ms, profiles


def _measure_memories(
    package: Package, result: BenchResult, on_progress: Progress
) -> dict[tuple[str, int], dict[str, Any]]:
    memory = {}
    for done, measurement in enumerate(result.measurements):
        key = (measurement.engine, measurement.batch)
        on_progress("memory", f"{key[0]}, batch {key[1]}", done / len(result.measurements))
        memory[key] = measure_memory(package.path, *key)
    on_progress("memory", "", 1.0)
    return memory
