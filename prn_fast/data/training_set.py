"""What the training loop reads: each normal image as it is, and again with generated anomalies."""

import os
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from prn_fast.data.anomalies import AnomalyGenerator
from prn_fast.errors import ConfigError, DataError


class TrainingSet(Dataset[tuple[Tensor, Tensor]]):
    """(1 + R) N items from N normals: item (1 + R) i is normal i, the R items after it are normal i with an anomaly.

    Items depend on (seed, epoch, index) alone, not on the order of access or the number of worker processes.

    Args:
        normals: uint8 (N, S, S, C), held in memory.
        generator: makes the anomalies.
        seed: seed of all draws.
        flips: mirror each normal at random along both axes, its plain and its anomalous items alike.
        anomaly_ratio: R, generated anomalies of each normal.
        light: spread of the random gain and gamma of each normal, its plain and its anomalous items alike; 0: none.
    Raises:
        DataError: no normals, or an array of another kind.
    """

    def __init__(
        self,
        normals: NDArray[np.uint8],
        generator: AnomalyGenerator,
        seed: int,
        flips: bool = False,
        anomaly_ratio: int = 1,
        light: float = 0.0,
    ) -> None:
        if normals.ndim != 4 or normals.dtype != np.uint8 or len(normals) == 0:
            raise DataError(
                f"training normals must be uint8 (N, S, S, C) with N of at least 1, not {normals.dtype} {normals.shape}"
            )
        self._normals = normals
        self._generator = generator
        self._seed = seed
        self._flips, self._light = flips, light
        self._items = 1 + anomaly_ratio
        # In shared memory, so that worker processes which outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Other epochs give other anomalies (and flips). Call it between epochs, not while items are being read."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self._items * len(self._normals)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """(image uint8 (S, S, C), mask float32 (S, S) of 0 and 1)."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        normal, anomaly = divmod(index, self._items)
        rng = np.random.default_rng((self._seed, int(self._epoch), normal))
        image = self._normals[normal]
        if self._flips:
            rows, columns = rng.choice((-1, 1), 2)
            image = np.ascontiguousarray(image[::rows, ::columns])
        if self._light:
            image = relit(image, self._light, rng)
        mask = np.zeros(image.shape[:2], bool)
        if anomaly > 1:
            rng = np.random.default_rng((self._seed, int(self._epoch), normal, anomaly))
        if anomaly:
            image, mask = self._generator.generate(image, rng)
        return torch.tensor(image), torch.from_numpy(mask.astype(np.float32))


def relit(image: NDArray[np.uint8], spread: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """An image as under other light: g v^gamma of its values v in 0..1.

    Args:
        image: uint8.
        spread: standard deviation of log g and log gamma, which are drawn.
    """
    gain, gamma = np.exp(rng.normal(0, spread, 2))
    table = 255 * gain * (np.arange(256) / 255) ** gamma
    return np.clip(table + 0.5, 0, 255).astype(np.uint8)[image]


class EpochBatches(Sampler[list[int]]):
    """The items of each step of an epoch, in an order that follows (seed, epoch) alone; the last few are left out.

    Args:
        length: number of items.
        batch: items of a step; all of them where there are fewer.
        seed: of the order.
        share: (p, P): of every step, the items p, p + P, p + 2 P...: what one of P processes trains on.
    Raises:
        ConfigError: a step that P processes cannot share evenly.
    """

    def __init__(self, length: int, batch: int, seed: int, share: tuple[int, int] = (0, 1)) -> None:
        self._length, self._batch, self._seed = length, min(batch, length), seed
        self._process, self._processes = share
        if self._batch % self._processes:
            raise ConfigError(
                f"{self._batch} images per step cannot be shared evenly by {self._processes} processes; change --batch"
            )
        self._epoch, self._done = 0, 0

    def start_epoch(self, epoch: int, done: int = 0) -> None:
        """Choose the next iteration: an epoch without its first `done` steps."""
        self._epoch, self._done = epoch, done

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return self._length // self._batch

    def __iter__(self) -> Iterator[list[int]]:
        drawn = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(self._length, generator=drawn).tolist()
        for step in range(self._done, len(self)):
            whole = order[step * self._batch : (step + 1) * self._batch]
            yield whole[self._process :: self._processes]


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
