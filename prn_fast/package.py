"""The model package on disk: everything that an inspection needs, in one folder that can be checked.

    NAME.prn/
        manifest.json           what is inside, with the sha256 of every file
        manifest.sig            the manifest's signature, where somebody has signed it
        model.safetensors       weights and prototypes, float32
        screen.ID.safetensors   the screen's weights, float32, where the package has one
        samples.safetensors     training images for calibration, and the validation split
        engines/BACKEND-PRECISION.ID/...

A package is valid at every moment: it is put into place whole, an engine gets a new folder and a screen a new file, the
manifest that names it replaces the old one at once, and what the manifest no longer names is removed last. Writers of
one package wait for each other. No file is a pickle or holds code. Nothing here imports torch until a module is asked
for, so that a process that only runs an engine of another library stays free of it.
"""

import contextlib
import copy
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import prn_fast
from prn_fast.errors import ConfigError, PackageError, StorageError, WeightsError, one_line, printable
from prn_fast.files import (
    locked,
    place_folder,
    replace_file,
    reporting,
    require_writable,
    settle,
    staging_folder,
    sync,
    write_file,
)
from prn_fast.manifest import (
    ENGINE_NAME,
    ENGINES,
    FORMAT_VERSION,
    MANIFEST,
    SAMPLES,
    SCREEN_FILE,
    SIGNATURE,
    WEIGHTS,
    engine_folder,
    parse_manifest,
    read_manifest,
    serialize_manifest,
)
from prn_fast.model.config import PRNConfig
from prn_fast.signature import configured_key, require_signature, signature_of

if TYPE_CHECKING:
    from torch.nn import Module

    from prn_fast.kernels import Ops
    from prn_fast.model.prn import PRN
    from prn_fast.model.screen import Screen

Network = TypeVar("Network", bound="Module")

SUFFIX = ".prn"
BUILDING_PREFIX = ".building-"
# Normal training images that a package keeps, to calibrate engines with.
MAX_CALIBRATION_IMAGES = 128
# An engine's folder as `add_engine` names it: the manifest says which of them are in use.
_ENGINE_FOLDER = re.compile(r"[a-z0-9-]+\.[0-9a-f]{8}")
# How often a package may change while it is being opened, before that is given up.
_MAX_READS = 20


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
        """As many normal as anomalous images, evenly chosen; all of a kind that has too few."""
        kinds = (np.flatnonzero(self.labels == label) for label in (0, 1))
        kept = np.concatenate(
            [kind[np.linspace(0, len(kind) - 1, min(each, len(kind))).round().astype(int)] for kind in kinds]
        )
        return ValidationSet(self.images[kept], self.labels[kept], self.masks[kept])


@dataclass(frozen=True)
class EarlyExit:
    """When an image leaves after the screen, and what is known of it; from the validation split.

    Attributes:
        cut: an image leaves where its screen score lies below it.
        exit_share: share of the normal validation images that leave.
        flagged: validation anomalies that the whole network calls defective, at the package's threshold.
        lost: those of them that would leave.
        loss_bound: upper 95 % bound of the share of such anomalies that leave.
    """

    cut: float
    exit_share: float
    flagged: int
    lost: int
    loss_bound: float


class Package:
    """A verified model package; open one with `Package.open`, make one with `Package.create`."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        try:
            self.config = PRNConfig.from_dict(manifest["config"])
        except ConfigError as error:
            raise PackageError(f"{path / MANIFEST}: {printable(str(error))}") from None

    # -- reading ------------------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls, path: Path | str, verify: bool = True, *, check_signature: bool = True, public_key: Path | None = None
    ) -> "Package":
        """Read and check a package. Where it is replaced or changed meanwhile, the new one is read.

        Args:
            path: the folder NAME.prn.
            verify: also compare the sha256 of every file (about a second for 500 MB).
            check_signature: where the environment variable PRN_FAST_PUBLIC_KEY names a key, refuse a package that was
                not signed with it.
            public_key: the PEM file of a key that it must be signed with, in place of the variable's.
        Raises:
            PackageError: not a package, too new, incomplete, any file altered, or not signed as asked for.
            ConfigError: the public key cannot be used.
        """
        path = Path(path)
        key = public_key or (configured_key() if check_signature else None)
        for reads_left in reversed(range(_MAX_READS)):
            content = read_manifest(path)
            try:
                if key is not None:
                    require_signature(path, content, key)
                package = cls(path, parse_manifest(content, path / MANIFEST))
                if verify:
                    package.verify()
                return package
            except PackageError:
                if not reads_left or read_manifest(path) == content:
                    raise
        raise AssertionError("unreachable")

    def verify(self) -> None:
        """Compare every file with the manifest; a PackageError names the first that differs."""
        for name in self.manifest["files"]:
            self.verify_file(name)

    def engine_folder(self, name: str) -> Path:
        """Folder of a built engine's files, after comparing each with the manifest."""
        for file in self.engines[name]["files"]:
            self.verify_file(file)
        return self.engine_path(name)

    def engine_path(self, name: str) -> Path:
        """Where a built engine's files lie, unverified; a folder that does not exist if there is no such engine."""
        return self.path / engine_folder(self.manifest, name)

    def verify_file(self, name: str) -> Path:
        """Path of one file of the package, after comparing it with the manifest."""
        entry = self.manifest["files"].get(name)
        if entry is None:
            raise PackageError(f"{self.path}: the manifest lists no file {name}; build the package again")
        path = self.path / name
        try:
            if path.stat().st_size == entry["bytes"] and sha256_of(path) == entry["sha256"]:
                return path
            fault = "differs from what was recorded when it was made (sha256); do not use it, copy the package again "
        except FileNotFoundError:
            fault = "listed in the manifest but missing; copy the package again, as a whole, "
        except OSError as error:
            raise PackageError(f"{path}: cannot be read ({error.strerror})") from None
        self._require_current()
        raise PackageError(f"{path}: {fault}from its source")

    def _require_current(self) -> None:
        """A PackageError if the package on disk is no longer the one that was opened."""
        if read_manifest(self.path) != serialize_manifest(self.manifest):
            raise PackageError(f"{self.path}: was replaced or changed since it was opened; open it again")

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[Path]:
        """Path of a file that is the recorded one for as long as the block runs; a PackageError otherwise."""
        path = self.path / name
        try:
            before = path.stat()
            yield self.verify_file(name)
            after = path.stat()
        except (SafetensorError, OSError, ValueError) as error:
            self._require_current()
            raise PackageError(f"{path}: cannot be read ({error})") from None
        if not os.path.samestat(before, after) or before.st_mtime_ns != after.st_mtime_ns:
            raise PackageError(f"{self.path}: was replaced while it was read; open it again")

    @property
    def engines(self) -> dict[str, dict[str, Any]]:
        """Built engines: name such as "openvino:int8", and what the manifest says of it."""
        return self.manifest["engines"]

    @property
    def digest(self) -> str:
        """sha256 that stands for the whole package: that of the manifest, which holds those of all files."""
        return self.manifest["digest"]

    @property
    def is_signed(self) -> bool:
        """Whether a signature lies beside the manifest; it says nothing about whether it fits."""
        return (self.path / SIGNATURE).is_file()

    def calibration(self, name: str) -> float:
        """A figure of the calibration, such as "threshold" or "pixel_threshold"; a PackageError where it is missing."""
        value = self.manifest["calibration"].get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise PackageError(f"{self.path}: its calibration has no {name}; train the package again")
        return float(value)

    def calibration_images(self) -> NDArray[np.uint8]:
        """Normal training images (N, S, S, C), uint8."""
        return self._samples("calibration_images")[0]

    def validation(self) -> ValidationSet:
        """The validation split that the model was selected on."""
        images, labels, masks = self._samples("validation_images", "validation_labels", "validation_masks")
        return ValidationSet(images, labels.astype(np.int64), masks.astype(np.bool_))

    def _samples(self, *names: str) -> list[NDArray[Any]]:
        """Arrays of the samples, of images, labels or masks that fit the network and each other."""
        with self._reading(SAMPLES) as path:
            arrays = load_file(path)
        side, channels = self.config.image_size, self.config.image_channels
        inner = {"images": (side, side, channels), "labels": (), "masks": (side, side)}
        for name in names:
            shape = inner[name.rsplit("_", 1)[1]]
            if name not in arrays or arrays[name].ndim != 1 + len(shape) or arrays[name].shape[1:] != shape:
                raise PackageError(f"{path}: holds no {name} that fit the network; train the package again")
            if len(arrays[name]) != len(arrays[names[0]]) or (shape and arrays[name].dtype != np.uint8):
                raise PackageError(f"{path}: its {name} are of another kind or number; train the package again")
        return [arrays[name] for name in names]

    def model(self, ops: "Ops | None" = None) -> "PRN":
        """The network in eval mode, float32, on the CPU; `ops` as for `PRN`.

        Raises:
            PackageError: weights that do not fit the configuration or are not finite.
        """
        from prn_fast.kernels import REFERENCE
        from prn_fast.model.prn import PRN

        return self._loaded(WEIGHTS, lambda: PRN(self.config, REFERENCE if ops is None else ops))

    def _loaded(self, file: str, make: "Callable[[], Network]") -> "Network":
        """A network with the weights of one of the package's files, in eval mode, float32, on the CPU."""
        import torch
        from safetensors.torch import load_file as load_tensors

        from prn_fast.model.weights import require_finite

        try:
            with self._reading(file) as path:
                state = load_tensors(path)
            require_finite(state, str(path))
            with torch.device("meta"):
                network = make()
            network.load_state_dict(state, assign=True)
        except WeightsError as error:
            raise PackageError(str(error)) from None
        except RuntimeError as error:
            raise PackageError(f"{path}: does not fit the configuration ({one_line(error)})") from None
        return network.eval().requires_grad_(False)

    @property
    def has_screen(self) -> bool:
        """Whether the package has a screen; see `screen` and `early_exit`."""
        return "screen" in self.manifest

    @property
    def screen_digest(self) -> str | None:
        """sha256 of the screen's weights, which an engine that runs in two stages is built for; None without one."""
        return self.manifest["files"][self.manifest["screen"]["file"]]["sha256"] if self.has_screen else None

    def cut_shift(self, name: str) -> float:
        """By how much the logit of the cut is moved for the screen of a built engine, see `ScreenParity`."""
        return float(self.engines[name].get("early_exit", {}).get("cut_shift", 0.0))

    @property
    def early_exit(self) -> EarlyExit | None:
        """When images leave after the screen; None where all run whole, see `why_whole`."""
        if self.why_whole is not None:
            return None
        entry = self.manifest["screen"]
        figures = ("exit_share", "flagged", "lost", "loss_bound")
        if missing := [name for name in figures if name not in entry]:
            raise PackageError(
                f"{self.path}: its screen has a cut but no {missing[0]}; add the screen again (prn-train --add-screen)"
            )
        return EarlyExit(float(entry["cut"]), *(entry[name] for name in figures))

    @property
    def why_whole(self) -> str | None:
        """Why all images run whole; None where those leave early that lie below the screen's cut."""
        add = f"prn-train --add-screen {self.path}"
        if not self.has_screen:
            return f"the package has no screen; add one: {add}"
        entry = self.manifest["screen"]
        if entry["cut"] is None:
            return entry.get("why_whole") or "its screen has no cut, so that no image leaves early"
        # A cut loses none of what the network flags at a threshold, nor at a higher one.
        if self.calibration("threshold") < entry.get("threshold", 0.0):
            return (
                f"its cut was found for the threshold {entry['threshold']:.3f}, and the package's is lower now, "
                f"{self.calibration('threshold'):.3f}; find another: {add}"
            )
        return None

    def screen(self) -> "Screen":
        """The screen in eval mode, float32, on the CPU.

        Raises:
            PackageError: the package has none, or weights that do not fit or are not finite.
        """
        from prn_fast.model.screen import Screen

        if not self.has_screen:
            raise PackageError(f"{self.path}: has no screen; add one: prn-train --add-screen {self.path} --data DIR")
        entry = self.manifest["screen"]
        return self._loaded(entry["file"], lambda: Screen(self.config, entry["width"], entry["blocks"]))

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

        from prn_fast.model.weights import require_finite

        path = Path(path)
        check_writable(path)
        state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        try:
            require_finite(state, "trained weights")
        except WeightsError as error:
            raise PackageError(str(error)) from None
        samples: dict[str, NDArray[Any]] = {
            "calibration_images": np.ascontiguousarray(calibration_images),
            "validation_images": np.ascontiguousarray(validation.images),
            "validation_labels": validation.labels.astype(np.int64),
            "validation_masks": validation.masks.astype(np.uint8),
        }
        manifest = {
            "format": FORMAT_VERSION,
            "prn_fast": prn_fast.__version__,
            "created": now(),
            "config": model.config.to_dict(),
            "calibration": dict(calibration),
            "training": dict(training),
            "engines": {},
        }
        target = Path(os.path.realpath(path))
        with reporting(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            with staging_folder(target.parent) as staging:
                folder = staging / target.name
                folder.mkdir()
                try:
                    save_tensors(state, folder / WEIGHTS)
                    save_file(samples, folder / SAMPLES)
                except SafetensorError as error:
                    raise StorageError(f"{path}: cannot be written ({error}); is the disk full?") from None
                manifest["files"] = {name: describe(folder / name) for name in (WEIGHTS, SAMPLES)}
                write_file(folder / MANIFEST, _checked(manifest, path / MANIFEST))
                settle(staging)
                # Nobody adds an engine to the package that is being replaced.
                with locked(target / MANIFEST) if target.exists() else contextlib.nullcontext():
                    place_folder(folder, target)
        return cls.open(path, check_signature=False)

    def give_way(self, successor: Path) -> None:
        """Put another package into the place of this one, at once.

        Args:
            successor: folder of a whole package on the same file system. The files of this package may lie there
                afterwards, for the caller to remove.
        Raises:
            PackageError: this package was changed since it was opened.
            StorageError: it cannot be replaced; it is as it was.
        """
        target = Path(os.path.realpath(self.path))
        with reporting(self.path), locked(target / MANIFEST):
            self._require_current()
            settle(successor)
            place_folder(successor, target)

    @contextlib.contextmanager
    def building(self) -> Iterator[Path]:
        """An empty folder inside the package to build an engine in; removed at the end with all that is still in it.

        Raises:
            PackageError: the package may not be written to.
        """
        with contextlib.ExitStack() as stack:
            try:
                with staging_folder(self.path):  # where the manifest is replaced
                    pass
                (self.path / ENGINES).mkdir(exist_ok=True)
                folder = stack.enter_context(staging_folder(self.path / ENGINES, BUILDING_PREFIX))
            except OSError as error:
                raise PackageError(
                    f"{self.path}: engines are built inside their package, and this one may not be written to "
                    f"({error.strerror or error}); copy it to a folder of your own and build there"
                ) from None
            yield folder

    def add_engine(self, name: str, built: Path, description: Mapping[str, Any]) -> None:
        """Move a folder of engine files into the package and record it, replacing an engine of the same name.

        Engines that other processes have added since the package was opened are kept. A signature of the package no
        longer fits afterwards.

        Args:
            name: such as "openvino:int8".
            built: folder with the engine's files; it is moved, and gone if this fails.
            description: JSON-ready; backend, precision, versions, verification.
        Raises:
            PackageError: the package was replaced since it was opened, or the description makes no sense.
            StorageError: it cannot be written; the package is as it was.
        """
        if not ENGINE_NAME.fullmatch(name):
            raise PackageError(f"{name}: engines are named BACKEND:PRECISION, such as openvino:int8")
        folder = f"{ENGINES}/{name.replace(':', '-')}.{secrets.token_hex(4)}"
        with self.building() as staging, reporting(self.path):
            moved = staging / "engine"
            shutil.move(built, moved)
            settle(staging)
            files = {
                f"{folder}/{file.relative_to(moved).as_posix()}": describe(file)
                for file in sorted(moved.rglob("*"))
                if file.is_file()
            }
            read_manifest(self.path)
            with locked(self.path / MANIFEST):
                manifest = self._manifest_of_now()
                self._remove_unused_folders(manifest)
                replaced = manifest["engines"].get(name, {"files": []})["files"]
                folder_before = self.path / engine_folder(manifest, name)
                manifest["format"] = FORMAT_VERSION
                manifest["files"] = {
                    file: entry for file, entry in manifest["files"].items() if file not in replaced
                } | files
                manifest["engines"][name] = {
                    **description,
                    "folder": folder,
                    "files": sorted(files),
                    "created": now(),
                }
                content = _checked(manifest, self.path / MANIFEST)
                os.rename(moved, self.path / folder)
                try:
                    sync(self.path / ENGINES)
                    replace_file(self.path / MANIFEST, content)
                except BaseException:
                    # Files of the failed attempt may be in place, too.
                    if read_manifest(self.path) != content:
                        os.rename(self.path / folder, moved)
                    raise
                # From here on others may write. What cannot be removed now is left for them.
                shutil.rmtree(folder_before, ignore_errors=True)
        self.manifest = parse_manifest(content, self.path / MANIFEST)

    def add_screen(self, screen: "Screen", description: Mapping[str, Any]) -> list[str]:
        """Put a screen into the package, in place of the one that it may have.

        Built engines stay, except those that hold another screen. A signature of the package no longer fits
        afterwards.

        Args:
            screen: trained on the features and residuals of this package's network.
            description: JSON-ready: "cut" (None: all images run whole), and what else `MANIFEST_SHAPE` names.
        Returns:
            The names of engines that held another screen and were removed: they are to be built again.
        Raises:
            PackageError: weights that are not finite, a package that was replaced since it was opened, or a
                description that makes no sense.
            StorageError: it cannot be written; the package is as it was.
        """
        from safetensors.torch import save as serialize_tensors

        from prn_fast.model.weights import require_finite

        state = {name: value.detach().cpu().contiguous() for name, value in screen.state_dict().items()}
        try:
            require_finite(state, "the screen's weights")
        except WeightsError as error:
            raise PackageError(str(error)) from None
        weights = serialize_tensors(state)
        file = f"screen.{secrets.token_hex(4)}.safetensors"
        digest = hashlib.sha256(weights).hexdigest()
        read_manifest(self.path)
        with reporting(self.path), locked(self.path / MANIFEST):
            manifest = self._manifest_of_now("screen was trained for; train it")
            self._remove_unused_screens(manifest)
            engines = manifest["engines"]
            stale = [name for name, entry in engines.items() if entry.get("screen", digest) != digest]
            folders = [self.path / engine_folder(manifest, name) for name in stale]
            unused = {one for name in stale for one in engines[name]["files"]}
            if "screen" in manifest:
                unused.add(manifest["screen"]["file"])
            manifest["files"] = {name: entry for name, entry in manifest["files"].items() if name not in unused}
            manifest["files"][file] = {"sha256": digest, "bytes": len(weights)}
            manifest["engines"] = {name: entry for name, entry in engines.items() if name not in stale}
            manifest["screen"] = {
                **description,
                "file": file,
                "width": screen.width,
                "blocks": len(screen.blocks),
                "created": now(),
            }
            content = _checked(manifest, self.path / MANIFEST)
            try:
                replace_file(self.path / file, weights)
                replace_file(self.path / MANIFEST, content)
            except BaseException:
                # Files of the failed attempt may be in place, too.
                if read_manifest(self.path) != content:
                    (self.path / file).unlink(missing_ok=True)
                raise
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
            self._remove_unused_screens(manifest)
        self.manifest = parse_manifest(content, self.path / MANIFEST)
        return stale

    def recalibrate(self, calibration: Mapping[str, Any]) -> bool:
        """Put another calibration in force; the one before is kept, for `undo_calibration`. Engines stay as they are.

        A signature of the package no longer fits afterwards. Engines that are open keep the former thresholds.

        Args:
            calibration: JSON-ready; see `calibration_entry`.
        Returns:
            Whether early exit was switched off: its cut spares what the whole network flags at the former threshold,
            and a lower threshold flags more.
        Raises:
            PackageError: the package was changed since it was opened, or the calibration makes no sense.
            StorageError: it cannot be written; the package is as it was.
        """

        def change(manifest: dict[str, Any]) -> None:
            screen = manifest.get("screen", {})
            before = {"calibration": manifest["calibration"]} | ({"screen_cut": screen["cut"]} if screen else {})
            manifest["former_calibrations"] = [*manifest.get("former_calibrations", []), before]
            lower = calibration["threshold"] < manifest["calibration"]["threshold"]
            manifest["calibration"] = dict(calibration)
            if lower and screen.get("cut") is not None:
                screen["cut"] = None
                screen["why_whole"] = "the threshold was lowered by a calibration"

        cut = self.manifest.get("screen", {}).get("cut")
        self._rewrite(change)
        return cut is not None and self.manifest["screen"]["cut"] is None

    def undo_calibration(self) -> None:
        """Put the calibration before this one back in force, with the cut of early exit that belonged to it.

        Raises:
            PackageError: there is none, or the package was changed since it was opened.
            StorageError: it cannot be written; the package is as it was.
        """
        if not self.manifest.get("former_calibrations"):
            raise PackageError(f"{self.path}: has no calibration before this one; there is nothing to undo")

        def change(manifest: dict[str, Any]) -> None:
            before = manifest["former_calibrations"].pop()
            manifest["calibration"] = before["calibration"]
            if "screen" in manifest and "screen_cut" in before:
                manifest["screen"]["cut"] = before["screen_cut"]
                if before["screen_cut"] is not None:
                    manifest["screen"].pop("why_whole", None)

        self._rewrite(change)

    def _rewrite(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Replace the manifest by a changed one, unless the package was changed since it was opened."""
        with reporting(self.path), locked(self.path / MANIFEST):
            self._require_current()
            manifest = copy.deepcopy(self.manifest)
            change(manifest)
            content = _checked(manifest, self.path / MANIFEST)
            replace_file(self.path / MANIFEST, content)
        self.manifest = parse_manifest(content, self.path / MANIFEST)

    def sign(self, key: Path, ask: Callable[[], bytes] | None = None) -> None:
        """Sign the package as it was opened, with the Ed25519 private key of a PEM file.

        Args:
            key: the file.
            ask: gives the passphrase of a key that is encrypted.
        Raises:
            ConfigError: the key cannot be used.
            PackageError: the package was changed since it was opened.
            StorageError: the signature cannot be written.
        """
        signature = signature_of(serialize_manifest(self.manifest), key, ask)
        with reporting(self.path), locked(self.path / MANIFEST):
            self._require_current()
            replace_file(self.path / SIGNATURE, signature)

    def _manifest_of_now(self, made: str = "engine was built for; build it") -> dict[str, Any]:
        """The manifest on disk, of the same model as the one that was opened; `made` is what was made for that one."""
        manifest = parse_manifest(read_manifest(self.path), self.path / MANIFEST)
        for part in ("created", "config", "calibration"):
            if manifest.get(part) != self.manifest.get(part):
                break
        else:
            if all(manifest["files"][name] == self.manifest["files"][name] for name in (WEIGHTS, SAMPLES)):
                return manifest
        raise PackageError(f"{self.path}: is another package now than the one that the {made} again")

    def _remove_unused_screens(self, manifest: dict[str, Any]) -> None:
        """Remove files of screens that the manifest does not name; only under its lock."""
        used = manifest["screen"]["file"] if "screen" in manifest else None
        for entry in list(self.path.iterdir()):
            if SCREEN_FILE.fullmatch(entry.name) and entry.name != used:
                entry.unlink(missing_ok=True)

    def _remove_unused_folders(self, manifest: dict[str, Any]) -> None:
        """Remove folders of engines that the manifest does not name, as writers leave that were killed.

        Only under the lock of that manifest, before it is replaced.
        """
        used = {engine_folder(manifest, name) for name in manifest["engines"]}
        replaced = {engine_folder({"engines": {}}, name) for name in manifest["engines"]}
        for entry in list((self.path / ENGINES).iterdir()):
            place = f"{ENGINES}/{entry.name}"
            if place not in used and (place in replaced or _ENGINE_FOLDER.fullmatch(entry.name)):
                shutil.rmtree(entry, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(path: Path) -> None:
    """Refuse a target that is not named like a package, would overwrite something else, or cannot be written.

    A symlink is followed: what it leads to is written.
    """
    if path.suffix != SUFFIX:
        raise PackageError(f"{path}: a package's name ends in {SUFFIX}")
    with reporting(path):
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            raise PackageError(f"{path}: is a symlink that leads to itself; choose another name or remove it")
        if target.exists() and not (target / MANIFEST).is_file():
            raise PackageError(f"{path}: exists and is not a model package; choose another name or remove it")
    require_writable(target.parent)


def _checked(manifest: Mapping[str, Any], source: Path) -> bytes:
    """The bytes of a manifest, which can be read again; a PackageError for one that could not."""
    try:
        content = serialize_manifest(manifest)
    except ValueError:
        raise PackageError(f"{source}: not written, a figure in it is NaN or infinite") from None
    parse_manifest(content, source)
    return content


def describe(file: Path) -> dict[str, Any]:
    """What the manifest records of a file."""
    return {"sha256": sha256_of(file), "bytes": file.stat().st_size}


def now() -> str:
    """UTC time to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
