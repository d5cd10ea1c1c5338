"""From a trained package to engines in it: one builder a backend, and the check that every build must pass."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.build.candidate import BuildOptions, Candidate
from prn_fast.build.verify import verify
from prn_fast.engine import Detections, parse_name
from prn_fast.engine.eager import EagerEngine
from prn_fast.environment import commit, cpu_name
from prn_fast.errors import EngineError
from prn_fast.package import ENGINES, Package

Builder = Callable[[Package, str, Path, BuildOptions], Iterator[Candidate]]
# Each backend's `builds(package, precision, folder, options)`, which yields candidates, best first.
BUILDERS = {
    "openvino": "prn_fast.build.openvino.builds",
    "tensorrt": "prn_fast.build.tensorrt.builds",
    "tensorrt-rtx": "prn_fast.build.tensorrt.builds_rtx",
}


# A graph that stands in for an engine is run by a slow interpreter, and differs by its rounding alone: so many normal
# images, and an anomaly of each, tell.
STAND_IN_NORMALS = 16


class Reference:
    """What float32 eager, in the published formulation, finds in validation images: builds are compared with it.

    It is computed when first asked for and kept, so that all builds of a command share it.

    Args:
        package: trained.
        progress: called with a line before the images are run.
    """

    def __init__(self, package: Package, progress: Callable[[str], None] = lambda line: None) -> None:
        self._package = package
        self._progress = progress
        self._known: dict[bytes, Detections] = {}

    def __call__(self, images: NDArray[np.uint8]) -> Detections:
        """Detections of uint8 (N, S, S, C)."""
        key = hashlib.sha256(images.tobytes()).digest()
        if key not in self._known:
            self._progress(f"eager on {len(images)} validation images, to compare with")
            # One image at a time: the published formulation expands a batch by the number of prototypes.
            with EagerEngine(self._package, batch=1) as engine:
                self._known[key] = engine.infer(images)
        return self._known[key]


def build_engine(
    package: Package,
    backend: str,
    precision: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
    options: BuildOptions | None = None,
    reference: Reference | None = None,
) -> dict[str, Any]:
    """Build an engine, verify it against float32 eager, and keep it in the package if it passes.

    Args:
        package: trained; gains the engine "BACKEND:PRECISION".
        backend: key of `BUILDERS`.
        precision: one of the backend's; None takes its first.
        progress: called with a line before each step.
        options: batch, devices, and who is told of a long step's progress.
        reference: of this package, shared with other builds of it.
    Returns:
        The engine's entry in the manifest; its "verification" holds parity and metrics, its "verified" whether the
        engine itself was run for them or, where it cannot run, the graph that it is built from.
    Raises:
        EngineError: unknown backend or precision, a missing library, or a failed verification (nothing is kept).
    """
    name = backend if precision is None else f"{backend}:{precision}"
    backend, runner, precision = parse_name(name)
    if backend not in BUILDERS:
        raise EngineError(f"{backend} needs no build: every package runs it; backends to build: {', '.join(BUILDERS)}")
    name = f"{backend}:{precision}"
    module, function = BUILDERS[backend].rsplit(".", 1)
    builds: Builder = getattr(import_module(module), function)
    package.path.joinpath(ENGINES).mkdir(exist_ok=True)
    reference = reference or Reference(package, progress)
    whole = package.validation()
    rejected: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=package.path / ENGINES, prefix=".building-") as folder:
        progress(f"building {name}")
        for candidate in builds(package, precision, Path(folder), options or BuildOptions()):
            validation = whole.fewer(STAND_IN_NORMALS) if candidate.stand_in else whole
            expected = reference(validation.images)
            progress(f"verifying {name}")
            opened = candidate.stand_in or partial(
                runner.runner(), package, folder=candidate.folder, precision=precision
            )
            with opened() as engine:
                verification = verify(engine, expected, validation, precision)
            if not verification.faults:
                progress(f"keeping {name}: {candidate.verified}")
                package.add_engine(
                    name,
                    candidate.folder,
                    {
                        "backend": backend,
                        "precision": precision,
                        **candidate.record,
                        **candidate.finish(),
                        "verified": candidate.verified,
                        "verification": verification.to_dict(),
                        "rejected": rejected,
                        "machine": cpu_name(),
                        "commit": commit(),
                    },
                )
                return package.engines[name]
            progress(f"not good enough: {'; '.join(verification.faults)}")
            rejected.append({**candidate.record, "faults": verification.faults})
    faults = "; ".join(rejected[-1]["faults"]) if rejected else "nothing was built"
    raise EngineError(f"{name} failed verification and is not kept: {faults}")
