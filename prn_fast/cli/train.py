"""prn-train: from a folder of images to a model package."""

import argparse
import dataclasses
from pathlib import Path

from prn_fast.cli.common import command
from prn_fast.data.layouts import AUTO, LAYOUTS
from prn_fast.model.config import PRESETS

DESCRIPTION = """Train a PRN on images of one product and write a model package.

A plant's own images are laid out as MVTec AD: train/good, test/good, test/DEFECT, ground_truth/DEFECT/NAME_mask.png.
Published sets are read as they are; of those with several products, give the folder of one."""


def make_parser() -> argparse.ArgumentParser:
    """Arguments of prn-train."""
    parser = argparse.ArgumentParser(
        prog="prn-train", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="images of one product")
    parser.add_argument(
        "--format",
        default=AUTO,
        metavar="NAME",
        help=f"layout of DIR: {AUTO} (by its folder names, the default), {', '.join(LAYOUTS)}",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="NAME.prn", help="package to write")
    parser.add_argument("--preset", default="lite0", help=f"network: {', '.join(PRESETS)} (default: lite0)")
    parser.add_argument("--minutes", type=float, help="bound of the whole run (default: all epochs)")
    parser.add_argument("--seen", type=int, default=10, help="anomalies that training may see, 0 or more (default: 10)")
    parser.add_argument("--textures", type=Path, metavar="DIR", help="texture images such as DTD (default: generated)")
    parser.add_argument(
        "--backbone-weights", type=Path, metavar="FILE", help=".pth or .safetensors (default: published)"
    )
    parser.add_argument(
        "--start",
        type=Path,
        metavar="NAME.prn",
        help="start from the weights of a package: of a similar product, or of smaller images (quicker to train on)",
    )
    parser.add_argument("--image-size", type=int, default=256, help="side, a multiple of 64 (default: 256)")
    parser.add_argument("--channels", type=int, choices=(1, 3), help="grey or colour (default: as the images are)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="processes that generate anomalies (default: 0, none)")
    parser.add_argument(
        "--false-alarm-rate",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="wanted share of good images called defective, which sets the package's threshold (default: 0.01)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run of the same output")
    recipe = parser.add_argument_group("recipe (default: the preset's)")
    recipe.add_argument("--epochs", type=int)
    recipe.add_argument("--batch", type=int)
    recipe.add_argument("--learning-rate", type=float)
    recipe.add_argument("--weight-decay", type=float)
    recipe.add_argument("--optimizer", choices=("adam", "adamw"))
    recipe.add_argument("--schedule", choices=("constant", "cosine"))
    recipe.add_argument("--flips", action=argparse.BooleanOptionalAction)
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = make_parser().parse_args(argv)
    from rich.console import Console

    from prn_fast.cli.common import require_training
    from prn_fast.model.config import preset

    preset(arguments.preset)
    require_training()
    from prn_fast.training.loop import Settings, train
    from prn_fast.training.recipe import RECIPES, Recipe

    names = [field.name for field in dataclasses.fields(Recipe)]
    changes = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    settings = Settings(
        data=arguments.data,
        output=arguments.output,
        layout=arguments.format,
        preset=arguments.preset,
        image_size=arguments.image_size,
        image_channels=arguments.channels,
        minutes=arguments.minutes,
        seen=arguments.seen,
        textures=arguments.textures,
        backbone_weights=arguments.backbone_weights,
        start=arguments.start,
        seed=arguments.seed,
        workers=arguments.workers,
        false_alarm_rate=arguments.false_alarm_rate,
        resume=arguments.resume,
        recipe=dataclasses.replace(RECIPES[arguments.preset], **changes),
    )
    console = Console()
    package = train(settings, console)
    training = package.manifest["training"]
    console.print(
        f"[bold green]{package.path}[/]: validation image AUROC {training['validation']['image_auroc']:.4f}, "
        f"pixel AP {training['validation']['pixel_average_precision']:.4f}, threshold "
        f"{package.manifest['calibration']['threshold']:.3f}, {training['minutes']:.1f} minutes"
    )
    console.print(f"next: prn-build-engine {package.path} --backend openvino --precision int8")
    return 0
