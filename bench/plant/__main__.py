"""How many lines one server can serve: a simulation from the service times that a report of prn-bench has recorded.

python -m prn_fast.bench.plant [REPORT.json ...] [--engine NAME] [--bound-ms 50] [--lines 64]
"""

import argparse
import sys
from pathlib import Path

from prn_fast.arguments import positive, whole
from prn_fast.bench.plant.figures import BOUNDS_MS, LINES, RATES, plant_table
from prn_fast.bench.plant.simulation import Server
from prn_fast.bench.report.document import read_json
from prn_fast.bench.report.history import RESULTS, latest_reports
from prn_fast.errors import PRNError


def main(argv: list[str] | None = None) -> int:
    """Print one table for each report; 2 on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m prn_fast.bench.plant", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "reports",
        type=Path,
        nargs="*",
        metavar="REPORT.json",
        help="of prn-bench --json (default: those recorded here)",
    )
    bounds = ", ".join(f"{bound:g}" for bound in BOUNDS_MS)
    rates = ", ".join(f"{rate:g}" for rate in RATES)
    parser.add_argument("--engine", metavar="NAME", help="of the report (default: the fastest)")
    parser.add_argument("--bound-ms", type=positive, action="append", metavar="MS", help=f"of p99 (default: {bounds})")
    parser.add_argument(
        "--rate",
        type=positive,
        action="append",
        metavar="HZ",
        help=f"requests a second of each line (default: {rates})",
    )
    parser.add_argument(
        "--images", type=whole(1), default=1, metavar="N", help="in each request (default: %(default)s)"
    )
    parser.add_argument("--lines", type=whole(1), default=LINES, metavar="N", help="at most (default: %(default)s)")
    parser.add_argument(
        "--batch", type=whole(1), default=Server.batch, metavar="N", help="most images together (default: %(default)s)"
    )
    parser.add_argument(
        "--queue",
        type=whole(1),
        default=Server.queue,
        metavar="N",
        help="requests that may wait (default: %(default)s)",
    )
    parser.add_argument(
        "--delay-ms",
        type=float,
        default=1e3 * Server.delay,
        metavar="MS",
        help="a batch is held back (default: %(default)g)",
    )
    parser.add_argument(
        "--overhead-ms",
        type=float,
        default=1e3 * Server.overhead,
        metavar="MS",
        help="of the server (default: %(default)g)",
    )
    arguments = parser.parse_args(argv)
    try:
        server = Server(arguments.batch, arguments.queue, arguments.delay_ms / 1e3, arguments.overhead_ms / 1e3)
        for report in [read_json(path) for path in arguments.reports] or latest_reports(RESULTS):
            text = plant_table(
                report,
                server,
                engine=arguments.engine,
                bounds_ms=arguments.bound_ms or BOUNDS_MS,
                rates=arguments.rate or RATES,
                images=arguments.images,
                most=arguments.lines,
            )
            print(text, end="\n\n")
    except PRNError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
