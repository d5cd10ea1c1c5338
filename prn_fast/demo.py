"""The whole path in a few minutes: synthetic surfaces, training, engines, evaluation, bench, one HTML report.

Run by `make demo`; every step calls the command that a plant would call.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

from prn_fast.cli import bench, build_engine, evaluate, train
from prn_fast.cli.common import command

MATERIALS = ("woven_fabric", "brushed_metal")


@command
def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m prn_fast.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder to (re)make")
    parser.add_argument("--minutes", type=float, default=2.5, help="bound of training (default: 2.5)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of the bench, for each engine (default: 6)")
    arguments = parser.parse_args(argv)

    from rich.console import Console

    from prn_fast.data.synthetic import write_synthetic_surfaces

    console = Console()
    start = time.monotonic()
    folder = arguments.output
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data, package, evaluation = folder / "surfaces", folder / "surfaces.prn", folder / "evaluation"

    console.rule("1 of 5: synthetic surfaces")
    write_synthetic_surfaces(data, materials=MATERIALS)
    bench_json = folder / "bench.json"
    steps = (
        ("2 of 5: training", train.main, [f"--data={data}", f"--output={package}", f"--minutes={arguments.minutes}"]),
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
    console.print(f"\n{time.monotonic() - start:.0f} s. Open [bold]{report}[/] in a browser.", soft_wrap=True)
    return 0


def write_report(report: Path, evaluation: Path, bench_json: Path) -> None:
    """One page: what the network finds, as pictures and figures, and how fast each engine is."""
    from prn_fast.bench.page import image_section, render_page
    from prn_fast.bench.sections import bench_sections

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
