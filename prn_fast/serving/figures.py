"""What a served package finds, for Prometheus, among the figures that the server itself shows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.drift import WINDOW, DriftMonitor, DriftState, Reference
from prn_fast.engine.base import Detections, Engine
from prn_fast.engine.parity import score_kind
from prn_fast.package import Package

GOOD, DEFECT = "good", "defect"


class ServedFigures:
    """Counts images by verdict and those that left early, and says whether they still are what the package knows.

    Only images that somebody asks about count: no canaries, which are asked all the time, and no warm-up.

    Args:
        package: that is served.
        engine: that runs it.
        labels: "model", "version" and "instance" of all figures.
        canary: (n, S, S, C) uint8, the images of canaries.
        backend: the server's module `triton_python_backend_utils`.
    Raises:
        backend.TritonModelException: the server shows no figures.
    """

    def __init__(
        self, package: Package, engine: Engine, labels: dict[str, str], canary: NDArray[np.uint8], backend: Any
    ) -> None:
        self._canary = canary
        reference = Reference.of_calibration(package.manifest["calibration"])
        kind = score_kind(engine)
        self.drift = DriftMonitor(reference, kind, WINDOW)
        # The server forgets a family that nothing refers to.
        self._families = families = backend.MetricFamily
        counter, gauge = families.COUNTER, families.GAUGE
        self._images_family = families("prn_served_images_total", "Images that were answered.", counter)
        self._exited_family = families("prn_served_exited_images_total", "Of these, those that left early.", counter)
        self._drift_family = families("prn_served_drift_state", "1 at the state of drift, 0 at others.", gauge)
        # Every series is there from the beginning: a rate needs the zero before the first event.
        self._images = {
            verdict: self._images_family.Metric({**labels, "verdict": verdict}) for verdict in (GOOD, DEFECT)
        }
        self._exited = self._exited_family.Metric(labels)
        self._states = {state: self._drift_family.Metric({**labels, "state": str(state)}) for state in DriftState}
        self._show_drift()

    def add(self, images: NDArray[np.uint8], found: Detections, asked: NDArray[np.bool_]) -> None:
        """Take images (N, S, S, C), what was found in them, and for which of them, (N,), somebody asks."""
        canaries = [any(np.array_equal(image, one) for one in self._canary) for image in images]
        counted = asked & ~np.array(canaries)
        if not counted.any():
            return
        defects = int(found.defective[counted].sum())
        self._images[DEFECT].increment(defects)
        self._images[GOOD].increment(int(counted.sum()) - defects)
        self._exited.increment(int(found.exited[counted].sum()))
        before = self.drift.drift.state
        if self.drift.observe(found.raw_scores[counted], images[counted]).state != before:
            self._show_drift()

    def _show_drift(self) -> None:
        for state, metric in self._states.items():
            metric.set(float(state == self.drift.drift.state))
