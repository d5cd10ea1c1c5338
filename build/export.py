"""The engine graph of a PRN as ONNX, in the lean formulation of its operations: plain operators that every host knows.

The 1x1 convolutions of the fusion come before the upsampling, the attention's projections are elementwise products, the
largest patch size has no query and key, and the nearest prototype is found by one matrix product.
"""

import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from prn_fast.kernels import LEAN, Ops
from prn_fast.model.config import PRNConfig
from prn_fast.model.engine_graph import EngineGraph
from prn_fast.model.prn import PRN

INPUT_NAME = "images"
OUTPUT_NAMES = ("scores", "maps")
OPSET = 18


def export_onnx(model: PRN, path: Path | None = None, ops: Ops = LEAN) -> bytes:
    """The engine graph of a model as ONNX, with a dynamic batch.

    Args:
        model: in eval mode.
        path: also write it there.
        ops: the formulation of the operations.
    Returns:
        The serialised ONNX model: input "images", outputs "scores" and "maps".
    """
    content = serialise(EngineGraph(model, ops), model.config)
    if path is not None:
        path.write_bytes(content)
    return content


def serialise(network: nn.Module, config: PRNConfig) -> bytes:
    """A network of camera bytes to scores and maps as serialised ONNX; names and batch as for `export_onnx`."""
    example = torch.zeros(2, config.image_size, config.image_size, config.image_channels, dtype=torch.uint8)
    # It says at each export that torchvision, which nothing here uses, is not installed.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # It calls what PyTorch itself deprecates.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        program = torch.onnx.export(
            network.eval(),
            (example,),
            input_names=[INPUT_NAME],
            output_names=list(OUTPUT_NAMES),
            dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch", min=1)}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()
