"""The network as an ONNX graph that an inference server runs by itself: camera bytes to scores, verdicts and maps."""

import numpy as np
import torch
from torch import Tensor, nn

from prn_fast.build.export import serialise
from prn_fast.engine import open_engine
from prn_fast.engine.parity import TOLERANCES
from prn_fast.engine.served import MAPS, RAW_SCORES, SCORES, VERDICTS, answers
from prn_fast.engine.tensor_names import INPUT_NAME
from prn_fast.errors import EngineError
from prn_fast.extras import require_extra
from prn_fast.model.engine_graph import EngineGraph
from prn_fast.package import Package

OUTPUTS = (SCORES, RAW_SCORES, VERDICTS, MAPS)
_HALF = 0.5
_BELOW_HALF = float(np.nextafter(np.float32(_HALF), np.float32(0)))


class ServedGraph(nn.Module):
    """uint8 images (N, S, S, C) to the outputs named in `prn_fast.engine.served`, in the order of `OUTPUTS`.

    Scores, raw scores (float32) and verdicts (uint8) are (N, 1), maps (N, S, S). All images run whole.

    Args:
        network: images to raw scores (N,) and maps, such as an `EngineGraph`.
        threshold: raw score at or above which an image is defective, above 0 and below 1.
    """

    def __init__(self, network: nn.Module, threshold: float) -> None:
        super().__init__()
        self.network = network
        # As a tensor: numbers become float32 at the export.
        self.threshold: Tensor
        self.register_buffer("threshold", torch.tensor(threshold, dtype=torch.float64))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See the class. In float64, as `is_defective` and `scores_at`: a score that is not a number is defective."""
        raw_scores, maps = self.network(images)
        raw = raw_scores.double()[:, None]
        good = raw < self.threshold
        above, below = raw * (1.0 - self.threshold) * _HALF, self.threshold * (1.0 - raw) * (1.0 - _HALF)
        scores = (above / (above + below)).float()
        scores = torch.where(good, scores.clamp(max=_BELOW_HALF), scores.clamp(min=_HALF))
        return scores, raw_scores[:, None], torch.logical_not(good).to(torch.uint8), maps


def served_onnx(package: Package) -> bytes:
    """The graph of a package with its threshold, in float32; checked with ONNX Runtime on its validation images.

    Raises:
        EngineError: ONNX Runtime's results differ from the network's.
        ConfigError: a library is missing.
    """
    require_extra("tensorrt", "onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    graph = ServedGraph(EngineGraph(package.model()), package.calibration("threshold"))
    content = serialise(graph, package.config, OUTPUTS)
    images = package.validation().images
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    tolerance = TOLERANCES["fp32"]
    with open_engine(package, "optimized", early_exit=False) as engine:
        for start in range(0, len(images), engine.batch):
            part = images[start : start + engine.batch]
            wanted = answers(engine.infer(part))
            found = dict(zip(OUTPUTS, session.run(list(OUTPUTS), {INPUT_NAME: part}), strict=True))
            score = float(np.abs(found[RAW_SCORES] - wanted[RAW_SCORES]).max())
            mean_map = float(np.abs(found[MAPS] - wanted[MAPS]).mean())
            same = np.array_equal(found[VERDICTS], ~(found[RAW_SCORES].astype(np.float64) < engine.threshold))
            # Written so that NaN fails.
            if not (score <= tolerance.score and mean_map <= tolerance.mean_map and same):
                raise EngineError(
                    f"{package.path}: ONNX Runtime answers otherwise than the network (score differs by {score:.3g}, "
                    f"map by {mean_map:.3g} on average); install another onnxruntime, or export without --native"
                )
    return content
