"""PyTorch without computing: records a network's operations with shapes and layouts, for counts without a GPU."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from prn_fast.kernels.launch import memory_format_of

# Position of their bias argument, which stride, padding, dilation and groups follow.
CUDNN_CONVOLUTIONS = {torch.ops.aten.cudnn_convolution_relu: 2, torch.ops.aten.cudnn_convolution_add_relu: 4}
# In inference mode a convolution is `conv2d`.
_ATEN = torch.ops.aten
CONVOLUTIONS = (_ATEN.convolution, _ATEN.conv2d, _ATEN.convolution_backward, *CUDNN_CONVOLUTIONS)


class Uncomputed(TorchDispatchMode):
    """Gives PyTorch's operations uninitialised outputs of the right shapes; the project's own operations run.

    Args:
        on_gpu: the project's operations whose CUDA implementation runs, in the same way.
    """

    def __init__(self, on_gpu: Iterable[Any] = ()) -> None:
        super().__init__()
        self._on_gpu = {one._opoverload: one._backend_fns["cuda"] for one in on_gpu}

    def note(self, function: Any, arguments: Any, outputs: Any) -> None:
        """Called with each of PyTorch's operations that would have computed something."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = options or {}
        if function in self._on_gpu:
            with self:
                return self._on_gpu[function](*arguments, **options)
        if function.namespace != "aten" or function.is_view or not _has_tensor(arguments):
            return function(*arguments, **options)
        if function._schema.is_mutable:
            # In place, or into an output: the shape is known already.
            self.note(function, arguments, arguments[0])
            return arguments[0] if not options.get("out") else options["out"]
        meta = tree_map(_to_meta, (arguments, options))
        try:
            if function.overloadpacket in CUDNN_CONVOLUTIONS:
                stride, padding, dilation, groups = meta[0][CUDNN_CONVOLUTIONS[function.overloadpacket] + 1 :]
                where = stride, padding, dilation, False, [0, 0], groups
                outputs = torch.ops.aten.convolution(*meta[0][:2], None, *where)
            else:
                outputs = function(*meta[0], **meta[1])
        except NotImplementedError:
            return function(*arguments, **options)
        if function.overloadpacket in CONVOLUTIONS and any(
            memory_format_of(one) == torch.channels_last
            for one in arguments[:3]
            if isinstance(one, Tensor) and one.ndim == 4
        ):
            # As cuDNN does; without a device PyTorch does not know.
            outputs = tree_map(_channels_last, outputs)
        outputs = tree_map(_emptied, outputs)
        self.note(function, arguments, outputs)
        return outputs


def _channels_last(leaf: Any) -> Any:
    is_map = isinstance(leaf, Tensor) and leaf.ndim == 4
    return leaf.contiguous(memory_format=torch.channels_last) if is_map else leaf


def _has_tensor(arguments: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(arguments))


def _to_meta(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta")
    return torch.device("meta") if isinstance(leaf, torch.device) else leaf


def _emptied(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.is_meta:
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="cpu")
    return leaf
