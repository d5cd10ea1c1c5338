"""Float32 is float32, whatever the process allows: seen from within the run, on any machine."""

import threading

import numpy as np
import pytest
import torch

from prn_fast.engine import open_engine
from prn_fast.engine.float32 import float32_arithmetic
from prn_fast.errors import EngineError
from prn_fast.package import Package
from tests import needs
from tests.small_package import textured_images

BACKENDS = torch.backends


def allow_by_the_older_switches():
    BACKENDS.cuda.matmul.allow_tf32 = True
    BACKENDS.cudnn.allow_tf32 = True


def allow_by_precision():
    torch.set_float32_matmul_precision("medium")


def allow_by_the_newer_switches():
    BACKENDS.cuda.matmul.fp32_precision = "tf32"
    BACKENDS.cudnn.conv.fp32_precision = "tf32"
    BACKENDS.mkldnn.matmul.fp32_precision = "bf16"


def allow_everywhere():
    BACKENDS.fp32_precision = "tf32"


WAYS = (allow_by_the_older_switches, allow_by_precision, allow_by_the_newer_switches, allow_everywhere)


def settings():
    """What decides about float32, as anyone reads it; the older switches cannot be read where the newer differ."""

    def read(switch):
        try:
            return switch()
        except RuntimeError:
            return "differs"

    newer = (
        BACKENDS.cuda.matmul,
        BACKENDS.cudnn.conv,
        BACKENDS.cudnn.rnn,
        BACKENDS.mkldnn.matmul,
        BACKENDS.mkldnn.conv,
    )
    older = (
        torch.get_float32_matmul_precision,
        lambda: BACKENDS.cudnn.allow_tf32,
        lambda: BACKENDS.cuda.matmul.allow_tf32,
    )
    return [switch.fp32_precision for switch in newer], [read(switch) for switch in older]


STRICT = ["ieee"] * 5, ["highest", False, False]


@pytest.fixture(autouse=True)
def _as_before():
    before = [BACKENDS.fp32_precision, torch.get_float32_matmul_precision(), BACKENDS.cudnn.allow_tf32, *settings()[0]]
    yield
    BACKENDS.fp32_precision = before[0]
    torch.set_float32_matmul_precision(before[1])
    BACKENDS.cudnn.allow_tf32 = before[2]
    switches = (
        BACKENDS.cuda.matmul,
        BACKENDS.cudnn.conv,
        BACKENDS.cudnn.rnn,
        BACKENDS.mkldnn.matmul,
        BACKENDS.mkldnn.conv,
    )
    for switch, value in zip(switches, before[3:], strict=True):
        switch.fp32_precision = value


@pytest.mark.parametrize("name", ["eager", "optimized"])
@pytest.mark.parametrize("allow", WAYS)
def test_an_engine_states_float32_in_its_run_and_puts_the_settings_back(built_package_path, name, allow, monkeypatch):
    images = textured_images(1, 1, 0)
    with open_engine(built_package_path, name) as engine:
        seen, detect = [], engine.model.detect

        def looking(inputs):
            seen.append((settings(), torch.is_autocast_enabled("cpu")))
            return detect(inputs)

        monkeypatch.setattr(engine.model, "detect", looking)
        expected = engine.infer(images)
        allow()
        before = settings()
        assert before != STRICT
        with torch.autocast("cpu", torch.bfloat16):
            found = engine.infer(images)
            assert torch.is_autocast_enabled("cpu")
    assert settings() == before
    assert seen == [(STRICT, False)] * 2
    np.testing.assert_array_equal(found.maps, expected.maps)


def test_the_settings_come_back_when_the_last_of_several_threads_leaves():
    allow_by_precision()
    before = settings()
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with float32_arithmetic():
            inside.set()
            leave.wait(30)

    other = threading.Thread(target=stay, daemon=True)
    with float32_arithmetic():
        other.start()
        assert inside.wait(30)
    assert settings() == STRICT
    leave.set()
    other.join()
    assert settings() == before


def test_the_settings_come_back_after_an_error():
    allow_by_precision()
    before = settings()
    with pytest.raises(ZeroDivisionError), float32_arithmetic():
        1 / 0  # noqa: B018
    assert settings() == before


@pytest.mark.parametrize(
    "device",
    [*(pytest.param(name, marks=needs.no_gpu) for name in ("cuda", "cuda:0")), "cuda:99", "gpu", "mps", ""],
)
def test_a_device_that_is_not_there_is_one_line(built_package_path, device):
    with pytest.raises(EngineError, match=f"device {device} was asked for") as caught:
        open_engine(Package.open(built_package_path), "eager", device=device)
    assert "\n" not in str(caught.value)
