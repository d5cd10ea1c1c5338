"""What a GPU says of TensorRT engines: tries each flavour that can be imported, and reports its words where it refuses.

    python -m prn_fast.bench.gpu.tensorrt PACKAGE.prn [--pycuda pycuda-2026.1.tar.gz]

PACKAGE holds engines that `prn-build-engine` made elsewhere, such as portable ones of TensorRT-RTX. Wheels and pycuda's
sdist are brought along; nothing is fetched. Each finding is one line of JSON. `bench/gpu_run.sh` has this as a section.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prn_fast.build.verify import verify
from prn_fast.engine import open_engine
from prn_fast.engine.eager import EagerEngine
from prn_fast.engine.parity import TOLERANCES
from prn_fast.engine.tensorrt import device_capability, error_logger
from prn_fast.engine.tensorrt_file import ENGINE_FILE, diagnosis
from prn_fast.engine.tensorrt_flavours import FLAVOURS, Flavour
from prn_fast.errors import PRNError, one_line
from prn_fast.package import Package

REPEATS = 50


def try_flavours(package: Package | None) -> Iterator[dict[str, Any]]:
    """A row for each flavour, and for each engine of one that can be imported."""
    for flavour in FLAVOURS.values():
        row: dict[str, Any] = {"flavour": flavour.name, "capability": device_capability()}
        try:
            row["version"] = flavour.load().__version__
        except PRNError as error:
            yield row | {"error": str(error)}
            continue
        if package is None:
            yield row
            continue
        names = [name for name, entry in package.engines.items() if entry["backend"] == flavour.name]
        yield row | {"engines": names}
        for name in names:
            yield {"engine": name, **try_engine(package, name, flavour)}


def try_engine(package: Package, name: str, flavour: Flavour) -> dict[str, Any]:
    """Verify an engine on the GPU against eager float32 and time it, or say why it does not run."""
    try:
        return measure_engine(package, name)
    # Not the project's errors alone: the next engine is tried all the same.
    except Exception as error:
        row: dict[str, Any] = {"error": f"{type(error).__name__}: {one_line(error)}"}
    try:
        library = flavour.load()
        plan = (package.engine_folder(name) / ENGINE_FILE).read_bytes()
        row["diagnosis"] = diagnosis(library, library.Runtime(error_logger(library)), plan)
    except Exception as error:
        row["diagnosis"] = f"none: {one_line(error)}"
    return row


def measure_engine(package: Package, name: str) -> dict[str, Any]:
    """Parity with eager float32 on the validation images, all through the whole network, and the time of a batch."""
    validation, precision = package.validation(), name.partition(":")[2]
    started = time.perf_counter()
    with open_engine(package, name, early_exit=False) as engine:
        row: dict[str, Any] = {"start_seconds": time.perf_counter() - started}
        with EagerEngine(package, device="cuda") as reference:
            expected = reference.infer(validation.images)
        row |= verify(engine, expected, validation, precision).to_dict()
        if row["faults"]:  # no speed of what is wrong
            return row
        images = validation.images[: engine.batch]
        engine.infer(images)
        before = time.perf_counter()
        for _ in range(REPEATS):
            engine.infer(images)
        taken = (time.perf_counter() - before) / REPEATS
    return row | {
        "batch": len(images),
        "seconds_per_batch_host_to_host": taken,
        "tolerance": vars(TOLERANCES[precision]),
    }


def try_pycuda(package: Package, sdist: Path) -> dict[str, Any]:
    """Build pycuda against the CUDA that is here, and open an engine with it in a process without torch."""
    names = [name for name, entry in package.engines.items() if entry["backend"] in FLAVOURS]
    if not names:
        return {"pycuda": "not tried", "error": f"{package.path} holds no TensorRT engine"}
    with tempfile.TemporaryDirectory() as folder:
        install = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation"]
        built = subprocess.run([*install, "--target", folder, str(sdist)], capture_output=True, text=True, check=False)
        if built.returncode != 0:
            return {"pycuda": "not built", "error": built.stderr[-1000:]}
        code = (
            f"import sys; sys.path.insert(0, {folder!r}); import prn_fast.engine as e, numpy as np\n"
            f"engine = e.open_engine({str(package.path)!r}, {names[0]!r})\n"
            f"images = np.zeros((1, engine.image_size, engine.image_size, engine.image_channels), np.uint8)\n"
            f"print(engine.infer(images).scores, 'torch' in sys.modules)"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return {"pycuda": "built", "printed": ran.stdout.strip(), "error": ran.stderr[-1000:]}


def findings(package: Path | None, pycuda: Path | None) -> Iterator[dict[str, Any]]:
    """All findings, each as soon as it is there.

    Args:
        package: whose engines are tried; without one, only the flavours are listed.
        pycuda: its sdist, tried with the package.
    """
    opened = None if package is None else Package.open(package)
    yield from try_flavours(opened)
    if opened is not None and pycuda is not None:
        yield try_pycuda(opened, pycuda)


def main() -> int:
    """Print all findings."""
    parser = argparse.ArgumentParser(prog="python -m prn_fast.bench.gpu.tensorrt")
    parser.add_argument("package", type=Path)
    parser.add_argument("--pycuda", type=Path, help="its sdist")
    options = parser.parse_args()
    for row in findings(options.package, options.pycuda):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
