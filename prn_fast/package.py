"""The model package on disk: everything that an inspection needs, in one folder that can be checked.

    NAME.prn/
        manifest.json           what is inside, with the sha256 of every file
        model.safetensors       weights and prototypes, float32
        samples.safetensors     training images for calibration, and the validation split
        engines/BACKEND-PRECISION/...

No file is a pickle or holds code. Nothing here imports torch until a module is asked for, so that a process that only
runs an engine of another library stays free of it.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import prn_fast
from prn_fast.errors import ConfigError, PackageError
from prn_fast.model.config import PRNConfig

if TYPE_CHECKING:
    from prn_fast.kernels import Ops
    from prn_fast.model.prn import PRN

FORMAT_VERSION = 1
SUFFIX = ".prn"
MANIFEST, WEIGHTS, SAMPLES, ENGINES = "manifest.json", "model.safetensors", "samples.safetensors", "engines"
_REQUIRED_FIELDS = ("format", "config", "calibration", "training", "files", "engines", "digest")


@dataclass(frozen=True)
class ValidationSet:
    """Held-out normal images, and the same kind of images with generated anomalies.

    Attributes:
        images: (N, S, S, C) uint8.
        labels: (N,) int64, 1 = anomalous.
        masks: (N, S, S) bool.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]

    def fewer(self, each: int) -> "ValidationSet":
        """So many normal and so many anomalous images, evenly chosen; all of a kind that has no more."""
        kinds = (np.flatnonzero(self.labels == label) for label in (0, 1))
        kept = np.concatenate(
            [kind[np.linspace(0, len(kind) - 1, min(each, len(kind))).round().astype(int)] for kind in kinds]
        )
        return ValidationSet(self.images[kept], self.labels[kept], self.masks[kept])


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def serialize_manifest(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest: its JSON, with a digest over everything else in it."""
    content = {name: value for name, value in manifest.items() if name != "digest"}
    canonical = json.dumps(content, sort_keys=True, allow_nan=False).encode()
    content["digest"] = hashlib.sha256(canonical).hexdigest()
    return (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file at once, so that an interruption leaves the old one or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class Package:
    """A verified model package; open one with `Package.open`, make one with `Package.create`."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.config = PRNConfig.from_dict(manifest["config"])

    # -- reading ------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: Path | str, verify: bool = True) -> "Package":
        """Read and check a package.

        Args:
            path: the folder NAME.prn.
            verify: also compare the sha256 of every file (about a second for 500 MB).
        Raises:
            PackageError: not a package, too new, incomplete, or any file altered.
        """
        path = Path(path)
        manifest = read_manifest(path)
        try:
            package = cls(path, manifest)
        except ConfigError as error:
            raise PackageError(f"{path / MANIFEST}: {error}") from None
        if verify:
            package.verify()
        return package

    def verify(self) -> None:
        """Compare every file with the manifest; a PackageError names the first that differs."""
        for name in self.manifest["files"]:
            self.verify_file(name)

    def engine_folder(self, name: str) -> Path:
        """Folder of a built engine's files, after comparing each with the manifest."""
        for file in self.engines[name]["files"]:
            self.verify_file(file)
        return self.path / engine_path(name)

    def verify_file(self, name: str) -> Path:
        """Path of one file of the package, after comparing it with the manifest."""
        entry = self.manifest["files"].get(name)
        if entry is None:
            raise PackageError(f"{self.path}: the manifest lists no file {name}; build the package again")
        path = self.path / name
        if not path.is_file():
            raise PackageError(f"{path}: listed in the manifest but missing; copy the package again, as a whole")
        if path.stat().st_size != entry["bytes"] or sha256_of(path) != entry["sha256"]:
            raise PackageError(
                f"{path}: differs from what was recorded when it was made (sha256); "
                "do not use it, copy the package again from its source"
            )
        return path

    @property
    def engines(self) -> dict[str, dict[str, Any]]:
        """Built engines: name such as "openvino:int8", and what the manifest says of it."""
        return self.manifest["engines"]

    @property
    def digest(self) -> str:
        """sha256 that stands for the whole package: that of the manifest, which holds those of all files."""
        return self.manifest["digest"]

    def calibration(self, name: str) -> float:
        """A figure of the calibration, such as "threshold" or "pixel_threshold"; a PackageError where it is missing."""
        value = self.manifest["calibration"].get(name)
        if not isinstance(value, int | float):
            raise PackageError(f"{self.path}: its calibration has no {name}; train the package again")
        return float(value)

    def _arrays(self, name: str) -> dict[str, NDArray[Any]]:
        try:
            return load_file(self.path / name)
        except (SafetensorError, OSError, ValueError) as error:
            raise PackageError(f"{self.path / name}: cannot be read ({error})") from None

    def calibration_images(self) -> NDArray[np.uint8]:
        """Normal training images (N, S, S, C), uint8."""
        return self._arrays(SAMPLES)["calibration_images"]

    def validation(self) -> ValidationSet:
        """The validation split that the model was selected on."""
        arrays = self._arrays(SAMPLES)
        return ValidationSet(
            arrays["validation_images"],
            arrays["validation_labels"].astype(np.int64),
            arrays["validation_masks"].astype(np.bool_),
        )

    def model(self, ops: "Ops | None" = None) -> "PRN":
        """The network in eval mode, float32, on the CPU; `ops` as for `PRN`.

        Raises:
            PackageError: weights that do not fit the configuration or are not finite.
        """
        import torch
        from safetensors.torch import load_file as load_tensors

        from prn_fast.errors import WeightsError
        from prn_fast.kernels import PUBLISHED
        from prn_fast.model.prn import PRN
        from prn_fast.model.weights import one_line, require_finite

        path = self.path / WEIGHTS
        try:
            state = load_tensors(path)
            require_finite(state, str(path))
            with torch.device("meta"):
                model = PRN(self.config, PUBLISHED if ops is None else ops)
            model.load_state_dict(state, assign=True)
        except WeightsError as error:
            raise PackageError(str(error)) from None
        except (SafetensorError, OSError, RuntimeError) as error:
            raise PackageError(f"{path}: does not fit the configuration ({one_line(error)})") from None
        return model.eval().requires_grad_(False)

    # -- writing ------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: Path | str,
        model: "PRN",
        *,
        calibration_images: NDArray[np.uint8],
        validation: ValidationSet,
        calibration: Mapping[str, Any],
        training: Mapping[str, Any],
    ) -> "Package":
        """Write a package, whole or not at all.

        Args:
            path: the folder to make, ending in .prn; an existing package there is replaced.
            model: trained; its configuration, weights and prototypes are stored.
            calibration_images: (N, S, S, C) uint8 normal training images for quantisation.
            validation: the split that the model was selected on.
            calibration: of the scores: at least "threshold" and "pixel_threshold".
            training: what it was trained on and how, JSON-ready.
        Raises:
            PackageError: the path does not end in .prn or holds something else than a package; weights not finite.
        """
        from safetensors.torch import save_file as save_tensors

        from prn_fast.errors import WeightsError
        from prn_fast.model.weights import require_finite

        path = Path(path)
        check_writable(path)
        state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        try:
            require_finite(state, "trained weights")
        except WeightsError as error:
            raise PackageError(str(error)) from None
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            save_tensors(state, folder / WEIGHTS)
            save_file(
                {
                    "calibration_images": np.ascontiguousarray(calibration_images),
                    "validation_images": np.ascontiguousarray(validation.images),
                    "validation_labels": validation.labels.astype(np.int64),
                    "validation_masks": validation.masks.astype(np.uint8),
                },
                folder / SAMPLES,
            )
            manifest = {
                "format": FORMAT_VERSION,
                "prn_fast": prn_fast.__version__,
                "created": now(),
                "config": model.config.to_dict(),
                "calibration": dict(calibration),
                "training": dict(training),
                "files": {name: describe(folder / name) for name in (WEIGHTS, SAMPLES)},
                "engines": {},
            }
            (folder / MANIFEST).write_bytes(serialize_manifest(manifest))
            folder.chmod(0o755)
            if path.exists():
                shutil.rmtree(path)
            folder.rename(path)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls.open(path)

    def add_engine(self, name: str, built: Path, description: Mapping[str, Any]) -> None:
        """Move a folder of engine files into the package and record it, replacing an engine of the same name.

        Args:
            name: such as "openvino:int8".
            built: folder with the engine's files; it is moved.
            description: JSON-ready; backend, precision, versions, verification.
        """
        folder = engine_path(name)
        target = self.path / folder
        target.parent.mkdir(exist_ok=True)
        files = {
            f"{folder}/{file.relative_to(built).as_posix()}": describe(file)
            for file in sorted(built.rglob("*"))
            if file.is_file()
        }
        manifest = json.loads(json.dumps(self.manifest))
        manifest["files"] = {
            known: entry for known, entry in manifest["files"].items() if not known.startswith(f"{folder}/")
        } | files
        manifest["engines"][name] = {**description, "files": sorted(files), "created": now()}
        if target.exists():
            shutil.rmtree(target)
        shutil.move(built, target)
        target.chmod(0o755)
        write_atomically(self.path / MANIFEST, serialize_manifest(manifest))
        self.manifest = read_manifest(self.path)


def engine_path(name: str) -> str:
    """Folder of an engine inside its package: "openvino:int8" lies in engines/openvino-int8."""
    return f"{ENGINES}/{name.replace(':', '-')}"


def read_manifest(path: Path) -> dict[str, Any]:
    """Parse and check the manifest of the package folder `path`."""
    if not path.is_dir():
        raise PackageError(f"{path}: no such package folder; prn-train makes one")
    file = path / MANIFEST
    if not file.is_file():
        raise PackageError(f"{path}: not a model package, {MANIFEST} is missing")
    content = file.read_bytes()
    try:
        manifest = json.loads(content)
    except ValueError:
        raise PackageError(f"{file}: is not valid JSON; copy the package again from its source") from None
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise PackageError(
            f"{path}: has format {version}, this prn_fast reads up to {FORMAT_VERSION}; upgrade prn_fast"
        )
    if version != FORMAT_VERSION or any(field not in manifest for field in _REQUIRED_FIELDS):
        raise PackageError(f"{file}: is not a manifest of a model package")
    if serialize_manifest(manifest) != content:
        raise PackageError(f"{file}: was altered after it was written; copy the package again from its source")
    for name in manifest["files"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise PackageError(f"{file}: names a file outside the package: {name}")
    return manifest


def check_writable(path: Path) -> None:
    """Refuse a target that is not named like a package or would overwrite something else."""
    if path.suffix != SUFFIX:
        raise PackageError(f"{path}: a package's name ends in {SUFFIX}")
    if path.exists() and not (path / MANIFEST).is_file():
        raise PackageError(f"{path}: exists and is not a model package; choose another name or remove it")


def describe(file: Path) -> dict[str, Any]:
    """What the manifest records of a file."""
    return {"sha256": sha256_of(file), "bytes": file.stat().st_size}


def now() -> str:
    """UTC time to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
