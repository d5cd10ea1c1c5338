"""A TensorRT engine on disk: the serialised engine and what is known of it, checked before the library sees a byte.

model.engine    the serialised engine, opaque, code for a GPU
engine.json     its sha256, the library's version, devices, precision, batch, inputs and outputs
layers.json     the engine inspector's report
build.log       the builder's messages
screen/         the same files of the screen, where the engine has one
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prn_fast.engine.tensorrt_flavours import Flavour, parse_capability
from prn_fast.errors import EngineError, one_line

ENGINE_FILE, DESCRIPTION_FILE, LAYERS_FILE, LOG_FILE = "model.engine", "engine.json", "layers.json", "build.log"
SCREEN_FOLDER = "screen"


@dataclass(frozen=True)
class Description:
    """What engine.json says.

    Attributes:
        flavour: "tensorrt" or "tensorrt-rtx".
        version: of the library that built it.
        precision: "fp32", "fp16", ...
        capabilities: compute capabilities of the GPUs that it runs on, such as "8.9".
        batch: smallest, usual and largest number of images in one run.
        sha256: of the serialised engine.
        bindings: inputs and outputs with their types and dimensions, as the inspector lists them.
    """

    flavour: str
    version: str
    precision: str
    capabilities: tuple[str, ...]
    batch: tuple[int, int, int]
    sha256: str
    bindings: tuple[dict[str, Any], ...]

    def write(self, folder: Path) -> None:
        """Write engine.json."""
        (folder / DESCRIPTION_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Description":
        """Read engine.json; an EngineError names the file if it is missing or no such description."""
        path = folder / DESCRIPTION_FILE
        try:
            content = json.loads(path.read_bytes())
            smallest, usual, largest = (int(size) for size in content.pop("batch"))
            capabilities = tuple(str(one) for one in content.pop("capabilities"))
            bindings = tuple(content.pop("bindings"))
            read = cls(**content, capabilities=capabilities, batch=(smallest, usual, largest), bindings=bindings)
            read.check_values()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, EngineError) as error:
            raise EngineError(f"{path}: cannot be read ({one_line(error)}); build the engine again") from None
        return read

    def check_values(self) -> None:
        """A ValueError or EngineError for values that no build writes."""
        for name in ("flavour", "version", "precision", "sha256"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is {getattr(self, name)!r}")
        for capability in self.capabilities:
            parse_capability(capability)
        smallest, usual, largest = self.batch
        if not 1 <= smallest <= usual <= largest:
            raise ValueError(f"batch is {list(self.batch)}")
        for binding in self.bindings:
            named = all(isinstance(binding[key], str) for key in ("name", "type"))
            if not named or not all(isinstance(size, int) for size in binding["dimensions"]):
                raise ValueError(f"a binding is {binding}")


def read_engine(folder: Path, description: Description) -> bytes:
    """The serialised engine, whole and unaltered, or an EngineError.

    The very bytes that are hashed are returned, so that nothing can change between check and use.
    """
    path = folder / ENGINE_FILE
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror}); copy the package again, as a whole") from None
    if hashlib.sha256(plan).hexdigest() != description.sha256:
        raise EngineError(
            f"{path}: is truncated or altered (sha256 differs from {DESCRIPTION_FILE}); do not use it, copy the "
            "package again from its source"
        )
    return plan


def check_version(folder: Path, description: Description, flavour: Flavour, version: str) -> None:
    """An EngineError if another version of the library built the engine: it deserialises its own engines only."""
    if description.version != version:
        raise EngineError(
            f"{folder / ENGINE_FILE}: was built by {flavour.title} {description.version}, and {version} is installed; "
            f"install {description.version}, or build the engine again"
        )


def check_device(folder: Path, description: Description, device: str, capability: tuple[int, int]) -> None:
    """An EngineError if the engine was built for other GPUs.

    Args:
        device: the GPU's name.
        capability: its compute capability.
    """
    if capability not in [parse_capability(one) for one in description.capabilities]:
        have = ".".join(map(str, capability))
        raise EngineError(
            f"{folder / ENGINE_FILE}: was built for compute capability {', '.join(description.capabilities)}, and "
            f"{device} has {have}; build the engine for {have}"
        )


def diagnosis(library: Any, runtime: Any, plan: bytes) -> str:
    """What the library says of an engine that it may not be able to run; empty where it says nothing against it."""
    if not hasattr(runtime, "get_engine_validity"):
        return ""
    validity, bits = runtime.get_engine_validity(plan)
    if validity == library.EngineValidity.VALID:
        return ""
    reasons = [
        name.lower().replace("_", " ")
        for name, reason in library.EngineInvalidityDiagnostics.__members__.items()
        if bits & int(reason)
    ]
    return f"{validity.name.lower()}: {', '.join(reasons) or 'no reason given'}"


def bindings_fault(bindings: Sequence[dict[str, Any]], expected: dict[str, tuple[str, tuple[int, ...]]]) -> str:
    """What is wrong with an engine's inputs and outputs; empty if they are as expected.

    Args:
        bindings: name, type and dimensions.
        expected: by name, type and dimensions without the batch.
    """
    found = {one["name"]: (one["type"], tuple(one["dimensions"][1:])) for one in bindings}
    return "" if found == expected else f"has {found}, this package needs {expected}"
