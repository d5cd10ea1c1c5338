"""What a run on a bare GPU machine takes along: `make gpu-kit` makes it without a GPU, bench/gpu_run.sh uses it.

    python -m prn_fast.bench.gpu.kit make KIT [--python 3.12] [--weights FILE] [--data DIR]
    python -m prn_fast.bench.gpu.kit unpack KIT FOLDER

A kit holds, in less than 60 MB:

- triton-cache.tar.xz: every kernel that the run launches, compiled for compute capability 9.0 by the Triton that runs
  this, under the keys that the same version for another Python looks for;
- wheels of the packages that training needs and such a machine lacks;
- the backbone's pretrained weights in half precision, and images to train on, where they were given.

`unpack` refuses a kit made for another Python or Triton, since its kernels would not be found and its wheels not load.
Launchers are not in it: Triton 3.6 compiles a little C for each signature of a kernel, with the machine's own compiler
and Python.
"""

import argparse
import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from prn_fast.bench.gpu.training import TRAINING_BATCH
from prn_fast.kernels.uncomputed import Uncomputed

CAPABILITY = (9, 0)
# Training needs them, and a bare machine lacks them.
WHEELS = ("kornia", "kornia_rs")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
MAX_BYTES = 60_000_000
# In the place of the folder that a cache lies in, which its files name.
CACHE_MARK = "@TRITON_CACHE@"
# Of a kernel; the stages of its compilation are left behind.
NEEDED_FROM_CACHE = (".json", ".cubin")
ENGINE_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


# -- kernels ----------------------------------------------------------------------------------------------------------


def uncomputed() -> Uncomputed:
    """A GPU's part of the work alone."""
    from prn_fast.kernels import OPERATIONS

    return Uncomputed(one for each in OPERATIONS for one in each.registered)


def launch_engine(batches: Sequence[int] = ENGINE_BATCHES) -> None:
    """All kernels of the fused engine in float16, for some numbers of images, and for strips of as many tiles.

    On a GPU the times decide by which formulation convolutions run, so that the kernels of each are launched.
    """
    from prn_fast.kernels import FUSED
    from prn_fast.kernels.convolution_relu import choice
    from prn_fast.model.config import PRNConfig
    from prn_fast.model.engine_graph import EngineGraph
    from prn_fast.model.prn import PRN
    from prn_fast.model.strip_graph import StripGraph

    network = EngineGraph(PRN(PRNConfig(), FUSED).eval(), FUSED, torch.float16, torch.channels_last)
    for batch in batches:
        with torch.inference_mode(), uncomputed():
            images = torch.empty(batch, 256, 256, 3, dtype=torch.uint8)
            network(images)
            with choice.only(choice.AFTER):
                network(images)
            # As the section on the engine times one: the images side by side.
            StripGraph(network, batch * 256, 0, batch)(torch.empty(256, batch * 256, 3, dtype=torch.uint8))


def launch_operations() -> None:
    """All kernels of the sections that check and time operations."""
    from prn_fast.bench.gpu.operations import cases, gradients
    from prn_fast.bench.gpu.run import real_plan

    plan = real_plan(torch.device("cpu"))
    with uncomputed():
        for dtype in plan.dtypes:
            for case in cases(plan.check_batch, dtype, plan.device, plan.shapes):
                outputs = case.run()
                if case.trained:
                    upstream = [torch.empty_like(one) for one in tree_leaves(outputs)]
                    gradients(case.fused, case, case.arguments, upstream)
        for batch in plan.operation_batches:
            for case in cases(batch, plan.dtypes[0], plan.device, plan.shapes):
                case.run()


def launch_training(batch: int, lowering: bool) -> None:
    """All kernels of a training step of the real network; in bfloat16 as on a GPU, or in float32."""
    from prn_fast.kernels import FUSED
    from prn_fast.model.config import PRNConfig
    from prn_fast.model.prn import PRN

    model = PRN(PRNConfig(), FUSED).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.backbone.requires_grad_(False)
    with uncomputed():
        images = torch.empty(batch, 256, 256, 3, dtype=torch.uint8)
        with torch.autocast("cpu", torch.bfloat16, enabled=lowering):
            normalized = model.normalize(images).contiguous(memory_format=torch.channels_last)
            logits = model.logits(normalized)
        logits.sum().backward()
        with torch.no_grad():
            model.eval().detect(images[:16])


def launch_all() -> None:
    """Every kernel of a run on a GPU."""
    launch_engine()
    launch_operations()
    launch_training(TRAINING_BATCH, lowering=True)
    launch_training(2, lowering=False)


def stand_in(python: str | None = None, wheels: Path | None = None) -> Any:
    """Install the stand-in driver; with a Python version, keys of the cache are those of Triton's wheel for it."""
    from prn_fast.bench.gpu import stand_in_driver

    record = stand_in_driver.install(CAPABILITY)
    if python is not None and python != this_python():
        assert wheels is not None
        use_keys_of(download("triton", version("triton"), python, wheels))
    return record


def this_python() -> str:
    """Such as 3.12."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def use_keys_of(wheel: Path) -> None:
    """Give the cache the keys that Triton from another wheel of the same version looks for.

    They hold a digest of Triton's own files, of which only its library differs from one Python to the next.
    """
    import triton
    from triton.runtime import cache

    library = Path(triton.__file__).parent / "_C" / "libtriton.so"
    with zipfile.ZipFile(wheel) as files, files.open("triton/_C/libtriton.so") as other, library.open("rb") as own:
        # A file in a zip archive lacks what a type checker wants of it, and nothing else.
        theirs = hashlib.file_digest(other, "sha256").hexdigest()  # type: ignore[arg-type]
        ours = hashlib.file_digest(own, "sha256").hexdigest()
    key = cache.triton_key()
    if ours not in key:
        raise RuntimeError("Triton's cache key does not hold the digest of its library; this Triton is not known here")
    replaced = key.replace(ours, theirs)
    cache.triton_key = lambda: replaced


# -- files ------------------------------------------------------------------------------------------------------------


def download(name: str, wanted: str | None, python: str, folder: Path) -> Path:
    """The wheel of a package for Linux on x86-64 and a Python version; kept in the folder for the next time."""
    folder.mkdir(parents=True, exist_ok=True)
    requirement = name if wanted is None else f"{name}=={wanted}"
    platforms = [item for platform in PLATFORMS for item in ("--platform", platform)]
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    found = sorted(folder.glob(f"{name}-{wanted or '*'}-*.whl"))
    if not found:
        command = [sys.executable, "-m", "pip", "download", *options, *platforms, "--dest", str(folder), requirement]
        subprocess.run(command, check=True)
        found = sorted(folder.glob(f"{name}-*.whl"))
    return found[-1]


def pack_cache(folders: Iterable[Path], target: Path) -> None:
    """Pack some folders of Triton's cache, one a kernel: machine code, and what describes it and names its folder."""
    with tarfile.open(target, "w:xz") as archive:
        for folder in sorted(folders):
            for path in sorted(one for one in folder.iterdir() if one.suffix in NEEDED_FROM_CACHE):
                content = path.read_bytes()
                if path.name.startswith("__grp__"):
                    content = content.replace(str(folder.parent).encode(), CACHE_MARK.encode())
                entry = tarfile.TarInfo(f"{folder.name}/{path.name}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


def unpack_cache(source: Path, cache: Path) -> None:
    """Put a packed cache into a folder of its own."""
    with tarfile.open(source) as archive:
        _extract(archive, cache)
    for group in cache.glob("*/__grp__*.json"):
        group.write_text(group.read_text().replace(CACHE_MARK, str(cache)))


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    if hasattr(tarfile, "data_filter"):
        archive.extractall(folder, filter="data")
    else:  # Python before 3.11.4, as Debian 12 has it
        archive.extractall(folder)


def pack_weights(source: Path, target: Path) -> None:
    """A backbone's weights without its classifier, in half precision."""
    from safetensors.torch import save_file

    from prn_fast.model.weights import read_weights

    state = {name: value for name, value in read_weights(source).items() if not name.startswith("fc.")}
    halved = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_file({name: value.contiguous() for name, value in halved.items()}, target)


def pack_data(source: Path, target: Path, most: int) -> tuple[int, int]:
    """Pack a data set, leaving out training images until it fits into this many bytes.

    Returns:
        How many files there were, and how many were left out.
    Raises:
        ValueError: it does not fit even without them.
    """
    files = sorted(path for path in source.rglob("*") if path.is_file())
    training = [path for path in files if "train" in path.relative_to(source).parts]
    # Headers and padding of the archive.
    over = sum(path.stat().st_size + 1024 for path in files) - most
    left_out: set[Path] = set()
    if over > 0:
        size = sum(path.stat().st_size + 1024 for path in training)
        if over > size:
            raise ValueError(f"{source}: its test images alone are too large for a kit of {MAX_BYTES / 1e6:.0f} MB")
        count = -(-len(training) * over // size)
        # Spread evenly over the names, which often follow the order of recording.
        left_out = {training[index * len(training) // count] for index in range(count)}
        # Those may be the smaller ones.
        rest = iter([path for path in training if path not in left_out])
        while sum(path.stat().st_size + 1024 for path in left_out) < over:
            left_out.add(next(rest))
    # Not the default format, which adds a block to each file for fractions of a second.
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for path in files:
            if path not in left_out:
                archive.add(path, str(path.relative_to(source)))
    return len(files), len(left_out)


def make(kit: Path, python: str, weights: Path | None, data: Path | None) -> dict[str, Any]:
    """Make a kit in a new folder; returns what its kit.json says."""
    wheels = kit.parent / "gpu-kit-downloads"
    part = kit.with_name(kit.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    # Kept, so that the next kit compiles only what has changed.
    os.environ["TRITON_CACHE_DIR"] = str((kit.parent / "gpu-kit-cache").resolve())
    record = stand_in(python, wheels)
    launch_all()
    pack_cache(record.folders, part / "triton-cache.tar.xz")
    told: dict[str, Any] = {"python": python, "triton": version("triton"), "kernels": len(record.folders)}
    told["capability"] = f"{CAPABILITY[0]}.{CAPABILITY[1]}"
    (part / "wheels").mkdir()
    for name in WHEELS:
        shutil.copy(download(name, version(name), python, wheels), part / "wheels")
    if weights is not None:
        pack_weights(weights, part / "backbone.safetensors")
    if data is not None:
        used = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
        files, left_out = pack_data(data, part / "data.tar", MAX_BYTES - used - 100_000)
        told |= {"data": data.name, "data_files": files, "training_images_left_out": left_out}
    (part / "kit.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(kit, ignore_errors=True)
    part.rename(kit)
    return told


def unpack(kit: Path, folder: Path) -> str:
    """Unpack a kit for this machine; shell assignments of what gpu_run.sh then uses, nothing where it does not fit."""
    told = json.loads((kit / "kit.json").read_text(encoding="utf-8"))
    here = {"python": this_python(), "triton": version("triton")}
    if any(told[name] != found for name, found in here.items()):
        print(
            f"note: {kit} is not used: it is for Python {told['python']} and Triton {told['triton']}, this machine has "
            f"Python {here['python']} and Triton {here['triton']}",
            file=sys.stderr,
        )
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    unpack_cache(kit / "triton-cache.tar.xz", folder / "triton-cache")
    for wheel in sorted((kit / "wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as files:
            files.extractall(folder / "site")
    found = {"TRITON_CACHE_DIR": folder / "triton-cache", "KIT_SITE": folder / "site"}
    if (kit / "backbone.safetensors").exists():
        found["PRN_FAST_BACKBONE_WEIGHTS"] = (kit / "backbone.safetensors").resolve()
    if (kit / "data.tar").exists():
        with tarfile.open(kit / "data.tar") as archive:
            _extract(archive, folder / told["data"])
        found["KIT_DATA"] = folder / told["data"]
    return "\n".join(f"{name}={shlex.quote(str(path))}" for name, path in found.items())


def main() -> int:
    """Make or unpack a kit."""
    parser = argparse.ArgumentParser(prog="python -m prn_fast.bench.gpu.kit", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("kit", type=Path)
    making.add_argument("--python", default="3.12", help="version on the GPU machine (default: %(default)s)")
    making.add_argument("--weights", type=Path, help="pretrained ResNet-18, for the section on training")
    making.add_argument("--data", type=Path, help="images of one product, for the section on training")
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("kit", type=Path)
    unpacking.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.command == "unpack":
        print(unpack(options.kit, options.folder))
        return 0
    told = make(options.kit, options.python, options.weights, options.data)
    size = sum(path.stat().st_size for path in options.kit.rglob("*") if path.is_file())
    print(f"{options.kit}: {size / 1e6:.1f} MB; " + ", ".join(f"{name} {value}" for name, value in told.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
