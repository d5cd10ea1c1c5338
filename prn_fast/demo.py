"""The whole path in a few minutes: synthetic surfaces, training, engines, evaluation, bench, one HTML report.

Run by `make demo`; every step calls the command that a plant would call.
"""

import json
import shutil
import time
from pathlib import Path

from prn_fast.arguments import positive
from prn_fast.cli import bench, build_engine, evaluate, train
from prn_fast.cli.common import Parser, command
from prn_fast.cli.outputs import try_outputs
from prn_fast.errors import ConfigError

MATERIALS = ("woven_fabric", "brushed_metal")
# So few minutes leave no time for the 299 anomalies of the usual bound. This one takes 29, and 10 for the level; a slow
# processor does not get that far, and runs all images whole.
LOST = 0.1


@command
def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = Parser(prog="python -m prn_fast.demo", description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("runs/demo"), help="folder to make; one of an earlier demo is replaced"
    )
    parser.add_argument("--minutes", type=positive, default=2.5, help="bound of training (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=positive, default=6.0, help="of the bench, for each engine (default: %(default)g)"
    )
    arguments = parser.parse_args(argv)

    from prn_fast.cli.console import PlainConsole
    from prn_fast.data.synthetic import write_synthetic_surfaces

    console = PlainConsole()
    start = time.monotonic()
    folder = arguments.output
    data, package, evaluation = folder / "surfaces", folder / "surfaces.prn", folder / "evaluation"
    if folder.is_dir() and any(folder.iterdir()) and not data.is_dir():
        raise ConfigError(f"{folder}: holds something else than an earlier demo; name another folder")
    try_outputs(folders=[folder])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    console.rule("1 of 5: synthetic surfaces")
    write_synthetic_surfaces(data, materials=MATERIALS)
    bench_json = folder / "bench.json"
    steps = (
        (
            "2 of 5: training",
            train.main,
            [f"--data={data}", f"--output={package}", f"--minutes={arguments.minutes}", f"--lost={LOST}"],
        ),
        ("3 of 5: engines", build_engine.main, [f"{package}"]),
        ("4 of 5: evaluation", evaluate.main, [f"{package}", f"--output={evaluation}"]),
        (
            "5 of 5: bench",
            bench.main,
            [f"{package}", "--batch=1,8", f"--seconds={arguments.seconds}", f"--json={bench_json}"],
        ),
    )
    for title, step, values in steps:
        console.rule(title)
        code = step(values)
        if code:
            return code
    report = folder / "report.html"
    write_report(report, evaluation, bench_json)
    console.say(f"\n{time.monotonic() - start:.0f} s. Open {report} in a browser.")
    return 0


def write_report(report: Path, evaluation: Path, bench_json: Path) -> None:
    """One page: what the network finds, as pictures and figures, and how fast each engine is."""
    from prn_fast.bench.report.page import image_section, render_page
    from prn_fast.bench.report.sections import bench_sections

    figures = json.loads((evaluation / "evaluation.json").read_text())
    image, pixel = figures["image"], figures["pixel"]
    text = (
        f"Image AUROC {image['auroc']:.3f}, pixel AUROC {pixel['auroc']:.3f}, PRO {pixel['pro']:.3f} on test images "
        f"of two synthetic materials; engine {figures['engine']}. Seen anomalies are left out."
    )
    pictures = image_section("What the network finds", [(evaluation / "sheet.png", "image, mask, map, contour")], text)
    sections = [pictures, *bench_sections(json.loads(bench_json.read_text()))]
    report.write_text(render_page("prn_fast demo", sections, "synthetic surfaces, lite0"), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
