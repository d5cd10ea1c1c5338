"""Camera bytes to normalised tiles: the definition, and the kernel against it."""

import pytest
import torch

from prn_fast.errors import ConfigError
from prn_fast.kernels.launch import Tile
from prn_fast.kernels.tile_normalize import fused, normalize_images, reference, tile_normalize, traffic
from tests.kernels.kernel_checks import assert_rounded
from tests.kernels.number_formats import dtypes

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TILE = Tile({"BLOCK": 64})


def draw_bytes(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    # The same values on every device.
    values = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator, device="cpu")
    return values.to(torch.get_default_device())


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_normalised_pixels_follow_the_formula(channels):
    images = draw_bytes(2, 5, 7, channels)
    normalized = reference.normalize_images(images, MEAN, STD, torch.float64)
    pixels = images.double().expand(2, 5, 7, 3).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    torch.testing.assert_close(normalized, (pixels - mean) / std)


def test_grey_images_may_be_one_channel():
    images = draw_bytes(2, 5, 7, 1)
    one = reference.normalize_images(images, MEAN[:1], STD[:1], torch.float64)
    assert one.shape == (2, 1, 5, 7)
    torch.testing.assert_close(one, reference.normalize_images(images, MEAN, STD, torch.float64)[:, :1])
    assert normalize_images(images, MEAN[:1], STD[:1], torch.float32).shape == one.shape
    with pytest.raises(ConfigError, match="images have 3 channels; this network takes grey ones"):
        reference.normalize_images(draw_bytes(2, 5, 7, 3), MEAN[:1], STD[:1])
    with pytest.raises(ConfigError, match="the kernel writes 3 channels, not 1"):
        fused.normalize_images(draw_bytes(2, 8, 8, 1), MEAN[:1], STD[:1], torch.float32, tile=TILE)


def test_half_precision_is_rounded_once():
    images = draw_bytes(2, 16, 16, 3)
    exact = reference.normalize_images(images, MEAN, STD, torch.float64)
    assert_rounded(reference.normalize_images(images, MEAN, STD, torch.float16), exact, typical=0.3, worst=0.6)


def test_last_tiles_are_flush_with_the_end():
    # An 8k camera: 37 tiles a line.
    assert reference.tile_starts(8192, 256, 32) == [224 * i for i in range(36)] + [8192 - 256]
    assert reference.tile_positions(6, 8, 4, 1) == [(0, 0), (0, 3), (0, 4), (2, 0), (2, 3), (2, 4)]


# capacity, lines, width, side, overlap
STRIPS = {
    "one-tile": (8, 8, 8, 8, 0),
    "flush-and-overlapping": (23, 17, 37, 8, 3),
    "ring-filled": (12, 12, 20, 5, 1),
}
strips = pytest.mark.parametrize("strip", STRIPS.values(), ids=STRIPS)
channel_counts = pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])


def layout(channels_last):
    return torch.channels_last if channels_last else torch.contiguous_format


def padded_ring(capacity, width, channels):
    """A ring whose rows are an odd number of bytes apart."""
    row_bytes = width * channels
    return draw_bytes(capacity, row_bytes + 5)[:, :row_bytes].unflatten(1, (width, channels))


@strips
@channel_counts
def test_a_strip_that_wraps_around_equals_the_unwrapped_one(strip, channels):
    capacity, lines, width, side, overlap = strip
    ring = padded_ring(capacity, width, channels)
    start = capacity - lines // 2
    tiles = reference.cut_tiles(ring, start, lines, side, overlap)
    unwrapped = torch.cat([ring[start:], ring])[:lines]
    assert tiles.equal(reference.cut_tiles(unwrapped, 0, lines, side, overlap))
    for tile, (top, left) in zip(tiles, reference.tile_positions(lines, width, side, overlap), strict=True):
        assert tile.equal(unwrapped[top : top + side, left : left + side])


@layouts
@dtypes
@channel_counts
@strips
def test_triton_tiles_match_reference(strip, channels, dtype, channels_last):
    capacity, lines, width, side, overlap = strip
    ring = padded_ring(capacity, width, channels)
    start = capacity - lines // 2
    expected = reference.tile_normalize(ring, start, lines, side, overlap, MEAN, STD, torch.float64)
    tiles = fused.tile_normalize(ring, start, lines, side, overlap, MEAN, STD, dtype, channels_last, TILE)
    assert tiles.dtype == dtype
    assert tiles.is_contiguous(memory_format=layout(channels_last))
    assert_rounded(tiles, expected)


@layouts
@channel_counts
@pytest.mark.parametrize("batch", [1, 3])
def test_triton_images_match_reference(batch, channels, channels_last):
    images = draw_bytes(batch, 9, 9, channels)
    expected = reference.normalize_images(images, MEAN, STD, torch.float64)
    normalized = fused.normalize_images(images, MEAN, STD, torch.float32, channels_last, TILE)
    assert normalized.is_contiguous(memory_format=layout(channels_last))
    assert_rounded(normalized, expected)


def test_triton_reads_pixels_that_do_not_lie_side_by_side():
    ring = draw_bytes(9, 3, 12).transpose(1, 2)
    expected = reference.tile_normalize(ring, 4, 8, 4, 0, MEAN, STD, torch.float64)
    assert_rounded(fused.tile_normalize(ring, 4, 8, 4, 0, MEAN, STD, torch.float32, tile=TILE), expected)


@pytest.mark.parametrize("formulation", [reference, fused], ids=["reference", "triton"])
@pytest.mark.parametrize(
    ("shape", "start", "lines", "side", "overlap", "reason"),
    [
        pytest.param((8, 8, 2), 0, 8, 4, 0, "2 channels", id="channels"),
        pytest.param((8, 8, 1), 8, 8, 4, 0, "row 8", id="start"),
        pytest.param((8, 8, 1), 0, 9, 4, 0, "9 lines", id="lines"),
        pytest.param((8, 8, 1), 0, 8, 4, 4, "overlap", id="overlap"),
        pytest.param((8, 3, 1), 0, 8, 4, 0, "narrower", id="narrow"),
        pytest.param((8, 8), 0, 8, 4, 0, "capacity, W, C", id="rank"),
    ],
)
def test_a_strip_that_cannot_be_cut_is_refused(formulation, shape, start, lines, side, overlap, reason):
    with pytest.raises(ConfigError, match=reason):
        formulation.tile_normalize(draw_bytes(*shape), start, lines, side, overlap, MEAN, STD, torch.float32)


@pytest.mark.parametrize("shape", [(0, 4, 4, 1), (2, 4, 5, 1), (4, 4, 1)], ids=["none", "not-square", "rank"])
def test_triton_refuses_images_that_are_not_square(shape):
    with pytest.raises(ConfigError, match="N, S, S, C"):
        fused.normalize_images(draw_bytes(*shape), MEAN, STD, torch.float32, tile=TILE)


def test_constants_for_another_number_of_channels_are_refused():
    with pytest.raises(ConfigError, match="mean and std"):
        reference.normalize_images(draw_bytes(1, 4, 4, 3), (0.5, 0.5), (0.5, 0.5))


@layouts
def test_operations_are_well_formed(channels_last):
    ring = padded_ring(23, 37, 3)
    torch.library.opcheck(tile_normalize, (ring, 20, 17, 8, 3, MEAN, STD, torch.float16, channels_last))
    torch.library.opcheck(normalize_images, (draw_bytes(2, 8, 8, 1), MEAN, STD, torch.float32, channels_last))


def test_operation_survives_compile_and_export_with_any_batch():
    class Normalize(torch.nn.Module):
        def forward(self, images):
            return normalize_images(images, MEAN, STD, torch.float32) + 1

    images = draw_bytes(4, 8, 8, 3)
    expected = reference.normalize_images(images, MEAN, STD) + 1
    compiled = torch.compile(Normalize(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), expected)
    program = torch.export.export(Normalize(), (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})
    assert any(node.target is torch.ops.prn_fast.normalize_images.default for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(images[:3]), expected[:3])


def test_traffic_of_a_small_case():
    # A grey strip of 8 x 12 pixels as two tiles of 8 x 8 that overlap: 384 values.
    moved = traffic.bytes_moved(96, 128, 2)
    assert (moved.read, moved.written) == (96, 768)
    published = traffic.published_bytes_moved(96, 128, 1, 4)
    assert (published.read, published.written) == (96 + 2 * 128 + 2 * 1536, 96 + 128 + 3 * 1536)
    half = traffic.published_bytes_moved(96, 128, 1, 2)
    assert (half.read - published.read, half.written - published.written) == (1536, 768)
