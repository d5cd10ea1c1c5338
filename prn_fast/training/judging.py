"""How a network in training is judged on its validation split, and what is fitted to that split on the way."""

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.engine.base import Detections
from prn_fast.kernels.anomaly_score.reference import STATISTICS, map_statistics
from prn_fast.model.learned_map import SCREEN
from prn_fast.model.prn import PRN
from prn_fast.training.cross_fit import FoldScreens
from prn_fast.training.image_score import fit_score
from prn_fast.training.learned_map import Views, fit_map, view_images
from prn_fast.training.screen import EXTRACTION_BATCH
from prn_fast.training.split import Split


def judge_validation(
    model: PRN, split: Split, seed: int, screened: bool = False, folds: FoldScreens | None = None
) -> Detections:
    """Scores and maps of the validation images by a network.

    A learned map and a learned score are fitted to them first. Each image is scored by weights of the score that
    were fitted without it: what is said of these scores, the threshold above all, then holds for images that no fit
    knows. The map's few weights are fitted to hundreds of thousands of pixels.

    Args:
        model: on its device; weights of a learned map and score are set.
        split: whose validation images are judged.
        seed: of what the fit of a score leaves out in turn.
        screened: whether the learned map's screen is trained; until then it weighs nothing.
        folds: screens in its place to fit with, as it knows the seen defects; without them, those are left out.
    """
    validation, learned_map = split.validation, model.learned_map
    seen_images, seen_masks = split.seen_images, split.seen_masks
    nothing_is_fitted = learned_map is None and model.learned_score is None
    if nothing_is_fitted or (screened and folds is None):
        seen_images, seen_masks = seen_images[:0], seen_masks[:0]
    views, seen = view_images(model, validation.images), view_images(model, seen_images)
    fitted_to = views
    if learned_map is not None:
        if folds is not None:
            blind, blind_seen = folds.blind(model, validation.images, seen_images)
            fitted_to, seen = views.screened(blind), seen.screened(blind_seen)
        weighed = np.array([screened or name != SCREEN for name in learned_map.names])
        some, some_seen = (Views(one.logits, one.others[:, weighed[1:]]) for one in (fitted_to, seen))
        weights = np.zeros(len(weighed) + 1, np.float32)
        names = [name for name, one in zip(learned_map.names, weighed, strict=True) if one]
        weights[[*weighed, True]] = fit_map(some, validation.labels, validation.masks, some_seen, seen_masks, names)
        learned_map.set_weights(torch.from_numpy(weights))
    scores, maps, statistics = tell(model, views)
    if model.learned_score is not None:
        seen_statistics = tell(model, seen)[2]
        fitted = fit_score(
            statistics if folds is None else tell(model, fitted_to)[2],
            validation.labels,
            seen_statistics,
            seed,
            told_by=(statistics, seen_statistics),
        )
        model.learned_score.set_weights(torch.from_numpy(fitted.weights))
        scores = fitted.held_out
    return Detections.of(scores, maps)


@torch.inference_mode()
def tell(model: PRN, views: Views) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Scores (N,), maps (N, S, S) and the statistics (N, J) of a learned score, by the model's weights."""
    device = next(model.parameters()).device
    scores, maps = np.empty(len(views.logits), np.float32), np.empty(views.logits.shape, np.float32)
    statistics = np.empty((len(scores), len(STATISTICS)), np.float32)
    for start in range(0, len(scores), EXTRACTION_BATCH):
        part = slice(start, start + EXTRACTION_BATCH)
        logits = torch.from_numpy(views.logits[part, None]).to(device)
        if model.learned_map is not None:
            logits = model.learned_map.weigh(logits, torch.from_numpy(views.others[part]).to(device))
        scores[part], maps[part] = (one.cpu().numpy() for one in model.scored_logits(logits))
        statistics[part] = map_statistics(logits).cpu().numpy()
    return scores, maps, statistics
