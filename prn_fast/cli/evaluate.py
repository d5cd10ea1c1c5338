"""prn-eval: how well a package finds the defects of a labelled folder, or its verdicts on a plain folder."""

import argparse
import csv
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text

import prn_fast
from prn_fast.arguments import whole
from prn_fast.cli.common import PARTS_HELP, Parser, add_engine, add_false_alarm_rate, command, counted
from prn_fast.cli.console import PlainConsole, progress_bar
from prn_fast.cli.outputs import try_outputs
from prn_fast.engine.names import SCREEN, with_way
from prn_fast.errors import ConfigError, DataError, PackageError
from prn_fast.extras import require_extra
from prn_fast.files import held, reporting
from prn_fast.paths import derived_paths, shown_path

if TYPE_CHECKING:
    from prn_fast.data.folders import PassedOver
    from prn_fast.data.parts import PartNames
    from prn_fast.data.samples import Sample
    from prn_fast.engine.base import Engine
    from prn_fast.package import Package
    from prn_fast.training.evaluation import Evaluation, RateCounts
    from prn_fast.training.exit_effect import ExitEffect
    from prn_fast.training.unseen import TestImages

DESCRIPTION = """Evaluate a model package on labelled images, or predict on images without labels.

With --data (or the folder that the package was trained on): figures over all images and for each kind of defect,
as a table, as JSON, and a sheet of pictures. Anomalies that training has seen are left out, and so are other pictures
of the same parts.
Figures are those of the whole network; if the package has a screen, a line says what early exit changes, and
--screen-only gives the figures of the screen alone.
Skipped files (no images, dangling links, further pages of a TIFF) are named on stderr.
With --images: score and verdict of each image (0.5 and above is a defect), as CSV and JSON lines, and its anomaly map
as a grey PNG (0 to 255 for 0 to 1) at the network's resolution, or the image's if the package was trained on tiles."""

RESULT_FORMAT = 2  # 2: "score" is 0.5 at the threshold, "raw_score" is the network's own
SHIFT = 10_000
# Facts about the training that belong to a figure; the rest, such as folders, stays in the package.
_TOLD_OF_TRAINING = ("preset", "seed", "minutes", "steps", "epochs", "precision", "device", "torch", "commit")


def make_parser() -> Parser:
    """Arguments of prn-eval."""
    parser = Parser(prog="prn-eval", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="model package, NAME.prn")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data", type=Path, metavar="DIR", help="labelled images of one product (default: as in training)"
    )
    parser.add_argument("--format", metavar="NAME", help="layout of DIR, see prn-train (default: as in training)")
    parser.add_argument("--parts", metavar="FILE or PATTERN", help=f"{PARTS_HELP} (default: as in training)")
    source.add_argument("--images", type=Path, metavar="DIR", help="images without labels: verdicts only, no figures")
    add_false_alarm_rate(parser)
    parser.add_argument(
        "--shift",
        type=whole(1),
        metavar="N",
        help=f"number of good images in a shift, to estimate its false alarms (default: {SHIFT})",
    )
    parser.add_argument(
        "--flips",
        action="store_true",
        help="average the maps of each image and its three mirror images: four times slower; thresholds are "
        "recalibrated on the package's validation split",
    )
    add_engine(parser)
    parser.add_argument(
        "--screen-only",
        action="store_true",
        help="judge by the screen alone: its score and map, brought to the network's scale and size, at the package's "
        "thresholds",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for results (default: NAME-eval or NAME-predictions)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for figures (default: OUTPUT/evaluation.json)")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="file for pictures (default: OUTPUT/sheet.png)")
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = make_parser().parse_args(argv)
    if not arguments.images:
        require_extra("eval", "sklearn", "scipy")
    from prn_fast.package import Package

    if arguments.images:
        for name in ("json", "sheet", "format", "parts", "shift", "flips"):
            if getattr(arguments, name) not in (None, False):
                raise ConfigError(f"--{name} belongs to an evaluation; leave it out with --images")
    if arguments.screen_only:
        for option, given in (("--flips", arguments.flips), ("--false-alarm-rate", arguments.false_alarm_rate)):
            if given:
                raise ConfigError(f"{option} does not go with --screen-only: the screen judges at its own cut")
    package = Package.open(arguments.package)
    console = PlainConsole()
    if arguments.images:
        _predict(package, arguments, console)
    else:
        _evaluate(package, arguments, shlex.join(["prn-eval", *argv]), console)
    return 0


def _evaluate(package: "Package", arguments: argparse.Namespace, command_line: str, console: PlainConsole) -> None:
    from prn_fast.data.folders import rows
    from prn_fast.data.image_tiles import tile_count
    from prn_fast.data.layouts import AUTO, load_inspection_set
    from prn_fast.engine import open_engine
    from prn_fast.environment import commit
    from prn_fast.package import now
    from prn_fast.training.calibration import image_threshold, judged_pieces, tile_overlap
    from prn_fast.training.conformal import SHOWN_RATES
    from prn_fast.training.evaluation import evaluate
    from prn_fast.training.sheet import write_sheet
    from prn_fast.training.test_time_augmentation import FlipAveragedEngine
    from prn_fast.training.unseen import part_test_images

    rate = arguments.false_alarm_rate
    threshold, pixel_threshold = image_threshold(package, rate), package.calibration("pixel_threshold")
    calibration = package.manifest["calibration"]
    root = arguments.data or _training_data(package)
    seen = _training(package, "seen")
    layout = arguments.format or package.manifest["training"].get("layout", AUTO)
    inspection = load_inspection_set(root, layout)
    _tell_passed_over(inspection.passed_over, inspection.root)
    images = part_test_images(inspection, package.manifest["training"], _parts(package, arguments, root))
    samples = images.scored
    overlap = tile_overlap(package)
    _refuse_stitched_screen(arguments, overlap)
    tiles = 1.0
    if overlap is not None:
        # A good image is called defective where one of its tiles is.
        tiles = float(np.mean([tile_count(sample.path, package.config.image_size, overlap) for sample in samples]))
        threshold = image_threshold(package, rate, tiles)
    defects = sum(sample.label for sample in samples)
    if defects in (0, len(samples)):
        raise DataError(
            f"{root}: {len(samples) - defects} good and {defects} defective test images that training has not seen; "
            "figures need both"
        )
    output = arguments.output or _beside(package, "eval")
    json_file, sheet_file = arguments.json or output / "evaluation.json", arguments.sheet or output / "sheet.png"
    try_outputs([json_file, sheet_file], [output])

    with open_engine(package, arguments.engine, early_exit=False, screen_only=arguments.screen_only) as opened:
        engine: Engine = opened
        engine.name = with_way(engine.name, SCREEN if arguments.screen_only else "")
        if arguments.flips:
            engine = FlipAveragedEngine(opened, package.config.score)
            calibration = _calibrated(engine, package, arguments, tiles)
            threshold, pixel_threshold = calibration["threshold"], calibration["pixel_threshold"]
            engine.threshold, engine.pixel_threshold = threshold, pixel_threshold
        with progress_bar(console, engine.name) as progress:
            evaluation = evaluate(
                engine,
                samples,
                threshold=threshold,
                pixel_threshold=pixel_threshold,
                tile_overlap=overlap,
                progress=progress,
            )

    # What normal images score is known of the network.
    of_network = "normal_tail" in calibration and not arguments.screen_only
    if of_network and "normals" in calibration:
        evaluation = evaluation.at_rates(calibration, SHOWN_RATES, judged_pieces(calibration, tiles))
    alone = arguments.flips or arguments.screen_only
    effect = None if alone else _exit_effect(package, samples, evaluation, overlap, console)
    result = {
        "format": RESULT_FORMAT,
        "package": {"name": package.path.name, "digest": package.digest, "prn_fast": package.manifest["prn_fast"]},
        "data": shown_path(root),
        "seen": {"listed": len(seen), "left_out": len(images.seen), "near_duplicates": len(images.same_part)},
        "parts_told_by": images.told_by,
        "tiles": None if overlap is None else {"overlap": overlap, "per_image": tiles},
        "left_out": [
            {"path": shown_path(sample.path, inspection.root), "why": why}
            for why, samples_out in (("seen", images.seen), ("near duplicate of a seen one", images.same_part))
            for sample in samples_out
        ],
        "passed_over": list(rows(inspection.passed_over, inspection.root)),
        "unseen_parts": _unseen_parts(evaluation, images),
        "early_exit": None if effect is None else effect.to_dict(),
        "training": {name: value for name, value in package.manifest["training"].items() if name in _TOLD_OF_TRAINING},
        "date": now(),
        "prn_fast": prn_fast.__version__,
        "commit": commit(),
        "command": command_line,
        **evaluation.to_dict(inspection.root),
    }
    for folder in (output, json_file.parent, sheet_file.parent):
        folder.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    write_sheet(
        evaluation, sheet_file, f"{package.path.name} on {shown_path(root.resolve().name)}, {evaluation.engine}"
    )

    _print_evaluation(evaluation, console)
    if not arguments.screen_only:
        _tell_lowest_rate(calibration, arguments, tiles)
    if of_network:
        console.say(_shift_line(calibration, threshold, arguments.shift or SHIFT, tiles))
        _tell_broken_promise(package, calibration, evaluation, tiles)
    if seen:
        known = "seen_fingerprints" in package.manifest["training"]
        console.say(_seen_line(len(seen), len(images.seen), len(images.same_part), known))
    console.say(_unseen_parts_line(result["unseen_parts"], result["confusion"]))
    console.say("the screen alone, for all images" if arguments.screen_only else _exit_line(package, effect))
    console.say(f"figures: {shown_path(json_file)}\npictures: {shown_path(sheet_file)}")


def _predict(package: "Package", arguments: argparse.Namespace, console: PlainConsole) -> None:
    from prn_fast.data.folders import find_images, rows
    from prn_fast.data.image_tiles import tile_count
    from prn_fast.data.images import write_image
    from prn_fast.data.pages import further_pages
    from prn_fast.engine import open_engine
    from prn_fast.training.calibration import image_threshold, tile_overlap
    from prn_fast.training.evaluation import predict

    rate = arguments.false_alarm_rate
    threshold, root, overlap = image_threshold(package, rate), arguments.images, tile_overlap(package)
    _refuse_stitched_screen(arguments, overlap)
    tiles = 1.0
    output = arguments.output or _beside(package, "predictions")
    # Maps are images too: the next run over the same folder would take them for pictures to inspect.
    if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(root)):
        raise ConfigError(f"{output}: lies in the folder of images {root}; choose an output outside of it")
    listing = find_images(root)
    paths = listing.images
    # By way of a link, too.
    if any(folder.resolve().is_relative_to(output.resolve()) for folder in {path.parent for path in paths}):
        raise ConfigError(f"{output}: a link in {root} leads to it; choose another output")
    passed_over = (*listing.passed_over, *further_pages(paths))
    _tell_passed_over(passed_over, root)
    if overlap is not None:
        tiles = float(np.mean([tile_count(path, package.config.image_size, overlap) for path in paths]))
        threshold = image_threshold(package, rate, tiles)
    maps = output / "maps"
    try_outputs([output / name for name in ("predictions.csv", "predictions.jsonl", "passed_over.csv")], [maps])
    # The suffix stays in the name: part.jpg and part.png may lie side by side.
    map_of = dict(zip(paths, derived_paths([PurePath(shown_path(path, root)) for path in paths], ".png"), strict=True))
    maps.mkdir(parents=True, exist_ok=True)

    defects = 0
    with ExitStack() as stack:
        stack.enter_context(held(output, "prn-eval"))
        with (output / "passed_over.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, ("path", "why"))
            table.writeheader()
            table.writerows(rows(passed_over, root))
        # What leaves early is below the package's own threshold: below a lower one it may not be.
        early_exit = threshold >= package.calibration("threshold")
        opened = open_engine(package, arguments.engine, early_exit=early_exit, screen_only=arguments.screen_only)
        engine = stack.enter_context(opened)
        engine.name = with_way(engine.name, SCREEN if arguments.screen_only else "")
        stack.enter_context(reporting(output))
        run = {
            "images": os.fspath(root.resolve()),
            "package": package.path.name,
            "engine": engine.name,
            "threshold": threshold,
            "pixel_threshold": package.calibration("pixel_threshold"),
        }
        # What prn-review finds the images by; a name that is no text must be given to it.
        (output / "run.json").write_text(json.dumps(run, indent=2) + "\n", encoding="ascii")
        # Lines are written one by one: those so far outlive a kill.
        csv_file = stack.enter_context((output / "predictions.csv").open("w", 1, encoding="utf-8", newline=""))
        lines_file = stack.enter_context((output / "predictions.jsonl").open("w", 1, encoding="utf-8"))
        name = engine.name
        progress = stack.enter_context(progress_bar(console, name))
        table = csv.DictWriter(csv_file, ("path", "score", "verdict", "raw_score", "map"))
        table.writeheader()
        for prediction in predict(engine, paths, threshold=threshold, tile_overlap=overlap, progress=progress):
            map_file = maps / map_of[prediction.path]
            map_file.parent.mkdir(parents=True, exist_ok=True)
            write_image(map_file, np.rint(np.clip(prediction.map, 0, 1) * 255).astype(np.uint8))
            row = {
                "path": shown_path(prediction.path, root),
                "score": prediction.score,
                "verdict": "defect" if prediction.defect else "good",
                "raw_score": prediction.raw_score,
                "map": shown_path(map_file, output),
            }
            table.writerow(row)
            lines_file.write(json.dumps(row, allow_nan=False) + "\n")
            defects += prediction.defect
    console.say(
        f"{counted(len(paths), 'image')}, {defects} with defects at threshold {threshold:.3f} of raw scores ({name})\n"
        f"results: {shown_path(output)}"
    )
    _tell_lowest_rate(package.manifest["calibration"], arguments, tiles)


def _print_evaluation(evaluation: "Evaluation", console: PlainConsole) -> None:
    image, pixel, counts = evaluation.image, evaluation.pixel, evaluation.confusion
    defects, good = counts.detected + counts.missed, counts.passed + counts.false_alarms
    table = Table(title=f"{evaluation.engine}, threshold {evaluation.threshold:.3f} (raw score)", title_justify="left")
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
    console.say(
        f"images: AP {image.average_precision:.3f}, F1-max {image.f1_max:.3f} (at {image.f1_threshold:.3f}); "
        f"pixels at {side} x {side}: AP {pixel.average_precision:.3f}, {pixel.regions} regions\n"
        f"good images: {good}, false alarms: {counts.false_alarms} ({counts.false_alarms / good:.1%}, "
        f"95 % interval {_interval(counts.false_alarms, good)})"
    )
    if evaluation.rates:
        console.print(_rates_table(evaluation.rates))


def _rates_table(rates: "Sequence[RateCounts]") -> Table:
    table = Table(title="other false-alarm rates, on the same images", title_justify="left")
    for heading in ("rate", "detected", "false alarms", "95 % interval", ""):
        table.add_column(heading, justify="left" if not heading else "right")
    for one in rates:
        table.add_row(
            f"{one.false_alarm_rate:.3g}",
            f"{one.detected} of {one.defects} ({one.detected / one.defects:.0%})",
            f"{one.false_alarms} of {one.good} ({one.false_alarms / one.good:.1%})",
            _interval(one.false_alarms, one.good),
            "" if one.supported else "extrapolated",
        )
    return table


def _refuse_stitched_screen(arguments: argparse.Namespace, overlap: int | None) -> None:
    """A ConfigError for the screen alone on images in tiles: each tile is judged by its score, not by its map."""
    if arguments.screen_only and overlap is not None:
        raise ConfigError(
            f"{arguments.package}: was trained on tiles, and --screen-only judges whole images; leave it out"
        )


def _exit_effect(
    package: "Package",
    samples: "Sequence[Sample]",
    evaluation: "Evaluation",
    overlap: int | None,
    console: PlainConsole,
) -> "ExitEffect | None":
    """What early exit changes; None if all images of the package run whole."""
    from prn_fast.kernels import OPTIMIZED
    from prn_fast.training.early_exit import TwoStages
    from prn_fast.training.exit_effect import exit_effect

    leaving = package.early_exit
    if leaving is None:
        return None
    stages = TwoStages(package.model(OPTIMIZED), package.screen())
    with progress_bar(console, "early exit") as progress:
        return exit_effect(stages, leaving.cut, samples, evaluation, tile_overlap=overlap, progress=progress)


def _exit_line(package: "Package", effect: "ExitEffect | None") -> str:
    if effect is None:
        return f"early exit: off ({package.why_whole or 'not evaluated together with --flips'})"
    return (
        f"early exit would change: {effect.good_exited} of {effect.good} good images leave "
        f"({effect.good_exited / effect.good:.1%}, 95 % interval {_interval(effect.good_exited, effect.good)}), "
        f"{effect.lost} of {effect.detected} detected defects are lost, {effect.changed} verdicts differ "
        f"({effect.alarms_avoided} false alarms fewer); the figures above are without"
    )


def _interval(count: int, total: int) -> str:
    from prn_fast.training.conformal import share_interval

    low, high = share_interval(count, total)
    return f"{low:.1%} to {high:.1%}"


def _shift_line(calibration: Mapping[str, Any], threshold: float, images: int, tiles: float) -> str:
    from prn_fast.training.calibration import expected_false_alarm_rate, judged_pieces

    pieces = judged_pieces(calibration, tiles)
    piece_rate = expected_false_alarm_rate(calibration, threshold)
    rate = min(1.0, pieces * piece_rate)
    bound = " or more" if piece_rate >= calibration["normal_tail"]["share"] else ""
    return (
        f"expected in a shift of {images:,} good images: {rate * images:,.0f}{bound} false alarms "
        f"({rate:.2%}, estimated from {calibration['normals']} held-out normal {_pieces_word(pieces)})"
    )


def _tell_broken_promise(
    package: "Package", calibration: Mapping[str, Any], evaluation: "Evaluation", tiles: float
) -> None:
    """Warn on stderr if the test has more false alarms than the calibration and bad luck explain."""
    from prn_fast.training.calibration import expected_false_alarm_rate, judged_pieces
    from prn_fast.training.conformal import MAX_FALSE_ALARM_RATE, UNLIKELY, allowed_above, chance_of_alarms

    rate, normals = expected_false_alarm_rate(calibration, evaluation.threshold), calibration.get("normals")
    # Of a threshold so low, it is not known how many false alarms to expect.
    if normals is None or rate >= min(calibration["normal_tail"]["share"], MAX_FALSE_ALARM_RATE):
        return
    alarms, pieces = evaluation.confusion.false_alarms, judged_pieces(calibration, tiles)
    good = alarms + evaluation.confusion.passed
    place = max(1, allowed_above(normals, rate))
    if chance_of_alarms(alarms, good, normals, place, pieces) >= UNLIKELY:
        return
    print(
        f"note: {alarms} false alarms among {good} good images are more than bad luck explains: they look different "
        f"from the {normals} that the threshold was set by. Calibrate with good images of the line: "
        f"prn-calibrate {shown_path(package.path)} --good DIR",
        file=sys.stderr,
    )


def _pieces_word(pieces: float) -> str:
    return "images" if pieces == 1.0 else "tiles"


def _parts(package: "Package", arguments: argparse.Namespace, root: Path) -> "PartNames | None":
    """Names of the parts that are given, or those of the training where its own images are evaluated."""
    from prn_fast.data.parts import PartNames

    if arguments.parts is not None:
        return PartNames.read(arguments.parts)
    text = package.manifest["training"].get("parts")
    return PartNames.read(text) if text and root.resolve() == Path(package.manifest["training"]["data"]) else None


def _tell_lowest_rate(calibration: Mapping[str, Any], arguments: argparse.Namespace, tiles: float) -> None:
    """Warn on stderr if the calibration has too few normal images for the rate in use."""
    from prn_fast.training.calibration import judged_pieces
    from prn_fast.training.conformal import lowest_rate, too_few

    rate, pieces = arguments.false_alarm_rate or calibration.get("false_alarm_rate"), judged_pieces(calibration, tiles)
    if rate is None or "normals" not in calibration or rate / pieces >= lowest_rate(calibration["normals"]):
        return
    told = too_few(calibration["normals"], rate / pieces, f"held-out normal {_pieces_word(pieces)}")
    print(
        f"note: {told}; the threshold is extrapolated, and good parts may be called defective more often",
        file=sys.stderr,
    )


def _unseen_parts(evaluation: "Evaluation", images: "TestImages") -> dict[str, int | float | None]:
    """How many good test images show a part that no training image shows, and image AUROC with these alone."""
    from prn_fast.training.metrics import image_metrics

    if images.unseen_parts is None:
        return {"good": None, "image_auroc": None}
    unseen_parts = set(images.unseen_parts)
    kept = [
        image
        for image, sample in zip(evaluation.images, images.scored, strict=True)
        if sample.label or sample in unseen_parts
    ]
    labels = np.array([image.label for image in kept], int)
    auroc = (
        image_metrics(np.array([image.raw_score for image in kept], np.float32), labels).auroc if unseen_parts else None
    )
    return {"good": len(unseen_parts), "image_auroc": auroc}


def _unseen_parts_line(found: Mapping[str, int | float | None], counts: Mapping[str, int]) -> str:
    from prn_fast.data.parts import UNTOLD

    if found["good"] is None:
        return f"note: only copies of files count as pictures of one part: {UNTOLD}"
    good = counts["passed"] + counts["false_alarms"]
    line = f"good images of parts that no training image shows: {found['good']} of {good}"
    return line if found["image_auroc"] is None else f"{line}; with these alone, AUROC {found['image_auroc']:.3f}"


def _tell_passed_over(passed_over: Sequence["PassedOver"], root: Path) -> None:
    from prn_fast.data.folders import summary

    if passed_over:
        print(f"{shown_path(root)}: {summary(passed_over, root)}", file=sys.stderr)


def _calibrated(engine: "Engine", package: "Package", arguments: argparse.Namespace, tiles: float) -> dict[str, Any]:
    """What scores mean where they are not those that the package was calibrated with."""
    from prn_fast.training.calibration import calibrate
    from prn_fast.training.conformal import default_rate

    validation = package.validation()
    normals = int((validation.labels == 0).sum())
    kept = package.manifest["calibration"].get("false_alarm_rate", default_rate(normals))
    rate = kept if arguments.false_alarm_rate is None else arguments.false_alarm_rate
    return calibrate(engine.infer(validation.images), validation, rate / tiles)


def _seen_line(listed: int, left_out: int, duplicates: int, known: bool) -> Text:
    line = Text(f"left out: {left_out} anomalies that training has seen")
    if duplicates:
        line.append(f", and other pictures of the same parts: {duplicates}")
    if left_out < listed and known:
        line.append(
            f" (the package lists {listed}; the others were looked for under other names, by what it keeps of them)"
        )
    elif left_out < listed:
        line.append(
            f" (the package lists {listed}; the others are not in this folder under those names: "
            "make sure that they are not here under other names)",
            style="bold",
        )
    return line


def _training(package: "Package", name: str) -> Any:
    if name not in package.manifest["training"]:
        # Without the list of seen anomalies, no figure could be trusted.
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


if __name__ == "__main__":
    sys.exit(main())
