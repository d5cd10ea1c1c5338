"""What it costs to bring a camera's lines into the ring: rate, lost lines, processor time, copies.

    python -m prn_fast.bench.linescan.grab 'pylon:?width=8192&lines=256&line_rate=51200' --seconds 60

Strips are taken out of the ring and called inspected at once: no engine runs.
"""

import argparse
import sys
import threading
import time
from typing import Any

import numpy as np

from prn_fast.arguments import positive, whole
from prn_fast.bench.machine.measurement import Measurement, add_record_options
from prn_fast.errors import PRNError
from prn_fast.linescan.core import LineRing
from prn_fast.linescan.sources import Block, Source, open_source

TILE = 256
OVERLAP = 32
# At 50,000 lines a second, 150 ms for a thread that the system runs late.
DEPTH = 32


def measure_grab(source: Source, seconds: float, depth: int = DEPTH) -> dict[str, Any]:
    """Bring lines into a ring that holds `depth` strips for some seconds.

    Returns:
        JSON-ready: "seconds" from the first block to the last, "lines", "inspected", "missing", "dropped", "blocks",
        "lines_per_second", "megabytes_per_second", "cpu_seconds" of this process, "cores" (processor time by wall
        time), "copies" of each line between the camera library's buffer and the strips that an engine would read (lines
        that two strips share are in the ring twice), and "longest_wait_ms" between two blocks.
    """
    ring = LineRing(source.width, source.pixel_format, tile=TILE, overlap=OVERLAP, depth=depth)
    arrivals: list[int] = []
    copies = 1 + OVERLAP / ring.stride
    origin = None

    def settle_all() -> None:
        while not ring.finished:
            strip = ring.pop(0.1)
            if strip is not None:
                strip.inspected()

    settling = threading.Thread(target=settle_all)
    settling.start()
    cpu_before = None
    try:
        for event in source.events():
            if origin is None:
                origin, cpu_before = event.first_line, time.process_time()
            if isinstance(event, Block):
                if not arrivals and event.rows.base is None:
                    # The rows are no view: the library has made a copy for us.
                    copies += 1
                ring.push(event.rows, event.first_line - origin)
                arrivals.append(time.monotonic_ns())
                if arrivals[-1] - arrivals[0] >= seconds * 1e9:
                    break
            else:
                ring.push_missing(event.lines, event.reason)
    finally:
        cpu = time.process_time() - (cpu_before or 0.0)
        ring.finish()
        settling.join()
    ledger = ring.ledger()
    taken = (arrivals[-1] - arrivals[0]) / 1e9
    lines = ledger.lines - source.lines  # those after the first block
    return {
        "seconds": taken,
        "lines": ledger.lines,
        "inspected": ledger.inspected,
        "missing": sum(ledger.missing.values()),
        "dropped": sum(ledger.dropped.values()),
        "blocks": len(arrivals),
        "lines_per_second": lines / taken,
        "megabytes_per_second": lines * ring.row_bytes / taken / 1e6,
        "cpu_seconds": cpu,
        "cores": cpu / taken,
        "copies": copies,
        "longest_wait_ms": float(np.diff(arrivals).max()) / 1e6,
    }


def main(argv: list[str] | None = None) -> int:
    """Run the measurement; writes or prints JSON."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m prn_fast.bench.linescan.grab", description=__doc__)
    parser.add_argument("source", help="as for prn-inspect")
    parser.add_argument("--seconds", type=positive, default=60.0, help="of lines (default: %(default)g)")
    parser.add_argument(
        "--depth", type=whole(1, 100_000), default=DEPTH, metavar="STRIPS", help="of the ring (default: %(default)s)"
    )
    add_record_options(parser)
    arguments = parser.parse_args(argv)
    try:
        measurement = Measurement("prn_fast.bench.linescan.grab", argv, arguments.json, arguments.allow_dirty)
        with open_source(arguments.source) as source:
            measurement.leave(measure_grab(source, arguments.seconds, arguments.depth))
    except PRNError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
