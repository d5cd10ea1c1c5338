"""What travels to a GPU machine: kernels that it need not compile, packages, data, all within a size."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prn_fast.bench.gpu import kit
from prn_fast.kernels import FUSED
from prn_fast.kernels.uncomputed import Uncomputed
from prn_fast.model.config import PRNConfig
from prn_fast.model.engine_graph import EngineGraph
from prn_fast.model.prn import PRN

# Of one run of the fused engine, with a kernel for each convolution or after it: no cuDNN is here to be asked.
LAUNCHES = 88
# Both of these, and a strip, which is stitched.
ENGINE_LAUNCHES = 3 * LAUNCHES + 1
TRITON = Path(__file__).parents[3] / ".build" / "triton-3.6"
PREAMBLE = """
import json, sys, torch
from pathlib import Path
from prn_fast.bench.gpu import kit
record = kit.stand_in()
"""
REPORT = """
print(json.dumps({"launched": len(record.launches), "compiled": len(record.compiled), "cached": len(record.cached)}))
"""


def launched(cache: Path, code: str) -> dict[str, int]:
    """What happens to kernels in a fresh process with this cache."""
    assert TRITON.is_dir(), "Triton 3.6 is missing; `make .build/triton-3.6` installs it"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(TRITON), "TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", PREAMBLE + code + REPORT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def moved(cache: Path, folder: Path) -> Path:
    """The cache as it comes out of a kit elsewhere."""
    kit.pack_cache([one for one in cache.iterdir() if one.is_dir()], folder / "cache.tar.xz")
    kit.unpack_cache(folder / "cache.tar.xz", folder / "elsewhere")
    # Nothing must be read where it was made.
    cache.rename(folder / "gone")
    return folder / "elsewhere"


@pytest.mark.long
def test_a_second_process_with_only_the_kit_compiles_nothing(tmp_path):
    code = "kit.launch_engine([1, 8])"
    first = launched(tmp_path / "cache", code)
    assert first["launched"] == 2 * ENGINE_LAUNCHES
    assert first["compiled"] > 30
    assert first["cached"] == 0
    cache = moved(tmp_path / "cache", tmp_path)
    assert launched(cache, code) == {
        "launched": 2 * ENGINE_LAUNCHES,
        "compiled": 0,
        "cached": first["compiled"],
    }


class Calls(TorchDispatchMode):
    """Shapes, dtypes and strides that the project's operations are called with."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function.namespace == "prn_fast":
            tensors = [one for one in tree_leaves(arguments) if torch.is_tensor(one)]
            # The stride of a dimension of one element is any number.
            strides = [[s for s, size in zip(one.stride(), one.shape, strict=True) if size > 1] for one in tensors]
            seen = [(one.shape, one.dtype, stride) for one, stride in zip(tensors, strides, strict=True)]
            self.made.append((function.name(), seen))
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("training", [False, True], ids=["engine", "training"])
def test_operations_are_called_alike_where_nothing_is_computed(training):
    config = PRNConfig(backbone="efficientnet_lite0", image_size=64, prototypes=(3, 3, 3), attention_layers=1)
    model = PRN(config, FUSED).to(memory_format=torch.channels_last)
    network = model.train() if training else EngineGraph(model.eval(), FUSED, memory_format=torch.channels_last)
    images = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)

    def run():
        if training:
            normalized = model.normalize(images).contiguous(memory_format=torch.channels_last)
            network(normalized).sum().backward()
        else:
            network(images)

    with Calls() as computed:
        run()
    with Calls() as uncomputed, Uncomputed():
        run()
    assert len(computed.made) > 5
    assert uncomputed.made == computed.made
    (maps, *_) = next(tensors for name, tensors in computed.made if name == "prn_fast::multi_size_attention")
    assert maps[2][1] == 1  # channels lie side by side


NORMALIZE = """
from prn_fast.kernels.tile_normalize import normalize_images
with kit.uncomputed():
    normalize_images(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), [0.5] * 3, [0.5] * 3, torch.float16)
"""


@pytest.mark.long
def test_a_cache_serves_the_triton_whose_keys_it_was_given(tmp_path):
    wheel = tmp_path / "triton.whl"
    with zipfile.ZipFile(wheel, "w") as files:
        files.writestr("triton/_C/libtriton.so", "of another Python")
    keys = f"kit.use_keys_of(Path({str(wheel)!r}))"
    assert launched(tmp_path / "cache", keys + NORMALIZE) == {"launched": 1, "compiled": 1, "cached": 0}
    cache = moved(tmp_path / "cache", tmp_path)
    assert launched(cache, keys + NORMALIZE) == {"launched": 1, "compiled": 0, "cached": 1}
    assert launched(cache, NORMALIZE) == {"launched": 1, "compiled": 1, "cached": 0}


def data_set(root: Path) -> Path:
    for name, count in (("train/good", 20), ("test/good", 3), ("test/crack", 2)):
        (root / name).mkdir(parents=True)
        for index in range(count):
            (root / name / f"{index:03}.png").write_bytes(bytes(1000))
    return root


@pytest.mark.parametrize(("most", "left_out"), [(60_000, 0), (41_000, 5), (11_000, 20)])
def test_as_many_training_images_are_left_out_as_the_size_asks_for(tmp_path, most, left_out):
    data = data_set(tmp_path / "set")
    assert kit.pack_data(data, tmp_path / "data.tar", most) == (25, left_out)
    assert (tmp_path / "data.tar").stat().st_size <= most + 10_240  # of which the end of an archive is a multiple
    with tarfile.open(tmp_path / "data.tar") as archive:
        names = sorted(archive.getnames())
    assert sum(name.startswith("test/") for name in names) == 5
    kept = [int(Path(name).stem) for name in names if name.startswith("train/")]
    assert len(kept) == 20 - left_out
    # Evenly: no two neighbours go where one in four does.
    if left_out == 5:
        assert max(second - first for first, second in pairwise(kept)) == 2


def test_data_that_cannot_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="too large for a kit of 60 MB"):
        kit.pack_data(data_set(tmp_path / "set"), tmp_path / "data.tar", 4000)


def kit_of(folder: Path, **told) -> Path:
    """A kit with one file in everything."""
    (folder / "wheels").mkdir(parents=True)
    with zipfile.ZipFile(folder / "wheels" / "some-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some_package.py", "")
    (folder / "cache").mkdir()
    (folder / "cache" / "key").mkdir()
    (folder / "cache" / "key" / "__grp__kernel.json").write_text(f'{{"child_paths": {{"a": "{folder}/cache/key/a"}}}}')
    kit.pack_cache([folder / "cache" / "key"], folder / "triton-cache.tar.xz")
    data_set(folder / "some set")
    kit.pack_data(folder / "some set", folder / "data.tar", 10**6)
    here = {"python": kit.this_python(), "triton": kit.version("triton"), "data": "some set"}
    (folder / "kit.json").write_text(json.dumps(here | told))
    return folder


def test_a_kit_is_unpacked_for_the_script(tmp_path):
    told = kit.unpack(kit_of(tmp_path / "a kit"), tmp_path / "on this machine")
    shell = f'{told}\nls "$KIT_SITE" "$KIT_DATA"; cat "$TRITON_CACHE_DIR"/key/*.json'
    done = subprocess.run(["bash", "-euc", shell], capture_output=True, text=True, check=True)
    assert "some_package.py" in done.stdout
    assert "train" in done.stdout
    assert f'"{tmp_path}/on this machine/triton-cache/key/a"' in done.stdout


@pytest.mark.parametrize("other", [{"python": "3.9"}, {"triton": "2.0.0"}], ids=["python", "triton"])
def test_a_kit_for_another_machine_is_not_used_and_said_so(tmp_path, capsys, other):
    assert kit.unpack(kit_of(tmp_path / "kit", **other), tmp_path / "here") == ""
    assert "is not used" in capsys.readouterr().err
    assert not (tmp_path / "here").exists()
