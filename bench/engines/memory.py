"""Peak memory of one engine at one batch size, in a process of its own.

`python -m prn_fast.bench.engines.memory PACKAGE ENGINE BATCH` prints one line of JSON; `measure_memory` runs that.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from prn_fast.arguments import whole

CALLS = 3
TIMEOUT_SECONDS = 600


def measure_memory(package: Path | str, engine: str, batch: int) -> dict[str, Any]:
    """Peak memory of opening an engine and running it, from a fresh process.

    Returns:
        {"peak_rss_bytes": all of the process, "baseline_rss_bytes": before the engine was opened (Python and
        libraries), "peak_cuda_bytes": peak of torch's allocator on the GPU or None}, or {"error": one line}.
    """
    command = [sys.executable, "-m", "prn_fast.bench.engines.memory", str(package), engine, str(batch)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {TIMEOUT_SECONDS} s"}
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"exit code {done.returncode}"}
    measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far.

    Not `ru_maxrss` where it can be avoided: a new process inherits that from the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(argv: list[str] | None = None) -> int:
    """Measure in this process and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m prn_fast.bench.engines.memory", description=__doc__)
    parser.add_argument("package")
    parser.add_argument("engine")
    parser.add_argument("batch", type=whole(1))
    arguments = parser.parse_args(argv)

    import torch

    from prn_fast.bench.engines.baselines import open_any
    from prn_fast.package import Package

    baseline = peak_rss_bytes()
    engine = open_any(Package.open(arguments.package), arguments.engine, arguments.batch)
    side, channels = engine.image_size, engine.image_channels
    # What is in the images does not change how much memory they need.
    images = np.random.default_rng(0).integers(0, 256, (arguments.batch, side, side, channels), dtype=np.uint8)
    for _ in range(CALLS):
        engine.infer(images)
    measured = {
        "peak_rss_bytes": peak_rss_bytes(),
        "baseline_rss_bytes": baseline,
        "peak_cuda_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }
    engine.close()
    print(json.dumps(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
