"""Convolution with bias, residual and ReLU: Triton's pass after it, and cuDNN's functions only where they are sound."""

import pytest
import torch
from torch.nn import functional

from prn_fast.kernels.convolution_relu import convolution_relu, cudnn, fused, reference, traffic
from prn_fast.kernels.launch import Tile
from tests.kernels.kernel_checks import assert_rounded
from tests.kernels.number_formats import dtypes, layouts

# batch, channels in and out, height, width, kernel, stride, padding
CASES = {
    "square": (1, 4, 8, 8, 8, 3, 1, 1),
    "odd": (3, 5, 7, 9, 11, 3, 1, 1),
    "strided": (2, 3, 6, 10, 7, 3, 2, 1),
    "pointwise": (2, 6, 5, 4, 4, 1, 1, 0),
    "stem": (1, 3, 4, 16, 12, 7, 2, 3),
}
TILE = Tile({"BLOCK": 128})
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
residuals = pytest.mark.parametrize("has_residual", [False, True], ids=["", "residual"])


def draw(normal, case, dtype, has_residual, layout=torch.contiguous_format):
    """Arguments of the operation."""
    batch, channels, width, high, wide, kernel, stride, padding = case
    maps = normal(batch, channels, high, wide, dtype=dtype).to(memory_format=layout)
    weight, bias = normal(width, channels, kernel, kernel, dtype=dtype) / kernel, normal(width, dtype=dtype)
    result = functional.conv2d(maps.double(), weight.double(), None, stride, padding)
    residual = normal(*result.shape, dtype=dtype).to(memory_format=layout) if has_residual else None
    return maps, weight, bias, stride, padding, residual


def in_float64(arguments):
    return [one.double() if torch.is_tensor(one) else one for one in arguments]


@cases
@residuals
@layouts
@dtypes
def test_triton_matches_float64(normal, case, dtype, has_residual, layout):
    arguments = draw(normal, case, dtype, has_residual, layout)
    out = fused.convolution_relu(*arguments, tile=TILE)
    assert out.is_contiguous(memory_format=layout)
    # Convolutions add up in float32.
    typical = 4.0 if dtype == torch.float32 else 1.5
    assert_rounded(out, reference.convolution_relu(*in_float64(arguments)), typical)


@residuals
def test_triton_without_a_bias_and_with_the_tables_tile(normal, has_residual):
    maps, weight, _, *rest = draw(normal, CASES["odd"], torch.float32, has_residual)
    out = fused.convolution_relu(maps, weight, None, *rest)
    assert_rounded(out, reference.convolution_relu(*in_float64([maps, weight, None, *rest])), typical=4.0)


def test_triton_keeps_nan_and_infinity_visible():
    added = torch.tensor([-1.0, 2.0, float("nan"), float("inf"), float("-inf")]).reshape(1, 5, 1, 1)
    nothing = torch.zeros(1, 1, 1, 1), torch.zeros(5, 1, 1, 1), torch.zeros(5), 1, 0
    negative, positive, nan, infinite, minus = fused.convolution_relu(*nothing, added).flatten()
    assert [negative, positive, infinite, minus] == [0, 2, float("inf"), 0]
    assert nan.isnan()


FAULTS = {
    "no bias": lambda y, bias, residual: (y + residual).clamp_min(0),
    "bias twice": lambda y, bias, residual: (y + 2 * bias + residual).clamp_min(0),
    "no residual": lambda y, bias, residual: (y + bias).clamp_min(0),
    "residual after ReLU": lambda y, bias, residual: (y + bias).clamp_min(0) + residual,
    "no ReLU": lambda y, bias, residual: y + bias + residual,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_the_comparison_sees_a_planted_fault(normal, fault):
    maps, weight, bias, stride, padding, residual = arguments = draw(normal, CASES["odd"], torch.float16, True)
    wrong = fault(functional.conv2d(maps, weight, None, stride, padding), bias[:, None, None], residual)
    with pytest.raises(AssertionError):
        assert_rounded(wrong, reference.convolution_relu(*in_float64(arguments)), typical=1.5)


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


@pytest.mark.parametrize("sound", [False, True])
def test_the_operation_takes_cudnn_s_answer_where_it_is_sound_and_its_own_otherwise(
    functions, monkeypatch, normal, sound
):
    functions(relu=lambda maps, weight, *rest: torch.full_like(maps[:, : len(weight)], 7))
    monkeypatch.setattr(cudnn, "is_sound", lambda *arguments: sound)
    arguments = draw(normal, (1, 4, 4, 8, 8, 3, 1, 1), torch.float16, False)
    found = convolution_relu._backend_fns["cuda"](*arguments)
    if sound:
        assert (found == 7).all()
    else:
        assert_rounded(found, reference.convolution_relu(*in_float64(arguments)), typical=1.5)


def test_float32_and_the_cpu_never_ask_cudnn(normal):
    half, *others = draw(normal, CASES["odd"], torch.float16, False)
    maps, *rest = draw(normal, CASES["odd"], torch.float32, False)
    assert not cudnn.is_sound(half.cpu(), *others)
    assert not cudnn.is_sound(maps.as_subclass(OnGpu), *rest)


def test_bytes_moved_are_counted():
    moved = traffic.bytes_moved(2, 30, 40, 100, True, 2)
    assert (moved.read, moved.written) == ((2 * (30 + 80) + 100) * 2, 2 * 2 * 40 * 2)
    published = traffic.published_bytes_moved(2, 30, 40, 100, False, 2)
    assert (published.read, published.written) == ((2 * (30 + 80) + 100) * 2, 2 * 3 * 40 * 2)
