"""Anomaly map and image score."""

import torch

from prn_fast.kernels.anomaly_score import reference


def test_score_is_the_mean_of_the_hundred_largest_pixels(normal):
    logits = normal(3, 1, 12, 17)
    scores, maps = reference.anomaly_score(logits)
    torch.testing.assert_close(maps, 1 / (1 + torch.exp(-logits[:, 0])))
    ordered = maps.flatten(1).sort(dim=1, descending=True).values
    torch.testing.assert_close(scores, ordered[:, :100].sum(1) / 100)
