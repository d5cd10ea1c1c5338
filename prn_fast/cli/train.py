"""prn-train: from a folder of images to a model package."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from prn_fast.cli.common import PARTS_HELP, Parser, command
from prn_fast.cli.outputs import try_outputs
from prn_fast.data.layouts import AUTO, LAYOUTS
from prn_fast.extras import require_extra
from prn_fast.model.config import PRESETS, MapKind, ProjectionKind, ResidualKind, ScoreKind
from prn_fast.paths import shown_path
from prn_fast.training.conformal import FALSE_ALARM_RATE
from prn_fast.training.recipe import QUICK_PRESETS, RECIPES, Recipe, recipe_of
from prn_fast.training.settings import DEFAULT_SEEN, MEMORY, SEEN_TO_LEARN, SIZES, Precision, TrainingSettings

DESCRIPTION = """Train a PRN on images of one product and write a model package.

A plant's own images are laid out as MVTec AD: train/good, test/good, test/DEFECT, ground_truth/DEFECT/NAME_mask.png.
Published sets are read as they are; if a set has several products, give the folder of one.

With --add-screen PACKAGE: give a trained package a new screen, which lets plainly normal images leave
early. --data is then the folder that it was trained on; --format, --minutes, --lost and --screen-steps apply, too.

On several GPUs: torchrun --nproc-per-node N -m prn_fast.cli.train ..., with the options below."""


def make_parser() -> Parser:
    """Arguments of prn-train."""
    parser = Parser(prog="prn-train", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="images of one product")
    parser.add_argument(
        "--format",
        default=TrainingSettings.layout,
        metavar="NAME",
        help=f"layout of DIR: {AUTO} (by its folder names, the default), {', '.join(LAYOUTS)}",
    )
    parser.add_argument("--output", type=Path, metavar="NAME.prn", help="package to write")
    parser.add_argument(
        "--add-screen", type=Path, metavar="PACKAGE", help="train no network, only a screen for this package"
    )
    parser.add_argument(
        "--preset", default=TrainingSettings.preset, help=f"network: {', '.join(PRESETS)} (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=float, help="time for the whole run (default: no limit, all epochs)")
    parser.add_argument(
        "--seen",
        type=int,
        default=TrainingSettings.seen,
        help=f"anomalies that training may see, 0 or more (default: {DEFAULT_SEEN}; half of them if they are fewer)",
    )
    parser.add_argument(
        "--normals",
        type=int,
        metavar="N",
        help="normal images to train and validate with, at most, drawn by the seed (default: all)",
    )
    parser.add_argument("--parts", metavar="FILE or PATTERN", help=PARTS_HELP)
    parser.add_argument(
        "--textures",
        type=Path,
        metavar="DIR",
        help="folder of texture images such as DTD (default: generated textures)",
    )
    parser.add_argument(
        "--backbone-weights",
        type=Path,
        metavar="FILE",
        help="pretrained weights, .pth or .safetensors (default: published ones)",
    )
    parser.add_argument(
        "--warm-start",
        "--start",  # its name until 0.1
        dest="warm_start",
        type=Path,
        metavar="NAME.prn",
        help="start from the weights of a package: of a similar product, or of smaller images (quicker to train on)",
    )
    parser.add_argument(
        "--image-size",
        default="auto",
        metavar="N",
        help=f"side of the images, a multiple of 64; auto chooses {', '.join(map(str, SIZES[:-1]))} or {SIZES[-1]} by "
        f"the images and the masks of the seen defects, and says why; with --tiles {SIZES[0]} (default: %(default)s)",
    )
    parser.add_argument(
        "--tiles",
        action="store_true",
        help="cut images into overlapping tiles of that side instead of resizing them, for small defects in large "
        "images; prn-eval then does so, too",
    )
    parser.add_argument("--channels", type=int, choices=(1, 3), help="grey or colour (default: colour if any image is)")
    parser.add_argument(
        "--projection",
        choices=get_args(ProjectionKind),
        default=TrainingSettings.projection,
        help="projection of the attention: elementwise as published (default), or pointwise: 1x1 "
        "convolutions and 1/sqrt(D)",
    )
    parser.add_argument(
        "--residual",
        choices=get_args(ResidualKind),
        default=TrainingSettings.residual,
        help="residual between feature and prototype: square as published (default), or absolute",
    )
    parser.add_argument(
        "--map",
        choices=get_args(MapKind),
        help="anomaly map: published (the decoder's), or learned: weighed with distances to normal patches and the "
        f"screen's map, by held-out images and seen defects (default: learned for {', '.join(QUICK_PRESETS)} and whole "
        "images, else published)",
    )
    parser.add_argument(
        "--score",
        choices=get_args(ScoreKind),
        help="score of an image: published (mean of the 100 largest pixels), or learned: weights of statistics of the "
        f"map, fitted as those of the map (default: learned with a learned map and {SEEN_TO_LEARN} seen defects or "
        "more, else published)",
    )
    parser.add_argument(
        "--memory",
        type=int,
        metavar="N",
        help=f"patches of normal images that a learned map measures distances to (default: {MEMORY}; 0: none)",
    )
    parser.add_argument(
        "--seed", type=int, default=TrainingSettings.seed, help="seed of every random choice (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, help="processes that generate anomalies (default: none on a CPU, up to 8 on a GPU)"
    )
    parser.add_argument(
        "--optimized",
        "--lean",  # its name until 0.1
        dest="optimized",
        action="store_true",
        help="train in plain PyTorch on a GPU, too, instead of Triton",
    )
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        help="precision of training (default: bfloat16 if the processor multiplies in it)",
    )
    parser.add_argument(
        "--false-alarm-rate",
        type=float,
        metavar="SHARE",
        help="target share of good images called defective; sets the package's threshold (default: "
        f"{FALSE_ALARM_RATE}, or what "
        "the held-out normal images support)",
    )
    parser.add_argument(
        "--lost",
        type=float,
        default=TrainingSettings.lost,
        metavar="RATE",
        help="largest share of detected anomalies that early exit may lose, with 95 %% confidence; 0 switches "
        "early exit off (default: %(default)s)",
    )
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run with the same output")
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
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.add_screen is not None:
        return _add_screen(parser, arguments)
    for name in ("data", "output"):
        if getattr(arguments, name) is None:
            parser.error(f"the following arguments are required: --{name}")
    from rich.text import Text

    from prn_fast.cli.console import PlainConsole
    from prn_fast.cli.rates import promise, rates_table
    from prn_fast.model.config import preset

    preset(arguments.preset)
    require_extra("train", "lightning_fabric", "sklearn", "scipy", "kornia")
    from prn_fast.package import check_writable
    from prn_fast.training.checkpoint import ENDING
    from prn_fast.training.image_size import parse_size
    from prn_fast.training.processes import is_first
    from prn_fast.training.settings import TrainingSettings
    from prn_fast.training.train import train

    recipe = RECIPES[arguments.recipe] if arguments.recipe else recipe_of(arguments.preset)
    given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Recipe)}
    changes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None
    }
    settings = TrainingSettings(
        data=arguments.data,
        output=arguments.output,
        layout=arguments.format,
        preset=arguments.preset,
        image_size=parse_size(arguments.image_size),
        tiles=arguments.tiles,
        image_channels=arguments.channels,
        projection=arguments.projection,
        residual=arguments.residual,
        score=arguments.score,
        map=arguments.map,
        memory=arguments.memory,
        minutes=arguments.minutes,
        seen=arguments.seen,
        normals=arguments.normals,
        parts=arguments.parts,
        textures=arguments.textures,
        backbone_weights=arguments.backbone_weights,
        warm_start=arguments.warm_start,
        seed=arguments.seed,
        workers=arguments.workers,
        optimized=arguments.optimized,
        precision=arguments.precision,
        false_alarm_rate=arguments.false_alarm_rate,
        lost=arguments.lost,
        resume=arguments.resume,
        recipe=dataclasses.replace(recipe, **changes),
    )
    check_writable(settings.output)
    # Checkpoint and package are made under longer names, beside the output.
    try_outputs(folders=[settings.output.with_name(f"{settings.output.name}{ENDING}.partial")])
    console = PlainConsole(quiet=not is_first())
    package = train(settings, console)
    training = package.manifest["training"]
    console.print(
        Text.assemble(
            (shown_path(package.path), "bold green"),
            f": validation image AUROC {training['validation']['image_auroc']:.4f}, "
            f"pixel AP {training['validation']['pixel_average_precision']:.4f}, threshold "
            f"{package.manifest['calibration']['threshold']:.3f}, {training['minutes']:.1f} minutes",
        )
    )
    calibration = package.manifest["calibration"]
    console.print(rates_table(calibration, f"{calibration['defects']} defects"))
    console.say(promise(calibration))
    console.say(f"next: prn-build-engine {shown_path(package.path)}")
    return 0


# What a screen of an older package is trained by; all else is as the package says.
_OF_ADDED_SCREEN = ("add_screen", "data", "format", "minutes", "lost", "screen_steps")


def _add_screen(parser: Parser, arguments: argparse.Namespace) -> int:
    for name, value in vars(arguments).items():
        if name not in _OF_ADDED_SCREEN and value != parser.get_default(name):
            parser.error(
                f"--{name.replace('_', '-')} does not go with --add-screen: the package says how it was trained"
            )
    require_extra("train", "lightning_fabric", "sklearn", "scipy", "kornia")
    from prn_fast.cli.console import PlainConsole
    from prn_fast.training.add_screen import add_screen
    from prn_fast.training.settings import require_loss, require_minutes

    require_loss(arguments.lost)
    require_minutes(arguments.minutes)
    console = PlainConsole()
    package = add_screen(
        arguments.add_screen,
        arguments.data,
        layout=None if arguments.format == AUTO else arguments.format,
        wanted_loss=arguments.lost,
        minutes=arguments.minutes,
        changes={} if arguments.screen_steps is None else {"screen_steps": arguments.screen_steps},
        say=console.say,
    )
    console.say(f"screen added: {shown_path(package.path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
