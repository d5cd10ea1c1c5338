"""The manifest of a model package: its bytes, and what it must hold. A manifest that passes cannot trip its readers."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from prn_fast.errors import PackageError, printable
from prn_fast.files import aside

FORMAT_VERSION = 2  # 2: an engine names its folder
MANIFEST, SIGNATURE, WEIGHTS, SAMPLES = "manifest.json", "manifest.sig", "model.safetensors", "samples.safetensors"
SCREEN_FILE = re.compile(r"screen\.[0-9a-f]{8}\.safetensors")
ENGINES = "engines"
ENGINE_NAME = re.compile(r"[a-z0-9-]+:[a-z0-9]+")
_COPY_AGAIN = "copy the package again from its source"


# -- what a value must be --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """A condition on a value, and how to say it: "must be ..."."""

    holds: Callable[[Any], bool]
    wanted: str


@dataclass(frozen=True)
class Each:
    """An object with any names, whose values all follow one rule."""

    rule: "Shape"


@dataclass(frozen=True)
class Nullable:
    """null, or what follows the rule."""

    rule: "Shape"


# A dict is an object: each field with its shape, those that end in "?" may be missing, others than these are allowed.
# A list of one shape is a list of any length.
Shape = Rule | Each | Nullable | dict[str, Any] | list[Any]


def _number(low: float = -1e300, high: float = 1e300, kinds: Any = (int, float)) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high


def _count(least: int, most: int) -> Rule:
    return Rule(_number(least, most, int), f"a whole number from {least} to {most}")


def _is_file_name(value: Any) -> bool:
    """A relative path with "/" between its parts that means the same everywhere."""
    return (
        isinstance(value, str)
        and 0 < len(value.encode(errors="replace")) <= 1024
        and value.isprintable()
        and "\\" not in value
        and PurePosixPath(value).as_posix() == value
        and all(len(part.encode()) <= 255 for part in PurePosixPath(value).parts)
    )


TEXT = Rule(lambda value: isinstance(value, str), "a text")
NAME = Rule(lambda value: isinstance(value, str) and len(value) < 100 and value.isprintable(), "a short name")
NUMBER = Rule(_number(), "a number")
NOT_NEGATIVE = Rule(_number(0), "a number of at least 0")
GREY = Rule(_number(0, 255), "a number from 0 to 255")
SHARE = Rule(_number(0, 1), "a number from 0 to 1")
COUNT = _count(0, 2**63 - 1)
OBJECT = Rule(lambda value: isinstance(value, dict), "an object")
SHA256 = Rule(lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value)), "a sha256 in hex")
FILE_NAME = Rule(_is_file_name, "the name of a file")

CALIBRATION_SHAPE: Shape = {
    "threshold": SHARE,
    "pixel_threshold": SHARE,
    "f1_threshold?": SHARE,
    "false_alarm_rate?": SHARE,
    "promised_rate?": Nullable(SHARE),
    "rate_bound?": Nullable(SHARE),
    "normals?": COUNT,
    "lowest_rate?": SHARE,
    "highest_scores?": [SHARE],
    "normal_tail?": {"level": NUMBER, "share": SHARE, "mean_excess": NOT_NEGATIVE},
    "probability?": {"slope": NUMBER, "intercept": NUMBER},  # of earlier versions; nothing reads it
    "normal_score_quantiles?": Each(SHARE),
    # What good images were like: `prn_fast.drift` compares a line with it.
    "reference?": {
        "images": COUNT,
        "precision": NAME,
        "score": [SHARE],
        "brightness": [GREY],
        "contrast": [GREY],
    },
    "per_image?": Rule(lambda value: isinstance(value, bool), "true or false"),
    "defects?": TEXT,
    "detection?": [
        {
            "false_alarm_rate": SHARE,
            "threshold": SHARE,
            "detected": COUNT,
            "defects": COUNT,
            "low": SHARE,
            "high": SHARE,
        }
    ],
    "kinds?": Each({"detected": COUNT, "defects": COUNT, "low": SHARE, "high": SHARE}),
    "source?": TEXT,
    "date?": TEXT,
}

MANIFEST_SHAPE: Shape = {
    "format": _count(1, FORMAT_VERSION),
    "prn_fast": TEXT,
    "created?": TEXT,
    # `PRNConfig` knows which of these make sense together.
    "config": {
        "backbone": NAME,
        "image_size": _count(1, 16384),
        "image_channels": _count(1, 3),
        "prototypes": [_count(1, 2**20)],
        "attention_layers": _count(1, 64),
        "patch_divisors": [_count(1, 1024)],
        "projection": NAME,
        "residual?": NAME,
        "score?": NAME,
        "memory?": _count(0, 2**20),
    },
    "calibration": CALIBRATION_SHAPE,
    # Former calibrations, the oldest first; with each, the cut of early exit that belonged to it.
    "former_calibrations?": [{"calibration": CALIBRATION_SHAPE, "screen_cut?": Nullable(SHARE)}],
    "training": {
        "data?": TEXT,
        "layout?": TEXT,
        "preset?": TEXT,
        "parts?": Nullable(TEXT),
        "seen?": [TEXT],
        "most_normals?": Nullable(_count(2, 2**40)),
        "seen_parts?": Nullable([Nullable(TEXT)]),
        "seen_fingerprints?": Nullable([OBJECT]),
        "tiles?": Nullable({"overlap": COUNT}),
        "minutes?": NOT_NEGATIVE,
        "steps?": COUNT,
        "validation?": Each(NUMBER),
    },
    "screen?": {
        "file": Rule(lambda value: isinstance(value, str) and bool(SCREEN_FILE.fullmatch(value)), "a file of a screen"),
        "width": _count(1, 4096),
        "blocks": _count(0, 64),
        # Images whose screen score lies below it leave early; null: none does, everything runs whole.
        "cut": Nullable(SHARE),
        "why_whole?": Nullable(TEXT),
        "margin?": NOT_NEGATIVE,
        "wanted_loss?": SHARE,
        "threshold?": SHARE,
        "normals?": COUNT,
        "exit_share?": SHARE,
        "flagged?": COUNT,
        "flagged_seen?": COUNT,
        "fitted?": COUNT,
        "smallest?": NOT_NEGATIVE,
        "lost?": COUNT,
        "loss_bound?": SHARE,
        "training?": OBJECT,
    },
    "files": Each({"sha256": SHA256, "bytes": COUNT}),
    "engines": Each(
        {
            "files": [FILE_NAME],
            "folder?": FILE_NAME,
            "created?": TEXT,
            "backend?": TEXT,
            "precision?": TEXT,
            "batch?": TEXT,
            "capabilities?": [TEXT],
            "versions?": Each(TEXT),
            "verified?": TEXT,
            "screen?": SHA256,
            "early_exit?": {"cut_shift?": NUMBER},
            "verification?": {"metric_change": {"image_auroc": NUMBER}},
        }
    ),
    "digest": SHA256,
}


def first_fault(value: Any, shape: Shape, place: str = "") -> str | None:
    """Where a value differs from its shape, such as "calibration.threshold must be a number from 0 to 1"; or None."""
    if isinstance(shape, Nullable):
        return None if value is None else first_fault(value, shape.rule, place)
    if isinstance(shape, Rule):
        return None if shape.holds(value) else f"{place} must be {shape.wanted}"
    inside = f"{place}." if place else ""
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{place} must be a list"
        parts: list[tuple[Any, Shape, str]] = [(one, shape[0], f"{inside}{number}") for number, one in enumerate(value)]
    elif not isinstance(value, dict):
        return f"{place or 'it'} must be an object"
    elif isinstance(shape, Each):
        parts = [(one, shape.rule, f"{inside}{name}") for name, one in value.items()]
    else:
        parts = []
        for field, rule in shape.items():
            name = field.removesuffix("?")
            if name in value:
                parts.append((value[name], rule, f"{inside}{name}"))
            elif name == field:
                return f"{inside}{name} is missing"
    return next((fault for part in parts if (fault := first_fault(*part))), None)


# -- reading and writing ---------------------------------------------------------------------------------------------


def serialize_manifest(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest: its JSON, with a digest over everything else in it."""
    content = {name: value for name, value in manifest.items() if name != "digest"}
    canonical = json.dumps(content, sort_keys=True, allow_nan=False).encode()
    content["digest"] = hashlib.sha256(canonical).hexdigest()
    return (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def read_manifest(package: Path) -> bytes:
    """The manifest's bytes; a PackageError where `package` is not the folder of a package."""
    file = package / MANIFEST
    try:
        if not package.is_dir():
            if (kept := aside(package)).is_dir():
                raise PackageError(
                    f"{package}: was being replaced when that was cut short; the package before lies in {kept}, whole: "
                    f"rename it to {package.name}"
                )
            if package.exists():
                raise PackageError(f"{package}: is a file; a package is a folder, NAME.prn")
            raise PackageError(f"{package}: no such package folder; prn-train makes one")
        if not file.is_file():
            raise PackageError(f"{package}: not a model package, {MANIFEST} is missing")
        return file.read_bytes()
    except (OSError, ValueError) as error:
        raise PackageError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def parse_manifest(content: bytes, source: Path) -> dict[str, Any]:
    """A manifest of its bytes, checked.

    Args:
        content: as `serialize_manifest` makes it.
        source: the file that the bytes come from, for messages.
    Raises:
        PackageError: not JSON, too new, altered, or a value that makes no sense; says which.
    """
    try:
        manifest = json.loads(content)  # NaN and infinities are found by what follows
        unaltered = serialize_manifest(manifest) == content if isinstance(manifest, dict) else True
    except (ValueError, RecursionError):
        raise PackageError(f"{source}: is not valid JSON; {_COPY_AGAIN}") from None
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise PackageError(
            f"{source}: has format {str(version)[:20]}, this prn_fast reads up to {FORMAT_VERSION}; upgrade prn_fast"
        )
    if not unaltered:
        raise PackageError(f"{source}: was altered after it was written; {_COPY_AGAIN}")
    fault = first_fault(manifest, MANIFEST_SHAPE) or _first_wrong_name(manifest)
    if fault:
        raise PackageError(f"{source}: is not a manifest of a model package ({printable(fault)}); {_COPY_AGAIN}")
    return manifest


def engine_folder(manifest: Mapping[str, Any], name: str) -> str:
    """Where an engine of a manifest lies inside its package. Format 1 has "openvino:int8" in engines/openvino-int8."""
    return manifest["engines"].get(name, {}).get("folder") or f"{ENGINES}/{name.replace(':', '-')}"


def _first_wrong_name(manifest: dict[str, Any]) -> str | None:
    """What is wrong with names of files and engines, or with scores, which the shape knows nothing of; or None."""
    files = manifest["files"]
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            return f"files: {name} is outside the package"
        if not FILE_NAME.holds(name) or name in (MANIFEST, SIGNATURE):
            return f"files: {name} must be {FILE_NAME.wanted}"
    for name in (WEIGHTS, SAMPLES):
        if name not in files:
            return f"files: {name} is missing"
    if "screen" in manifest and manifest["screen"]["file"] not in files:
        return f"screen: its file {manifest['screen']['file']} is missing in files"
    for calibration in (
        manifest["calibration"],
        *(one["calibration"] for one in manifest.get("former_calibrations", ())),
    ):
        if "highest_scores" in calibration and not (
            "normals" in calibration
            and min(calibration["normals"], math.ceil((calibration["normals"] + 1) / 4))
            <= len(calibration["highest_scores"])
            and calibration["highest_scores"] == sorted(calibration["highest_scores"], reverse=True)
        ):
            return "calibration: highest_scores must be those of the normals, the highest first"
    folders: dict[str, str] = {}
    for name, entry in manifest["engines"].items():
        if not ENGINE_NAME.fullmatch(name):
            return f"engines: {name} is not named BACKEND:PRECISION"
        folder = engine_folder(manifest, name)
        parts = PurePosixPath(folder).parts
        if len(parts) != 2 or parts[0] != ENGINES or parts[1].startswith("."):
            return f"engines.{name}: its folder must lie in {ENGINES}/"
        if folder in folders:
            return f"engines.{name}: has the folder of {folders[folder]}"
        folders[folder] = name
        for file in entry["files"]:
            if file not in files or not file.startswith(f"{folder}/"):
                return f"engines.{name}: {file} is not a file of its folder"
    return None
