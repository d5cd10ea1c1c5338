"""The engine graph of a PRN as ONNX, in the optimized formulation: plain operators that every host supports.

The 1x1 convolutions of the fusion come before the upsampling, the attention's projections are elementwise products, the
largest patch size has no query and key, and the nearest prototype is found by one matrix product.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from prn_fast.engine.tensor_names import INPUT_NAME, OUTPUT_NAMES, SCREEN_OUTPUT_NAMES
from prn_fast.kernels import OPTIMIZED, Ops
from prn_fast.model.config import PRNConfig
from prn_fast.model.engine_graph import EngineGraph, ScreenGraph
from prn_fast.model.prn import PRN
from prn_fast.model.screen import Screen

OPSET = 18


def export_onnx(model: PRN, path: Path | None = None, ops: Ops = OPTIMIZED) -> bytes:
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


def export_screen(model: PRN, screen: Screen, path: Path | None = None, ops: Ops = OPTIMIZED) -> bytes:
    """The screen by itself as ONNX, with a dynamic batch: input "images", outputs `SCREEN_OUTPUT_NAMES`.

    Args:
        model, screen: in eval mode.
        path: also write it there.
        ops: the formulation of the operations.
    """
    content = serialise(ScreenGraph(EngineGraph(model, ops), screen), model.config, SCREEN_OUTPUT_NAMES)
    if path is not None:
        path.write_bytes(content)
    return content


def serialise(network: nn.Module, config: PRNConfig, outputs: Sequence[str] = OUTPUT_NAMES) -> bytes:
    """A network that takes camera bytes as serialised ONNX; names and batch as for `export_onnx`."""
    return _serialise(network, (_example(config),), (INPUT_NAME,), outputs)


def _example(config: PRNConfig) -> Tensor:
    return torch.zeros(2, config.image_size, config.image_size, config.image_channels, dtype=torch.uint8)


def _serialise(
    network: nn.Module, examples: tuple[Tensor, ...], inputs: Sequence[str], outputs: Sequence[str]
) -> bytes:
    # It warns at each export that torchvision, which is not used here, is not installed.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        # It calls functions that PyTorch itself deprecates.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*shares the same shape constraints", category=UserWarning)
        program = torch.onnx.export(
            network.eval(),
            examples,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: batch} for _ in examples),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()
