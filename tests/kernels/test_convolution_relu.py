"""Convolution with bias, residual and ReLU: Triton's kernels, and cuDNN's functions only where they are sound."""

import pytest
import torch
from torch.nn import functional

from prn_fast.kernels.convolution_relu import convolution_relu, cudnn, epilogue, fused, reference, traffic
from prn_fast.kernels.convolution_relu.operation import of_the_network, plan
from prn_fast.kernels.launch import Tile
from prn_fast.kernels.operation import REAL
from prn_fast.kernels.tiles import tile_for
from tests.kernels.kernel_checks import assert_rounded
from tests.kernels.number_formats import dtypes, layouts

# batch, channels in and out, height, width, kernel, stride, padding
CASES = {
    "square": (1, 4, 8, 8, 8, 3, 1, 1),
    "odd": (3, 5, 7, 9, 11, 3, 1, 1),
    "strided": (2, 3, 6, 10, 7, 3, 2, 1),
    "pointwise": (2, 6, 5, 4, 4, 1, 1, 0),
    "pointwise, strided": (3, 20, 37, 7, 5, 1, 2, 0),
    "stem": (1, 3, 4, 16, 12, 7, 2, 3),
    "wide": (1, 20, 40, 5, 7, 3, 1, 1),
    "padded by more than the kernel takes": (1, 2, 3, 5, 6, 3, 3, 2),
}
# Several blocks along each side of the product, and windows that end inside a step.
TILE, AFTER_TILE = Tile({"BLOCK_N": 32, "BLOCK_C": 16, "BLOCK_K": 16}), Tile({"BLOCK": 128})
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
residuals = pytest.mark.parametrize("has_residual", [False, True], ids=["", "residual"])
formulations = pytest.mark.parametrize(
    "compute", [fused.convolution_relu, epilogue.convolution_relu], ids=["within", "after"]
)


def draw(normal, case, dtype, has_residual, layout=torch.channels_last):
    """Arguments of the operation."""
    batch, channels, width, high, wide, kernel, stride, padding = case
    maps = normal(batch, channels, high, wide, dtype=dtype).to(memory_format=layout)
    weight, bias = normal(width, channels, kernel, kernel, dtype=dtype) / kernel, normal(width, dtype=dtype)
    result = functional.conv2d(maps.double(), weight.double(), None, stride, padding)
    residual = normal(*result.shape, dtype=dtype).to(memory_format=layout) if has_residual else None
    return maps, weight, bias, stride, padding, residual


def in_float64(arguments):
    return [one.double() if torch.is_tensor(one) else one for one in arguments]


def assert_right(out, arguments):
    # Convolutions add up in float32.
    typical = 4.0 if out.dtype == torch.float32 else 1.5
    assert_rounded(out, reference.convolution_relu(*in_float64(arguments)), typical)


@cases
@residuals
@dtypes
def test_one_kernel_matches_float64(normal, case, dtype, has_residual):
    arguments = draw(normal, case, dtype, has_residual)
    out = fused.convolution_relu(*arguments, tile=TILE)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_right(out, arguments)


@cases
@residuals
@layouts
@dtypes
def test_a_kernel_after_the_convolution_matches_float64(normal, case, dtype, has_residual, layout):
    arguments = draw(normal, case, dtype, has_residual, layout)
    out = epilogue.convolution_relu(*arguments, tile=AFTER_TILE)
    assert out.is_contiguous(memory_format=layout)
    assert_right(out, arguments)


@formulations
@residuals
def test_without_a_bias_and_with_the_tables_tile(normal, has_residual, compute):
    maps, weight, _, *rest = draw(normal, CASES["odd"], torch.float32, has_residual)
    assert_right(compute(maps, weight, None, *rest), [maps, weight, None, *rest])


def test_one_kernel_reads_weights_of_either_layout(normal):
    maps, weight, *rest = draw(normal, CASES["odd"], torch.float16, False)
    weights = [weight.to(memory_format=layout) for layout in (torch.contiguous_format, torch.channels_last)]
    first, second = (fused.convolution_relu(maps, one, *rest, tile=TILE) for one in weights)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@formulations
def test_nan_and_infinity_of_a_residual_stay_visible(compute):
    added = torch.tensor([-1.0, 2.0, float("nan"), float("inf"), float("-inf")]).reshape(1, 5, 1, 1)
    nothing = torch.zeros(1, 1, 1, 1), torch.zeros(5, 1, 1, 1), torch.zeros(5), 1, 0
    negative, positive, nan, infinite, minus = compute(*nothing, added).flatten()
    assert [negative, positive, infinite, minus] == [0, 2, float("inf"), 0]
    assert nan.isnan()


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("case", ["odd", "strided", "pointwise, strided", "stem"])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_one_kernel_keeps_what_is_broken_where_a_window_sees_it_and_nowhere_else(normal, case, broken):
    maps, weight, *rest = draw(normal, CASES[case], torch.float16, True)
    # At the ends of rows, beyond which lies the next row.
    maps[0, 0, 0, 0] = maps[0, -1, 0, -1] = maps[0, 1, 4, -1] = maps[0, -1, -1, -1] = broken
    found = fused.convolution_relu(maps, weight, *rest, tile=TILE)
    expected = reference.convolution_relu(*in_float64([maps, weight, *rest]))
    assert not expected.isfinite().all()
    assert found.isnan().equal(expected.isnan())
    assert found.isinf().equal(expected.isinf())
    assert_rounded(found[expected.isfinite()], expected[expected.isfinite()], typical=1.5)


def without_a_tap(maps, weight, *rest):
    left_out = weight.clone()
    left_out[:, :, -1, 0] = 0
    return reference.convolution_relu(maps, left_out, *rest)


def residual_after_relu(maps, weight, bias, stride, padding, residual):
    return reference.convolution_relu(maps, weight, bias, stride, padding) + residual


def without_relu(maps, weight, bias, stride, padding, residual):
    return functional.conv2d(maps, weight, bias, stride, padding) + residual


FAULTS = {
    "no bias": lambda maps, weight, bias, *rest: reference.convolution_relu(maps, weight, None, *rest),
    "bias twice": lambda maps, weight, bias, *rest: reference.convolution_relu(maps, weight, 2 * bias, *rest),
    "no residual": lambda *arguments: reference.convolution_relu(*arguments[:-1]),
    "residual after ReLU": residual_after_relu,
    "no ReLU": without_relu,
    "a tap left out": without_a_tap,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_the_comparison_sees_a_planted_fault(normal, fault):
    arguments = draw(normal, CASES["odd"], torch.float16, True)
    assert_right(reference.convolution_relu(*in_float64(arguments)).half(), arguments)
    with pytest.raises(AssertionError):
        assert_right(fault(*in_float64(arguments)).half(), arguments)


def test_one_kernel_takes_channels_last_maps_and_one_group(normal):
    maps, weight, *_ = draw(normal, CASES["odd"], torch.float16, False)
    assert fused.serves(maps, weight)
    assert not fused.serves(maps.contiguous(), weight)
    assert not fused.serves(maps, weight.float())
    assert not fused.serves(maps, weight[:, :1])


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_tiles_cover_every_result_and_are_smaller_where_there_are_few(batch):
    table = tile_for("convolve_add_relu", (9, 0), torch.float16)
    for one in of_the_network(REAL):
        launch = plan(one, batch, torch.float16, (9, 0))
        sides = launch.constants["BLOCK_C"], launch.constants["BLOCK_N"]
        assert all(
            n * side >= size for n, side, size in zip(launch.grid, sides, (one.channels, one.pixels), strict=False)
        )
        assert launch.grid[2] == batch
        assert all(side <= most for side, most in zip(sides, (one.channels, table.blocks["BLOCK_N"]), strict=True))
        programs = launch.grid[0] * launch.grid[1] * batch
        assert programs >= fused.PROGRAMS or max(sides) == fused.LEAST_SIDE


@residuals
@layouts
def test_operation_is_well_formed(normal, has_residual, layout):
    arguments = draw(normal, CASES["strided"], torch.float32, has_residual, layout)
    torch.library.opcheck(convolution_relu, tuple(arguments), test_utils=("test_schema", "test_faketensor"))


# -- cuDNN's own --


def sound_relu(maps, weight, bias, stride, padding, dilation, groups):
    return torch.relu(functional.conv2d(maps, weight, bias, stride, padding))


def sound_add_relu(maps, weight, residual, alpha, bias, stride, padding, dilation, groups):
    return torch.relu(functional.conv2d(maps, weight, bias, stride, padding) + alpha * residual)


def reads_its_result(maps, weight, bias, *where):
    """The residual of weight zero is what memory held."""
    out = sound_relu(maps, weight, bias, *where)
    return torch.relu(out + 0 * torch.empty_like(out))


def drops_nan(maps, weight, bias, *where):
    return sound_relu(maps, weight, bias, *where).nan_to_num(0.0)


def drops_nan_of_sum(*arguments):
    return sound_add_relu(*arguments).nan_to_num(0.0)


def forgets_bias(maps, weight, bias, *where):
    return sound_relu(maps, weight, None, *where)


def forgets_residual(maps, weight, residual, alpha, bias, *where):
    return sound_relu(maps, weight, bias, *where)


def missing(*arguments):
    raise RuntimeError("cuDNN is not there")


@pytest.fixture
def functions(monkeypatch):
    """Puts functions in the place of PyTorch's two."""

    def put(relu=sound_relu, add_relu=sound_add_relu):
        monkeypatch.setattr(torch, "cudnn_convolution_relu", relu, raising=False)
        monkeypatch.setattr(torch, "cudnn_convolution_add_relu", add_relu, raising=False)

    monkeypatch.setattr(cudnn, "_trials", {})
    return put


@pytest.fixture
def tried(normal):
    """What is against the two functions, without a residual and with one."""

    def run(dtype=torch.float16, layout=torch.channels_last):
        arguments = (draw(normal, CASES["odd"], dtype, has_residual, layout) for has_residual in (False, True))
        return [cudnn.trial_fault(*one) for one in arguments]

    return run


@layouts
@pytest.mark.parametrize("dtype", cudnn.DTYPES, ids=["fp16", "bf16"])
def test_sound_functions_pass_the_trial(functions, tried, dtype, layout):
    functions()
    assert tried(dtype, layout) == ["", ""]


@pytest.mark.parametrize(
    ("faulty", "told"),
    [
        ({"relu": reads_its_result}, "other values"),
        ({"relu": drops_nan}, "NaN is lost"),
        ({"add_relu": drops_nan_of_sum}, "NaN is lost"),
        ({"relu": forgets_bias}, "other values"),
        ({"add_relu": forgets_residual}, "other values"),
        ({"relu": missing}, "cuDNN is not there"),
    ],
    ids=["reads its result", "drops NaN", "drops NaN of a sum", "forgets the bias", "forgets the residual", "missing"],
)
def test_what_is_not_sound_fails_the_trial_and_says_why(functions, tried, faulty, told):
    functions(**faulty)
    assert tried() == [told if "relu" in faulty else "", told if "add_relu" in faulty else ""]


def test_cudnn_takes_what_it_thinks_best_as_in_the_trial_and_the_setting_is_put_back(functions, tried, monkeypatch):
    settings = []

    def noted(*arguments):
        settings.append(torch.backends.cudnn.benchmark)
        return sound_relu(*arguments)

    functions(relu=noted)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    tried()
    assert set(settings) == {False}
    assert torch.backends.cudnn.benchmark


class OnGpu(torch.Tensor):
    """A tensor that says it lies on a GPU."""

    device = torch.device("cuda", 0)


def test_each_shape_is_tried_once_and_not_while_a_graph_is_captured(monkeypatch, normal):
    captured, tried = [True], []
    monkeypatch.setattr(cudnn, "_trials", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: captured[0])
    faults = ["", "NaN is lost"]

    def trial(maps, *rest):
        tried.append(maps.shape)
        return faults[len(tried) - 1]

    monkeypatch.setattr(cudnn, "trial_fault", trial)
    first, second = ([one.as_subclass(OnGpu), *rest] for one, *rest in (
        draw(normal, CASES[name], torch.float16, False) for name in ("odd", "square")
    ))  # fmt: skip
    assert not cudnn.is_sound(*first)
    assert not cudnn.trials()
    captured[0] = False
    assert cudnn.is_sound(*first)
    captured[0] = True
    assert cudnn.is_sound(*first)
    assert not cudnn.is_sound(*second)
    assert len(tried) == 1
    captured[0] = False
    # One shape that is refused leaves the others as they are.
    assert not cudnn.is_sound(*second)
    assert cudnn.is_sound(*first)
    assert cudnn.trials() == {"passed": 1, "NaN is lost": 1}


def test_float32_and_the_cpu_never_ask_cudnn(normal):
    half, *others = draw(normal, CASES["odd"], torch.float16, False)
    maps, *rest = draw(normal, CASES["odd"], torch.float32, False)
    assert not cudnn.is_sound(half.cpu(), *others)
    assert not cudnn.is_sound(maps.as_subclass(OnGpu), *rest)


def test_bytes_moved_are_counted():
    moved = traffic.bytes_moved(2, 30, 40, 100, True, 2)
    assert (moved.read, moved.written) == ((2 * (30 + 40) + 100) * 2, 2 * 40 * 2)
    moved = traffic.bytes_moved_after(2, 30, 40, 100, True, 2)
    assert (moved.read, moved.written) == ((2 * (30 + 80) + 100) * 2, 2 * 2 * 40 * 2)
    published = traffic.published_bytes_moved(2, 30, 40, 100, False, 2)
    assert (published.read, published.written) == ((2 * (30 + 80) + 100) * 2, 2 * 3 * 40 * 2)
