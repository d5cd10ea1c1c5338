"""A package is valid at every moment: whatever call fails, wherever a process dies, and whoever else writes."""

import contextlib
import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import prn_fast.files
from prn_fast.build import build_engine
from prn_fast.errors import PackageError, PRNError, StorageError
from prn_fast.manifest import engine_folder, serialize_manifest
from prn_fast.package import Package, check_writable
from tests.faults import as_user_without_rights, in_child, run_to_fault
from tests.stub_package import add_stub, build_stub, engines_of, seed_of, write_stub

pytestmark = pytest.mark.usefixtures("no_syncing")
# A killed process is started anew for each place.
FAULTS = ("EIO", pytest.param("kill", marks=pytest.mark.long))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with two engines; the folder that it lies in is to be copied."""
    package = write_stub(tmp_path_factory.mktemp("template") / "a.prn", seed=1)
    add_stub(package, "openvino:int8", "first")
    add_stub(package, "openvino:fp32", "other")
    return package.path


@pytest.fixture(scope="module")
def format_1_template(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as the first format has it: each engine in engines/BACKEND-PRECISION."""
    path = Path(shutil.copytree(template, tmp_path_factory.mktemp("format_1") / "a.prn"))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["format"] = 1
    for name, entry in manifest["engines"].items():
        new, old = entry.pop("folder"), engine_folder({"engines": {}}, name)
        (path / new).rename(path / old)
        entry["files"] = [file.replace(new, old) for file in entry["files"]]
        manifest["files"] = {file.replace(new, old): value for file, value in manifest["files"].items()}
    (path / "manifest.json").write_bytes(serialize_manifest(manifest))
    return path


@contextlib.contextmanager
def copy_of(template: Path, folder: Path) -> Iterator[Path]:
    """A copy of the template, and beside its folder what a builder has made: the engine "second"."""
    copied = Path(shutil.copytree(template, folder / "work" / "a.prn"))
    build_stub(folder / "built", "second")
    yield copied
    shutil.rmtree(folder / "work")
    shutil.rmtree(folder / "built", ignore_errors=True)


def assert_no_left_overs(package: Package) -> None:
    """Nothing lies beside the package, nor in it beside what its manifest names."""
    assert [entry.name for entry in package.path.parent.iterdir()] == [package.path.name]
    files = {path.relative_to(package.path).as_posix() for path in package.path.rglob("*") if path.is_file()}
    assert files == {"manifest.json", *package.manifest["files"]}
    assert {entry.name for entry in (package.path / "engines").iterdir()} == {
        engine_folder(package.manifest, name).split("/")[1] for name in package.engines
    }


def package_folder(path: Path, name: str) -> str:
    """Name of the folder of an engine, in engines/."""
    return Package.open(path).engine_path(name).name


def every_fault(template: Path, folder: Path, action: Callable[[Path], None], how: str) -> Iterator[Path]:
    """The package after each call of an action has failed in turn."""
    for number in range(1000):
        with copy_of(template, folder) as path:
            there_were_so_many = run_to_fault(lambda path=path: action(path), number, how)
            yield path
        if not there_were_so_many:
            assert number > 20
            return


@pytest.mark.parametrize(
    ("how", "old_format"),
    [("EIO", False), ("ENOSPC", True), *(pytest.param("kill", old, marks=pytest.mark.long) for old in (False, True))],
    ids=str,
)
def test_adding_an_engine_leaves_the_old_or_the_new_wherever_it_fails(
    request: pytest.FixtureRequest, tmp_path: Path, how: str, old_format: bool
) -> None:
    seen = []
    template = request.getfixturevalue("format_1_template" if old_format else "template")

    def add(path: Path) -> None:
        Package.open(path).add_engine("openvino:int8", tmp_path / "built", {})

    for path in every_fault(template, tmp_path, add, how):
        found = engines_of(Package.open(path))
        seen.append(found.pop("openvino:int8"))
        assert found == {"openvino:fp32": "other"}
        if how != "kill" and seen[-1] == "first":
            folders = {entry.name for entry in (path / "engines").iterdir() if not entry.name.startswith(".")}
            assert folders == {package_folder(path, name) for name in ("openvino:int8", "openvino:fp32")}
        # The next writer adds its engine and cleans up.
        package = Package.open(path)
        add_stub(package, "openvino:bf16", "third")
        assert engines_of(Package.open(path)) == found | {"openvino:int8": seen[-1], "openvino:bf16": "third"}
        assert_no_left_overs(package)
    assert set(seen) == {"first", "second"}
    assert seen[-1] == "second"


@pytest.mark.parametrize("how", FAULTS)
def test_replacing_a_package_leaves_the_old_or_the_new_wherever_it_fails(
    template: Path, tmp_path: Path, how: str
) -> None:
    seen = []
    for path in every_fault(template, tmp_path, lambda path: write_stub(path, seed=2), how):
        package = Package.open(path)
        seen.append(seed_of(package))
        assert engines_of(package) == ({"openvino:int8": "first", "openvino:fp32": "other"} if seen[-1] == 1 else {})
        add_stub(package, "openvino:int8", "third")
        write_stub(path, seed=3)
        assert [entry.name for entry in path.parent.iterdir()] == ["a.prn"]
    assert set(seen) == {1, 2}
    assert seen[-1] == 2


@pytest.mark.parametrize("how", FAULTS)
def test_where_folders_cannot_be_exchanged_nothing_is_lost_either(
    template: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prn_fast.files, "exchange", lambda one, other: False)
    seen = []
    for path in every_fault(template, tmp_path, lambda path: write_stub(path, seed=2), how):
        if path.exists() or how != "kill":
            seen.append(seed_of(Package.open(path)))
        else:
            kept = path.with_name(".a.prn.replaced")
            with pytest.raises(PackageError, match=str(kept)):
                Package.open(path)
            assert seed_of(Package.open(kept)) == 1
            seen.append(0)
        write_stub(path, seed=3)
        assert [entry.name for entry in path.parent.iterdir()] == ["a.prn"]
    assert set(seen) == ({0, 1, 2} if how == "kill" else {1, 2})


@pytest.mark.parametrize("how", ["ENOSPC", "kill"])
def test_a_new_package_is_there_whole_or_not_at_all(tmp_path: Path, how: str) -> None:
    for number in range(1000):
        path = tmp_path / str(number) / "a.prn"
        failed = run_to_fault(lambda path=path: write_stub(path, seed=2), number, how)
        if path.exists():
            assert seed_of(Package.open(path)) == 2
        if not failed:
            break
        write_stub(path, seed=3)
        assert [entry.name for entry in path.parent.iterdir()] == ["a.prn"]
    assert number > 20


def test_two_processes_that_add_engines_lose_none(template: Path, tmp_path: Path) -> None:
    rounds, workers = 12, ("left", "right")
    path = Path(shutil.copytree(template, tmp_path / "a.prn"))
    package = Package.open(path)
    children = []
    for worker in workers:
        if (child := os.fork()) == 0:
            code = 1
            try:
                for number in range(rounds):
                    add_stub(package, f"{worker}:{number}", f"{worker} {number}")
                    add_stub(package, "shared:fp32", f"{worker} {number}")
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    opened = 0
    while children:
        # A reader finds a valid package at every moment.
        engines_before = Package.open(path).engines
        assert {"openvino:int8", "openvino:fp32"} <= set(engines_before)
        opened += 1
        ended, status = os.waitpid(children[0], os.WNOHANG)
        if ended:
            assert status == 0
            children.pop(0)
    package = Package.open(path)
    found = engines_of(package)
    assert found.pop("shared:fp32") in {f"{worker} {rounds - 1}" for worker in workers}
    assert found == {"openvino:int8": "first", "openvino:fp32": "other"} | {
        f"{worker}:{number}": f"{worker} {number}" for worker in workers for number in range(rounds)
    }
    assert opened > 1
    assert_no_left_overs(package)


def test_a_reader_finds_a_package_while_it_is_replaced_again_and_again(template: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(template, tmp_path / "a.prn"))
    # Where folders cannot be exchanged, a reader may find nothing for a moment.
    assert prn_fast.files.exchange(*(Path(tempfile.mkdtemp(dir=tmp_path)) for _ in range(2)))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for seed in range(2, 40):
                write_stub(path, seed)
            code = 0
        finally:
            os._exit(code)
    ended = 0
    while not ended:
        Package.open(path)
        ended, status = os.waitpid(child, os.WNOHANG)
    assert status == 0
    assert seed_of(Package.open(path)) == 39


@pytest.mark.parametrize("what", ["calibration_images", "validation", "model", "engine"])
def test_an_open_package_that_was_replaced_gives_no_mixture(template: Path, tmp_path: Path, what: str) -> None:
    package = Package.open(shutil.copytree(template, tmp_path / "a.prn"))
    write_stub(package.path, seed=2)
    read = {"engine": lambda: package.engine_folder("openvino:int8")}.get(what) or getattr(package, what)
    with pytest.raises(PackageError, match="open it again"):
        read()


def test_a_file_that_is_replaced_while_it_is_read_is_noticed(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Package.open(shutil.copytree(template, tmp_path / "a.prn"))
    load = prn_fast.package.load_file

    def load_late(path: Path) -> object:
        write_stub(package.path, seed=2)
        return load(path)

    monkeypatch.setattr(prn_fast.package, "load_file", load_late)
    with pytest.raises(PackageError, match="was replaced while it was read"):
        package.calibration_images()


def test_an_engine_is_not_put_into_another_package_than_it_was_built_for(template: Path, tmp_path: Path) -> None:
    package = Package.open(shutil.copytree(template, tmp_path / "a.prn"))
    write_stub(package.path, seed=2)
    with pytest.raises(PackageError, match="another package now"):
        add_stub(package, "openvino:int8", "of the one before")
    assert Package.open(package.path).engines == {}


def test_dead_builds_are_swept_and_living_ones_are_not(template: Path, tmp_path: Path) -> None:
    package = Package.open(shutil.copytree(template, tmp_path / "a.prn"))
    dead = [package.path / "engines" / ".building-abc", package.path / "engines" / "openvino-fp16.01234567"]
    for folder in dead:
        build_stub(folder, "half")
    mine = package.path / "engines" / "notes"
    mine.mkdir()
    with package.building() as living:
        (living / "model.xml").write_text("in the making")
        assert in_child(lambda: add_stub(package, "openvino:bf16", "third")) == 0
        assert (living / "model.xml").read_text() == "in the making"
    assert not any(folder.exists() for folder in [*dead, living])
    assert mine.is_dir()


def test_an_engine_from_elsewhere_is_moved_in(template: Path, tmp_path: Path) -> None:
    package = Package.open(shutil.copytree(template, tmp_path / "a.prn"))
    built = build_stub(tmp_path / "built", "from elsewhere")
    package.add_engine("openvino:bf16", built, {})
    assert engines_of(package)["openvino:bf16"] == "from elsewhere"
    assert not built.exists()


def test_an_engine_that_cannot_be_copied_in_is_one_line(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Package.open(shutil.copytree(template, tmp_path / "a.prn"))
    built = build_stub(tmp_path / "built", "from another disk")
    os.mkfifo(built / "pipe")

    def another_disk(*paths: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "rename", another_disk)
    with pytest.raises(StorageError, match=r"a\.prn: cannot be written \(.*is a named pipe") as caught:
        package.add_engine("openvino:bf16", built, {})
    assert "[(" not in str(caught.value)
    assert set(engines_of(Package.open(package.path))) == {"openvino:int8", "openvino:fp32"}


@pytest.mark.parametrize(
    "description", [{"verification": {"metric_change": {"image_auroc": float("nan")}}}, {"batch": 3}]
)
def test_what_could_not_be_opened_is_not_written(template: Path, tmp_path: Path, description: dict) -> None:
    package = Package.open(shutil.copytree(template, tmp_path / "a.prn"))
    with pytest.raises(PackageError, match=r"manifest\.json"):
        package.add_engine("openvino:bf16", build_stub(tmp_path / "built", "x"), description)
    with pytest.raises(PackageError, match="NaN"):
        write_stub(package.path, calibration={"threshold": float("nan"), "pixel_threshold": 0.5})
    with pytest.raises(PackageError, match="threshold"):
        write_stub(package.path, calibration={"pixel_threshold": 0.5})
    assert set(engines_of(Package.open(package.path))) == {"openvino:int8", "openvino:fp32"}


@pytest.mark.parametrize("mask", [0o027, 0o002])
def test_files_and_folders_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        package = write_stub(tmp_path / "deep" / "a.prn")
        built = build_stub(tmp_path / "built", "x")
        built.chmod(0o700)
        (built / "model.xml").chmod(0o600)
        package.add_engine("openvino:int8", built, {})
    finally:
        os.umask(before)
    found = {path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert {"deep/a.prn/model.safetensors", "deep/a.prn/samples.safetensors", "deep/a.prn/manifest.json"} <= set(found)
    assert found == {name: (0o777 if (tmp_path / name).is_dir() else 0o666) & ~mask for name in found}


def test_a_symlink_is_followed(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "a.prn").symlink_to(tmp_path / "store" / "version-1")
    for seed in (1, 2):
        package = write_stub(tmp_path / "a.prn", seed)
        add_stub(package, "openvino:int8", "x")
        assert (tmp_path / "a.prn").is_symlink()
        assert seed_of(Package.open(tmp_path / "store" / "version-1")) == seed
        assert [entry.name for entry in (tmp_path / "store").iterdir()] == ["version-1"]


def test_targets_that_cannot_be_written_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "loop.prn").symlink_to("loop.prn")
    (tmp_path / "file").write_text("")
    (tmp_path / "link.prn").symlink_to(tmp_path / "file")
    for name, message in (
        ("loop.prn", "leads to itself"),
        ("link.prn", "is not a model package"),
        ("file/a.prn", "not a folder"),
        (f"{'n' * 300}.prn", "choose a shorter name"),
    ):
        with pytest.raises(PRNError, match=message):
            check_writable(tmp_path / name)
    assert {entry.name for entry in tmp_path.iterdir()} == {"loop.prn", "file", "link.prn"}


def test_a_read_only_package_opens_and_says_at_once_that_nothing_can_be_built_in_it(
    template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(prn_fast.build.BUILDERS, "openvino", f"{__name__}._must_not_build")
    with tempfile.TemporaryDirectory() as name:
        # A folder that a user without rights can reach, as pytest's own cannot be.
        folder = Path(name)
        folder.chmod(0o755)
        path = Path(shutil.copytree(template, folder / "a.prn"))
        for place in (path, path / "engines"):
            place.chmod(0o555)

        def use() -> None:
            package = Package.open(path)
            assert set(engines_of(package)) == {"openvino:int8", "openvino:fp32"}
            assert seed_of(package) == 1
            with pytest.raises(PackageError, match=r"may not be written to \(Permission denied\); copy it"):
                build_engine(package, "openvino", "fp32")
            with pytest.raises(StorageError, match="Permission denied"):
                check_writable(folder / "b.prn")

        assert as_user_without_rights(use) == 0
        for place in (path, path / "engines"):
            place.chmod(0o755)


def _must_not_build(*arguments: object) -> Iterator[None]:
    raise AssertionError("it must be refused before it builds")


def test_a_folder_that_cannot_be_locked_is_named(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Package.open(shutil.copytree(template, tmp_path / "a.prn"))

    def no_locks(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(prn_fast.files.fcntl, "flock", no_locks)
    with pytest.raises(StorageError, match="No locks available"):
        add_stub(package, "openvino:bf16", "third")
    assert set(engines_of(Package.open(package.path))) == {"openvino:int8", "openvino:fp32"}
