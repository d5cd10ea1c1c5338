"""Smooth random fields."""

import numpy as np
import pytest

from prn_fast.data.noise import fractal_noise, normalised, smooth_noise


@pytest.mark.parametrize("shape", [(64, 64), (5, 90), (1, 1), (33, 128)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("cells", [0.5, 4, 500])
def test_any_shape_and_number_of_cells(shape, cells):
    field = smooth_noise(shape, (cells, cells), np.random.default_rng(0))
    assert field.shape == shape
    assert field.dtype == np.float32
    assert np.isfinite(field).all()


def test_cells_set_the_size_of_the_lumps():
    def roughness(cells: float) -> float:
        field = normalised(smooth_noise((128, 128), (cells, cells), np.random.default_rng(1)))
        return float(np.abs(np.diff(field, axis=0)).mean())

    assert roughness(2) < roughness(8) / 2 < roughness(32) / 4


def test_field_has_no_preferred_level():
    fields = [smooth_noise((64, 64), (8, 8), np.random.default_rng(seed)) for seed in range(30)]
    assert abs(np.mean(fields)) < 0.1
    assert 0.5 < np.std(fields) < 1.0


def test_same_state_same_field():
    first, second = (fractal_noise((40, 40), (3, 5), 3, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_normalised_field():
    field = normalised(smooth_noise((64, 64), (8, 8), np.random.default_rng(0)) * 9 + 4)
    assert abs(field.mean()) < 1e-4
    assert abs(field.std() - 1) < 1e-4
    assert not normalised(np.full((4, 4), 3, np.float32)).any()
