"""What the training loop reads: each normal image plain, and once more with a generated anomaly."""

import os

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from prn_fast.data.anomalies import AnomalyGenerator
from prn_fast.errors import DataError


class TrainingSet(Dataset[tuple[Tensor, Tensor]]):
    """2 N items from N normals: item 2 i is normal i, item 2 i + 1 is normal i with a generated anomaly.

    Items depend on (seed, epoch, index) alone, not on the order of access or the number of worker processes.

    Args:
        normals: uint8 (N, S, S, C), held in memory.
        generator: makes the anomalies.
        seed: seed of all draws.
        flips: mirror each normal at random along both axes, its plain and its anomalous item alike.
    Raises:
        DataError: no normals, or an array of another kind.
    """

    def __init__(self, normals: NDArray[np.uint8], generator: AnomalyGenerator, seed: int, flips: bool = False) -> None:
        if normals.ndim != 4 or normals.dtype != np.uint8 or len(normals) == 0:
            raise DataError(
                f"training normals must be uint8 (N, S, S, C) with N of at least 1, not {normals.dtype} {normals.shape}"
            )
        self._normals = normals
        self._generator = generator
        self._seed = seed
        self._flips = flips
        # In shared memory, so that worker processes which outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Other epochs give other anomalies (and flips). Call it between epochs, not while items are being read."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return 2 * len(self._normals)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """(image uint8 (S, S, C), mask float32 (S, S) of 0 and 1)."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        normal, anomalous = divmod(index, 2)
        rng = np.random.default_rng((self._seed, int(self._epoch), normal))
        image = self._normals[normal]
        if self._flips:
            rows, columns = rng.choice((-1, 1), 2)
            image = np.ascontiguousarray(image[::rows, ::columns])
        mask = np.zeros(image.shape[:2], bool)
        if anomalous:
            image, mask = self._generator.generate(image, rng)
        return torch.tensor(image), torch.from_numpy(mask.astype(np.float32))


def use_one_thread(worker: int = 0) -> None:
    """`worker_init_fn` for a DataLoader: many worker processes with many OpenCV threads each slow each other down."""
    cv2.setNumThreads(1)


class _NoThreadsAcrossFork:
    """Ends OpenCV's threads before a fork and allows them again in the parent.

    A forked process inherits OpenCV's pool but not its threads; setting the pool's size there waits for them for ever.
    """

    def __init__(self) -> None:
        self._allowed = 1
        os.register_at_fork(before=self._end, after_in_parent=self._allow)

    def _end(self) -> None:
        self._allowed = cv2.getNumThreads()
        cv2.setNumThreads(1)

    def _allow(self) -> None:
        cv2.setNumThreads(self._allowed)


# Windows has no fork.
if hasattr(os, "register_at_fork"):
    _NoThreadsAcrossFork()
