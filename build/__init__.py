"""Builds engines into a trained package: one builder for each backend, and the check that every build must pass."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.build.candidate import BuildOptions, Candidate
from prn_fast.build.verify import verify, verify_screen
from prn_fast.engine import Detections, parse_name
from prn_fast.engine.eager import EagerEngine
from prn_fast.engine.optimized import OptimizedEngine
from prn_fast.engine.parity import TOLERANCES
from prn_fast.environment import commit, cpu_name
from prn_fast.errors import EngineError
from prn_fast.package import Package, ValidationSet

Builder = Callable[[Package, str, Path, BuildOptions], Iterator[Candidate]]
# Each backend's `builds(package, precision, folder, options)`, which yields candidates, best first.
BUILDERS = {
    "openvino": "prn_fast.build.openvino.builds",
    "tensorrt": "prn_fast.build.tensorrt.builds",
    "tensorrt-rtx": "prn_fast.build.tensorrt.builds_rtx",
}


# A graph that stands in for an engine runs in a slow interpreter and differs by rounding only: this many normal images,
# and an anomaly of each, are enough.
STAND_IN_NORMALS = 16


class Reference:
    """Detections of float32 eager, in the published formulation, on validation images: builds are compared with them.

    They are computed at the first call and kept, so that all builds of a command share them.

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
        options: batch, devices, and a function that shows the progress of long steps.
        reference: of this package, shared with other builds of it.
    Returns:
        The engine's entry in the manifest; its "verification" holds parity and metrics, its "verified" whether the
        engine itself was run for them or, where it cannot run, the graph that it is built from.
    Raises:
        EngineError: unknown backend or precision, a missing library, or a failed verification (nothing is kept).
        PackageError: the package cannot be written to, or was replaced meanwhile.
    """
    name = backend if precision is None else f"{backend}:{precision}"
    backend, runner, precision = parse_name(name)
    if backend not in BUILDERS:
        raise EngineError(f"{backend} needs no build: every package runs it; backends to build: {', '.join(BUILDERS)}")
    name = f"{backend}:{precision}"
    module, function = BUILDERS[backend].rsplit(".", 1)
    builds: Builder = getattr(import_module(module), function)
    reference = reference or Reference(package, progress)
    whole = package.validation()
    rejected: list[dict[str, Any]] = []
    with package.building() as folder:
        progress(f"building {name}")
        for candidate in builds(package, precision, folder, options or BuildOptions()):
            validation = whole.fewer(STAND_IN_NORMALS) if candidate.stand_in else whole
            expected = reference(validation.images)
            progress(f"verifying {name}")
            opened = candidate.stand_in or partial(
                runner.runner(), package, folder=candidate.folder, precision=precision
            )
            with opened() as engine:
                verification = verify(engine, expected, validation, precision)
            if not verification.faults:
                screen = _add_screen(package, candidate, name, whole, reference, progress)
                progress(f"keeping {name}: {candidate.verified}")
                package.add_engine(
                    name,
                    candidate.folder,
                    {
                        "backend": backend,
                        "precision": precision,
                        **candidate.record,
                        **candidate.finish(),
                        **screen,
                        "verified": candidate.verified,
                        "verification": verification.to_dict(),
                        "rejected": rejected,
                        "machine": cpu_name(),
                        "commit": commit(),
                    },
                )
                if package.is_signed:
                    progress(f"the signature no longer fits, sign again: prn-package sign {package.path} --key KEY")
                return package.engines[name]
            progress(f"not good enough: {'; '.join(verification.faults)}")
            rejected.append({**candidate.record, "faults": verification.faults})
    faults = "; ".join(rejected[-1]["faults"]) if rejected else "nothing was built"
    raise EngineError(f"{name} failed verification and is not kept: {faults}")


def _add_screen(
    package: Package,
    candidate: Candidate,
    name: str,
    validation: ValidationSet,
    reference: Reference,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Add to an engine the first version of the screen that passes: the same images leave as after the float32 screen.

    Returns:
        The manifest's entry for it; empty if none passes: the engine then runs whole.
    """
    _, backend, precision = parse_name(name)
    expected: Detections | None = None
    found: list[str] = []
    for screen in candidate.screens():
        if expected is None:
            with OptimizedEngine(package, screen_only=True) as engine:
                expected = engine.infer(validation.images)
        progress(f"verifying the screen of {name}")
        opened = screen.stand_in or partial(
            backend.runner(), package, folder=candidate.folder, precision=precision, screen_only=True
        )
        with opened() as engine:
            parity = verify_screen(engine, expected, reference(validation.images), validation)
        found = parity.faults(TOLERANCES[precision])
        if not found:
            return {
                "screen": package.screen_digest,
                "early_exit": {**screen.record, **screen.finish(), **asdict(parity)},
            }
        progress(f"not good enough: {'; '.join(found)}")
    if found:
        for path in candidate.folder.glob("screen*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        progress(f"{name} will run all images whole: no version of its screen passed")
    return {}
