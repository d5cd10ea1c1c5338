"""prn-eval: how well a package finds the defects of a labelled folder, or its verdicts on a plain folder."""

import argparse
import csv
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import prn_fast
from prn_fast.cli.common import command, require_training
from prn_fast.errors import ConfigError, DataError, PackageError

if TYPE_CHECKING:
    from prn_fast.data.duplicates import Fingerprint
    from prn_fast.data.samples import Sample
    from prn_fast.engine.base import Engine
    from prn_fast.package import Package
    from prn_fast.training.evaluation import Evaluation
    from prn_fast.training.evaluation import Progress as OnProgress

DESCRIPTION = """Evaluate a model package on labelled images, or predict on images without labels.

With --data (or the folder that the package was trained on): figures over all images and for each kind of defect,
as a table, as JSON, and a sheet of pictures. Anomalies that training has seen are left out, and so are other pictures
of the same parts.
With --images: score and verdict of each image, as CSV and JSON lines, and its anomaly map as a grey PNG
(0 to 255 for 0 to 1, at the network's resolution; of a package trained on tiles, at the image's)."""

RESULT_FORMAT = 1
# What a figure's reader wants to know of the training; the rest, such as folders, stays in the package.
_TOLD_OF_TRAINING = ("preset", "seed", "minutes", "steps", "epochs", "precision", "device", "torch", "commit")


def make_parser() -> argparse.ArgumentParser:
    """Arguments of prn-eval."""
    parser = argparse.ArgumentParser(
        prog="prn-eval", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="model package, NAME.prn")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data", type=Path, metavar="DIR", help="labelled images of one product (default: as in training)"
    )
    parser.add_argument("--format", metavar="NAME", help="layout of DIR, see prn-train (default: as in training)")
    source.add_argument("--images", type=Path, metavar="DIR", help="images without labels: predict, no figures")
    parser.add_argument(
        "--false-alarm-rate",
        type=float,
        metavar="SHARE",
        help="judge by the threshold for this share of good images called defective (default: the package's threshold)",
    )
    parser.add_argument(
        "--shift",
        type=int,
        default=10_000,
        metavar="N",
        help="good images in a shift, for the expected number of false alarms (default: 10000)",
    )
    parser.add_argument(
        "--flips",
        action="store_true",
        help="take the mean of the maps of each image and its three mirror images: four times slower; thresholds are "
        "calibrated anew, on the package's validation split",
    )
    parser.add_argument("--engine", metavar="NAME", help="such as openvino:int8 (default: the package's best)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="for results (default: NAME-eval or NAME-predictions)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="figures (default: OUTPUT/evaluation.json)")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="pictures (default: OUTPUT/sheet.png)")
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = make_parser().parse_args(argv)
    require_training()
    from prn_fast.package import Package

    if arguments.images and (arguments.json or arguments.sheet):
        raise ConfigError("--json and --sheet belong to an evaluation; with --images give --output only")
    if arguments.images and arguments.flips:
        raise ConfigError("--flips belongs to an evaluation; leave it out with --images")
    for file in (arguments.json, arguments.sheet):
        if file and file.is_dir():
            raise ConfigError(f"{file}: is a folder; name a file")
    package = Package.open(arguments.package)
    console = Console()
    if arguments.images:
        _predict(package, arguments, console)
    else:
        _evaluate(package, arguments, shlex.join(["prn-eval", *argv]), console)
    return 0


def _evaluate(package: "Package", arguments: argparse.Namespace, command_line: str, console: Console) -> None:
    from prn_fast.data.duplicates import Fingerprint
    from prn_fast.data.image_tiles import tile_count
    from prn_fast.data.layouts import AUTO, load_inspection_set
    from prn_fast.engine import open_engine
    from prn_fast.environment import commit
    from prn_fast.package import now
    from prn_fast.training.evaluation import evaluate, leave_out_seen, shown_path
    from prn_fast.training.mirrored import MirroredEngine
    from prn_fast.training.sheet import write_sheet

    threshold, pixel_threshold = _threshold(package, arguments), package.calibration("pixel_threshold")
    calibration = package.manifest["calibration"]
    root = arguments.data or _training_data(package)
    seen = _training(package, "seen")
    layout = arguments.format or package.manifest["training"].get("layout", AUTO)
    inspection = load_inspection_set(root, layout)
    # Where a set has anomalies of its own for training, those that were seen are not among the test images.
    samples, left_out = leave_out_seen((*inspection.test, *inspection.anomalies), inspection.root, seen)
    samples = tuple(sample for sample in samples if sample not in inspection.anomalies)
    kept = package.manifest["training"].get("seen_fingerprints")
    known = left_out if kept is None else [Fingerprint.from_dict(values) for values in kept]
    samples, duplicates = _leave_out_duplicates(samples, known)
    overlap = _tile_overlap(package)
    tiles = 1.0
    if overlap is not None:
        # A good image is called defective where one of its tiles is.
        tiles = float(np.mean([tile_count(sample.path, package.config.image_size, overlap) for sample in samples]))
        threshold = _threshold(package, arguments, tiles)
    defects = sum(sample.label for sample in samples)
    if defects in (0, len(samples)):
        raise DataError(
            f"{root}: {len(samples) - defects} good and {defects} defective test images that training has not seen; "
            "figures need both"
        )
    output = _folder(arguments.output or _beside(package, "eval"))
    json_file, sheet_file = arguments.json or output / "evaluation.json", arguments.sheet or output / "sheet.png"
    for file in (json_file, sheet_file):
        _folder(file.parent)

    with open_engine(package, arguments.engine) as opened:
        engine: Engine = opened
        if arguments.flips:
            engine = MirroredEngine(opened)
            calibration = _calibrated(engine, package, arguments, tiles)
            threshold, pixel_threshold = calibration["threshold"], calibration["pixel_threshold"]
        with _progress(console, engine.name) as progress:
            evaluation = evaluate(
                engine,
                samples,
                threshold=threshold,
                pixel_threshold=pixel_threshold,
                tile_overlap=overlap,
                progress=progress,
            )

    result = {
        "format": RESULT_FORMAT,
        "package": {"name": package.path.name, "digest": package.digest, "prn_fast": package.manifest["prn_fast"]},
        "data": str(root),
        "seen": {"listed": len(seen), "left_out": len(left_out), "near_duplicates": len(duplicates)},
        "tiles": None if overlap is None else {"overlap": overlap, "per_image": tiles},
        "left_out": [
            {"path": shown_path(sample.path, inspection.root), "why": why}
            for why, samples_out in (("seen", left_out), ("near duplicate of a seen one", duplicates))
            for sample in samples_out
        ],
        "strangers": _strangers(evaluation, samples, inspection.train),
        "training": {name: value for name, value in package.manifest["training"].items() if name in _TOLD_OF_TRAINING},
        "date": now(),
        "prn_fast": prn_fast.__version__,
        "commit": commit(),
        "command": command_line,
        **evaluation.to_dict(inspection.root),
    }
    json_file.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    write_sheet(evaluation, sheet_file, f"{package.path.name} on {root.resolve().name}, {evaluation.engine}")

    _print_evaluation(evaluation, console)
    if "normal_tail" in calibration:
        console.print(_shift_line(calibration, threshold, arguments.shift, tiles), highlight=False)
    if seen:
        console.print(_seen_line(len(seen), len(left_out), len(duplicates), kept is not None), highlight=False)
    console.print(_strangers_line(result["strangers"], result["confusion"]), highlight=False)
    console.print(f"figures: {json_file}\npictures: {sheet_file}", highlight=False, soft_wrap=True)


def _predict(package: "Package", arguments: argparse.Namespace, console: Console) -> None:
    from prn_fast.data.folders import find_images
    from prn_fast.data.image_tiles import tile_count
    from prn_fast.data.images import write_image
    from prn_fast.engine import open_engine
    from prn_fast.training.evaluation import predict

    threshold, root, overlap = _threshold(package, arguments), arguments.images, _tile_overlap(package)
    output = arguments.output or _beside(package, "predictions")
    # Maps are images too: the next run over the same folder would take them for pictures to inspect.
    if output.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"{output}: lies in the folder of images {root}; choose an output outside of it")
    paths = find_images(root)
    if overlap is not None:
        tiles = float(np.mean([tile_count(path, package.config.image_size, overlap) for path in paths]))
        threshold = _threshold(package, arguments, tiles)
    maps = _folder(output / "maps")

    defects = 0
    with (
        open_engine(package, arguments.engine) as engine,
        (output / "predictions.csv").open("w", encoding="utf-8", newline="") as csv_file,
        (output / "predictions.jsonl").open("w", encoding="utf-8") as lines_file,
        _progress(console, engine.name) as progress,
    ):
        name = engine.name
        table = csv.DictWriter(csv_file, ("path", "score", "verdict", "map"))
        table.writeheader()
        for prediction in predict(engine, paths, threshold=threshold, tile_overlap=overlap, progress=progress):
            path = prediction.path.relative_to(root)
            # The suffix stays in the name: part.jpg and part.png may lie side by side.
            map_file = maps / path.with_name(f"{path.name}.png")
            map_file.parent.mkdir(parents=True, exist_ok=True)
            write_image(map_file, np.rint(np.clip(prediction.map, 0, 1) * 255).astype(np.uint8))
            row = {
                "path": path.as_posix(),
                "score": prediction.score,
                "verdict": "defect" if prediction.defect else "good",
                "map": map_file.relative_to(output).as_posix(),
            }
            table.writerow(row)
            lines_file.write(json.dumps(row, allow_nan=False) + "\n")
            defects += prediction.defect
    console.print(
        f"{len(paths)} images, {defects} with defects at threshold {threshold:.3f} ({name})\nresults: {output}",
        highlight=False,
        soft_wrap=True,
    )


def _print_evaluation(evaluation: "Evaluation", console: Console) -> None:
    image, pixel, counts = evaluation.image, evaluation.pixel, evaluation.confusion
    defects, good = counts.detected + counts.missed, counts.passed + counts.false_alarms
    table = Table(title=f"{evaluation.engine}, threshold {evaluation.threshold:.3f}", title_justify="left")
    table.add_column("defect")
    for heading in ("images", "detected", "image AUROC", "pixel AUROC", "PRO"):
        table.add_column(heading, justify="right")
    for kind in evaluation.kinds:
        figures = (kind.image_auroc, kind.pixel_auroc, kind.pro)
        table.add_row(kind.kind, str(kind.count), str(kind.detected), *(f"{figure:.3f}" for figure in figures))
    table.add_section()
    figures = (image.auroc, pixel.auroc, pixel.pro)
    table.add_row("all", str(defects), str(counts.detected), *(f"{figure:.3f}" for figure in figures), style="bold")
    console.print(table)
    side = evaluation.image_size
    console.print(
        f"images: AP {image.average_precision:.3f}, F1-max {image.f1_max:.3f} (at {image.f1_threshold:.3f}); "
        f"pixels at {side} x {side}: AP {pixel.average_precision:.3f}, {pixel.regions} regions\n"
        f"good images: {good}, false alarms: {counts.false_alarms} ({counts.false_alarms / good:.1%}, "
        f"95 % interval {_interval(counts.false_alarms, good)})",
        highlight=False,
    )


def _interval(count: int, total: int) -> str:
    """Exact (Clopper-Pearson) 95 % interval of a share."""
    from scipy.stats import binomtest

    low, high = binomtest(count, total).proportion_ci(0.95, method="exact")
    return f"{low:.1%} to {high:.1%}"


def _shift_line(calibration: Mapping[str, Any], threshold: float, images: int, tiles: float) -> str:
    from prn_fast.training.calibration import expected_false_alarm_rate

    tile_rate = expected_false_alarm_rate(calibration, threshold)
    rate = min(1.0, tiles * tile_rate)
    bound = " or more" if tile_rate >= calibration["normal_tail"]["share"] else ""
    return (
        f"expected in a shift of {images:,} good images: {rate * images:,.0f}{bound} false alarms "
        f"({rate:.2%}, reckoned from {calibration['normals']} held-out normal {'images' if tiles == 1.0 else 'tiles'})"
    )


def _leave_out_duplicates(
    samples: Sequence["Sample"], seen: Sequence["Sample | Fingerprint"]
) -> tuple[tuple["Sample", ...], tuple["Sample", ...]]:
    """Part near duplicates of seen anomalies from what may be scored: (rest, duplicates)."""
    from prn_fast.data.duplicates import near_duplicates

    defects, good = ([sample for sample in samples if sample.label == label] for label in (1, 0))
    duplicates = near_duplicates(defects, seen, others=good)
    return tuple(sample for sample in samples if sample not in duplicates), duplicates


def _strangers(
    evaluation: "Evaluation", samples: Sequence["Sample"], normals: Sequence["Sample"]
) -> dict[str, int | float | None]:
    """How many good test images are no near duplicate of a training image, and image AUROC with these alone."""
    from prn_fast.data.duplicates import near_duplicates
    from prn_fast.training.metrics import image_metrics

    familiar = near_duplicates([sample for sample in samples if not sample.label], normals)
    kept = [image for image, sample in zip(evaluation.images, samples, strict=True) if sample not in familiar]
    good = sum(not image.label for image in kept)
    labels = np.array([image.label for image in kept], int)
    auroc = image_metrics(np.array([image.score for image in kept], np.float32), labels).auroc if good else None
    return {"good": good, "image_auroc": auroc}


def _strangers_line(strangers: Mapping[str, int | float | None], counts: Mapping[str, int]) -> str:
    good = counts["passed"] + counts["false_alarms"]
    line = f"good images of parts that no training image shows: {strangers['good']} of {good}"
    return (
        line if strangers["image_auroc"] is None else f"{line}; with these alone, AUROC {strangers['image_auroc']:.3f}"
    )


def _calibrated(engine: "Engine", package: "Package", arguments: argparse.Namespace, tiles: float) -> dict[str, Any]:
    """What scores mean where they are not those that the package was calibrated with."""
    from prn_fast.training.calibration import FALSE_ALARM_RATE, calibrate

    validation = package.validation()
    kept = package.manifest["calibration"].get("false_alarm_rate", FALSE_ALARM_RATE)
    rate = kept if arguments.false_alarm_rate is None else arguments.false_alarm_rate
    return calibrate(engine.infer(validation.images), validation, rate / tiles)


def _seen_line(listed: int, left_out: int, duplicates: int, known: bool) -> str:
    line = f"left out: {left_out} anomalies that training has seen"
    if duplicates:
        line += f", and other pictures of the same parts: {duplicates}"
    if left_out < listed and known:
        line += f" (the package lists {listed}; the others were looked for under other names, by what it keeps of them)"
    elif left_out < listed:
        line += (
            f" [bold](the package lists {listed}; the others are not in this folder under those names: "
            "make sure that they are not here under other names)[/]"
        )
    return line


@contextmanager
def _progress(console: Console, name: str) -> Iterator["OnProgress"]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _tile_overlap(package: "Package") -> int | None:
    """The overlap of the tiles that the package was trained on; None where images were resized."""
    tiles = package.manifest["training"].get("tiles")
    return None if tiles is None else int(tiles["overlap"])


def _threshold(package: "Package", arguments: argparse.Namespace, tiles: float = 1.0) -> float:
    """The wanted or the package's threshold; with several tiles an image, for the wanted rate of images."""
    if arguments.false_alarm_rate is None and tiles == 1.0:
        return package.calibration("threshold")
    from prn_fast.training.calibration import threshold_for

    if "normal_tail" not in package.manifest["calibration"]:
        raise PackageError(f"{package.path}: its calibration has no normal_tail; train the package again")
    calibration = package.manifest["calibration"]
    wanted = calibration["false_alarm_rate"] if arguments.false_alarm_rate is None else arguments.false_alarm_rate
    return threshold_for(calibration, wanted / tiles)


def _training(package: "Package", name: str) -> Any:
    if name not in package.manifest["training"]:
        # Without the list of seen anomalies, nobody could tell whether a figure is honest.
        raise PackageError(f"{package.path}: its manifest does not say {name!r} of its training; train it again")
    return package.manifest["training"][name]


def _training_data(package: "Package") -> Path:
    folder = Path(_training(package, "data"))
    if not folder.is_dir():
        raise ConfigError(f"{folder}: the folder that the package was trained on is not here; give --data DIR")
    return folder


def _beside(package: "Package", ending: str) -> Path:
    path = package.path.resolve()
    return package.path.parent / f"{path.stem}-{ending}"


def _folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made ({error.strerror}); choose another output") from None
    return folder
