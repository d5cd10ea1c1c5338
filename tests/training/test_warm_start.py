import pytest
import torch

from prn_fast.errors import ConfigError
from prn_fast.kernels import OPTIMIZED
from prn_fast.model.prn import PRN
from prn_fast.training.warm_start import warm_start
from tests.small_package import small_config, write_package


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return write_package(tmp_path_factory.mktemp("start") / "small.prn")


def is_patch(name: str) -> bool:
    return ".query_key." in name or ".value." in name


def test_weights_are_taken_over_and_prototypes_are_not(package):
    model = PRN(small_config(prototypes=(5, 5, 5)), OPTIMIZED)
    warm_start(model, package)
    theirs = package.model().state_dict()
    for name, value in model.state_dict().items():
        if name.startswith("prototypes."):
            assert not value.any()
        else:
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=0)


def test_larger_images_get_interpolated_projections(package):
    model = PRN(small_config(image_size=128), OPTIMIZED)
    warm_start(model, package)
    theirs, patches = package.model().state_dict(), 0
    for name, value in model.state_dict().items():
        if is_patch(name):
            patches += 1
            # Twice the side: the mean over a patch stays, and its variety is not lost.
            torch.testing.assert_close(value.mean((2, 3)), theirs[name].mean((2, 3)), rtol=0.2, atol=0.05)
            assert value.std() > 0.3 * theirs[name].std()
    assert patches > 0


def test_another_network_is_refused(package):
    with pytest.raises(ConfigError, match="attention_layers"):
        warm_start(PRN(small_config(attention_layers=2), OPTIMIZED), package)
