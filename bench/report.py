"""The report: one JSON document with everything that was measured and where; `report_schema.json` is its schema.

The document keeps every counted latency, by round, so that two reports can be compared with intervals later.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from prn_fast.bench import stats
from prn_fast.bench.ceilings import Traffic, ceiling_of
from prn_fast.bench.conditions import condition_warnings
from prn_fast.bench.runner import BenchResult, Measurement, Settings
from prn_fast.bench.scenarios import ScenarioRun, ScenarioSettings
from prn_fast.bench.scenarios.line_camera import LineCameraResult, cameras_held, verdict
from prn_fast.bench.scenarios.offline import OfflineResult
from prn_fast.bench.scenarios.server import ServerResult
from prn_fast.errors import DataError

SCHEMA_VERSION = 2
SCHEMA_PATH = Path(__file__).with_name("report_schema.json")
BASELINE = "eager"

# Beyond these, a warning stands beside the figure.
SPREAD_LIMIT = 0.10  # (p75 - p25) / p50
TAIL_LIMIT = 1.25  # p90 / p50
DRIFT_LIMIT = 0.10
OTHERS_LIMIT = 0.10
INTERVAL_LIMIT = 0.20  # width of the ratio's interval over the ratio

Report = dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """What was measured of the machine and of the engines beside their speed; None where it was not.

    Attributes:
        matrix_rates: FLOP/s by precision; copy_rate: bytes/s, read and written.
        conditions: readings at the start and at the end, see `conditions.read_conditions`.
        memory: by (engine, batch), as `memory.measure_memory` returns it.
        network_ms: by (engine, batch), as `network_only.network_milliseconds` returns it.
        profiles: one an engine, see `profile.Profile.to_dict`.
    """

    matrix_rates: dict[str, float] | None = None
    copy_rate: float | None = None
    conditions: tuple[dict[str, Any], dict[str, Any]] | None = None
    memory: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    network_ms: dict[tuple[str, int], dict[str, float]] = field(default_factory=dict)
    profiles: list[dict[str, Any]] = field(default_factory=list)


def build_report(
    result: BenchResult,
    settings: Settings,
    *,
    command: str,
    package: dict[str, Any],
    environment: dict[str, Any],
    machine: Machine | None = None,
    traffic: Traffic | None = None,
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
            "parity": check.parity.to_dict() if check.parity else None,
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
        entry["roofline"] = roofline(
            precisions[m.engine], m.batch, rate, package.get("flop_per_image"), traffic, machine
        )
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
            "scenarios": list(scenarios.names),
            "p99_ms": scenarios.p99_ms,
            "camera_width": scenarios.camera_width,
            "overlap": scenarios.overlap,
        },
        "package": package,
        "environment": environment,
        "conditions": _conditions(machine),
        "matrix_rates": machine.matrix_rates,
        "copy_bytes_per_second": machine.copy_rate,
        "engines": engines,
        "results": results,
        "scenarios": [_scenario(found, run.others_share[found.scenario]) for found in run.results],
        "notes": list(notes),
        "profiles": [one for one in machine.profiles if one["engine"] in passed],
    }


def roofline(
    precision: str, batch: int, rate: float, flop: float | None, traffic: Traffic | None, machine: Machine
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


def _conditions(machine: Machine) -> dict[str, Any] | None:
    if machine.conditions is None:
        return None
    start, end = machine.conditions
    return {"start": start, "end": end, "warnings": condition_warnings(start, end)}


def _scenario(found: OfflineResult | ServerResult | LineCameraResult, others_share: float) -> dict[str, Any]:
    """A scenario's result, JSON-ready."""
    entry: dict[str, Any] = {"engine": found.engine, "scenario": found.scenario}
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
            "held": asdict(found.held) if found.held else None,
            "confirmed": found.confirmed,
            "reason": None if found.held else (found.reason or "interrupted before a rate was shown to be held"),
            "runs": [asdict(one) for one in found.runs],
        }
        if found.held and not found.confirmed:
            warnings.append("the rate was held in one run of the search; there was no time to confirm it")
    if isinstance(found, ServerResult):
        entry |= {"batch": found.batch, "p99_ms": found.bound_ms}
    if isinstance(found, LineCameraResult):
        entry |= {
            "width": found.width,
            "side": found.side,
            "overlap": found.overlap,
            "capacity_hz": found.capacity,
            "verdict": verdict(found, entry["reason"]),
            "cameras": [
                {"name": camera.name, "link": camera.link, "width": camera.width, "rate": camera.rate, "share": share}
                for camera, share in cameras_held(found)
            ],
        }
    if others_share > OTHERS_LIMIT:
        warnings.append(f"other processes used {others_share:.0%} of the machine")
    return {**entry, "others_share": round(others_share, 4), "warnings": warnings}


def write_json(report: Report, path: Path) -> None:
    """Write the report as JSON; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Report:
    """Read a report. Errors: DataError for a file that is missing, is no report, or comes from a newer version."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a bench report: {error}") from None
    if not isinstance(report, dict) or report.get("schema") != "prn-bench":
        raise DataError(f"{path}: is not a bench report (prn-bench --json writes one)")
    if report["schema_version"] < SCHEMA_VERSION:
        raise DataError(
            f"{path}: has report version {report['schema_version']}, this prn_fast reads {SCHEMA_VERSION}; "
            "measure again"
        )
    if report["schema_version"] > SCHEMA_VERSION:
        raise DataError(
            f"{path}: has report version {report['schema_version']}, this prn_fast reads up to {SCHEMA_VERSION}; "
            "update prn_fast"
        )
    return report


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
