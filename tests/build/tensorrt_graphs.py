"""Typed graphs of small networks for the TensorRT tests, made once a session."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from prn_fast.build import quantization as eight_bits
from prn_fast.build.export import export_onnx
from prn_fast.build.tensorrt.graph import balance_attention, parse_graph, peaks, to_half, wide_nodes
from prn_fast.build.tensorrt.quantization import activation_ranges, quantizable, quantize
from prn_fast.engine import Detections
from prn_fast.kernels import REFERENCE
from prn_fast.model.config import PRNConfig
from prn_fast.model.engine_graph import with_ops
from prn_fast.model.prn import PRN
from tests.small_package import small_config, small_model, textured_images

SIDE = 64
IMAGES = 5


@dataclass(frozen=True)
class Network:
    """A small network, its float32 graph as builders get it, and what eager finds in some images."""

    model: PRN
    exported: bytes
    graph: Any
    images: np.ndarray
    expected: Detections


@cache
def network(name: str) -> Network:
    """lite0 (grey) or r18 (colour), at 64 pixels; seeded. The graph is shared, so do not change it."""
    config = small_config() if name == "lite0" else PRNConfig(image_size=SIDE, prototypes=(3, 2, 4), attention_layers=1)
    model = small_model(config)
    exported = export_onnx(model)
    graph = parse_graph(exported)
    balance_attention(graph)
    images = textured_images(IMAGES, config.image_channels, 50)
    with torch.no_grad():
        scores, maps = with_ops(model, REFERENCE).detect(torch.from_numpy(images))
    return Network(model, exported, graph, images, Detections.of(scores.numpy(), maps.numpy()))


@cache
def typed(name: str, precision: str) -> Any:
    """The graph of `network(name)` in a precision, as the first attempts of the builder make it; an onnx.ModelProto."""
    subject = network(name)
    if precision == "fp32":
        return subject.graph
    if precision == "bf16":
        return to_half(subject.graph, "bf16", ("model.backbone",))
    if precision == "fp16":
        return to_half(subject.graph, "fp16", (), wide(name))
    return to_half(quantised(name, precision), "fp16", ("model.backbone",), wide(name))


@cache
def wide(name: str) -> set[str]:
    """Nodes of `network(name)` that are kept in float32 for their range."""
    subject = network(name)
    with TemporaryDirectory() as folder:
        return wide_nodes(subject.graph, peaks(subject.graph, subject.images, Path(folder)))


@cache
def quantised(name: str, precision: str) -> Any:
    """`network(name)` with attention and second fusion in "int8" or "fp8", and all else in float32."""
    subject = network(name)
    nodes = quantizable(subject.graph, eight_bits.ATTEMPTS[1])
    with TemporaryDirectory() as folder:
        ranges = activation_ranges(subject.graph, nodes, subject.images, Path(folder))
    return quantize(subject.graph, nodes, ranges, precision)
