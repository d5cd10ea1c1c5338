"""When an image may leave after the screen: a cut below which the whole network flagged no validation anomaly.

    cut = the lowest screen score of the anomalies that the whole network calls defective, less a margin (logits)

Of n such anomalies none leaves. An anomaly of the same kind leaves with a probability that is below 1 - 0.05^(1 / n) in
95 of 100 drawings of these n (Clopper and Pearson, 1934; the cut being their minimum, also Wilks' tolerance limit,
1941): 299 bound it at 1 %. They are made from the held-out normal images, as many as the wanted bound needs. Others are
made before them: how much the memory counts in the screen's map (`exit_views`), and the level of this map
(`exit_level`), are fitted to these and to the real anomalies that training has seen. They can only lower the cut, and
do not count for the bound.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.data.anomalies import AnomalyGenerator
from prn_fast.engine.early_exit import logit
from prn_fast.model.engine_graph import EngineGraph, screen_distances, two_stages
from prn_fast.model.prn import PRN
from prn_fast.model.screen import Screen
from prn_fast.training.exit_level import MIN_IMAGES, MapStatistics, fit_level
from prn_fast.training.exit_views import choose_weights, logits_of
from prn_fast.training.screen import Deadline
from prn_fast.training.settings import SEEN_TO_LEARN, WANTED_LOSS, require_loss

CONFIDENCE = 0.95
# Real defects may look more like normal images than generated ones do. In standard deviations of the logits of normal
# images: how far apart logits lie differs several times from one screen to another, by how sure it has become.
MARGIN = 0.25
# Generated anomalies count from this share of the smallest seen defect's area on, where enough defects are seen to tell
# how small they are. A screen is coarser than the network: a fleck of a few pixels, of a product that has no such
# defects, would keep every image.
SMALLEST_SHARE = 1 / 4
# Where fewer normal images leave, two stages cost more than they save.
MIN_EXIT_SHARE = 0.2
# Flagged anomalies that the screen's weights are fitted to, for each one that the bound needs.
FITTED_SHARE = 1 / 3
# Anomalies to generate for each one needed, before giving up.
MAX_TRIES = 5
# Assumed share of the anomalies that a network flags, to reserve time for; if it flags fewer, it takes longer.
USUALLY_FLAGGED = 0.7
NO_TIME = "no time was left to find a cut; give more --minutes, or run prn-train --add-screen PACKAGE"
_BATCH = 16


@dataclass(frozen=True)
class StageScores:
    """What the screen reads and the whole network says of n images, float32.

    Attributes:
        views: (n, 1, h, w), the screen's own logits, or (n, 2, h, w), and the distances to the network's memory.
        whole: scores (n,) of the whole network.
    """

    views: NDArray[np.float32]
    whole: NDArray[np.float32]

    @classmethod
    def joined(cls, parts: Sequence["StageScores"]) -> "StageScores":
        """Those of one or more sets of images, one after the other."""
        return cls(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)))

    def flagged(self, threshold: float) -> "StageScores":
        """Those of the images that the whole network flags at a threshold."""
        kept = self.whole >= threshold
        return StageScores(*(getattr(self, one.name)[kept] for one in fields(self)))

    def screen(self, weights: "ScreenWeights") -> NDArray[np.float32]:
        """Scores (n,) of the screen."""
        return MapStatistics.of(logits_of(self.views, weights.views)).scores(weights.level)


class ScreenWeights(NamedTuple):
    """What `Screen.take_weights` takes: (4,), and (3,) where the screen reads a memory."""

    level: NDArray[np.float32]
    views: NDArray[np.float32] | None = None

    @classmethod
    def fitted(cls, normals: NDArray[np.float32], anomalies: NDArray[np.float32]) -> Self:
        """Those for a product, from `StageScores.views` of normal images and of anomalies that the network flags."""
        views = None if normals.shape[1] == 1 else choose_weights(normals, anomalies)
        return cls(fit_level(*(MapStatistics.of(logits_of(one, views)) for one in (normals, anomalies))), views)


class ExitRule(NamedTuple):
    """When images may leave: a description for the package's manifest, and the weights that the screen then has."""

    description: dict[str, Any]
    weights: ScreenWeights


class TwoStages:
    """Both stages of a network in PyTorch, float32, on the device of the model."""

    def __init__(self, model: PRN, screen: Screen) -> None:
        graph = EngineGraph(model, model.ops)
        self.device = graph.model.decoder.out.weight.device
        self.image_channels = model.config.image_channels
        self.first, self.second = two_stages(graph, screen)

    @torch.inference_mode()
    def scores(self, images: NDArray[np.uint8]) -> StageScores:
        """What both stages say of uint8 images (n, S, S, C), n of 1 or more."""
        parts = []
        for start in range(0, len(images), _BATCH):
            batch = torch.from_numpy(images[start : start + _BATCH]).to(self.device)
            features, residuals = self.first.model.frozen(batch)
            own, distances = self.first.screen(features, residuals), screen_distances(self.first.model, features)
            views = own if distances is None else torch.cat([own, distances], dim=1)
            whole, _ = self.second(*features, *residuals)
            parts.append(StageScores(views.cpu().numpy(), whole.cpu().numpy()))
        return StageScores.joined(parts)

    @torch.inference_mode()
    def infer(
        self, images: NDArray[np.uint8], cut: float
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
        """Which of uint8 images (n, S, S, C) leave early, (n,), and scores (n,) and maps (n, S, S) of the others.

        Scores and maps of images that leave are zero. The second stage runs only on those that stay.
        """
        exited = np.empty(len(images), np.bool_)
        scores, maps = np.zeros(len(images), np.float32), np.zeros(images.shape[:3], np.float32)
        for start in range(0, len(images), _BATCH):
            part = slice(start, start + _BATCH)
            screened, _, *scales = self.first(torch.from_numpy(images[part]).to(self.device))
            leave = screened < cut
            exited[part] = leave.cpu().numpy()
            if not bool(leave.all()):
                found = (one.cpu().numpy() for one in self.second(*(tensor[~leave] for tensor in scales)))
                scores[part][~exited[part]], maps[part][~exited[part]] = found
        return exited, scores, maps


def loss_bound(lost: int, flagged: int) -> float:
    """Upper 95 % bound (Clopper-Pearson) of the share of anomalies that leave, when `lost` of `flagged` do."""
    from scipy.stats import beta

    return 1.0 if lost >= flagged else float(beta.ppf(CONFIDENCE, lost + 1, flagged - lost))


def flagged_to_fit(wanted_loss: float) -> int:
    """How many flagged anomalies are made for the screen's weights, before those that a wanted bound needs."""
    return max(MIN_IMAGES, math.ceil(FITTED_SHARE * flagged_needed(wanted_loss)))


def flagged_needed(wanted_loss: float) -> int:
    """How many flagged anomalies bound the loss at a wanted share, if none of them leaves."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-wanted_loss) - 1e-9)


def margin_of(normals: NDArray[np.float32]) -> float:
    """The margin of a cut, in logits, from the screen scores of held-out normal images."""
    return MARGIN * float(logit(normals).std())


def cut_below(flagged: NDArray[np.float32], margin: float) -> float:
    """The cut at which no flagged anomaly leaves, with a margin in logits, from one or more of their screen scores."""
    return 1.0 / (1.0 + math.exp(margin - float(logit(flagged.min()))))


def choose_cut(
    normals: NDArray[np.float32], flagged: NDArray[np.float32], wanted_loss: float, fitted: int = 0
) -> dict[str, Any]:
    """The cut, and the figures behind it.

    Args:
        normals: screen scores of held-out normal images.
        flagged: screen scores of anomalies that the whole network calls defective.
        wanted_loss: upper 95 % bound of the share of such anomalies that leave.
        fitted: how many of the flagged the scores were fitted to; these lower the cut, and are not counted.
    Returns:
        For the package's manifest: "cut" (None where all images run whole, and "why_whole" then), "margin",
        "wanted_loss", "normals", "exit_share", "flagged", "fitted", "lost" and "loss_bound".
    """
    margin, counted = margin_of(normals), len(flagged) - fitted
    known = {"margin": margin, "wanted_loss": wanted_loss, "normals": len(normals)}
    known |= {"flagged": counted, "fitted": fitted}
    if not len(flagged):
        return {"cut": None, "why_whole": "the network flagged none of the validation anomalies", **known}
    cut = cut_below(flagged, margin)
    exit_share, lost = float(np.mean(normals < cut)), int(np.sum(flagged < cut))
    bound = loss_bound(lost, counted)
    known |= {"exit_share": exit_share, "lost": lost, "loss_bound": bound}
    # More anomalies lower a cut and never raise it.
    if exit_share < MIN_EXIT_SHARE:
        reason = (
            f"only {exit_share:.0%} of the held-out normal images would leave: the screen gives some anomaly that the "
            "network flags a score as low as theirs"
        )
    elif bound > wanted_loss + 1e-9:
        reason = (
            f"{counted} flagged anomalies bound the loss at {bound:.1%}, and {wanted_loss:.1%} is wanted "
            f"(it takes {flagged_needed(wanted_loss)}; or a higher --lost)"
        )
    else:
        return {"cut": cut, **known}
    return {"cut": None, "why_whole": reason, **known}


def calibrate_exit(
    stages: TwoStages,
    normals: NDArray[np.uint8],
    generator: AnomalyGenerator,
    seen: NDArray[np.uint8],
    threshold: float,
    wanted_loss: float = WANTED_LOSS,
    seed: int = 0,
    deadline: Deadline | None = None,
    smallest: float = 0.0,
) -> ExitRule:
    """When images may leave, from held-out normals, anomalies generated on them, and real seen anomalies.

    Args:
        stages: of the trained network and its screen.
        normals: uint8 (n, S, S, C), which training has not seen; one or more.
        generator: of the anomalies.
        seen: uint8 (m, S, S, C), real anomalies; may be empty.
        threshold: image score at or above which the network calls an image defective.
        wanted_loss: see `choose_cut`; 0 switches early exit off.
        seed: of the anomalies.
        deadline: where it passes, no more anomalies are made.
        smallest: pixels that a generated anomaly must cover to count, see `smallest_that_counts`.
    Returns:
        Weights of the screen, and the description: as `choose_cut`, with "threshold", "smallest", "anomalies" made and
        "flagged_seen", the real ones among all flagged. The weights are fitted to the seen anomalies and to the first
        that are made; with fewer than ten normal images, to none: the usual ones are taken.
    """
    require_loss(wanted_loss)
    off = {"cut": None, "threshold": threshold, "wanted_loss": wanted_loss}
    deadline = deadline or Deadline.after(None)
    if not wanted_loss or deadline.passed():
        why = NO_TIME if wanted_loss else "switched off by --lost 0"
        return ExitRule({**off, "why_whole": why}, ScreenWeights(np.zeros(4, np.float32)))
    rng = np.random.default_rng((seed, 2))
    good = stages.scores(normals)
    flagged = [stages.scores(seen).flagged(threshold)] if len(seen) else []
    flagged_seen = sum(len(one.whole) for one in flagged)
    needed = flagged_needed(wanted_loss)
    to_fit = flagged_to_fit(wanted_loss) if len(normals) >= MIN_IMAGES else 0
    weights = ScreenWeights.fitted(good.views, good.views[:0])
    good_scores = good.screen(weights)
    settled, fitted, made, stopped = not to_fit, 0, 0, ""
    while (count := sum(len(one.whole) for one in flagged)) - fitted < needed or not settled:
        if not settled and count - flagged_seen >= to_fit:
            weights = ScreenWeights.fitted(good.views, StageScores.joined(flagged).views)
            settled, fitted, good_scores = True, count, good.screen(weights)
        if settled and count and _let_too_few_go(good_scores, StageScores.joined(flagged).screen(weights)):
            break  # whatever else is made
        if made >= MAX_TRIES * (needed + to_fit):
            stopped = f"the network flags too few of the {made} anomalies that were made"
        elif deadline.passed():
            stopped = "the time ran out; give more --minutes, or run prn-train --add-screen PACKAGE without --minutes"
        if stopped:
            break
        images = anomalies(generator, normals, made, rng, smallest)
        if len(images):
            flagged.append(stages.scores(images).flagged(threshold))
        made += _BATCH
    screened = StageScores.joined(flagged).screen(weights) if flagged else np.empty(0, np.float32)
    description = choose_cut(good_scores, screened, wanted_loss, fitted)
    if stopped and description["cut"] is None:
        description["why_whole"] += f"; {stopped}"
    counted = {"threshold": threshold, "smallest": smallest, "anomalies": made, "flagged_seen": flagged_seen}
    return ExitRule({**description, **counted}, weights)


def smallest_that_counts(seen_masks: NDArray[np.bool_]) -> float:
    """Pixels that a generated anomaly must cover to count for the cut, by the masks (M, S, S) of the seen defects."""
    if len(seen_masks) < SEEN_TO_LEARN:
        return 0.0
    return SMALLEST_SHARE * float(seen_masks.sum((1, 2)).min())


def anomalies(
    generator: AnomalyGenerator,
    normals: NDArray[np.uint8],
    first: int,
    rng: np.random.Generator,
    smallest: float = 0.0,
) -> NDArray[np.uint8]:
    """Anomalies made of a batch of the normal images in turn, from number `first` on: uint8 (n, S, S, C).

    Those that cover fewer than the `smallest` pixels are left out.
    """
    made = [generator.generate(normals[number % len(normals)], rng) for number in range(first, first + _BATCH)]
    kept = [image for image, mask in made if mask.sum() >= smallest]
    return np.stack(kept) if kept else normals[:0]


def _let_too_few_go(normals: NDArray[np.float32], flagged: NDArray[np.float32]) -> bool:
    """Whether too few normal images leave at the cut that flagged anomalies allow; takes the screen scores of both."""
    return bool(np.mean(normals < cut_below(flagged, margin_of(normals))) < MIN_EXIT_SHARE)


def seconds_for_cut(
    stages: TwoStages, normals: NDArray[np.uint8], generator: AnomalyGenerator, wanted_loss: float
) -> float:
    """How long `calibrate_exit` will take, from one batch of anomalies."""
    if not wanted_loss:
        return 0.0
    images = anomalies(generator, normals, 0, np.random.default_rng(0))
    stages.scores(images[:1])  # what is set up once
    start = time.monotonic()
    stages.scores(images)
    return (time.monotonic() - start) / len(images) * (len(normals) + anomalies_needed(wanted_loss))


def anomalies_needed(wanted_loss: float) -> int:
    """About how many anomalies it takes to fit the weights and show a wanted bound; 0 switches early exit off."""
    if not wanted_loss:
        return 0
    return round((flagged_to_fit(wanted_loss) + flagged_needed(wanted_loss)) / USUALLY_FLAGGED)
