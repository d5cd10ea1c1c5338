"""How early exit changes an evaluation: both stages on the images that the whole network has judged."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from prn_fast.data.image_tiles import cut_image, stitch_maps
from prn_fast.data.samples import Sample, load_sample, load_samples
from prn_fast.kernels.anomaly_score.reference import image_scores
from prn_fast.training.early_exit import TwoStages
from prn_fast.training.evaluation import Evaluation, Progress

_BATCH = 16


@dataclass(frozen=True)
class ExitEffect:
    """Counts of test images. A defect is detected where the whole network calls it defective.

    Attributes:
        cut: screen score below which an image, or a tile of one, leaves.
        good, good_exited: good images, in all and those that leave: of images in tiles, with all their tiles.
        defects, detected: defective images, in all and detected.
        exited_defects: defective images that leave, detected or not.
        lost: detected defects that are called good when images leave early.
        alarms_avoided: false alarms of the whole network that are called good then.
        changed: images whose verdict changes.
    """

    cut: float
    good: int
    good_exited: int
    defects: int
    detected: int
    exited_defects: int
    lost: int
    alarms_avoided: int
    changed: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def exit_effect(
    stages: TwoStages,
    cut: float,
    samples: Sequence[Sample],
    evaluation: Evaluation,
    *,
    tile_overlap: int | None = None,
    progress: Progress | None = None,
) -> ExitEffect:
    """Run both stages over the images of an evaluation; the second runs only on images that stay.

    Args:
        stages: of the package that was evaluated, in float32.
        cut: screen score below which an image leaves.
        samples: those of the evaluation, in its order.
        evaluation: by the whole network, of any engine.
        tile_overlap: as for `evaluate`: each tile leaves or stays by itself.
        progress: called after each batch.
    """
    side, channels = evaluation.image_size, stages.image_channels
    exited = np.zeros(len(samples), bool)
    scores = np.zeros(len(samples))
    step = _BATCH if tile_overlap is None else 1
    for start in range(0, len(samples), step):
        part = slice(start, start + step)
        if tile_overlap is None:
            images, _ = load_samples(samples[part], side, channels)
            exited[part], scores[part], _ = stages.infer(images, cut)
        else:
            image, _ = load_sample(samples[start], channels)
            left, _, of_tiles = stages.infer(cut_image(image, side, tile_overlap), cut)
            stitched = stitch_maps(of_tiles, image.shape[:2], tile_overlap)
            exited[start], scores[start] = left.all(), float(image_scores(torch.from_numpy(stitched[None])))
        if progress:
            progress(min(part.stop, len(samples)), len(samples))
    labels = np.array([bool(sample.label) for sample in samples])
    whole = np.array([image.defect for image in evaluation.images])
    found = ~exited & (scores >= evaluation.threshold)
    return ExitEffect(
        cut=cut,
        good=int(np.sum(~labels)),
        good_exited=int(np.sum(~labels & exited)),
        defects=int(np.sum(labels)),
        detected=int(np.sum(labels & whole)),
        exited_defects=int(np.sum(labels & exited)),
        lost=int(np.sum(labels & whole & ~found)),
        alarms_avoided=int(np.sum(~labels & whole & ~found)),
        changed=int(np.sum(whole != found)),
    )
