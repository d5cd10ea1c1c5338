"""The whole bench of one package: open its engines, check and time them, measure memory and ceilings, report."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.bench.ceilings import ceiling_fault, flop_per_image, matrix_rates
from prn_fast.bench.environment import describe_environment
from prn_fast.bench.memory import measure_memory
from prn_fast.bench.report import BASELINE, Report, build_report
from prn_fast.bench.runner import BenchResult, Progress, Settings, run_bench
from prn_fast.engine import Engine, open_engine
from prn_fast.errors import ConfigError, EngineError, PackageError
from prn_fast.package import Package

CHECK_IMAGES = 64
DEFAULT_BATCH = 8


def bench_package(
    path: Path | str,
    engine_names: Sequence[str] | None = None,
    settings: Settings | None = None,
    *,
    check_images: int = CHECK_IMAGES,
    command: str = "",
    on_progress: Progress = lambda phase, detail, share: None,
) -> Report:
    """Check and time the engines of a package on its validation images.

    Args:
        path: the package.
        engine_names: such as "eager", "openvino:int8"; None is eager and all that the package holds. Of those that are
            not named here, one that this machine cannot open is reported as unavailable.
        check_images: how many validation images to check on and to time with, good and anomalous in equal number
            where there are as many.
        command: the command line, for the report.
        on_progress: called with (phase, detail, share of the phase); phases are "check", "measure", "memory".
    Returns:
        The report; an interruption (ctrl-C) while measuring gives a report of what was measured until then.
    Errors: ConfigError, PackageError, EngineError.
    """
    settings = settings or Settings()
    if check_images < 2:
        raise ConfigError(f"--check-images must be at least 2, not {check_images}")
    package = Package.open(path)
    validation = package.validation()
    chosen = choose_images(validation.labels, check_images, settings.seed)
    images, labels = validation.images[chosen], validation.labels[chosen]
    if len(np.unique(images, axis=0)) < 2:
        raise PackageError(
            f"{package.path}: needs at least two different validation images to tell a working engine from one that "
            "always gives the same answer; train with more images"
        )

    with ExitStack() as stack:
        engines, unavailable = _open_engines(package, engine_names, settings, stack)
        reference = engines.get(BASELINE) or stack.enter_context(open_engine(package, BASELINE))
        result = run_bench(engines, reference, images, labels, settings, on_progress=on_progress)

    flop, rates, memory = None, None, {}
    if not result.interrupted:
        try:
            flop = flop_per_image(package.config)
            rates = _cpu_rates()
            refuse_impossible(result, flop, rates)
            memory = _measure_memories(package, result, on_progress)
        except KeyboardInterrupt:
            result.interrupted = True

    training = package.manifest["training"]
    return build_report(
        result,
        settings,
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
        environment=describe_environment(),
        matrix_rates=rates,
        memory=memory,
        unavailable=unavailable,
    )


def choose_images(labels: NDArray[np.integer], count: int, seed: int) -> NDArray[np.int64]:
    """Indices of `count` images (all, if there are fewer), half of them anomalous as far as there are enough."""
    rng = np.random.default_rng(seed)
    anomalous, good = (rng.permutation(np.flatnonzero(labels == label)) for label in (1, 0))
    count = min(count, len(labels))
    anomalies = min(len(anomalous), max(count // 2, count - len(good)))
    return np.sort(np.concatenate([anomalous[:anomalies], good[: count - anomalies]]))


def refuse_impossible(result: BenchResult, flop: float, rates: dict[str, float] | None) -> None:
    """Take the measurements of engines that claim more than the machine can do out of the result, with the reason."""
    for check in result.checks:
        own = [m for m in result.measurements if m.engine == check.engine]
        for measurement in own:
            samples = [sample for one_round in measurement.rounds for sample in one_round]
            rate = flop * measurement.batch * len(samples) / (sum(samples) / 1000)
            if fault := ceiling_fault(check.precision, rate, rates or {}):
                check.faults.append(f"batch {measurement.batch}: {fault}")
    faulty = {check.engine for check in result.checks if check.faults}
    result.measurements = [m for m in result.measurements if m.engine not in faulty]


def _open_engines(
    package: Package, names: Sequence[str] | None, settings: Settings, stack: ExitStack
) -> tuple[dict[str, Engine], dict[str, str]]:
    """Engines by name, and why others of the package cannot be opened. What the user named must open."""
    engines: dict[str, Engine] = {}
    unavailable: dict[str, str] = {}
    batch = max(DEFAULT_BATCH, *settings.batches)
    for name in names or [BASELINE, *package.engines]:
        try:
            engine = open_engine(package, name, batch=batch)
        except EngineError as error:
            if names:
                raise
            unavailable[name] = str(error)
            continue
        engines.setdefault(engine.name, stack.enter_context(engine))
    return engines, unavailable


def _cpu_rates() -> dict[str, float] | None:
    """The CPU's measured ceilings; None on a machine with a GPU, where engines may run on either."""
    import torch

    return None if torch.cuda.is_available() else matrix_rates()


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
