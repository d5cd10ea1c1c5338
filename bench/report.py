"""The report: one JSON document with everything that was measured and where; `report_schema.json` is its schema.

The document keeps every counted latency, by round, so that two reports can be compared with intervals later.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from prn_fast.bench import stats
from prn_fast.bench.runner import BenchResult, Measurement, Settings
from prn_fast.errors import DataError

SCHEMA_VERSION = 1
SCHEMA_PATH = Path(__file__).with_name("report_schema.json")
BASELINE = "eager"

# Beyond these, a warning stands beside the figure.
SPREAD_LIMIT = 0.10  # (p75 - p25) / p50
TAIL_LIMIT = 1.25  # p90 / p50
DRIFT_LIMIT = 0.10
OTHERS_LIMIT = 0.10
INTERVAL_LIMIT = 0.20  # width of the ratio's interval over the ratio

Report = dict[str, Any]


def build_report(
    result: BenchResult,
    settings: Settings,
    *,
    command: str,
    package: dict[str, Any],
    environment: dict[str, Any],
    matrix_rates: dict[str, float] | None = None,
    memory: dict[tuple[str, int], dict[str, Any]] | None = None,
    unavailable: dict[str, str] | None = None,
) -> Report:
    """JSON-ready report.

    Args:
        package: name, sha256, config, training, flop_per_image (or None), images (checked), anomalies.
        matrix_rates: measured ceilings, FLOP/s by precision; None where they were not measured.
        memory: by (engine, batch), as `memory.measure_memory` returns it.
        unavailable: engines of the package that this machine cannot open, and why.
    """
    measured = {(m.engine, m.batch): m for m in result.measurements}
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
    return {
        "schema": "prn-bench",
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "interrupted": result.interrupted,
        "passed": all(engine["status"] != "failed" for engine in engines),
        "settings": {
            "batches": list(settings.batches),
            "seconds": settings.seconds,
            "measured_seconds": round(result.seconds, 3),
            "seed": settings.seed,
        },
        "package": package,
        "environment": environment,
        "matrix_rates": matrix_rates,
        "engines": engines,
        "results": [
            _result(
                m,
                measured.get((BASELINE, m.batch)),
                flop=package.get("flop_per_image"),
                memory=(memory or {}).get((m.engine, m.batch)),
            )
            for m in result.measurements
        ],
    }


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


def _result(
    measurement: Measurement, baseline: Measurement | None, flop: float | None, memory: dict[str, Any] | None
) -> dict[str, Any]:
    samples = [sample for one_round in measurement.rounds for sample in one_round]
    mean = sum(samples) / len(samples)
    images_per_second = 1000 * measurement.batch / mean
    p50 = _median(measurement)
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
        speedup = {"ratio": _median(baseline) / p50, "interval": _list(interval)}
    return {
        "engine": measurement.engine,
        "scenario": scenario_of(measurement.batch),
        "batch": measurement.batch,
        "samples": len(samples),
        "latency_ms": latency,
        "images_per_second": images_per_second,
        "speedup": speedup,
        "flop_per_second": flop * images_per_second if flop else None,
        "memory": memory,
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
        warnings.append(f"only {len(measurement.rounds)} rounds, too few for an interval: raise --seconds")
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


def _median(measurement: Measurement) -> float:
    return float(np.median(np.concatenate(measurement.rounds)))


def _list(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
