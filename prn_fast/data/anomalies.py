"""Anomalous images for training, made from normal ones."""

import copy
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prn_fast.data.extended import SeenRegions
from prn_fast.data.foreground import foreground_mask
from prn_fast.data.simulated import FILL_SOURCES, FillSource, simulate
from prn_fast.errors import ConfigError


class AnomalyGenerator:
    """Turns a normal image into an anomalous one with its mask, to train PRN.

    Extended anomalies are regions of seen anomalous images, pasted elsewhere (`extended`); simulated ones are made from
    noise, textures and the image itself (`simulated`). Both lie inside the image's foreground, unless `foreground` is
    off.

    Args:
        textures: images uint8 (h, w, C) that fill simulated anomalies; see `load_textures`.
        seen: pairs of an anomalous image uint8 (S, S, C) and its mask bool (S, S); if empty, all anomalies are
            simulated.
        extended_share: chance that an anomaly is an extended one, 0..1.
        augment: change seen regions a little before they are pasted.
        sources: what fills simulated anomalies, one or more.
        foreground: keep anomalies inside the object, where one is found.
    Raises:
        ConfigError: no textures, a share outside 0..1, or shapes that do not fit each other.
    """

    def __init__(
        self,
        textures: Sequence[NDArray[np.uint8]],
        seen: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_]]] = (),
        extended_share: float = 0.5,
        augment: bool = True,
        sources: Sequence[FillSource] = FILL_SOURCES,
        foreground: bool = True,
    ) -> None:
        if not textures:
            raise ConfigError("simulated anomalies need at least one texture")
        if not 0 <= extended_share <= 1:
            raise ConfigError(f"share of extended anomalies must lie in 0..1, not {extended_share}")
        channels = {array.shape[2] for array in (*textures, *(image for image, _ in seen))}
        if len(channels) > 1:
            raise ConfigError(f"textures and seen images must have the same channels, not {sorted(channels)}")
        self._textures = list(textures)
        self._augment = augment
        self._seen = SeenRegions(seen, augment)
        self._sources = tuple(sources)
        self._foreground = foreground
        self._extended_share = extended_share

    def with_seen(self, seen: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_]]]) -> "AnomalyGenerator":
        """The same generator with other seen anomalies."""
        other = copy.copy(self)
        other._seen = SeenRegions(seen, self._augment)
        return other

    def generate(
        self, image: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Make one anomalous image.

        Args:
            image: normal image, uint8 (S, S, C); left as it is.
            rng: source of all draws: same image and same state, same result.
        Returns:
            the anomalous image uint8 (S, S, C) and the mask of its anomaly bool (S, S), never empty.
        """
        image = np.ascontiguousarray(image)
        foreground = foreground_mask(image) if self._foreground else np.ones(image.shape[:2], bool)
        if rng.random() < (self._extended_share if self._seen else 0.0):
            pasted = self._seen.paste(image, foreground, rng)
            if pasted is not None:
                return pasted
        return simulate(image, foreground, self._textures, rng, self._sources)
