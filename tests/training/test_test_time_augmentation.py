import numpy as np
import pytest

from prn_fast.engine import open_engine
from prn_fast.training.test_time_augmentation import FlipAveragedEngine
from tests.small_package import textured_images


@pytest.mark.parametrize("channels", [1, 3])
def test_maps_are_the_mean_over_mirror_images_and_scores_follow_them(package_of, channels):
    images = textured_images(3, channels, 4)
    with open_engine(package_of(channels), "eager") as engine:
        found = FlipAveragedEngine(engine).infer(images)
        turned = [
            engine.infer(np.ascontiguousarray(images[:, ::rows, ::columns])).maps[:, ::rows, ::columns]
            for rows in (1, -1)
            for columns in (1, -1)
        ]
    expected = np.mean(turned, axis=0)
    np.testing.assert_allclose(found.maps, expected, atol=1e-5)
    largest = np.sort(expected.reshape(3, -1), axis=1)[:, -100:].mean(axis=1)
    np.testing.assert_allclose(found.raw_scores, largest, atol=1e-5)
    assert np.abs(turned[0] - turned[3]).max() > 1e-3


@pytest.fixture
def package_of(tmp_path):
    from tests.small_package import write_package

    return lambda channels: write_package(tmp_path / "small.prn", channels)
