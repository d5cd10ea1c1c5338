"""The learned image score in the network; `tests/model/test_learned_map.py` has it in engines."""

import torch

from prn_fast.kernels import OPTIMIZED
from prn_fast.kernels.anomaly_score.reference import map_statistics
from prn_fast.model.image_score import LearnedScore
from tests.small_package import small_config, small_model, textured_images

WEIGHTS = torch.tensor([0.1, -0.2, 0.3, -0.2, 0.1, -0.6])


def test_the_score_is_the_weighted_sum_that_it_says() -> None:
    model = small_model(small_config(score="learned"))
    assert model.learned_score is not None
    model.learned_score.set_weights(WEIGHTS)
    images = torch.from_numpy(textured_images(3, 1, 5))
    with torch.no_grad():
        scores, maps = model.detect(images)
        logits = model.logits(model.normalize(images))
    torch.testing.assert_close(scores, torch.sigmoid(map_statistics(logits) @ WEIGHTS[:-1] + WEIGHTS[-1]))
    torch.testing.assert_close(maps, torch.sigmoid(logits[:, 0]))


def test_without_weights_the_published_pixels_decide() -> None:
    logits = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    mean = logits.flatten(1).topk(100).values.mean(1)
    torch.testing.assert_close(LearnedScore()(logits, OPTIMIZED), torch.sigmoid(mean))
