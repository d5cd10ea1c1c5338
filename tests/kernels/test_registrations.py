"""What the operations registered for CUDA do with tensors of every kind; the kernels run in the interpreter."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from prn_fast.kernels import multi_scale_fusion, multi_size_attention, prototype_residual, tile_normalize
from prn_fast.kernels.anomaly_score import anomaly_score, learned_score, stitch_tiles
from prn_fast.kernels.convolution_relu import convolution_relu
from prn_fast.kernels.launch import Launch, Tile
from prn_fast.kernels.logit_head import logit_head

GRIDS = [1, 2]
SPEC = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def on_cuda(operation):
    """The function that PyTorch calls for CUDA tensors; it takes CPU tensors as well."""
    return operation._backend_fns["cuda"]


def attention_arguments(normal, dtype):
    query_key = [normal(4, 3, 4, 4, dtype=dtype)]
    value = [normal(2, 3, 8, 8, dtype=dtype), normal(2, 3, 4, 4, dtype=dtype)]
    return normal(2, 3, 8, 8, dtype=dtype), GRIDS, query_key, value


CALLS = {
    "prototype_residual": (
        prototype_residual.prototype_residual,
        lambda normal, dtype: (normal(2, 3, 4, 4, dtype=dtype), normal(5, 3, 4, 4, dtype=dtype)),
    ),
    "nearest_prototype": (
        prototype_residual.nearest_prototype,
        lambda normal, dtype: (normal(2, 3, 4, 4, dtype=dtype), normal(5, 3, 4, 4, dtype=dtype)),
    ),
    "multi_size_attention": (multi_size_attention.multi_size_attention, attention_arguments),
    "multi_size_attention_backward": (
        multi_size_attention.multi_size_attention_backward,
        lambda normal, dtype: (normal(2, 6, 8, 8, dtype=dtype), *attention_arguments(normal, dtype)),
    ),
    "project_upsample_add": (
        multi_scale_fusion.project_upsample_add,
        lambda normal, dtype: (
            [normal(2, 4, 8, 8, dtype=dtype)],
            [normal(2, 6, 4, 4, dtype=dtype)],
            [normal(4, 6, 1, 1, dtype=dtype)],
            [normal(4, dtype=dtype)],
        ),
    ),
    "fuse_scale": (
        multi_scale_fusion.fuse_scale,
        lambda normal, dtype: (
            [normal(2, 4, 8, 8, dtype=dtype)],
            [normal(2, 6, 4, 4, dtype=dtype)],
            [normal(4, 6, 1, 1, dtype=dtype)],
            [normal(4, dtype=dtype)],
            [normal(2, 2, 16, 16, dtype=dtype)],
            [normal(4, 1, 3, 3, dtype=dtype)],
            [normal(4, dtype=dtype)],
            [2],
            1,
        ),
    ),
    "logit_head": (
        logit_head,
        lambda normal, dtype: (
            normal(1, 2, 3, 4, dtype=dtype),
            normal(5, 2, 3, 3, dtype=dtype),
            normal(5, dtype=dtype),
            normal(1, 5, 3, 3, dtype=dtype),
            normal(1, dtype=dtype),
            2,
        ),
    ),
    "convolution_relu": (
        convolution_relu,
        lambda normal, dtype: (
            normal(2, 4, 8, 8, dtype=dtype),
            normal(6, 4, 3, 3, dtype=dtype),
            normal(6, dtype=dtype),
            1,
            1,
            normal(2, 6, 8, 8, dtype=dtype),
        ),
    ),
    "anomaly_score": (anomaly_score, lambda normal, dtype: (normal(2, 1, 12, 17, dtype=dtype),)),
    "learned_score": (learned_score, lambda normal, dtype: (normal(2, 1, 12, 17, dtype=dtype), normal(5), normal(2))),
    "stitch_tiles": (stitch_tiles, lambda normal, dtype: (normal(2, 8, 8, dtype=dtype), 8, 14, 2)),
    "tile_normalize": (
        tile_normalize.tile_normalize,
        lambda normal, dtype: (torch.arange(640, dtype=torch.uint8).reshape(32, 20, 1), 5, 16, 8, 2, *SPEC, dtype),
    ),
    "normalize_images": (
        tile_normalize.normalize_images,
        lambda normal, dtype: (torch.arange(192, dtype=torch.uint8).reshape(1, 8, 8, 3), *SPEC, dtype),
    ),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64, which no kernel takes", "float32"])
def test_the_registration_for_cuda_computes_what_the_one_for_the_cpu_does(normal, name, dtype):
    operation, draw = CALLS[name]
    arguments = draw(normal, dtype)
    torch.testing.assert_close(on_cuda(operation)(*arguments), operation(*arguments), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=["fp64", "fp32", "fp16"])
def test_results_share_no_memory_with_each_other_or_with_arguments(normal, name, dtype):
    operation, draw = CALLS[name]
    arguments = draw(normal, dtype)
    results = tree_leaves(on_cuda(operation)(*arguments))
    memory = [one.untyped_storage().data_ptr() for one in (*results, *tree_leaves(arguments)) if torch.is_tensor(one)]
    assert len(set(memory)) == len(memory)


class RecordingKernel:
    """Stands for a `triton.jit` function: notes the device that is current at each launch."""

    def __init__(self, current):
        self.current, self.devices = current, []

    def __getitem__(self, grid):
        return lambda *arguments, **options: self.devices.append(self.current[0])


class TensorOn(torch.Tensor):
    """A tensor that says it lies on a GPU."""

    def get_device(self):
        return self.index


@pytest.mark.parametrize("nested", [False, True], ids=["tensor", "tuple of tensors"])
def test_a_kernel_is_launched_on_the_device_of_its_tensors(monkeypatch, nested):
    current = [0]

    def exchange(index):
        before = current[0]
        current[0] = index if index >= 0 else before
        return before

    for name in ("_exchange_device", "_maybe_exchange_device"):
        monkeypatch.setattr(torch.cuda, name, exchange)
    tensor = torch.ones(1).as_subclass(TensorOn)
    tensor.index = 1
    monkeypatch.setattr(TensorOn, "is_cuda", True)
    kernel = RecordingKernel(current)
    Launch(kernel, {"maps": "*fp32", "batch": "i32"}, {}, (1,), Tile({}))((tensor,) if nested else tensor, 3)
    assert kernel.devices == [1]
    assert current == [0]
