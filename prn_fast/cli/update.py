"""prn-update: new normal parts join a package's prototypes, without training."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from prn_fast.arguments import positive, whole
from prn_fast.cli.common import Parser, command
from prn_fast.cli.console import PlainConsole
from prn_fast.errors import EngineError
from prn_fast.extras import require_extra
from prn_fast.paths import shown_path
from prn_fast.training.conformal import FALSE_ALARM_RATE

if TYPE_CHECKING:
    from prn_fast.package import Package

DESCRIPTION = """Teach a package new normal parts, without training: another batch, another supplier, another lamp.

Half of the new images join the prototypes, which are clustered again; the other half calibrates the thresholds. The
package's engines are built and verified again, and the screen's cut is set anew. If validation figures fall, nothing
changes and the command says which ones. The package is replaced in one step, at the end."""


def make_parser() -> Parser:
    """Arguments of prn-update."""
    parser = Parser(prog="prn-update", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="model package, NAME.prn")
    parser.add_argument(
        "--good", type=Path, required=True, metavar="DIR", help="good images that training has not seen"
    )
    parser.add_argument(
        "--false-alarm-rate",
        type=positive,
        metavar="SHARE",
        help=f"target share of good parts called defective (default: {FALSE_ALARM_RATE}, or what half of the "
        "images support)",
    )
    parser.add_argument("--output", type=Path, metavar="NAME.prn", help="package to write (default: replace PACKAGE)")
    parser.add_argument(
        "--seed",
        type=whole(0),
        default=0,
        metavar="N",
        help="seed of the split into halves and of the clustering (default: %(default)s)",
    )
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = make_parser().parse_args(argv)
    require_extra("eval", "sklearn", "scipy")
    from prn_fast.cli.rates import promise, rates_table
    from prn_fast.data.folders import find_images, summary
    from prn_fast.package import Package
    from prn_fast.training.add_screen import exit_line
    from prn_fast.training.update import update_package

    console = PlainConsole()
    package = Package.open(arguments.package)
    signed, engines = package.is_signed, list(package.engines)
    listing = find_images(arguments.good)
    if listing.passed_over:
        console.say(f"{shown_path(arguments.good)}: {summary(listing.passed_over, arguments.good)}")
    update = update_package(
        package,
        listing.images,
        os.fspath(arguments.good.resolve()),
        false_alarm_rate=arguments.false_alarm_rate,
        output=arguments.output,
        seed=arguments.seed,
        rebuild=lambda made: _rebuild(package, made, console),
        progress=lambda line: console.print(line, style="dim"),
    )
    for name, before in update.before.items():
        console.say(f"{name.replace('_', ' ')}: {before:.4f} before, {update.after[name]:.4f} now")
    calibration = update.package.manifest["calibration"]
    console.print(rates_table(calibration, "generated defects"))
    console.say(promise(calibration))
    if update.package.has_screen:
        console.say(exit_line(update.package.manifest["screen"]))
    path = shown_path(update.package.path)
    if signed:
        console.say(f"the package is not signed any more, sign it again: prn-package sign {path} --key KEY")
    console.say(
        f"{path}: {update.joined} new images joined the prototypes, {update.held_out} calibrated; engines: "
        f"{', '.join(engines) or 'none built'}"
    )
    return 0


def _rebuild(package: "Package", made: "Package", console: PlainConsole) -> None:
    """Build all engines of a package in another one."""
    from prn_fast.build import Reference, build_engine
    from prn_fast.build.candidate import BuildOptions
    from prn_fast.build.profiles import BatchProfile

    def tell(line: str) -> None:
        console.print(line, style="dim")

    reference = Reference(made, tell)
    for name, entry in package.engines.items():
        backend, _, precision = name.partition(":")
        batch, capabilities = entry.get("batch"), entry.get("capabilities")
        options = BuildOptions(
            batch=BatchProfile.parse(batch) if batch else None,
            capabilities=tuple(capabilities) if capabilities else None,
        )
        try:
            build_engine(made, backend, precision, tell, options, reference)
        except EngineError as error:
            raise EngineError(f"{package.path}: not updated: {name} cannot be built again here: {error}") from None


if __name__ == "__main__":
    raise SystemExit(main())
