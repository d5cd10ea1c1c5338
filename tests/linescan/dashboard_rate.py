"""How many frames a second the dashboard draws in a browser while a web is inspected.

    python -m tests.linescan.dashboard_rate [--seconds 20] [--json FILE]

The web is synthetic and comes at a fixed rate; the engine finds dark spots, so that what is measured is the page, its
server and the inspection around the engine. Browser and inspection share the machine.
"""

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

from prn_fast.arguments import positive
from prn_fast.bench.machine.measurement import Measurement, add_record_options
from prn_fast.linescan.dashboard.server import Dashboard
from prn_fast.linescan.inspection import Inspection
from prn_fast.linescan.sources.synthetic import SyntheticSource
from tests.linescan.browser import Browser
from tests.linescan.webs import THRESHOLD, make_inspector

WIDTH, LINE_RATE = 2048, 2000.0
WARM_UP_SECONDS = 3.0


def measure(seconds: float) -> dict[str, object]:
    """Frames drawn a second, and the ledger; JSON-ready."""
    dashboard = Dashboard("dashboard_rate", WIDTH, THRESHOLD, "127.0.0.1", 0)
    with tempfile.TemporaryDirectory() as folder, SyntheticSource(width=WIDTH, line_rate=LINE_RATE) as source:
        inspection = Inspection(source, make_inspector(source, crops=True), observers=[dashboard.add])
        dashboard.watch(inspection)
        running = threading.Thread(target=inspection.run)
        running.start()
        browser = Browser(dashboard.url, Path(folder))
        try:
            browser.wait_for("window.prn && hello !== null")
            time.sleep(WARM_UP_SECONDS)
            read = "[performance.now(), window.prn.draws]"
            before = browser.evaluate(read)
            time.sleep(seconds)
            after = browser.evaluate(read)
        finally:
            browser.close()
            inspection.stop()
            running.join()
            dashboard.close()
    assert isinstance(before, list)
    assert isinstance(after, list)
    elapsed = (after[0] - before[0]) / 1000
    return {
        "seconds": round(elapsed, 2),
        "frames_drawn": after[1] - before[1],
        "frames_per_second": round((after[1] - before[1]) / elapsed, 1),
        "width": WIDTH,
        "lines_per_second": LINE_RATE,
        **inspection.snapshot().to_dict(),
    }


def main() -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.linescan.dashboard_rate")
    parser.add_argument("--seconds", type=positive, default=20.0)
    add_record_options(parser)
    arguments = parser.parse_args()
    measurement = Measurement("tests.linescan.dashboard_rate", sys.argv[1:], arguments.json, arguments.allow_dirty)
    measurement.leave(measure(arguments.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
