"""The TensorRT runner as far as a machine without a GPU goes: files, refusals, and images that lie on a device."""

import ctypes
import hashlib
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from prn_fast.engine import open_engine
from prn_fast.engine.cuda_memory import DeviceImages, device_images, from_dlpack
from prn_fast.engine.images import gpu_of
from prn_fast.engine.tensorrt import NETWORK, error_logger
from prn_fast.engine.tensorrt_file import (
    DESCRIPTION_FILE,
    ENGINE_FILE,
    Description,
    bindings_fault,
    check_device,
    check_version,
    diagnosis,
    read_engine,
)
from prn_fast.engine.tensorrt_flavours import FLAVOURS
from prn_fast.errors import EngineError, PackageError
from prn_fast.package import Package
from tests import needs
from tests.engine.host_gpu import open_on_host
from tests.small_package import SIDE

NAME = "tensorrt-rtx:fp16"
RTX = FLAVOURS["tensorrt-rtx"]
HAS_GPU = __import__("torch").cuda.is_available()


@pytest.fixture
def copied(rtx_package_path, tmp_path):
    """A package of its own, to be damaged, and its engine's folder."""
    package = Package.open(shutil.copytree(rtx_package_path, tmp_path / "copied.prn"))
    return package, package.engine_folder(NAME)


def run_without_torch(rtx_package_path, body: str) -> str:
    """What a fresh process prints that opens the engine and runs `body` where it is refused with `error`."""
    code = f"""
import sys
sys.modules["torch"] = None  # as if it were not installed: an import of it is an error
import prn_fast.engine
from prn_fast.errors import EngineError
try:
    prn_fast.engine.open_engine({str(rtx_package_path)!r}, {NAME!r})
except EngineError as error:
    print(error)
{body}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs.no_gpu
def test_an_embedded_process_needs_no_torch(rtx_package_path):
    """It gets as far as the device: the package is verified, the engine hashed, the library loaded."""
    printed = run_without_torch(rtx_package_path, "assert any('tensorrt_rtx' in name for name in sys.modules)")
    refusals = (
        "neither pycuda nor torch is installed",
        "pycuda cannot be loaded",
        "TensorRT engines need an NVIDIA GPU",
    )
    assert printed.startswith(refusals)
    assert printed.count("\n") == 1


@needs.no_gpu
def test_no_gpu_is_one_line(rtx_package_path):
    with pytest.raises(EngineError, match=r"^TensorRT engines need an NVIDIA GPU, and torch finds none") as caught:
        open_engine(rtx_package_path, NAME)
    assert "\n" not in str(caught.value)


def test_missing_pycuda_is_one_line(monkeypatch):
    from prn_fast.engine import cuda_memory

    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EngineError, match=r"neither pycuda nor torch is installed, .*pip install torch, or 'prn-fast"):
        cuda_memory.open_device()


def test_a_missing_library_names_the_extra(rtx_package_path, monkeypatch):
    for module in RTX.modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EngineError, match=r"^TensorRT-RTX is not installed: pip install 'prn-fast\[tensorrt\]'$"):
        open_engine(rtx_package_path, NAME)


@pytest.mark.parametrize(
    "damage", [lambda plan: plan[:-100], lambda plan: plan[:5000] + b"X" + plan[5001:], lambda _: b""]
)
def test_a_truncated_or_altered_engine_is_never_loaded(copied, damage):
    package, folder = copied
    file = folder / ENGINE_FILE
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(PackageError, match=r"model\.engine: differs from what was recorded"):
        open_engine(package, NAME)
    # The runner itself checks too, of the very bytes that it would hand on.
    with pytest.raises(EngineError, match=r"model\.engine: is truncated or altered \(sha256"):
        read_engine(folder, Description.read(folder))


def test_a_missing_engine_file_is_named(copied):
    _, folder = copied
    description = Description.read(folder)
    (folder / ENGINE_FILE).unlink()
    with pytest.raises(EngineError, match=r"model\.engine: cannot be read \(No such file"):
        read_engine(folder, description)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"batch": "many"}', b"[" * 100_000])
def test_a_damaged_description_is_named(copied, content):
    _, folder = copied
    (folder / DESCRIPTION_FILE).write_bytes(content)
    with pytest.raises(EngineError, match=r"engine\.json: cannot be read \(.*build the engine again"):
        Description.read(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 1.7),
        ("sha256", None),
        ("capabilities", ["new"]),
        ("batch", [0, 2, 4]),
        ("batch", [4, 2, 1]),
        ("bindings", ["images"]),
        ("bindings", [{"name": "images"}]),
        ("bindings", [{"name": "images", "type": "UInt8", "dimensions": [None]}]),
        ("unknown", 1),
    ],
)
def test_values_that_no_build_writes_are_named(copied, field, value):
    _, folder = copied
    file = folder / DESCRIPTION_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(EngineError, match=r"engine\.json: cannot be read \(.*build the engine again") as caught:
        Description.read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage", [lambda plan: plan[:-100], lambda plan: plan[: len(plan) // 2], lambda _: bytes(1000), lambda _: b""]
)
def test_a_damaged_engine_with_new_hashes_is_refused_by_the_library(copied, monkeypatch, damage):
    """The library is the real one, the device is not: it reads the engine before it needs one."""
    from prn_fast.engine import tensorrt
    from tests.engine.host_gpu import HostDevice

    package, folder = copied
    plan = damage((folder / ENGINE_FILE).read_bytes())
    (folder / ENGINE_FILE).write_bytes(plan)
    file = folder / DESCRIPTION_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sha256": hashlib.sha256(plan).hexdigest()}))
    monkeypatch.setattr(tensorrt, "open_device", lambda index: HostDevice())
    with pytest.raises(EngineError, match=r"model\.engine: TensorRT-RTX refuses the engine, ") as caught:
        RTX_RUNNER()(package, folder=folder, precision="fp16", runtime_cache=False)
    assert "\n" not in str(caught.value)


def test_another_version_is_refused(copied):
    _, folder = copied
    description = Description.read(folder)
    check_version(folder, description, RTX, RTX.load().__version__)
    message = rf"was built by TensorRT-RTX {description.version}, and 9\.9 is installed; install {description.version}"
    with pytest.raises(EngineError, match=message):
        check_version(folder, description, RTX, "9.9")


def test_another_version_is_refused_before_a_device_is_looked_for(copied, monkeypatch):
    package, _ = copied
    monkeypatch.setattr(RTX.load(), "__version__", "9.9")
    with pytest.raises(EngineError, match=r"and 9\.9 is installed"):
        open_engine(package, NAME)


def test_another_gpu_is_refused(copied):
    _, folder = copied
    description = Description.read(folder)
    check_device(folder, description, "a card", (8, 9))
    with pytest.raises(EngineError, match=r"built for compute capability 8\.9, 12\.0, and Old Card has 8\.6; build"):
        check_device(folder, description, "Old Card", (8, 6))


def test_the_description_is_what_the_inspector_lists(copied):
    _, folder = copied
    description = Description.read(folder)
    assert description.bindings[0]["profile"] == [1, 2, 4]
    expected = {"images": ("UInt8", (SIDE, SIDE, 1)), "scores": ("Float", ()), "maps": ("Float", (SIDE, SIDE))}
    assert bindings_fault(description.bindings, expected) == ""
    other = expected | {"images": ("UInt8", (SIDE, SIDE, 3))}
    assert "this package needs" in bindings_fault(description.bindings, other)


def test_an_engine_of_another_package_is_refused(copied):
    package, folder = copied
    file = folder / DESCRIPTION_FILE
    content = json.loads(file.read_text())
    content["bindings"][0]["dimensions"][1] = 128
    file.write_text(json.dumps(content))
    with pytest.raises(EngineError, match="this package needs"):
        RTX_RUNNER()(package, folder=folder, precision="fp16")


def RTX_RUNNER():
    from prn_fast.engine import BACKENDS

    return BACKENDS["tensorrt-rtx"].runner()


def test_the_librarys_diagnosis_is_put_into_words(copied):
    """The library is the real one; on a machine without a driver it blames the driver."""
    _, folder = copied
    library = RTX.load()
    runtime = library.Runtime(error_logger(library))
    if not HAS_GPU:
        assert diagnosis(library, runtime, (folder / ENGINE_FILE).read_bytes()).startswith("invalid: ")
    bits = int(library.EngineInvalidityDiagnostics.UNSUPPORTED_CC) | int(
        library.EngineInvalidityDiagnostics.OLD_CUDA_DRIVER
    )
    blamed = SimpleNamespace(get_engine_validity=lambda plan: (library.EngineValidity.INVALID, bits))
    assert diagnosis(library, blamed, b"") == "invalid: unsupported cc, old cuda driver"
    valid = SimpleNamespace(get_engine_validity=lambda plan: (library.EngineValidity.VALID, 0))
    assert diagnosis(library, valid, b"") == ""


def test_the_runners_calls_exist_in_the_library():
    """What runs on a GPU only, checked against the real bindings: names of methods, and the enumeration."""
    library = RTX.load()
    used = {
        library.Runtime: ("deserialize_cuda_engine", "get_engine_validity"),
        library.ICudaEngine: ("create_execution_context", "create_runtime_config"),
        library.IRuntimeConfig: ("create_runtime_cache", "set_runtime_cache", "cuda_graph_strategy"),
        library.IRuntimeCache: ("serialize", "deserialize"),
        library.IExecutionContext: ("set_input_shape", "set_tensor_address", "execute_async_v3"),
    }
    for owner, names in used.items():
        for name in names:
            assert hasattr(owner, name), f"{owner.__name__}.{name}"
    assert library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE


@pytest.mark.parametrize(
    ("torch", "pycuda", "chosen"),
    [
        ("loaded", "there", "TorchDevice"),
        ("there", "there", "PycudaDevice"),
        ("there", "missing", "TorchDevice"),
        ("missing", "there", "PycudaDevice"),
        ("missing", "missing", "PycudaDevice"),
    ],
)
def test_memory_is_of_a_library_that_is_there(monkeypatch, torch, pycuda, chosen):
    """Without pycuda, torch's, also where nobody has loaded torch yet; pycuda says what to install if none is there."""
    from prn_fast.engine import cuda_memory

    installed = {"torch": torch != "missing", "pycuda": pycuda != "missing"}
    monkeypatch.setattr(cuda_memory, "find_spec", lambda name: "a spec" if installed[name] else None)
    monkeypatch.setattr(cuda_memory, "sys", SimpleNamespace(modules={"torch": "loaded"} if torch == "loaded" else {}))
    for name in ("TorchDevice", "PycudaDevice"):
        monkeypatch.setattr(cuda_memory, name, lambda index, name=name: (name, index))
    assert cuda_memory.open_device(1) == (chosen, 1)


# -- images on a device ------------------------------------------------------------------------------------------------


class OnDevice:
    """Host memory that claims to lie on a GPU: only its address is read."""

    def __init__(self, array, strides="plain"):
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "strides": None if strides == "plain" else array.strides,
            "version": 3,
        }


class OnAnotherGPU(OnDevice):
    """As torch and CuPy say where their arrays lie."""

    def __dlpack_device__(self):
        return 2, 1


@pytest.mark.parametrize("batch", [1, 2, 3, None])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 7])
def test_images_on_a_gpu_are_read_from_their_first_byte_to_their_last(rtx_package_path, batch, count):
    """The engine takes two to four images: a part of one is run with those before it, and there are always some."""
    images = np.random.default_rng(count).integers(0, 255, (count, SIDE, SIDE, 1)).astype(np.uint8)
    with open_on_host(rtx_package_path, smallest=2, batch=batch) as engine:
        found = engine.infer(OnDevice(images))
        np.testing.assert_array_equal(found.maps, images[..., 0] / np.float32(255))
        first, end = images.ctypes.data, images.ctypes.data + images.nbytes
        assert all(first <= start < stop <= end for start, stop in engine._programs[NETWORK].context.read)
        # From host memory, which the engine fills up, any number goes.
        np.testing.assert_array_equal(engine.infer(images[:1]).maps, found.maps[:1])
        with pytest.raises(EngineError, match="takes 2 or more there"):
            engine.infer(OnDevice(images[:1]))
        with pytest.raises(EngineError, match="takes 2 or more there"):
            engine.run(device_images(OnDevice(images))[:1])


def test_images_on_another_gpu_are_refused(rtx_package_path):
    images = np.zeros((4, SIDE, SIDE, 1), np.uint8)
    assert (gpu_of(OnAnotherGPU(images)), gpu_of(images), gpu_of([1])) == (1, None, None)
    with (
        open_on_host(rtx_package_path) as engine,
        pytest.raises(EngineError, match="images lie on GPU 1, and tensorrt-rtx:fp16 runs on GPU 0; copy them"),
    ):
        engine.infer(OnAnotherGPU(images))


def bytes_at(images: DeviceImages) -> np.ndarray:
    count = int(np.prod(images.shape)) * images.dtype.itemsize
    return np.frombuffer((ctypes.c_uint8 * count).from_address(images.pointer), images.dtype).reshape(images.shape)


@pytest.mark.parametrize("strides", ["plain", "given"])
def test_cuda_arrays_are_taken_where_they_lie(strides):
    array = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 3)).astype(np.uint8)
    images = device_images(OnDevice(array, strides))
    assert images is not None
    assert len(images) == 5
    assert images.dtype == np.uint8
    assert images.row_bytes == 192
    np.testing.assert_array_equal(bytes_at(images), array)
    np.testing.assert_array_equal(bytes_at(images[2:4]), array[2:4])
    assert len(images[4:9]) == 1


def test_device_images_must_be_contiguous():
    array = np.zeros((4, 8, 16, 3), np.uint8)[:, :, ::2]
    with pytest.raises(EngineError, match="are not contiguous; copy them"):
        device_images(OnDevice(array, "given"))


def test_dlpack_capsules_are_read():
    array = np.random.default_rng(1).integers(0, 255, (3, 4, 4, 1)).astype(np.uint8)
    images = from_dlpack(array.__dlpack__(), array)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(bytes_at(images), array)
    assert from_dlpack(array.astype(np.float32).__dlpack__(), array).dtype == np.float32
    with pytest.raises(EngineError, match="not contiguous"):
        from_dlpack(np.zeros((4, 8, 8, 3), np.uint8)[:, ::2].__dlpack__(), None)
    import torch

    with pytest.raises(EngineError, match="engines take uint8"):
        from_dlpack(torch.zeros(2, dtype=torch.bool).__dlpack__(), None)


@pytest.mark.parametrize("kind", ["numpy", "torch", "list"])
def test_images_in_host_memory_are_no_device_images(kind):
    array = np.zeros((1, 4, 4, 1), np.uint8)
    import torch

    assert device_images({"numpy": array, "torch": torch.from_numpy(array), "list": [array]}[kind]) is None
