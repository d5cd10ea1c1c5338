import json

import numpy as np
import pytest
import torch

from prn_fast.errors import PackageError
from prn_fast.package import FORMAT_VERSION, Package, ValidationSet, serialize_manifest
from tests.small_package import SIDE, small_config, small_model, textured_images
from tests.stub_package import write_stub


@pytest.fixture
def package(tmp_path):
    """A fresh package, whose weights are those of no network."""
    return write_stub(tmp_path / "fresh.prn")


def rewrite_manifest(package, change):
    """Change the manifest and make its digest right again: what a newer or broken writer might leave."""
    manifest = json.loads((package.path / "manifest.json").read_text())
    change(manifest)
    (package.path / "manifest.json").write_bytes(serialize_manifest(manifest))


def test_a_package_gives_back_what_went_in(tmp_path):
    model = small_model(small_config(channels=3))
    images = textured_images(8, 3, 1)
    validation = ValidationSet(images, np.arange(8) % 2, np.arange(8 * SIDE * SIDE).reshape(8, SIDE, SIDE) % 3 == 0)
    package = Package.create(
        tmp_path / "deep" / "a.prn",
        model,
        calibration_images=images[:4],
        validation=validation,
        calibration={"threshold": 0.5, "pixel_threshold": 0.4},
        training={"seen": ["test/crack/1.png"]},
    )
    read = Package.open(package.path)
    assert read.config == model.config
    assert read.manifest["training"]["seen"] == ["test/crack/1.png"]
    np.testing.assert_array_equal(read.calibration_images(), images[:4])
    for name in ("images", "labels", "masks"):
        np.testing.assert_array_equal(getattr(read.validation(), name), getattr(validation, name))
    with torch.no_grad():
        for expected, found in zip(
            model.detect(torch.from_numpy(images)), read.model(model.ops).detect(torch.from_numpy(images)), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "samples.safetensors"])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_one_changed_byte_anywhere_is_refused(package, name, place):
    file = package.path / name
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)
    with pytest.raises(PackageError, match=name):
        Package.open(package.path)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "samples.safetensors"])
def test_a_missing_file_is_named(package, name):
    (package.path / name).unlink()
    with pytest.raises(PackageError, match=name):
        Package.open(package.path)


def test_a_newer_format_says_upgrade(package):
    rewrite_manifest(package, lambda manifest: manifest.update(format=FORMAT_VERSION + 1))
    with pytest.raises(PackageError, match="upgrade prn_fast"):
        Package.open(package.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("calibration"), "not a manifest"),
        (lambda m: m.update(format="one"), "not a manifest"),
        (lambda m: m["config"].update(backbone="vgg"), "unknown backbone"),
        (lambda m: m["files"].update({"../outside": {"sha256": "0" * 64, "bytes": 0}}), "outside the package"),
        (lambda m: None, "does not fit the configuration"),
    ],
    ids=["missing-field", "format", "config", "path", "weights"],
)
def test_manifests_that_make_no_sense_are_refused(package, change, message):
    rewrite_manifest(package, change)
    with pytest.raises(PackageError, match=message):
        Package.open(package.path).model()


@pytest.mark.parametrize("content", ["", "[]", "{", '"text"'])
def test_a_manifest_that_is_none_is_refused(package, content):
    (package.path / "manifest.json").write_text(content)
    with pytest.raises(PackageError, match=r"manifest\.json"):
        Package.open(package.path)


def test_weights_with_nan_are_neither_written_nor_read(tmp_path):
    model = small_model(small_config())
    model.decoder.out.bias.data.fill_(float("nan"))
    arguments = {
        "calibration_images": textured_images(2, 1, 0),
        "validation": ValidationSet(textured_images(2, 1, 0), np.arange(2), np.zeros((2, SIDE, SIDE), bool)),
        "calibration": {},
        "training": {},
    }
    with pytest.raises(PackageError, match="NaN"):
        Package.create(tmp_path / "nan.prn", model, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_only_packages_are_overwritten(tmp_path):
    (tmp_path / "mine.prn").mkdir()
    (tmp_path / "mine.prn" / "thesis.txt").write_text("years of work")
    with pytest.raises(PackageError, match="is not a model package"):
        write_stub(tmp_path / "mine.prn")
    with pytest.raises(PackageError, match=r"ends in \.prn"):
        write_stub(tmp_path / "mine")
    assert (tmp_path / "mine.prn" / "thesis.txt").read_text() == "years of work"


def test_an_existing_package_is_replaced_and_nothing_else_is_left(package):
    write_stub(package.path, seed=7)
    assert Package.open(package.path).manifest["training"]["seed"] == 7
    assert [path.name for path in package.path.parent.iterdir()] == [package.path.name]


def test_engines_are_recorded_verified_and_replaced(package, tmp_path):
    for content in (b"first", b"second"):
        built = tmp_path / "built"
        built.mkdir()
        (built / "model.bin").write_bytes(content)
        package.add_engine("openvino:fp32", built, {"precision": "fp32"})
    read = Package.open(package.path)
    folder = read.engine_path("openvino:fp32")
    assert folder.parent == package.path / "engines"
    assert read.engines["openvino:fp32"]["files"] == [f"engines/{folder.name}/model.bin"]
    assert (read.engine_folder("openvino:fp32") / "model.bin").read_bytes() == b"second"
    (folder / "model.bin").write_bytes(b"Second")
    with pytest.raises(PackageError, match=r"model\.bin"):
        read.engine_folder("openvino:fp32")


def test_no_package_is_named(tmp_path):
    with pytest.raises(PackageError, match="no such package"):
        Package.open(tmp_path / "none.prn")


def test_nothing_in_a_package_is_a_pickle(built_package_path):
    suffixes = {path.suffix for path in built_package_path.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors", ".xml", ".bin"}


def test_evenly_chosen_pairs_keep_each_anomaly_with_its_normal():
    images = np.arange(14, dtype=np.uint8).reshape(14, 1, 1, 1)
    whole = ValidationSet(images, np.repeat(np.array([0, 1]), 7), images[..., 0] > 6)
    fewer = whole.fewer(3)
    assert fewer.images.ravel().tolist() == [0, 3, 6, 7, 10, 13]
    assert fewer.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert fewer.masks.ravel().tolist() == [False] * 3 + [True] * 3
