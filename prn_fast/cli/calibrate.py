"""prn-calibrate: the threshold of a package from good images of the line, without training."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prn_fast.arguments import positive
from prn_fast.cli.common import Parser, add_engine, command
from prn_fast.cli.console import PlainConsole, progress_bar
from prn_fast.cli.outputs import try_outputs
from prn_fast.errors import ConfigError, DataError
from prn_fast.extras import require_extra
from prn_fast.paths import shown_path
from prn_fast.training.conformal import FALSE_ALARM_RATE

if TYPE_CHECKING:
    from prn_fast.data.samples import Sample
    from prn_fast.package import Package

DESCRIPTION = """Set the threshold of a package with good images of the line that it runs on, in minutes.

With n good images that training has not seen, no false-alarm rate below 1 / (n + 1) can be promised: it takes 19 for
5 %, 99 for 1 %. Nothing is trained and engines stay as they are. The former calibration is kept: --undo brings it back.

  prn-calibrate tiles.prn --good line/good
  prn-calibrate tiles.prn --good line/good --defects line/defects --false-alarm-rate 0.01
  prn-calibrate tiles.prn --undo"""


def make_parser() -> Parser:
    """Arguments of prn-calibrate."""
    parser = Parser(prog="prn-calibrate", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="model package, NAME.prn")
    parser.add_argument("--good", type=Path, metavar="DIR", help="good images that training has not seen")
    defects = parser.add_mutually_exclusive_group()
    defects.add_argument(
        "--defects",
        type=Path,
        metavar="DIR",
        help="defective images, to report how many are found; each folder in it is a kind",
    )
    defects.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="labelled images as for prn-eval, to report how many of their defects are found",
    )
    parser.add_argument(
        "--false-alarm-rate",
        type=positive,
        metavar="SHARE",
        help=f"target share of good parts called defective (default: {FALSE_ALARM_RATE}, or what the images support)",
    )
    add_engine(parser)
    parser.add_argument("--html", type=Path, metavar="FILE", help="page to write (default: NAME-calibration.html)")
    parser.add_argument("--dry-run", action="store_true", help="write the page only, and leave the package as it is")
    parser.add_argument("--undo", action="store_true", help="bring back the calibration before this one")
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = make_parser().parse_args(argv)
    console = PlainConsole()
    from prn_fast.package import Package

    if arguments.undo:
        given = ("good", "defects", "data", "false_alarm_rate", "engine", "html")
        if arguments.dry_run or any(getattr(arguments, name) is not None for name in given):
            raise ConfigError("--undo takes no other option")
        _undo(Package.open(arguments.package), console)
        return 0
    if arguments.good is None:
        raise ConfigError("--good is missing: a folder of good images that training has not seen; see --help")
    require_extra("eval", "sklearn", "scipy")
    _calibrate(Package.open(arguments.package), arguments, console)
    return 0


def _undo(package: "Package", console: PlainConsole) -> None:
    before = package.calibration("threshold")
    signed = package.is_signed
    package.undo_calibration()
    left = len(package.manifest["former_calibrations"])
    console.say(
        f"{shown_path(package.path)}: threshold {package.calibration('threshold'):.3f} again, was {before:.3f} "
        f"(raw scores); {left} older calibrations are kept"
    )
    _tell_signature(package, signed, console)


def _calibrate(package: "Package", arguments: argparse.Namespace, console: PlainConsole) -> None:
    from prn_fast.cli.rates import promise, rates_table
    from prn_fast.data.folders import find_images, summary
    from prn_fast.engine import open_engine
    from prn_fast.files import replace_file, reporting
    from prn_fast.training.calibration_page import render_calibration
    from prn_fast.training.line_calibration import (
        calibrate_on_line,
        choose_images,
        describe_detection,
        require_supported,
    )

    listing = find_images(arguments.good)
    if listing.passed_over:
        console.say(f"{shown_path(arguments.good)}: {summary(listing.passed_over, arguments.good)}")
    images = choose_images(package, listing.images, _defects(package, arguments))
    require_supported(len(images.good), arguments.false_alarm_rate)
    resolved = package.path.resolve()
    page = arguments.html or package.path.parent / f"{resolved.stem}-calibration.html"
    try_outputs([page])
    notes = []
    if images.repeated:
        notes.append(f"left out: {len(images.repeated)} copies among the good images, which say nothing new")
    if images.seen:
        notes.append(f"left out: {len(images.seen)} defects that training has seen")
    signed, before = package.is_signed, package.calibration("threshold")
    with (
        open_engine(package, arguments.engine, early_exit=False) as engine,
        progress_bar(console, engine.name) as progress,
    ):
        calibration = calibrate_on_line(
            package,
            engine,
            images,
            arguments.false_alarm_rate,
            os.fspath(arguments.good.resolve()),
            progress,
        )
    entry = calibration.entry
    exit_switched_off = False if arguments.dry_run else package.recalibrate(entry)
    with reporting(page):
        page.parent.mkdir(parents=True, exist_ok=True)
        replace_file(page, render_calibration(package.path.name, calibration, notes).encode())
    for note in notes:
        console.say(note)
    console.say(f"{promise(entry)}; the threshold was {before:.3f}")
    if detection := describe_detection(entry):
        console.say(detection)
        for kind, row in entry["kinds"].items():
            console.say(f"  {kind}: {row['detected']} of {row['defects']} ({row['low']:.0%} to {row['high']:.0%})")
        console.print(rates_table(entry, "real defects"))
    if exit_switched_off:
        console.say(
            "early exit is switched off, since its cut was set for the former, higher threshold: set it anew with "
            "prn-train --add-screen, or --undo"
        )
    changed = "left as it was" if arguments.dry_run else "calibrated"
    console.say(f"{shown_path(package.path)}: {changed}; look at {shown_path(page)}")
    if not arguments.dry_run:
        _tell_signature(package, signed, console)


def _defects(package: "Package", arguments: argparse.Namespace) -> "Sequence[Sample]":
    from prn_fast.data.folders import find_images
    from prn_fast.data.layouts import AUTO, load_inspection_set
    from prn_fast.data.samples import GOOD, Sample
    from prn_fast.training.unseen import leave_out_seen

    if arguments.defects is not None:
        root = arguments.defects
        paths = find_images(root).images
        kinds = [path.relative_to(root).parts for path in paths]
        if any(parts[0] == GOOD for parts in kinds if parts[1:]):
            raise DataError(
                f"{root / GOOD}: holds good images by its name, and --defects takes defective ones only; for a folder "
                "with both, as for prn-eval, give --data"
            )
        return [
            Sample(path, 1, parts[0] if parts[1:] else root.resolve().name)
            for path, parts in zip(paths, kinds, strict=True)
        ]
    if arguments.data is None:
        return ()
    training = package.manifest["training"]
    inspection = load_inspection_set(arguments.data, training.get("layout", AUTO))
    rest, _ = leave_out_seen(inspection.test, inspection.root, training.get("seen", []))
    defects = [sample for sample in rest if sample.label]
    if not defects:
        raise DataError(f"{arguments.data}: no defective test images that training has not seen")
    return defects


def _tell_signature(package: "Package", signed: bool, console: PlainConsole) -> None:
    if signed:
        console.say(f"the signature no longer fits, sign again: prn-package sign {shown_path(package.path)} --key KEY")


if __name__ == "__main__":
    raise SystemExit(main())
