"""Whatever a manifest holds, opening ends in a package or in a PackageError."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prn_fast.engine.optimized import OptimizedEngine
from prn_fast.errors import PackageError
from prn_fast.manifest import MANIFEST_SHAPE, first_fault, parse_manifest, serialize_manifest
from prn_fast.package import Package
from tests.small_package import write_package
from tests.stub_package import build_stub

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 5, -3, 0.5, 1e-320, 1e308, 2**31, 2**63, 2**64, 10**400, -(10**400), 256.0,
    "", "text", "1", "/etc/passwd", "../../up", "a\x00b", "a/../b", "n" * 5000, "\ud800", "engines", "manifest.json",
    [], [1], [None], ["a"], [[]], [1, 2, 3], [2**40] * 3, {}, {"a": 1}, {"": None}, {"files": []},
)  # fmt: skip
DAMAGES = 3000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A package that the engine `optimized` can open, with a built engine that fills every field of its entry."""
    folder = tmp_path_factory.mktemp("manifests")
    package = write_package(folder / "a.prn", screen=True)
    description = {
        "backend": "tensorrt-rtx",
        "precision": "fp16",
        "batch": "1:8:32",
        "capabilities": ["8.9"],
        "versions": {"onnx": "1"},
        "verified": "engine run",
        "verification": {"metric_change": {"image_auroc": -0.001}, "parity": {"max_score": 0.1}},
    }
    package.add_engine("tensorrt-rtx:fp16", build_stub(folder / "built", "x"), description)
    return package


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values inside a value, objects and lists too."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inside:
        yield (*place, name)
        yield from leaves(one, (*place, name))


def altered(manifest: dict[str, Any], place: tuple[Any, ...], change: str, value: Any = None) -> dict[str, Any]:
    """A copy of a manifest with the value at a place replaced or removed, or its name replaced."""
    copied = copy.deepcopy(manifest)
    parent: Any = copied
    for name in place[:-1]:
        parent = parent[name]
    if change == "replace":
        parent[place[-1]] = value
    elif change == "rename" and isinstance(parent, dict):
        parent[value] = parent.pop(place[-1])
    else:
        del parent[place[-1]]
    return copied


def open_altered(package: Package, manifest: dict[str, Any]) -> Package | None:
    """The package with this manifest, its digest made right again; None where it is refused in one line.

    The files are those of the first package: their hashes are checked by other tests.
    """
    source = package.path / "manifest.json"
    try:
        return Package(package.path, parse_manifest(serialize_manifest(manifest), source))
    except PackageError as error:
        refusal = str(error)
    assert refusal.startswith(f"{source}: ")
    assert refusal.isprintable()
    assert len(refusal) < len(str(source)) + 400
    return None


@pytest.mark.long
def test_any_value_at_any_place_is_refused_or_harms_nothing(whole: Package) -> None:
    changed_networks: dict[frozenset, Package] = {}
    network = whole.config.to_dict()
    refused = accepted = 0
    for place in leaves(whole.manifest):
        changes = [("remove", None), *(("rename", name) for name in ODD_VALUES if isinstance(name, str))]
        for change, value in [*changes, *(("replace", value) for value in ODD_VALUES)]:
            package = open_altered(whole, altered(whole.manifest, place, change, value))
            if package is None:
                refused += 1
                continue
            accepted += 1
            assert 0 <= package.calibration("threshold") <= 1
            assert 0 <= package.calibration("pixel_threshold") <= 1
            assert leaves_early_or_says_why_not(package)
            for name, entry in package.engines.items():
                package.engine_path(name).is_dir()
                assert sum(package.manifest["files"][file]["bytes"] for file in entry["files"]) >= 0
            fields = frozenset(name for name, kept in network.items() if package.config.to_dict()[name] != kept)
            if fields:
                changed_networks[fields] = package
    assert refused > 1000
    assert accepted > 200
    # What runs the weights depends on the manifest by the network's structure alone.
    assert len(changed_networks) >= 3
    opened = [opens_in_optimized(package) for package in changed_networks.values()]
    assert 0 < sum(opened) < len(opened)
    assert opens_in_optimized(whole)


def leaves_early_or_says_why_not(package: Package) -> bool:
    """Whether a package says when images leave, or why they do not."""
    try:
        found = package.early_exit
    except PackageError as error:
        return "its screen has a cut but no " in str(error)
    return bool(package.why_whole) if found is None else 0 <= found.cut <= 1


def opens_in_optimized(package: Package) -> bool:
    """Whether the engine opens; where it does not, the package says why."""
    try:
        OptimizedEngine(package, precision="fp32").close()
    except PackageError as error:
        return "does not fit the configuration" not in str(error) and pytest.fail(str(error))
    return True


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("calibration", "threshold"), -3, "calibration.threshold must be a number from 0 to 1"),
        (("calibration", "threshold"), 5, "calibration.threshold must be a number from 0 to 1"),
        (("calibration", "threshold"), True, "calibration.threshold must be a number from 0 to 1"),
        (("calibration", "pixel_threshold"), "0.5", "calibration.pixel_threshold must be a number from 0 to 1"),
        (("calibration", "normal_tail", "mean_excess"), -1, "calibration.normal_tail.mean_excess must be"),
        (("config", "image_size"), 256.0, "config.image_size must be a whole number"),
        (("config", "image_channels"), True, "config.image_channels must be a whole number"),
        (("config", "image_size"), 2**40, "config.image_size must be a whole number from 1 to"),
        (("config", "prototypes"), [3, 3], "prototypes must be three"),
        (("files",), [], "files must be an object"),
        (("files",), {}, "model.safetensors is missing"),
        (("files", "model.safetensors", "bytes"), -1, "files.model.safetensors.bytes must be"),
        (("engines", "tensorrt-rtx:fp16", "folder"), "engines/../..", "its folder must lie in engines/"),
        (("engines", "tensorrt-rtx:fp16", "files"), ["model.safetensors"], "is not a file of its folder"),
        (("engines", "../up:fp32"), {"files": []}, "is not named BACKEND:PRECISION"),
        (("training", "data"), 5, "training.data must be a text"),
        (("training", "parts"), ["(a)"], "training.parts must be a text"),
        (("training", "seen_parts"), [5], "training.seen_parts.0 must be a text"),
        (("format",), True, "format must be a whole number"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(whole: Package, place: tuple[str, ...], value: Any, message: str) -> None:
    content = serialize_manifest(altered(whole.manifest, place, "replace", value))
    with pytest.raises(PackageError, match=re.escape(message)):
        Package(whole.path, parse_manifest(content, whole.path / "manifest.json"))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "[" * 100000 + "]" * 100000])
def test_figures_that_json_does_not_know_are_refused(whole: Package, text: str) -> None:
    threshold = json.dumps(whole.manifest["calibration"]["threshold"])
    content = serialize_manifest(whole.manifest).replace(
        f'"threshold": {threshold}'.encode(), b'"threshold": ' + text.encode()
    )
    assert content != serialize_manifest(whole.manifest)
    with pytest.raises(PackageError, match="is not valid JSON"):
        parse_manifest(content, Path("manifest.json"))


def test_damaged_bytes_are_refused(whole: Package) -> None:
    rng = np.random.default_rng(0)
    original = serialize_manifest(whole.manifest)
    for _ in range(DAMAGES):
        content = np.frombuffer(original, np.uint8).copy()
        places = rng.integers(0, len(content), rng.integers(1, 5))
        content[places] = rng.integers(0, 256, len(places))
        damaged = content.tobytes()[: rng.integers(1, len(content)) if rng.random() < 0.2 else None]
        if damaged == original:
            continue
        with pytest.raises(PackageError):
            parse_manifest(damaged, Path("manifest.json"))


def test_fields_that_this_version_does_not_know_are_left_alone(whole: Package) -> None:
    manifest = copy.deepcopy(whole.manifest)
    for part in (manifest, manifest["calibration"], manifest["training"], manifest["engines"]["tensorrt-rtx:fp16"]):
        part["later"] = {"anything": [None]}
    assert first_fault(manifest, MANIFEST_SHAPE) is None
    assert open_altered(whole, manifest) is not None
