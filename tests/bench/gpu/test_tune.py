"""The offline search for tiles: what it tries, refuses and proposes. Times need a GPU; choices do not."""

import os
import subprocess
import sys

import pytest
import torch

from prn_fast.bench.gpu import tune
from prn_fast.bench.gpu.tune import Tried, candidates, ranking, search, trials_of, written
from prn_fast.kernels.catalogue import KERNELS_OF_OP, SPACES
from prn_fast.kernels.launch import Tile
from prn_fast.kernels.operation import Case, PyramidLevel, Shapes, Strip
from prn_fast.kernels.tiles import CAPABILITIES, tile_for
from prn_fast.kernels.traffic import BytesMoved

SMALL = Shapes(
    scales=(PyramidLevel(4, 32, 3), PyramidLevel(8, 16, 3), PyramidLevel(16, 8, 3)),
    strip=Strip(lines=8, width=20, channels=1, side=8, overlap=2),
    image_side=16,
)
kernels = pytest.mark.parametrize("kernel", SPACES)


def test_every_kernel_of_a_timed_operation_is_searched():
    assert set(SPACES) <= {kernel for kernels in KERNELS_OF_OP.values() for kernel in kernels}
    assert {op for op, kernels in KERNELS_OF_OP.items() if set(kernels) & set(SPACES)} == set(KERNELS_OF_OP)


@kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_tables_tile_is_tried_first_and_every_other_once(kernel, dtype):
    for capability in CAPABILITIES:
        current = tile_for(kernel, capability, dtype)
        tiles = candidates(kernel, current)
        assert tiles[0] == current
        assert len(tiles) > 4
        assert all(one not in tiles[:place] for place, one in enumerate(tiles))
        for tile in tiles:
            assert set(tile.blocks) == set(current.blocks)
            assert all(value & (value - 1) == 0 for value in (tile.warps, *tile.blocks.values()))


@kernels
def test_a_kernel_has_trials_at_every_batch(kernel):
    trials = trials_of(kernel, (1, 2), torch.float32, torch.device("cpu"), SMALL)
    shapes = [case.shape for case in trials]
    assert len(set(shapes)) == len(shapes)
    assert {shape.split(" x ")[0] for shape in shapes} == {"1", "2"}
    # Not where another kernel of the operation runs in its place, or might.
    assert {case.kernel for case in trials} in ({None}, {kernel})


def blocks_of_stitch(result: torch.Tensor) -> torch.Tensor:
    """An operation that is right with blocks of 32, wrong with 64, and does not compile with 128."""
    block = tile_for("stitch", (9, 0), torch.float32).blocks["BLOCK"]
    if block == 128:
        raise RuntimeError("out of resources\nmore")
    return result + (block == 64)


def test_wrong_and_failing_tiles_are_refused_and_the_table_is_back_afterwards():
    before = tile_for("stitch", (9, 0), torch.float32)
    ones = torch.ones(4, 4)
    moved = BytesMoved(1, 1), BytesMoved(1, 1)
    case = Case("stitch_tiles", "4x4", (ones,), torch.clone, torch.clone, blocks_of_stitch, lambda: moved)
    tiles = [Tile({"BLOCK": block}) for block in (32, 64, 128)]
    right, wrong, failing = search("stitch", tiles, [case], torch.float32, torch.device("cpu"), 0.0)
    assert not right.refused
    assert right.milliseconds["4x4"] > 0
    assert wrong.refused.startswith("wrong at 4x4")
    assert failing.refused == "out of resources"
    assert not wrong.milliseconds
    assert not failing.milliseconds
    assert tile_for("stitch", (9, 0), torch.float32) == before


def tried(block: int, *times: float, refused: str = "") -> Tried:
    return Tried(Tile({"BLOCK": block}), dict(enumerate(times)), refused)


def test_the_best_over_all_shapes_is_proposed_first():
    found = ranking(
        [
            tried(1, 1.0, 100.0),
            tried(2, 0.5, 100.0),  # saves half of one shape
            tried(3, 0.9, 50.0),  # saves more: 0.67 in the geometric mean
            tried(4, 0.1, refused="wrong"),
            tried(5, 4.0, 50.0),  # saves half of one, costs more at the other
            tried(6, 0.99, 99.0),  # within what timings repeat to
        ]
    )
    assert [tile.blocks["BLOCK"] for _, tile in found] == [3, 2]
    assert [relative for relative, _ in found] == pytest.approx([0.45**0.5, 0.5**0.5])


def test_a_table_whose_own_tile_is_refused_is_no_yardstick():
    with pytest.raises(RuntimeError, match="own tile was refused: wrong"):
        ranking([tried(1, refused="wrong"), tried(2, 1.0)])


def test_a_proposal_reads_like_the_table():
    tile = Tile({"BLOCK_D": 64, "STEPS": 8}, warps=8)
    line = written("logits", tile)
    assert eval("{" + line + "}", {"Tile": Tile}) == {"logits": tile}


def test_float32_is_searched_in_float32_and_a_refused_table_costs_one_kernel(monkeypatch, capsys):
    allowed = []

    def found(kernel, *rest):
        allowed.append(torch.backends.cudnn.allow_tf32)
        yield tried(1, refused="wrong") if kernel == "stitch" else tried(1, 1.0)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(tune, "trials_of", lambda *arguments: [])
    monkeypatch.setattr(tune, "search", found)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert tune.main(["--kernel", "stitch", "score", "--dtype", "float32"]) == 0
    assert allowed == [False, False]
    told = capsys.readouterr().out
    assert "float32 stitch: no proposal, the table's own tile was refused: wrong" in told
    assert told.endswith("a GPU, compute capability 9.0: nothing is faster than the table\n")


def test_without_a_gpu_it_refuses_in_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "prn_fast.bench.gpu.tune"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: no CUDA device; tiles can only be searched for on a GPU"]
