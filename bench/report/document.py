"""The report: one JSON document with everything that was measured and where; `report_schema.json` is its schema.

The document keeps every counted latency, by round, so that two reports can be compared with intervals later.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from prn_fast.bench import stats
from prn_fast.bench.engines.runner import BenchResult, Measurement
from prn_fast.bench.machine.ceilings import NetworkTraffic, ceiling_of
from prn_fast.bench.machine.hardware_state import hardware_state_warnings
from prn_fast.bench.report.formatting import hertz, number
from prn_fast.bench.scenarios import ScenarioRun
from prn_fast.bench.scenarios.engine_under_test import Mix
from prn_fast.bench.scenarios.line_camera import CameraRun, LineCameraResult, camera_shares
from prn_fast.bench.scenarios.offline import OfflineResult
from prn_fast.bench.scenarios.server import ServerResult, ServerRun
from prn_fast.bench.settings import ClosedLoopSettings, ScenarioSettings
from prn_fast.engine.names import split_way
from prn_fast.errors import DataError
from prn_fast.json_text import json_text

SCHEMA_VERSION = 2
SCHEMA_PATH = Path(__file__).with_name("report_schema.json")
BASELINE = "eager"

# Beyond these, a warning stands beside the figure.
SPREAD_LIMIT = 0.10  # (p75 - p25) / p50
TAIL_LIMIT = 1.25  # p90 / p50
DRIFT_LIMIT = 0.10
OTHERS_LIMIT = 0.10
INTERVAL_LIMIT = 0.20  # width of the ratio's interval over the ratio
MAX_SHOWN = 200  # characters of what is wrong in a report

Report = dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """What was measured of the machine and of the engines beside their speed; None where it was not.

    Attributes:
        matrix_rates: FLOP/s by precision; copy_rate: bytes/s, read and written.
        hardware_state: readings at the start and at the end, see `hardware_state.read_hardware_state`.
        memory: by (engine, batch), as `memory.measure_memory` returns it.
        network_ms: by (engine, batch), as `network_only.network_milliseconds` returns it.
        profiles: one an engine, see `profile.Profile.to_dict`.
    """

    matrix_rates: dict[str, float] | None = None
    copy_rate: float | None = None
    hardware_state: tuple[dict[str, Any], dict[str, Any]] | None = None
    memory: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    network_ms: dict[tuple[str, int], dict[str, float]] = field(default_factory=dict)
    profiles: list[dict[str, Any]] = field(default_factory=list)


def build_report(
    result: BenchResult,
    settings: ClosedLoopSettings,
    *,
    command: str,
    package: dict[str, Any],
    environment: dict[str, Any],
    machine: Machine | None = None,
    traffic: NetworkTraffic | None = None,
    scenarios: ScenarioSettings | None = None,
    scenario_run: ScenarioRun | None = None,
    unavailable: dict[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """JSON-ready report.

    Args:
        package: name, sha256, config, training, flop_per_image (or None), images (checked), anomalies.
        traffic: of the network, see `ceilings.traffic_of`.
        unavailable: engines of the package that this machine cannot open, and why.
        notes: what could not be looked at, and why.
    """
    machine, scenarios, run = machine or Machine(), scenarios or ScenarioSettings(), scenario_run or ScenarioRun()
    measured = {(m.engine, m.batch): m for m in result.measurements}
    precisions = {check.engine: check.precision for check in result.checks}
    engines = [
        {
            "name": check.engine,
            "precision": check.precision,
            "status": "failed" if check.faults else "passed",
            "faults": check.faults,
            "parity": check.agreement.to_dict() if check.agreement else None,
            "early_exit": asdict(check.exits) if check.exits else None,
        }
        for check in result.checks
    ] + [
        {"name": name, "precision": None, "status": "unavailable", "faults": [reason], "parity": None}
        for name, reason in (unavailable or {}).items()
    ]
    results = []
    for m in result.measurements:
        entry = _result(m, measured.get((BASELINE, m.batch)))
        rate = entry["images_per_second"]
        entry["memory"] = machine.memory.get((m.engine, m.batch))
        entry["network_ms"] = machine.network_ms.get((m.engine, m.batch))
        # Of images that leave, nobody counts the work.
        flop = None if split_way(m.engine)[1] else package.get("flop_per_image")
        entry["roofline"] = roofline(precisions[m.engine], m.batch, rate, flop, traffic, machine)
        results.append(entry)
    passed = {engine["name"] for engine in engines if engine["status"] == "passed"}
    return {
        "schema": "prn-bench",
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "interrupted": result.interrupted,
        "passed": all(engine["status"] != "failed" for engine in engines) and not run.failed,
        "settings": {
            "batches": list(settings.batches),
            "seconds": settings.seconds,
            "measured_seconds": round(result.seconds, 3),
            "seed": settings.seed,
            "defect_share": settings.defect_share,
            "scenarios": list(scenarios.names),
            "p99_ms": scenarios.p99_ms,
            "camera_width": scenarios.camera_width,
            "overlap": scenarios.overlap,
        },
        "package": package,
        "environment": environment,
        "conditions": _hardware_state(machine),
        "matrix_rates": machine.matrix_rates,
        "copy_bytes_per_second": machine.copy_rate,
        "engines": engines,
        "results": results,
        "scenarios": [
            _scenario(found, run.others_share[found.scenario], run.mixes.get((found.engine, found.scenario)))
            for found in run.results
        ],
        "notes": list(notes),
        "profiles": [one for one in machine.profiles if one["engine"] in passed],
    }


def roofline(
    precision: str, batch: int, rate: float, flop: float | None, traffic: NetworkTraffic | None, machine: Machine
) -> dict[str, float | None] | None:
    """Work and traffic of an engine at `rate` images a second, and their shares of what the machine can do."""
    if flop is None or traffic is None:
        return None
    ceiling = ceiling_of(precision, machine.matrix_rates or {})
    moved = traffic.bytes_per_image(batch, precision)
    return {
        "flop_per_second": flop * rate,
        "bytes_per_second": moved * rate,
        "flop_per_byte": flop / moved,
        "share_of_matrix_rate": flop * rate / ceiling if ceiling else None,
        "share_of_copy_rate": moved * rate / machine.copy_rate if machine.copy_rate else None,
    }


def _hardware_state(machine: Machine) -> dict[str, Any] | None:
    if machine.hardware_state is None:
        return None
    start, end = machine.hardware_state
    return {"start": start, "end": end, "warnings": hardware_state_warnings(start, end)}


def _run(run: CameraRun | ServerRun) -> dict[str, Any]:
    """One run of a search, JSON-ready; reports call a rate that was sustained "held"."""
    values = asdict(run)
    return {"held" if name == "sustained" else name: value for name, value in values.items()}


def _scenario(
    found: OfflineResult | ServerResult | LineCameraResult, others_share: float, mix: Mix | None
) -> dict[str, Any]:
    """A scenario's result, JSON-ready."""
    entry: dict[str, Any] = {"engine": found.engine, "scenario": found.scenario}
    if mix is not None:
        entry["mix"] = asdict(mix)
    warnings = []
    if isinstance(found, OfflineResult):
        low, high = min(found.rates), max(found.rates)
        interval = _list(stats.median_interval([[rate] for rate in found.rates]))
        entry |= {
            "batch": found.batch,
            "queries": found.queries,
            "rates": found.rates,
            "images_per_second": float(np.median(found.rates)),
            "interval": interval,
        }
        if interval is None:
            warnings.append(f"runs: {len(found.rates)}, too few for an interval: raise --seconds")
        if high - low > INTERVAL_LIMIT * entry["images_per_second"]:
            warnings.append(f"runs gave {low:.3g} to {high:.3g} images/s")
    else:
        entry |= {
            "held": _run(found.sustained) if found.sustained else None,
            "confirmed": found.confirmed,
            "reason": None if found.sustained else (found.reason or "interrupted before a rate was shown to be held"),
            "runs": [_run(one) for one in found.runs],
        }
        if found.sustained and not found.confirmed:
            warnings.append("the rate was held in one run of the search; there was no time to confirm it")
    if isinstance(found, ServerResult):
        entry |= {"batch": found.batch, "p99_ms": found.bound_ms}
    if isinstance(found, LineCameraResult):
        entry |= {
            "width": found.width,
            "side": found.side,
            "overlap": found.overlap,
            "capacity_hz": found.capacity,
            "verdict": _verdict(found, entry["reason"]),
            "cameras": [
                {"name": camera.name, "link": camera.link, "width": camera.width, "rate": camera.rate, "share": share}
                for camera, share in camera_shares(found)
            ],
        }
    if others_share > OTHERS_LIMIT:
        warnings.append(f"other processes used {others_share:.0%} of the machine")
    return {**entry, "others_share": round(others_share, 4), "warnings": warnings}


def _verdict(result: LineCameraResult, reason: str | None) -> str:
    """One sentence, such as "holds 4096 px at 12 kHz, overlap 32, p99 41 ms, 0 lines lost".

    `reason`: why no rate was sustained, where the result does not say.
    """
    where = f"{result.width} px"
    if result.sustained is None:
        return (
            f"no line rate shown to be held at {where}, overlap {result.overlap}: {result.reason or reason} "
            f"(estimate from single rows of tiles: {hertz(result.capacity)})"
        )
    run = result.sustained
    latency = run.latency_ms
    name = "longest" if latency["p99"] is None else "p99"
    tail = f"{name} {number(latency['max' if latency['p99'] is None else 'p99'])} ms"
    return (
        f"holds {where} at {hertz(run.rate)}, overlap {result.overlap}, {tail} of {run.inspected} strips, "
        f"{run.lines_lost} lines lost"
    )


def write_json(report: Report, path: Path) -> None:
    """Write the report as JSON; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json_text(report) + "\n", encoding="utf-8")


def read_json(path: Path) -> Report:
    """Read a report and check it by its schema.

    Errors: DataError for a file that is missing, is no report, comes from another version or lacks something, or whose
    figures are not finite, or zero or negative where they are times or rates.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    try:
        report = json.loads(
            path.read_text(encoding="utf-8"), parse_constant=_number, parse_float=_number, parse_int=_number
        )
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as a bench report ({error})") from None
    if not isinstance(report, dict) or report.get("schema") != "prn-bench":
        raise DataError(f"{path}: is not a bench report (prn-bench --json writes one)")
    version = report.get("schema_version")
    if isinstance(version, int) and version != SCHEMA_VERSION:
        known, advice = ("", "measure again") if version < SCHEMA_VERSION else ("up to ", "update prn_fast")
        raise DataError(f"{path}: has report version {version}, this prn_fast reads {known}{SCHEMA_VERSION}; {advice}")
    fault = best_match(Draft202012Validator(json.loads(SCHEMA_PATH.read_text("utf-8"))).iter_errors(report))
    if fault is not None:
        message = fault.message if len(fault.message) <= MAX_SHOWN else f"{fault.message[:MAX_SHOWN]}..."
        raise DataError(
            f"{path}: is no sound bench report, {'/'.join(map(str, fault.path)) or 'as a whole'}: {message}"
        )
    return report


def _number(text: str) -> float:
    """A JSON number; a ValueError for one that is not finite as a float: nothing could be computed from it."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN]} is not a finite number")
    return int(text) if text.lstrip("-").isdigit() else value


def scenario_of(batch: int) -> str:
    """The field's name (MLPerf) of a closed loop: the next query starts when the one before is answered."""
    return "single-stream" if batch == 1 else "multi-stream"


def conclusive(result: dict[str, Any]) -> bool:
    """May the ratio to eager be stated as a finding: its interval is known and narrow, and the machine was quiet."""
    speedup = result["speedup"]
    return (
        speedup is not None
        and speedup["interval"] is not None
        and speedup["interval"][1] - speedup["interval"][0] <= INTERVAL_LIMIT * speedup["ratio"]
        and result["others_share"] <= OTHERS_LIMIT
    )


def _result(measurement: Measurement, baseline: Measurement | None) -> dict[str, Any]:
    samples = [sample for one_round in measurement.rounds for sample in one_round]
    mean = sum(samples) / len(samples)
    images_per_second = 1000 * measurement.batch / mean
    p50 = stats.median(measurement.rounds)
    latency = {
        "min": min(samples),
        "mean": mean,
        **stats.percentiles(samples),
        "max": max(samples),
        "p50_interval": _list(stats.median_interval(measurement.rounds)),
    }
    speedup = None
    if baseline is not None:
        # eager against itself is 1 by definition, without an interval.
        interval = None if measurement is baseline else stats.ratio_interval(baseline.rounds, measurement.rounds)
        speedup = {"ratio": stats.median(baseline.rounds) / p50, "interval": _list(interval)}
    return {
        "engine": measurement.engine,
        "scenario": scenario_of(measurement.batch),
        "batch": measurement.batch,
        "samples": len(samples),
        "latency_ms": latency,
        "images_per_second": images_per_second,
        "speedup": speedup,
        "warm_up": {
            "calls": measurement.warm_up_calls,
            "seconds": round(measurement.warm_up_seconds, 3),
            "steady": measurement.steady,
        },
        "first_call_of_slice_counted": not measurement.settled,
        "others_share": round(measurement.others_share, 4),
        "warnings": _warnings(measurement, samples, latency, speedup),
        "rounds_ms": [[round(sample, 4) for sample in one_round] for one_round in measurement.rounds],
    }


def _warnings(
    measurement: Measurement, samples: list[float], latency: dict[str, Any], speedup: dict[str, Any] | None
) -> list[str]:
    """Why the figures of one result may not be good enough to conclude from."""
    warnings = []
    if not measurement.steady:
        warnings.append(f"not steady after {measurement.warm_up_calls} warm-up calls")
    if len(measurement.rounds) < stats.MINIMUM_ROUNDS:
        warnings.append(f"rounds: {len(measurement.rounds)}, too few for an interval: raise --seconds")
    spread = stats.interquartile_ratio(samples)
    if spread > SPREAD_LIMIT:
        warnings.append(f"the middle half of the calls spreads over {spread:.0%} of the median")
    if latency["p90"] is not None and latency["p90"] > TAIL_LIMIT * latency["p50"]:
        warnings.append(f"p90 is {latency['p90'] / latency['p50']:.2f} times the median")
    drift = stats.drift_ratio(measurement.rounds)
    if drift is not None and abs(drift - 1) > DRIFT_LIMIT:
        warnings.append(f"latency drifted by {drift - 1:+.0%} during the run")
    if measurement.others_share > OTHERS_LIMIT:
        warnings.append(f"other processes used {measurement.others_share:.0%} of the machine")
    if speedup and speedup["interval"]:
        low, high = speedup["interval"]
        if high - low > INTERVAL_LIMIT * speedup["ratio"]:
            warnings.append(f"the ratio to {BASELINE} is only known to lie in {low:.2f} to {high:.2f}")
    return warnings


def _list(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
