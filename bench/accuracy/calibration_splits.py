"""Does a calibration keep its promise? Good test images, drawn anew for each split, calibrate; the others are counted.

python -m prn_fast.bench.accuracy.calibration_splits NAME.prn ... --data DIR --json FILE
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import prn_fast
from prn_fast.arguments import whole
from prn_fast.bench.machine.environment import require_clean
from prn_fast.bench.machine.measurement import add_record_options, command_line
from prn_fast.bench.report.markdown import table
from prn_fast.data.layouts import AUTO, load_inspection_set
from prn_fast.data.samples import load_samples
from prn_fast.engine import open_engine
from prn_fast.engine.base import is_defective
from prn_fast.environment import commit, cpu_name
from prn_fast.errors import ConfigError, PRNError
from prn_fast.files import require_writable
from prn_fast.json_text import json_text
from prn_fast.package import Package, now
from prn_fast.paths import shown_path
from prn_fast.training.conformal import allowed_above, conformal_threshold, default_rate, share_interval
from prn_fast.training.metrics import image_metrics
from prn_fast.training.unseen import part_test_images

RATES = (0.01, 0.02, 0.05, 0.1)
HELD_BACK, SPLITS = 100, 20
SCHEMA = "prn-calibration-splits"


def study_splits(
    good: NDArray[np.floating], defects: NDArray[np.floating], held_back: int, splits: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Calibrate with some good images, drawn at random, and judge all others: for each rate, over many splits.

    Args:
        good, defects: raw scores of test images, which training has not seen.
        held_back: good images that calibrate.
        splits: draws.
    Returns:
        JSON-ready, one a rate: what was promised, false alarms and detection of each split, the splits whose false
        alarms lie within the binomial 95 % interval of the promise, and the same over all splits.
    """
    from scipy.stats import binom

    if not (0 < held_back < len(good) and splits > 0):
        raise ConfigError(
            f"{held_back} of {len(good)} good images cannot be held back with some left to judge, {splits} times"
        )
    judged = len(good) - held_back
    orders = [np.random.default_rng((seed, split)).permutation(len(good)) for split in range(splits)]
    rows = []
    for rate in RATES:
        place = allowed_above(held_back, rate)
        if not place:
            continue
        alarms, detected = [], []
        for order in orders:
            threshold = conformal_threshold(good[order[:held_back]], rate)
            alarms.append(int(is_defective(good[order[held_back:]], threshold).sum()))
            detected.append(int(is_defective(defects, threshold).sum()))
        promised = place / (held_back + 1)
        most = int(binom.ppf(0.975, judged, promised))
        rows.append(
            {
                "false_alarm_rate": rate,
                "promised_rate": promised,
                "most_false_alarms": most,
                "false_alarms": alarms,
                "splits_within": sum(count <= most for count in alarms),
                "mean_false_alarm_rate": sum(alarms) / (judged * splits),
                "detected": detected,
                "mean_detection": sum(detected) / (len(defects) * splits),
                "least_detection": min(detected) / len(defects),
                "largest_detection": max(detected) / len(defects),
            }
        )
    return rows


def at_threshold(
    good: NDArray[np.floating], defects: NDArray[np.floating], threshold: float
) -> dict[str, float | int | list[float]]:
    """False alarms and detection at a threshold that was fixed before any test image was seen, with 95 % intervals."""
    alarms, detected = (int(is_defective(scores, threshold).sum()) for scores in (good, defects))
    return {
        "threshold": threshold,
        "false_alarms": alarms,
        "good": len(good),
        "false_alarm_interval": list(share_interval(alarms, len(good))),
        "detected": detected,
        "defects": len(defects),
        "detection_interval": list(share_interval(detected, len(defects))),
    }


def score_images(
    package: Package, data: Path, engine_name: str | None
) -> tuple[str, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """An engine's name, and its raw scores of good test images, defective ones and the validation split's normals.

    Test images that training has seen are left out.
    """
    inspection = load_inspection_set(data, package.manifest["training"].get("layout", AUTO))
    samples = part_test_images(inspection, package.manifest["training"], None).scored
    scores = np.empty(len(samples), np.float32)
    with open_engine(package, engine_name, early_exit=False) as engine:
        for start in range(0, len(samples), engine.batch):
            part = slice(start, start + engine.batch)
            images, _ = load_samples(samples[part], engine.image_size, engine.image_channels)
            scores[part] = engine.infer(images).raw_scores
        validation = package.validation()
        normals = engine.infer(validation.images[validation.labels == 0]).raw_scores
    labels = np.array([sample.label for sample in samples])
    return engine.name, scores[labels == 0], scores[labels == 1], normals


def study_package(path: Path, data: Path, engine: str | None, held_back: int, splits: int) -> dict[str, Any]:
    """The study of one package, JSON-ready; with all scores, so that every figure can be had again.

    "package_threshold" is the one in the package; "first_threshold" the one that training sets today, from the
    validation split's normals.
    """
    package = Package.open(path)
    name, good, defects, normals = score_images(package, data, engine)
    scores = np.concatenate([good, defects])
    rate = default_rate(len(normals))
    return {
        "package": {"name": package.path.name, "digest": package.digest},
        "training": {key: package.manifest["training"].get(key) for key in ("preset", "seed", "epochs", "commit")},
        "engine": name,
        "image_auroc": image_metrics(scores, np.repeat([0, 1], [len(good), len(defects)])).auroc,
        "package_threshold": at_threshold(good, defects, package.calibration("threshold")),
        "first_threshold": {
            "normals": len(normals),
            "promised_rate": allowed_above(len(normals), rate) / (len(normals) + 1),
            **at_threshold(good, defects, conformal_threshold(normals, rate)),
        },
        "held_back": held_back,
        "judged": len(good) - held_back,
        "splits": splits,
        "rates": study_splits(good, defects, held_back, splits),
        "good_scores": sorted(float(score) for score in good),
        "defect_scores": sorted(float(score) for score in defects),
        "validation_normal_scores": sorted(float(score) for score in normals),
    }


def split_figures(results: Path) -> str:
    """Tables of all recorded studies below `results`, Markdown; empty where there is none."""
    return "\n\n".join(_figures(path) for path in sorted(results.glob("*/calibration/*.json")))


def _figures(path: Path) -> str:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["schema"] != SCHEMA:
            raise ValueError("it has another schema")
        rows = [
            [
                study["package"]["name"],
                f"{row['promised_rate']:.1%}",
                f"{row['mean_false_alarm_rate']:.1%}",
                f"{row['splits_within']} of {study['splits']}",
                f"{row['mean_detection']:.0%} ({row['least_detection']:.0%} to {row['largest_detection']:.0%})",
            ]
            for study in record["packages"]
            for row in study["rates"]
        ]
        first = [
            [
                study["package"]["name"],
                f"{study['first_threshold']['promised_rate']:.1%} ({study['first_threshold']['normals']} images)",
                f"{study['first_threshold']['false_alarms']} of {study['first_threshold']['good']}",
                f"{study['first_threshold']['detected']} of {study['first_threshold']['defects']} "
                f"({study['first_threshold']['detected'] / study['first_threshold']['defects']:.0%})",
            ]
            for study in record["packages"]
        ]
        one = record["packages"][0]
        return "\n\n".join(
            [
                f"**Calibrated with {one['held_back']} good test images**, {one['judged']} others judged, "
                f"{one['splits']} draws:",
                table(["package", "promised", "false alarms", "draws within the interval", "detected"], rows),
                "**The first threshold**, from the held-out normal images of training:",
                table(["package", "promised", "false alarms", "detected"], first),
                f"`{record['command']}` on {record['machine']}, commit {record['commit']}, {record['date'][:10]}.",
            ]
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(f"{path}: is no record of this study ({error}); record it again or remove it") from None


def make_parser() -> argparse.ArgumentParser:
    """Arguments of the study."""
    parser = argparse.ArgumentParser(prog="python -m prn_fast.bench.accuracy.calibration_splits", description=__doc__)
    parser.add_argument("packages", type=Path, nargs="+", metavar="PACKAGE", help="NAME.prn, one a seed")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="labelled images, as for prn-eval")
    parser.add_argument("--engine", metavar="NAME", help="default: the package's best")
    parser.add_argument(
        "--held-back", type=whole(1), default=HELD_BACK, help="good images that calibrate (default: %(default)s)"
    )
    parser.add_argument("--splits", type=whole(1), default=SPLITS, help="draws (default: %(default)s)")
    add_record_options(parser, required=True)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the study; 2 on an error."""
    given = sys.argv[1:] if argv is None else argv
    arguments = make_parser().parse_args(given)
    try:
        _record(arguments, given)
    except PRNError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _record(arguments: argparse.Namespace, given: list[str]) -> None:
    commit_of_run = commit()  # of the code that runs, whatever is committed meanwhile
    require_clean(commit_of_run, arguments.allow_dirty)
    require_writable(arguments.json.parent)
    console = Console()
    studies = []
    for path in arguments.packages:
        studies.append(study_package(path, arguments.data, arguments.engine, arguments.held_back, arguments.splits))
        _print(studies[-1], console)
    record = {
        "schema": SCHEMA,
        "date": now(),
        "commit": commit_of_run,
        "prn_fast": prn_fast.__version__,
        "machine": cpu_name(),
        "data": shown_path(arguments.data.resolve().name),
        "command": command_line("prn_fast.bench.accuracy.calibration_splits", given),
        "packages": studies,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json_text(record) + "\n", encoding="utf-8")
    print(f"record: {shown_path(arguments.json)}")


def _print(study: dict[str, Any], console: Console) -> None:
    first = study["first_threshold"]
    print(
        f"{study['package']['name']}, {study['engine']}: image AUROC {study['image_auroc']:.3f}; at the first "
        f"threshold ({first['promised_rate']:.1%} promised) {first['false_alarms']} of {first['good']} false alarms, "
        f"{first['detected']} of {first['defects']} detected"
    )
    table = Table(title=f"{study['splits']} splits, {study['held_back']} calibrate, {study['judged']} are judged")
    for heading in ("promised", "false alarms, mean", "splits within the interval", "detection, mean", "from", "to"):
        table.add_column(heading, justify="right")
    for row in study["rates"]:
        shares = (row["mean_detection"], row["least_detection"], row["largest_detection"])
        table.add_row(
            f"{row['promised_rate']:.2%}",
            f"{row['mean_false_alarm_rate']:.2%}",
            f"{row['splits_within']} of {study['splits']}",
            *(f"{share:.0%}" for share in shares),
        )
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
