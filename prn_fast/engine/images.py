"""Images as callers hold them, in whatever library, as a numpy array."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.errors import EngineError, one_line

CUDA_DEVICE_TYPES = (2, 13)  # DLPack's numbers of memory on a CUDA device, and of memory that both sides address


def gpu_of(images: Any) -> int | None:
    """Index of the GPU that images lie on, as DLPack states it; None if they lie on none, or do not say."""
    try:
        kind, index = images.__dlpack_device__()
    except Exception:  # each library has its own for "not in my hands", and `as_array` says what is wrong then
        return None
    return int(index) if int(kind) in CUDA_DEVICE_TYPES else None


def as_array(images: Any) -> NDArray[Any]:
    """Images as numpy sees them: without a copy where they lie in host memory.

    Args:
        images: a numpy array of any strides; a torch tensor, on any device; or what offers DLPack, Python's buffer
            protocol or numpy's array interface.
    Raises:
        EngineError: anything else, or what its own library cannot hand over.
    """
    if isinstance(images, np.ndarray):
        return images
    try:
        if hasattr(images, "detach"):
            return images.detach().cpu().numpy()
        if hasattr(images, "__dlpack__"):
            return np.from_dlpack(images)
        if hasattr(images, "__array_interface__") or _has_buffer(images):
            return np.asarray(images)
    except Exception as error:  # a dtype that numpy has not, a device without memory: each library has its own errors
        raise EngineError(f"images cannot be read as a numpy array: {one_line(error)}") from None
    raise EngineError(f"images must be a numpy array or a torch tensor, not {type(images).__name__}")


def _has_buffer(images: Any) -> bool:
    try:
        memoryview(images).release()
    except TypeError:
        return False
    return True
