"""The weights of a learned image score, fitted on what training has held out.

Logistic regression of the label on the statistics of `LearnedScore`, each in units of its own spread, with a quadratic
penalty: five weights from a few dozen images. Normal and anomalous images weigh the same, and among these the
seen anomalies as much as all that are generated: they are few and real.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# scikit-learn's C: how much errors weigh against large weights.
PENALTY = 10.0
FOLDS = 10
# The most that a decision may change when a map changes by one logit: rounding in an engine then changes a learned
# score no more than a published one.
STEEPEST = 1.0


@dataclass(frozen=True)
class FittedScore:
    """Weights of a learned score.

    Attributes:
        weights: float32 (J + 1,), for `LearnedScore.set_weights`.
        held_out: float32 (N,), scores in 0..1 of the validation images, each by weights that were fitted without it.
        held_out_seen: float32 (S,), the same of the seen anomalies.
    """

    weights: NDArray[np.float32]
    held_out: NDArray[np.float32]
    held_out_seen: NDArray[np.float32]


def fit_score(
    statistics: NDArray[np.floating],
    labels: NDArray[np.integer],
    seen: NDArray[np.floating],
    seed: int = 0,
    told_by: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None,
) -> FittedScore:
    """Fit the weights.

    Args:
        statistics: (N, J) of the validation images.
        labels: (N,), 0 normal and 1 anomalous; both occur.
        seen: (S, J) of the seen anomalies, S of 0 or more. Training has pasted pieces of them, so they look easier than
            other defects will; they still show which statistics rise with a real defect.
        seed: of the folds.
        told_by: other statistics of both kinds of image, by which those that a fit leaves out are scored; by default
            the same as are fitted to.
    """
    features = np.concatenate([statistics, seen]).astype(np.float64)
    told = features if told_by is None else np.concatenate(told_by).astype(np.float64)
    targets = np.concatenate([labels, np.ones(len(seen), int)])
    weights = _balanced(labels, len(seen))
    decisions = np.empty(len(targets))
    for fitted, left_out in _folds(np.concatenate([labels, np.full(len(seen), 2)]), seed):
        model = _fit(features[fitted], targets[fitted], weights[fitted])
        decisions[left_out] = told[left_out] @ model[:-1] + model[-1]
    final = _fit(features, targets, weights)
    held_out, held_out_seen = np.split((1 / (1 + np.exp(-decisions))).astype(np.float32), [len(labels)])
    return FittedScore(final.astype(np.float32), held_out, held_out_seen)


def _balanced(labels: NDArray[np.integer], seen: int) -> NDArray[np.float64]:
    """Weights of images that sum to one for each class, and among the anomalies to the same for either kind."""
    normals, generated = int((labels == 0).sum()), int((labels == 1).sum())
    share = 0.5 if seen else 1.0
    validation = np.where(labels == 0, 1 / normals, share / generated)
    return np.concatenate([validation, np.full(seen, share / max(seen, 1))])


def _folds(kinds: NDArray[np.integer], seed: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Indices to fit on and to leave out; at most as many folds as the smaller class has images.

    Args:
        kinds: (N,), 0 normal, 1 generated, 2 seen. Every kind is spread over the folds as evenly as it goes, so that of
            ten seen anomalies one at a time is left out.
    """
    normals = int((kinds == 0).sum())
    count = min(FOLDS, normals, len(kinds) - normals)
    everything = np.arange(len(kinds))
    if count < 2:  # nothing can be left out
        yield everything, everything
        return
    drawn = np.random.default_rng(seed).permutation(len(kinds))
    # Dealt on from kind to kind: normals first, then all anomalies in turn, so that both classes stay on each side.
    fold = np.empty(len(kinds), int)
    fold[drawn[np.argsort(kinds[drawn], kind="stable")]] = everything % count
    for number in range(count):
        yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)


def _fit(
    features: NDArray[np.float64], targets: NDArray[np.integer], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(J + 1,) weights and intercept for features in their own units."""
    from sklearn.linear_model import LogisticRegression

    mean, spread = features.mean(0), np.maximum(features.std(0), 1e-6)
    fitted = LogisticRegression(C=PENALTY, max_iter=5000).fit(
        (features - mean) / spread, targets, sample_weight=weights * len(targets) / weights.sum()
    )
    slopes = fitted.coef_[0] / spread
    intercept = float(fitted.intercept_[0]) - float(slopes @ mean)
    decision = np.append(slopes, intercept)
    return decision * min(1.0, STEEPEST / max(float(np.abs(slopes).sum()), 1e-12))
