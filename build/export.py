"""The network as a graph for engines: bytes in, scores and maps out, with nothing in it that need not be computed.

Relative to the published formulation (PRN.md, "What breaks on the way to an engine"): batch norm is folded into the
convolution before it, the 1x1 convolutions of the fusion come before the upsampling, the attention's projections are
elementwise products, the largest patch size has no query and key, and the nearest prototype is found by one matrix
product. Each of these is exact; only rounding differs.
"""

import copy
import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from prn_fast.kernels import LEAN
from prn_fast.kernels.anomaly_score.reference import anomaly_score
from prn_fast.model.prn import PRN

INPUT_NAME = "images"
OUTPUT_NAMES = ("scores", "maps")
OPSET = 18


class EngineGraph(nn.Module):
    """uint8 images (N, S, S, C) to scores (N,) and maps (N, S, S), float32; normalising and scoring are inside."""

    def __init__(self, model: PRN) -> None:
        super().__init__()
        self.model: PRN = fold_batch_norm(with_lean_ops(model))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        return anomaly_score(self.model.logits(self.model.normalize(images)))


def with_lean_ops(model: PRN) -> PRN:
    """The same network, sharing the weights, built from the formulations without waste."""
    with torch.device("meta"):
        lean = PRN(model.config, LEAN)
    lean.load_state_dict(model.state_dict(), assign=True)
    return lean.eval().requires_grad_(False)


def fold_batch_norm(model: PRN) -> PRN:
    """Fold every batch norm into the convolution that feeds it, in a copy; for eval mode.

    A batch norm follows the convolution registered just before it in the same module, as all blocks here are written.
    """
    model = copy.deepcopy(model).eval()
    for parent in model.modules():
        convolution: tuple[str, nn.Conv2d] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                convolution = name, child
            elif isinstance(child, nn.BatchNorm2d):
                if convolution is None:
                    raise TypeError(f"{type(parent).__name__}.{name} follows no convolution")
                setattr(parent, convolution[0], fuse_conv_bn_eval(convolution[1], child))
                setattr(parent, name, nn.Identity())
                convolution = None
    return model


def export_onnx(model: PRN, path: Path | None = None) -> bytes:
    """The engine graph of a model as ONNX, with a dynamic batch.

    Args:
        model: in eval mode.
        path: also write it there.
    Returns:
        The serialised ONNX model: input "images", outputs "scores" and "maps".
    """
    config = model.config
    graph = EngineGraph(model).eval()
    example = torch.zeros(2, config.image_size, config.image_size, config.image_channels, dtype=torch.uint8)
    # It says at each export that torchvision, which nothing here uses, is not installed.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    program = torch.onnx.export(
        graph,
        (example,),
        input_names=[INPUT_NAME],
        output_names=list(OUTPUT_NAMES),
        dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch", min=1)}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    content = program.model_proto.SerializeToString()
    if path is not None:
        path.write_bytes(content)
    return content
