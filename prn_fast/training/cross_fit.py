"""Screens that have not seen some of the seen defects, to say what a screen finds of defects that it does not know.

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
from prn_fast.model.engine_graph import EngineGraph
from prn_fast.model.prn import PRN
from prn_fast.model.screen import Screen
from prn_fast.training.recipe import Recipe
from prn_fast.training.screen import (
    ANOMALIES_PER_NORMAL,
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
) -> FoldScreens:
    """Train the screens.

    Args:
        model: trained; its device is used.
        normals: uint8 (N, S, S, C), trained on; one or more for each fold.
        generators: F, that of a fold pasting pieces of the seen defects f, f + F, f + 2 F... alone.
        seen: M.
        recipe: of the network.
        seed: of every draw.
    """
    graph, folds, unbounded = EngineGraph(model, model.ops), len(generators), Deadline.after(None)
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
        parts.append(screen_inputs(graph, Screen(model.config), dataset, seed, unbounded, units))
    inputs = ScreenInputs.joined(parts)
    of_fold = torch.repeat_interleave(torch.arange(folds), torch.tensor([len(part.masks) for part in parts]))
    screens = []
    for fold in range(folds):
        torch.manual_seed(seed)
        others = torch.nonzero(of_fold != fold)[:, 0]
        screens.append(fit_screen(Screen(model.config), inputs, recipe, seed, unbounded, others).screen)
    return FoldScreens(tuple(screens), np.arange(seen) % folds)
