"""Screens that have not seen some of the seen defects, to say what a screen finds of defects that it does not know.

Weights of a learned map that are fitted to what a screen makes of defects that it was trained with would trust the
screen too much.

The seen defects are dealt out to folds, and so are the normal images. Of each fold's normal images, anomalies are made
with pieces of its own defects alone. The screen of a fold is trained on the images of all others. Features and
residuals are computed once for all screens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.data.anomalies import AnomalyGenerator
from prn_fast.data.training_set import TrainingSet
from prn_fast.model.config import SCREEN_STRIDE
from prn_fast.model.engine_graph import EngineGraph
from prn_fast.model.prn import PRN
from prn_fast.model.screen import Screen
from prn_fast.training.recipe import Recipe
from prn_fast.training.screen import (
    ANOMALIES_PER_NORMAL,
    EXTRACTION_BATCH,
    MAX_BYTES,
    Deadline,
    ScreenInputs,
    fit_screen,
    screen_inputs,
)

# Each screen then knows eight of ten seen defects.
FOLDS = 5
_SEED_OFFSET = 15_485_863


@dataclass(frozen=True)
class FoldScreens:
    """Screens, each of which has not seen some of the seen defects.

    Attributes:
        screens: F of them, in eval mode.
        left_out: (M,) for each seen defect the screen that has not seen it.
    """

    screens: tuple[Screen, ...]
    left_out: NDArray[np.int64]

    @torch.inference_mode()
    def logits(self, model: PRN, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the screens make of images (N, S, S, C) by a network's features: (F, N, S / 8, S / 8)."""
        device = next(model.parameters()).device
        screens = [screen.to(device) for screen in self.screens]
        side = model.config.image_size // SCREEN_STRIDE
        found = np.empty((len(screens), len(images), side, side), np.float32)
        for start in range(0, len(images), EXTRACTION_BATCH):
            part = slice(start, start + EXTRACTION_BATCH)
            frozen = model.frozen(torch.from_numpy(images[part]).to(device))
            for index, screen in enumerate(screens):
                found[index, part] = screen(*frozen)[:, 0].cpu().numpy()
        return found

    def blind(
        self, model: PRN, images: NDArray[np.uint8], seen: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits of other images, the mean of the screens, and of the seen defects, each by one that does not know it.

        Args:
            model: see `logits`.
            images: (N, S, S, C), which no screen was trained on.
            seen: (M, S, S, C), the seen defects.
        Returns:
            (N, S / 8, S / 8) and (M, S / 8, S / 8).
        """
        return self.logits(model, images).mean(0), self.logits(model, seen)[self.left_out, np.arange(len(seen))]


def fold_count(seen: int) -> int:
    """How many screens are trained for so many seen defects: two or more, since each learns from the other folds."""
    return max(2, min(FOLDS, seen))


def train_fold_screens(
    model: PRN,
    normals: NDArray[np.uint8],
    generators: Sequence[AnomalyGenerator],
    seen: int,
    recipe: Recipe,
    seed: int,
    deadline: Deadline | None = None,
) -> FoldScreens:
    """Train the screens.

    Args:
        model: trained; its device is used.
        normals: uint8 (N, S, S, C), trained on; one or more for each fold.
        generators: F, that of a fold pasting pieces of the seen defects f, f + F, f + 2 F... alone.
        seen: M.
        recipe: of the network.
        seed: of every draw.
        deadline: of all of them together.
    """
    deadline = deadline or Deadline.after(None)
    graph, folds = EngineGraph(model, model.ops), len(generators)
    parts: list[ScreenInputs] = []
    for fold, generator in enumerate(generators):
        dataset = TrainingSet(
            normals[fold::folds],
            generator,
            seed + _SEED_OFFSET,
            flips=recipe.flips,
            anomaly_ratio=ANOMALIES_PER_NORMAL,
            light=recipe.light,
        )
        units = parts[0].deviations if parts else None
        until = deadline.part(fold + 1, folds)
        # Together they take no more memory than the inputs of one screen.
        parts.append(screen_inputs(graph, Screen(model.config), dataset, seed, until, units, MAX_BYTES / folds))
    inputs = ScreenInputs.joined(parts)
    of_fold = torch.repeat_interleave(torch.arange(folds), torch.tensor([len(part.masks) for part in parts]))
    screens = []
    for fold in range(folds):
        # Each gets as much of what is left as the others, all of it for its steps.
        own = deadline.for_steps(folds - fold)
        torch.manual_seed(seed)
        others = torch.nonzero(of_fold != fold)[:, 0]
        screens.append(fit_screen(Screen(model.config), inputs, recipe, seed, own, others).screen)
    return FoldScreens(tuple(screens), np.arange(seen) % folds)
