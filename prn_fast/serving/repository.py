"""Triton's model repository: what `prn-serve export` writes.

    DIR/NAME/config.pbtxt
    DIR/NAME/1/model.py         one line, see `prn_fast.serving.triton_model`
    DIR/NAME/1/NAME.prn/        the package
    DIR/NAME/1/canary.json      what float32 answers to two of the package's validation images
    DIR/NAME/2/...              the next calibration

A graph for one of the server's own backends (`prn_fast.serving.native`) takes the place of model.py and canary.json.
Each version is put into place whole, and never changed afterwards.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine import open_engine, parse_name
from prn_fast.engine.served import (
    ABOUT,
    EXITED,
    IDENTITY,
    IMAGES,
    MAPS,
    RAW_SCORES,
    SCORES,
    VERDICTS,
    Canary,
    weights_of,
)
from prn_fast.errors import ConfigError, EngineError, PackageError, printable
from prn_fast.files import replace_file, reporting, staging_folder, sync
from prn_fast.package import Package
from prn_fast.serving.native import FILES, NativeGraph

CONFIG, MODEL, CANARY = "config.pbtxt", "model.py", "canary.json"
ENGINE_PARAMETER = "engine"
PYTHON = "python"  # the backend that opens packages
MODEL_TEXT = "from prn_fast.serving.triton_model import TritonPythonModel  # noqa: F401\n"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
# How each backend that runs on a GPU takes the GPU's number.
GPU_ENGINES: dict[str, Callable[[int], Any]] = {
    "eager": "cuda:{}".format,
    "optimized": "cuda:{}".format,
    "fused": "cuda:{}".format,
    "tensorrt": int,
    "tensorrt-rtx": int,
}


@dataclass(frozen=True)
class Serving:
    """How a package is served.

    Attributes:
        engine: name; "" takes the best that the package holds.
        batch: most images that the server runs together.
        delay_ms: how long it may wait for more of them.
        queue: requests that may wait; more are refused.
        deadline_ms: a request that waited longer is refused; 0 lets it wait. A client's own deadline comes first.
        instances: engines that run beside each other, on each GPU where `gpu`.
        gpu: run on the server's GPUs.
        versions: newest calibrations that are served.
    Raises:
        ConfigError: a value out of range.
    """

    engine: str = ""
    batch: int = 32
    delay_ms: float = 0.0
    queue: int = 64
    deadline_ms: float = 0.0
    instances: int = 1
    gpu: bool = False
    versions: int = 1

    def __post_init__(self) -> None:
        whole = {"batch": self.batch, "queue": self.queue, "instances": self.instances, "versions": self.versions}
        for name, value in whole.items():
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        for name, times in (("delay_ms", self.delay_ms), ("deadline_ms", self.deadline_ms)):
            if not 0 <= times < 1e6:
                raise ConfigError(f"{name} is {times}; give milliseconds from 0 to a million")
        if self.engine and parse_name(self.engine)[0] not in GPU_ENGINES and self.gpu:
            raise ConfigError(f"{self.engine} does not run on a GPU; choose from {', '.join(GPU_ENGINES)}")


@dataclass(frozen=True)
class Exported:
    """A package in a repository.

    Attributes:
        name: of the model on the server.
        version: its number.
        is_new: it was not there before.
    """

    name: str
    version: int
    is_new: bool


def export(
    package: Package, folder: Path, serving: Serving, name: str = "", native: NativeGraph | None = None
) -> Exported:
    """Put a package into a model repository, as the newest version of its name.

    A package whose newest version is the same, down to its engines, is not copied again; the configuration is.

    Args:
        folder: the repository, which is made where it is missing.
        name: on the server; "" takes the package's.
        native: a graph of the package that the server runs without Python; None for Python, which opens the package.
    Raises:
        ConfigError: a name that no server takes; or one that another backend serves; no engine is named for GPUs, or
            one is named beside a native graph.
        EngineError: the engine is not in the package.
        PackageError: other images than the versions that are there take; one server name has one shape.
        StorageError: it cannot be written.
    """
    name = name or package.path.stem
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{printable(name)!r} is no name for a server: take letters, digits, dots, - and _")
    if native is not None and serving.engine:
        raise ConfigError(f"a native graph is served without the engine {serving.engine}; leave one of them out")
    if native is None and serving.gpu and not serving.engine:
        raise ConfigError(f"a server with GPUs needs the name of an engine; choose from {', '.join(GPU_ENGINES)}")
    if serving.engine:
        backend, known, precision = parse_name(serving.engine)
        if known.built and f"{backend}:{precision}" not in package.engines:
            raise EngineError(
                f"{package.path} holds no engine {backend}:{precision}; build it: "
                f"prn-build-engine {package.path} --backend {backend} --precision {precision}"
            )
    model = folder / name
    there = versions_in(model)
    newest = Package.open(package_folder(model / str(there[-1])), verify=False) if there else None
    if newest is not None and _shape(newest) != _shape(package):
        raise PackageError(
            f"{model}: serves images of {_shape(newest)}, {package.path} takes {_shape(package)}; choose another name"
        )
    backend_now = PYTHON if native is None else native.backend
    if there and (before := backend_of(model)) != backend_now:
        raise ConfigError(f"{model}: is served by the backend {before}, not {backend_now}; choose another name")
    is_new = newest is None or newest.digest != package.digest
    if native is not None and not is_new:
        # The same package holds several engines.
        is_new = (model / str(there[-1]) / native.file).read_bytes() != native.content
    version = (there[-1] if there else 0) + is_new
    with reporting(model):
        model.mkdir(parents=True, exist_ok=True)
        if is_new:
            _write_version(package, model, str(version), native)
        replace_file(model / CONFIG, config_text(name, package, serving, native).encode())
    return Exported(name, version, is_new)


def _write_version(package: Package, model: Path, version: str, native: NativeGraph | None) -> None:
    with staging_folder(model) as staging:
        folder = staging / version
        folder.mkdir()
        copy = folder / package.path.name
        shutil.copytree(package.path, copy)
        # What was copied is what was opened, and whole.
        if Package.open(copy).digest != package.digest:
            raise PackageError(f"{package.path}: was changed while it was copied; export it again")
        if native is not None:
            (folder / native.file).write_bytes(native.content)
        else:
            with open_engine(package, "optimized") as engine:
                known = Canary.ask(engine, canary_images(package))
            content = {"scores": known.scores.tolist(), "levels": known.levels.tolist(), "weights": weights_of(package)}
            (folder / CANARY).write_text(json.dumps(content), encoding="utf-8")
            (folder / MODEL).write_text(MODEL_TEXT, encoding="utf-8")
        folder.rename(model / version)
        sync(model)


def versions_in(model: Path) -> list[int]:
    """Numbers of the versions in a model's folder, in order."""
    if not model.is_dir():
        return []
    return sorted(int(entry.name) for entry in model.iterdir() if entry.name.isdecimal() and entry.is_dir())


def models_in(folder: Path) -> list[str]:
    """Names of the models in a repository; a ConfigError where there is none."""
    found = sorted(entry.parent.name for entry in folder.glob(f"*/{CONFIG}")) if folder.is_dir() else []
    if not found:
        raise ConfigError(f"{folder}: holds no exported package; make it with `prn-serve export PACKAGE {folder}`")
    return found


def backend_of(model: Path) -> str:
    """The server's backend that a model's newest version is for."""
    version = model / str(versions_in(model)[-1])
    return next((backend for backend, file in FILES.items() if (version / file).is_file()), PYTHON)


def package_folder(version: Path) -> Path:
    """The package in the folder of a version; a PackageError where there is not one."""
    found = [entry for entry in version.glob("*.prn") if entry.is_dir()]
    if len(found) != 1:
        raise PackageError(f"{version}: holds {len(found)} packages and not one; export it again")
    return found[0]


def canary_images(package: Package) -> NDArray[np.uint8]:
    """One normal and one anomalous image of the validation split."""
    return package.validation().fewer(1).images


def _shape(package: Package) -> str:
    side = package.config.image_size
    return f"{side}x{side}x{package.config.image_channels}"


def config_text(name: str, package: Package, serving: Serving, native: NativeGraph | None = None) -> str:
    """config.pbtxt of a package.

    Two priorities: 1 for lines, 2 for all that states none, so that an archive does not hold up a line.
    """
    side, channels, batch = package.config.image_size, package.config.image_channels, serving.batch
    if native is not None and native.batch is not None:
        batch = min(batch, native.batch)
    image = f"[ {side}, {side}, {channels} ]"
    outputs = {
        SCORES: ("TYPE_FP32", "[ 1 ]"),
        RAW_SCORES: ("TYPE_FP32", "[ 1 ]"),
        VERDICTS: ("TYPE_UINT8", "[ 1 ]"),
        EXITED: ("TYPE_UINT8", "[ 1 ]"),
        MAPS: ("TYPE_FP32", f"[ {side}, {side} ]"),
        IDENTITY: ("TYPE_INT64", "[ 1 ]"),
        ABOUT: ("TYPE_UINT8", "[ -1 ]"),
    }
    entries = [f'{{ name: "{output}", data_type: {dtype}, dims: {dims} }}' for output, (dtype, dims) in outputs.items()]
    listed = ",\n".join(f"  {entry}" for entry in (entries if native is None else native.outputs))
    # What scores mean, for clients of graphs that do not judge themselves.
    parameters = {"threshold": repr(package.calibration("threshold")), "digest": package.digest}
    if native is None:
        parameters = {ENGINE_PARAMETER: serving.engine}
    stated = "\n".join(
        f'parameters {{ key: "{key}", value: {{ string_value: "{value}" }} }}' for key, value in parameters.items()
    )
    on_gpu = serving.gpu or (native is not None and native.backend == "tensorrt")
    warm_up = ",\n".join(
        f'  {{ name: "{size}", batch_size: {size}, inputs {{ key: "{IMAGES}", value: '
        f"{{ data_type: TYPE_UINT8, dims: {image}, zero_data: true }} }} }}"
        for size in sorted({1, batch})
    )
    return f"""# Written by prn-serve export; export again to change it.
name: "{name}"
backend: "{PYTHON if native is None else native.backend}"
max_batch_size: {batch}
input [ {{ name: "{IMAGES}", data_type: TYPE_UINT8, dims: {image} }} ]
output [
{listed}
]
version_policy {{ latest {{ num_versions: {serving.versions} }} }}
instance_group [ {{ kind: {"KIND_GPU" if on_gpu else "KIND_CPU"}, count: {serving.instances} }} ]
dynamic_batching {{
  max_queue_delay_microseconds: {round(1e3 * serving.delay_ms)}
  priority_levels: 2
  default_priority_level: 2
  default_queue_policy {{
    timeout_action: REJECT
    default_timeout_microseconds: {round(1e3 * serving.deadline_ms)}
    allow_timeout_override: true
    max_queue_size: {serving.queue}
  }}
}}
model_warmup [
{warm_up}
]
{stated}
"""
