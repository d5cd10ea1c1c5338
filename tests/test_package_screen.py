"""A package's screen: added whole or not at all, beside engines that hold it, another or none."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import prn_fast.package
from prn_fast.errors import PackageError
from prn_fast.package import Package
from tests.small_package import add_small_screen, small_screen, write_package
from tests.stub_package import build_stub


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return write_package(tmp_path / "a.prn")


def screen_files(package: Package) -> list[str]:
    return sorted(file.name for file in package.path.glob("screen.*"))


def test_a_package_gives_back_its_screen_and_when_images_leave(package):
    screen = add_small_screen(package)
    opened = Package.open(package.path)
    assert opened.has_screen
    for name, value in opened.screen().state_dict().items():
        torch.testing.assert_close(value, screen.state_dict()[name], rtol=0, atol=0)
    assert not opened.screen().training
    assert 0 < opened.early_exit.cut < 1
    assert (opened.early_exit.flagged, opened.early_exit.lost) == (12, 0)


def test_a_package_without_a_screen_opens_as_before_and_says_how_to_add_one(package):
    opened = Package.open(package.path)
    assert not opened.has_screen
    assert opened.screen_digest is None
    assert opened.early_exit is None
    with pytest.raises(PackageError, match="has no screen; add one: prn-train --add-screen"):
        opened.screen()


def test_a_screen_without_a_cut_runs_everything_whole(package):
    package.add_screen(small_screen(package.model()), {"cut": None, "why_whole": "switched off"})
    assert package.has_screen
    assert package.early_exit is None


def test_another_screen_replaces_the_first_and_removes_the_engines_that_hold_it(package, tmp_path):
    add_small_screen(package)
    first = package.screen_digest
    package.add_engine("openvino:fp32", build_stub(tmp_path / "whole", "x"), {"backend": "openvino"})
    package.add_engine("openvino:int8", build_stub(tmp_path / "staged", "y"), {"backend": "openvino", "screen": first})
    folder = package.engine_path("openvino:int8")

    assert package.add_screen(package.screen(), {"cut": None}) == []
    assert package.screen_digest == first
    assert package.add_screen(small_screen(package.model(), seed=1), {"cut": None}) == ["openvino:int8"]

    opened = Package.open(package.path)
    assert set(opened.engines) == {"openvino:fp32"}
    assert not folder.exists()
    assert opened.screen_digest != first
    assert screen_files(opened) == [opened.manifest["screen"]["file"]]


@pytest.mark.parametrize("failing", [1, 2], ids=["weights", "manifest"])
@pytest.mark.parametrize("before", [False, True], ids=["first", "second"])
def test_a_screen_that_cannot_be_written_leaves_the_package_as_it_was(package, monkeypatch, before, failing):
    if before:
        add_small_screen(package)
    manifest, files = (package.path / "manifest.json").read_bytes(), screen_files(package)
    screen, replace_file, calls = small_screen(package.model(), seed=1), prn_fast.package.replace_file, []

    def fail(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        replace_file(path, content)

    monkeypatch.setattr("prn_fast.package.replace_file", fail)
    with pytest.raises(PackageError.__mro__[1], match="No space left"):
        package.add_screen(screen, {"cut": None})
    assert (package.path / "manifest.json").read_bytes() == manifest
    assert screen_files(package) == files
    Package.open(package.path)


def test_what_a_killed_writer_left_is_swept(package):
    left = package.path / "screen.00000000.safetensors"
    left.write_bytes(b"half")
    add_small_screen(package)
    assert not left.exists()


def test_a_screen_is_not_put_into_another_package_than_it_was_trained_for(package):
    stale, screen = Package.open(package.path), small_screen(package.model())
    write_package(package.path, seed=1)
    with pytest.raises(PackageError, match="the screen was trained for; train it again"):
        stale.add_screen(screen, {"cut": None})


def test_weights_with_nan_and_figures_that_make_no_sense_are_not_written(package):
    screen = small_screen(package.model())
    with pytest.raises(PackageError, match="cut must be"):
        package.add_screen(screen, {"cut": 1.5})
    with pytest.raises(PackageError, match="NaN or infinite"):
        package.add_screen(screen, {"cut": float("nan")})
    screen.out.bias.fill_(torch.nan)
    with pytest.raises(PackageError, match=r"screen's weights.*NaN"):
        package.add_screen(screen, {"cut": None})
    assert not Package.open(package.path).has_screen


def test_a_changed_byte_in_the_screen_is_refused(package):
    add_small_screen(package)
    (file,) = package.path.glob("screen.*")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(PackageError, match="sha256"):
        Package.open(package.path)


def test_a_screen_of_another_width_is_refused(package):
    add_small_screen(package)
    file = package.path / package.manifest["screen"]["file"]
    state = load_file(file)
    state.pop("out.bias")
    save_file(state, file)
    package.manifest["files"][file.name] = prn_fast.package.describe(file)
    with pytest.raises(PackageError, match="does not fit the configuration"):
        package.screen()


@pytest.mark.parametrize(("change", "leaves"), [(-0.01, False), (0.0, True), (0.01, True)])
def test_a_cut_holds_for_no_lower_threshold_than_it_was_found_for(package, change, leaves):
    add_small_screen(package)
    package.manifest["calibration"]["threshold"] += change
    assert (package.early_exit is not None) == leaves
    assert leaves or "find another: prn-train --add-screen" in package.why_whole
