"""Generated anomalies: where they lie, how they look to a program, and that they repeat."""

import cv2
import numpy as np
import pytest

from prn_fast.data.anomalies import AnomalyGenerator
from prn_fast.data.foreground import foreground_mask
from prn_fast.data.synthetic import add_defect, render
from prn_fast.data.textures import generate_textures
from prn_fast.errors import ConfigError

SHARES = {"simulated": 0.0, "extended": 1.0, "mixed": 0.5}


def as_bytes(picture: np.ndarray, channels: int) -> np.ndarray:
    image = np.clip(picture, 0, 255).astype(np.uint8)
    return image if channels == 3 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]


def make_generator(channels: int, share: float, material: str = "brushed_metal", side: int = 256) -> AnomalyGenerator:
    seen = []
    for seed, kind in enumerate(("scratch", "crack", "stain", "hole")):
        rng = np.random.default_rng(seed)
        picture, mask = add_defect(render(material, side, rng), kind, rng)
        seen.append((as_bytes(picture, channels), mask))
    return AnomalyGenerator(generate_textures(10, channels, seed=0), seen, share)


def normal(material: str, channels: int, side: int = 256, seed: int = 99) -> np.ndarray:
    return as_bytes(render(material, side, np.random.default_rng(seed)).picture, channels)


def simulated(count: int, seed: int) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """A grey image, and simulated anomalies made of it with their masks."""
    generator, image = make_generator(1, 0.0), normal("brushed_metal", 1)
    rng = np.random.default_rng(seed)
    return image, [generator.generate(image, rng) for _ in range(count)]


@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES.keys())
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("material", "side"), [("brushed_metal", 256), ("machined_ring", 192), ("cast_iron", 64)])
def test_anomaly_is_marked_lies_on_the_object_and_shows(material, side, channels, share):
    generator = make_generator(channels, share, material, side)
    image = normal(material, channels, side)
    original, foreground = image.copy(), foreground_mask(image)
    rng = np.random.default_rng(0)
    for _ in range(60):
        result, mask = generator.generate(image, rng)
        assert result.shape == image.shape
        assert result.dtype == np.uint8
        assert mask.shape == image.shape[:2]
        assert mask.dtype == bool
        assert mask.any()
        assert not (mask & ~foreground).any()
        change = np.abs(result.astype(int) - image).max(axis=2)
        assert change[mask].mean() > 1.5
        # Soft edges reach a little beyond the mask, never far.
        near = cv2.dilate(mask.view(np.uint8), np.ones((65, 65), np.uint8)).astype(bool)
        assert not change[~near].any()
    np.testing.assert_array_equal(image, original)


def test_simulated_sizes_cover_tiny_to_large():
    _, anomalies = simulated(300, seed=1)
    shares = np.array([mask.mean() for _, mask in anomalies])
    assert shares.max() < 0.61
    for low, high in ((0, 0.002), (0.002, 0.01), (0.01, 0.05), (0.05, 0.61)):
        assert ((shares >= low) & (shares < high)).mean() > 0.05


def test_simulated_anomalies_are_darker_and_brighter_faint_and_strong():
    image, anomalies = simulated(300, seed=2)
    changes = np.array([(result.astype(int) - image)[mask].mean() for result, mask in anomalies])
    assert (changes < -5).mean() > 0.2
    assert (changes > 5).mean() > 0.2
    assert (np.abs(changes) < 20).mean() > 0.1
    assert (np.abs(changes) > 50).mean() > 0.1


def test_some_simulated_anomalies_are_thin_lines():
    thin = 0
    for _, mask in simulated(100, seed=3)[1]:
        (_, (a, b), _) = cv2.minAreaRect(np.argwhere(mask).astype(np.float32))
        thin += mask.sum() < 0.01 * mask.size and max(a, b) > 25 and max(a, b) > 5 * min(a, b)
    assert thin > 5


def test_some_simulated_anomalies_are_all_that_lies_beyond_a_border():
    sides = 0
    for _, mask in simulated(200, seed=4)[1]:
        edges = [(mask[0], mask[-1]), (mask[:, 0], mask[:, -1])]
        # One edge of the image is all marked, the opposite one not at all.
        sides += any(max(a.mean(), b.mean()) > 0.95 and not (a.any() and b.any()) for a, b in edges)
    assert sides > 5


def test_same_state_same_anomaly():
    generator, image = make_generator(3, 0.5), normal("brushed_metal", 3)
    for seed in range(10):
        first, second = (generator.generate(image, np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])


def test_without_seen_anomalies_all_are_simulated():
    textures = generate_textures(5, 1, seed=0)
    image = normal("brushed_metal", 1)
    alone, asked = AnomalyGenerator(textures, [], 1.0), AnomalyGenerator(textures, [], 0.0)
    for seed in range(10):
        first, second = (g.generate(image, np.random.default_rng(seed)) for g in (alone, asked))
        np.testing.assert_array_equal(first[0], second[0])


def test_a_generator_with_other_seen_anomalies_is_as_if_it_were_made_with_them():
    textures, image = generate_textures(3, 1, seed=0), normal("brushed_metal", 1)
    seen = [(normal("brushed_metal", 1, seed=seed), np.pad(np.ones((20, 20), bool), 118)) for seed in range(3)]
    chosen = AnomalyGenerator(textures, seen, 1.0).with_seen(seen[1:2])
    for found, expected in (
        (chosen, AnomalyGenerator(textures, seen[1:2], 1.0)),
        (chosen.with_seen([]), AnomalyGenerator(textures)),
    ):
        for one, other in zip(
            *(made.generate(image, np.random.default_rng(5)) for made in (found, expected)), strict=True
        ):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("level", [60, 200], ids=["darker-target", "brighter-target"])
def test_pasted_defect_takes_the_brightness_of_its_new_place(level):
    seen = np.full((128, 128, 1), 130, np.uint8)
    mask = np.zeros((128, 128), bool)
    mask[50:62, 40:70] = True
    seen[mask] = 90  # a dark spot on an even surface
    generator = AnomalyGenerator(generate_textures(1, 1, seed=0), [(seen, mask)], 1.0)
    image = np.full((128, 128, 1), level, np.uint8)
    for seed in range(20):
        result, marked = generator.generate(image, np.random.default_rng(seed))
        change = result[..., 0].astype(int) - level
        assert change[marked].mean() < -8
        around = cv2.dilate(marked.view(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        assert np.abs(change[~around]).max(initial=0) <= 6


def test_defect_cut_off_by_its_image_is_pasted_at_a_border():
    seen = np.full((128, 128, 1), 130, np.uint8)
    mask = np.zeros((128, 128), bool)
    mask[:20, 40:70] = True
    seen[mask] = 40
    generator = AnomalyGenerator(generate_textures(1, 1, seed=0), [(seen, mask)], 1.0)
    for seed in range(20):
        _, marked = generator.generate(np.full((128, 128, 1), 120, np.uint8), np.random.default_rng(seed))
        assert marked[0].any() or marked[-1].any()


@pytest.mark.parametrize("sources", [("tone",), ("textures",), ("image",), ("textures", "image")], ids=str)
def test_simulated_anomalies_are_filled_from_the_chosen_sources(sources):
    # A grey surface and textures of white: which of them fills an anomaly can be read off its brightness.
    image = np.full((128, 128, 1), 60, np.uint8)
    textures = [np.full((64, 64, 1), 255, np.uint8)]
    generator = AnomalyGenerator(textures, sources=sources)
    rng = np.random.default_rng(0)
    brightest = []
    for _ in range(80):
        result, mask = generator.generate(image, rng)
        assert mask.any()
        brightest.append(int(result[mask].max()))
    # The tone changes by 120 grey levels at the most, and so does a jittered piece of an even surface by less.
    assert (max(brightest) > 200) == ("textures" in sources)
    assert (min(brightest) < 60) == (sources != ("textures",))


def test_anomalies_may_leave_the_object_where_they_are_not_kept_inside():
    image = normal("machined_ring", 1, 192)
    foreground = foreground_mask(image)
    assert not foreground.all()
    textures = generate_textures(4, 1, seed=0)
    inside, anywhere = AnomalyGenerator(textures), AnomalyGenerator(textures, foreground=False)
    outside = []
    for generator in (inside, anywhere):
        rng = np.random.default_rng(0)
        outside.append(sum((generator.generate(image, rng)[1] & ~foreground).any() for _ in range(40)))
    assert outside[0] == 0
    assert outside[1] > 10


def test_without_augmentation_a_defect_keeps_its_shape():
    seen = np.full((128, 128, 1), 130, np.uint8)
    mask = np.zeros((128, 128), bool)
    mask[50:62, 40:70] = True
    mask[50:54, 60:70] = False
    seen[mask] = 90
    image = np.full((128, 128, 1), 130, np.uint8)
    sizes = {}
    for augment in (True, False):
        generator = AnomalyGenerator(generate_textures(1, 1, seed=0), [(seen, mask)], 1.0, augment=augment)
        found = [generator.generate(image, np.random.default_rng(seed)) for seed in range(20)]
        sizes[augment] = {int(marked.sum()) for _, marked in found}
        if not augment:
            for result, marked in found:
                rows, columns = (np.flatnonzero(marked.any(axis)) for axis in (1, 0))
                piece = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                if marked.sum() == mask.sum():
                    np.testing.assert_array_equal(marked[piece], mask[50:62, 40:70])
                    np.testing.assert_allclose(result[marked], 90, atol=2)
    assert mask.sum() in sizes[False]
    assert len(sizes[True]) > len(sizes[False])


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_share_out_of_range(share):
    with pytest.raises(ConfigError, match=r"0\.\.1"):
        AnomalyGenerator(generate_textures(1, 1, seed=0), [], share)


def test_no_textures():
    with pytest.raises(ConfigError, match="at least one texture"):
        AnomalyGenerator([], [])


def test_textures_and_seen_images_of_different_channels():
    seen = [(np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), bool))]
    with pytest.raises(ConfigError, match="same channels"):
        AnomalyGenerator(generate_textures(1, 1, seed=0), seen)


def test_seen_mask_of_another_size():
    seen = [(np.zeros((64, 64, 1), np.uint8), np.ones((32, 32), bool))]
    with pytest.raises(ConfigError, match="differ in size"):
        AnomalyGenerator(generate_textures(1, 1, seed=0), seen)


def test_seen_mask_that_marks_nothing():
    seen = [(np.zeros((64, 64, 1), np.uint8), np.zeros((64, 64), bool))]
    with pytest.raises(ConfigError, match="marks nothing"):
        AnomalyGenerator(generate_textures(1, 1, seed=0), seen)
