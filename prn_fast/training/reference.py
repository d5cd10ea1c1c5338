"""What good images are like when thresholds are set: what `prn_fast.drift` compares a line with."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.drift import Reference


def reference_statistics(
    scores: NDArray[np.floating], images: NDArray[np.uint8], precision: str = "fp32"
) -> dict[str, Any]:
    """Score, brightness and contrast of good images, as a calibration's "reference" in a manifest.

    Args:
        scores: (N,), the network's own, of the same images.
        images: uint8 (N, S, S, C), good ones, as the network gets them: resized, or tiles.
        precision: of the engine that gave the scores, by `prn_fast.engine.parity.score_kind`.
    Returns:
        JSON-ready: "images" N, "precision", and "score", "brightness" and "contrast", each a list of up to 101
        quantiles at evenly spaced probabilities from 0 to 1.
    Raises:
        DataError: no images, another number of scores, or a score that is not a number.
    """
    return Reference.of(scores, images, precision).to_dict()
