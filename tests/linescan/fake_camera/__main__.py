"""Inspect the fake GigE Vision camera with a trained package: at the rate that its engine holds, and beyond.

    python -m tests.linescan.fake_camera --write-training-set web
    prn-train --data web --output web.prn --minutes 10 && prn-build-engine web.prn --precision int8
    python -m tests.linescan.fake_camera web.prn --engine openvino:int8 --json result.json

The web is cast iron with dark spots and bars at known places (`web.py`); the package is trained on other webs like it.
First the engine's rate is measured: lines a second, as fast as they are inspected. Then the camera delivers at 90 % of
it; at 90 % with 0.1 % of its packets lost; at 90 %, killed half way and back two seconds later; and at twice the rate.
"""

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from prn_fast.arguments import positive
from prn_fast.bench.machine.measurement import Measurement, add_record_options
from prn_fast.linescan.inspection import Inspection
from prn_fast.linescan.inspector import InspectionSettings, Inspector, open_inspector
from prn_fast.linescan.sinks import Sink
from prn_fast.linescan.sources import open_source
from prn_fast.linescan.sources.synthetic import Planted
from prn_fast.package import Package
from tests.linescan.fake_camera import NAME, FakeCamera, build_camera
from tests.linescan.fake_camera.web import draw_web, write_training_set
from tests.linescan.webs import ListSource, blocks, near

WIDTH, STRIP_LINES, BLOCK = 4096, 2048, 256
SPOTS, BARS, SEED = 20, 6, 0
HELD_SHARE = 0.9
SECONDS_AWAY = 2.0


def measure(inspector: Inspector, strip: NDArray[np.uint8]) -> float:
    """Lines a second that are inspected where nothing has to wait for a camera."""
    seconds = []
    for _ in range(2):
        source = ListSource(WIDTH, blocks(strip, [BLOCK]))
        snapshot = Inspection(source, inspector).run()
        seconds.append(snapshot.seconds)
    return STRIP_LINES / min(seconds)


def judge(found: list[Any], planted: list[Planted], lines: int, gaps: list[Any]) -> dict[str, int]:
    """How the defects of the web and those found go together; what touches a gap is left out."""
    web = [
        Planted(one.kind, one.first_line + start, one.left, one.lines, one.width)
        for start in range(0, lines, STRIP_LINES)
        for one in planted
        if one.first_line + start + one.lines <= lines
    ]
    holes = [Planted("gap", gap.first_line, 0, gap.lines, WIDTH) for gap in gaps]
    judged = [one for one in web if not any(near(one, hole, 8) for hole in holes)]
    boxes = [Planted("", one.first_line, one.left, one.lines, one.width) for one in found]
    hits = [sum(near(box, one, 4) for box in boxes) for one in judged]
    elsewhere = sum(not any(near(box, one, 4) for one in web) for box in boxes)
    return {
        "planted": len(judged),
        "found_once": hits.count(1),
        "found_more_than_once": sum(count > 1 for count in hits),
        "not_found": hits.count(0),
        "found_where_nothing_was_planted": elsewhere,
    }


def run(
    inspector: Inspector, program: Path, strip: NDArray[np.uint8], planted: list[Planted], rate: float, seconds: float,
    lost: float = 0.0, restart: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """One inspection of the camera at a rate; the web goes on where the camera is killed and started again."""
    lines = int(rate * seconds) // BLOCK * BLOCK
    found: list[Any] = []
    gaps: list[Any] = []
    memory = [psutil.Process().memory_info().rss]

    class Recorder(Sink):
        def defect(self, defect: Any) -> None:
            found.append(defect)

        def gap(self, gap: Any) -> None:
            gaps.append(gap)

    with tempfile.TemporaryDirectory() as folder:
        camera = FakeCamera(program, strip, Path(folder), lines=0 if restart else lines, lost=lost)
        try:
            where = (
                f"aravis:{NAME}?width={WIDTH}&lines={BLOCK}&line_rate={rate}&counter=line&packet_size=9000&buffers=32"
            )
            with open_source(where) as source:
                inspection = Inspection(
                    source,
                    inspector,
                    [Recorder()],
                    observers=[lambda _: memory.append(psutil.Process().memory_info().rss)],
                )
                answer: list[Any] = []
                thread = threading.Thread(target=lambda: answer.append(inspection.run()))
                thread.start()
                first = 0
                if restart:
                    time.sleep(seconds / 2)
                    camera.kill()
                    time.sleep(SECONDS_AWAY)
                    first = int(rate * (seconds / 2 + SECONDS_AWAY)) // BLOCK * BLOCK
                    camera = FakeCamera(
                        program, strip, Path(folder), first_line=first, lines=lines // 2 // BLOCK * BLOCK
                    )
                sent = first + camera.wait_until_sent()
                time.sleep(1.0)
                inspection.stop()
                thread.join()
        finally:
            camera.kill()
    snapshot = answer[0]
    return {
        "lines_per_second": rate,
        "lines_sent": sent,
        "balanced": sent == snapshot.inspected + sum(snapshot.missing.values()) + sum(snapshot.dropped.values()),
        **snapshot.to_dict(),
        "memory_growth_mb": (memory[-1] - memory[len(memory) // 4]) / 1e6,
        "defects_judged": judge(found, planted, sent, gaps) if not snapshot.dropped else None,
    }


def main() -> int:
    """Run all of it and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.linescan.fake_camera", description=__doc__)
    parser.add_argument("package", type=Path, nargs="?")
    parser.add_argument("--write-training-set", type=Path, metavar="DIR", help="write webs to train on, and stop")
    parser.add_argument("--engine")
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--seconds", type=positive, default=20.0, help="of each run")
    add_record_options(parser)
    arguments = parser.parse_args()
    if arguments.write_training_set is not None:
        write_training_set(arguments.write_training_set)
        return 0
    if arguments.package is None:
        parser.error("which package?")
    measurement = Measurement("tests.linescan.fake_camera", sys.argv[1:], arguments.json, arguments.allow_dirty)
    package = Package.open(arguments.package)
    strip, planted, _ = draw_web(WIDTH, STRIP_LINES, SPOTS, BARS, SEED)
    settings = InspectionSettings(threshold=arguments.threshold, min_area=24)

    def fresh() -> Inspector:
        return open_inspector(package, WIDTH, "Mono8", engine=arguments.engine, settings=settings)

    held = measure(fresh(), strip)
    with tempfile.TemporaryDirectory() as folder:
        program = build_camera(Path(folder))
        figures = {
            "package": {"name": package.path.name, "digest": package.digest},
            "engine": fresh().engine.name,
            "width": WIDTH,
            "engine_lines_per_second": held,
            "held": run(fresh(), program, strip, planted, HELD_SHARE * held, arguments.seconds),
            "held, 0.1 % of packets lost": run(
                fresh(), program, strip, planted, HELD_SHARE * held, arguments.seconds, lost=0.001
            ),
            "held, killed and restarted": run(
                fresh(), program, strip, planted, HELD_SHARE * held, arguments.seconds, restart=True
            ),
            "at twice the rate": run(fresh(), program, strip, planted, 2 * held, arguments.seconds),
        }
    measurement.leave(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
