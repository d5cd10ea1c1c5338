"""prn-train: from a folder of images to a model package."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from prn_fast.cli.common import command
from prn_fast.data.layouts import AUTO, LAYOUTS
from prn_fast.model.config import PRESETS, ProjectionKind, ResidualKind
from prn_fast.training.recipe import QUICK_PRESETS, RECIPES, Recipe, recipe_of

DESCRIPTION = """Train a PRN on images of one product and write a model package.

A plant's own images are laid out as MVTec AD: train/good, test/good, test/DEFECT, ground_truth/DEFECT/NAME_mask.png.
Published sets are read as they are; of those with several products, give the folder of one.

On several GPUs: torchrun --nproc-per-node N -m prn_fast.cli.train ..., with the options below."""


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
    parser.add_argument(
        "--tiles",
        action="store_true",
        help="cut images into overlapping tiles of that side instead of resizing them, for small defects in large "
        "images; prn-eval then does so, too",
    )
    parser.add_argument("--channels", type=int, choices=(1, 3), help="grey or colour (default: as the images are)")
    parser.add_argument(
        "--projection",
        choices=get_args(ProjectionKind),
        default="elementwise",
        help="of the attention: elementwise as published (default), or pointwise: 1x1 convolutions and 1/sqrt(D)",
    )
    parser.add_argument(
        "--residual",
        choices=get_args(ResidualKind),
        default="square",
        help="between feature and prototype: square as published (default), or absolute",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="processes that generate anomalies (default: 0, none)")
    parser.add_argument(
        "--precision",
        choices=("bf16-mixed", "32-true"),
        help="of the steps (default: bfloat16 where the processor multiplies in it)",
    )
    parser.add_argument(
        "--false-alarm-rate",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="wanted share of good images called defective, which sets the package's threshold (default: 0.01)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run of the same output")
    recipe = parser.add_argument_group("recipe", f"Where defaults differ: {' / '.join(RECIPES)}.")
    recipe.add_argument(
        "--recipe",
        choices=RECIPES,
        help='what the options below start from: "published" is made for a GPU and hours, "quick" for a CPU and '
        f"minutes (default: quick for {', '.join(QUICK_PRESETS)}, else published)",
    )
    kinds = get_type_hints(Recipe)
    for field in dataclasses.fields(Recipe):
        values = [getattr(one, field.name) for one in RECIPES.values()]
        shown = " / ".join(dict.fromkeys(shown_value(value) for value in values))
        recipe.add_argument(
            f"--{field.name.replace('_', '-')}",
            help=f"{field.metadata['help']} (default: {shown})",
            **option_of(kinds[field.name]),
        )
    return parser


def option_of(kind: Any) -> dict[str, Any]:
    """What argparse needs to know of a field of the recipe, from its type."""
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    if get_origin(kind) is tuple:
        return {"nargs": "+", **option_of(get_args(kind)[0])}
    return {"type": kind, "metavar": "N" if kind is int else "X"}


def shown_value(value: Any) -> str:
    """A value as it would be typed."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(value) if isinstance(value, tuple) else str(value)


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = make_parser().parse_args(argv)
    from rich.console import Console

    from prn_fast.cli.common import require_training
    from prn_fast.model.config import preset

    preset(arguments.preset)
    require_training()
    from prn_fast.training.loop import train
    from prn_fast.training.processes import is_first
    from prn_fast.training.settings import Settings

    recipe = RECIPES[arguments.recipe] if arguments.recipe else recipe_of(arguments.preset)
    given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Recipe)}
    changes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None
    }
    settings = Settings(
        data=arguments.data,
        output=arguments.output,
        layout=arguments.format,
        preset=arguments.preset,
        image_size=arguments.image_size,
        tiles=arguments.tiles,
        image_channels=arguments.channels,
        projection=arguments.projection,
        residual=arguments.residual,
        minutes=arguments.minutes,
        seen=arguments.seen,
        textures=arguments.textures,
        backbone_weights=arguments.backbone_weights,
        start=arguments.start,
        seed=arguments.seed,
        workers=arguments.workers,
        precision=arguments.precision,
        false_alarm_rate=arguments.false_alarm_rate,
        resume=arguments.resume,
        recipe=dataclasses.replace(recipe, **changes),
    )
    console = Console(quiet=not is_first())
    package = train(settings, console)
    training = package.manifest["training"]
    console.print(
        f"[bold green]{package.path}[/]: validation image AUROC {training['validation']['image_auroc']:.4f}, "
        f"pixel AP {training['validation']['pixel_average_precision']:.4f}, threshold "
        f"{package.manifest['calibration']['threshold']:.3f}, {training['minutes']:.1f} minutes"
    )
    console.print(f"next: prn-build-engine {package.path} --backend openvino --precision int8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
