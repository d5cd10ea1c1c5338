"""Offline search for the tiles of `kernels/tiles.py`, on the GPU that it runs on. Nothing else ever searches.

    python -m prn_fast.bench.gpu.tune [--kernel logits ...] [--dtype float16 ...] [--batch 1 32] [--seconds 0.2]

Every candidate of a kernel's space, which its operation states, runs in that operation at every shape of the catalogue;
one whose result is wrong, or that does not compile, is refused. The rest are timed with a cold L2 cache, and those that
win by a margin are printed as lines of the table to check in. Kernels are tried one after another, each beside the
tiles that the table has for the others.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch

from prn_fast.arguments import positive, whole
from prn_fast.bench.gpu.operations import cases, error_steps, verdict, widened
from prn_fast.bench.gpu.timing import cold_milliseconds, recorded
from prn_fast.engine.float32 import float32_arithmetic
from prn_fast.errors import one_line
from prn_fast.kernels.aot import compile_launch
from prn_fast.kernels.catalogue import KERNELS_OF_OP, SPACES, all_launches
from prn_fast.kernels.launch import Tile
from prn_fast.kernels.operation import Case, Shapes
from prn_fast.kernels.resources import DTYPES, MAX_REGISTERS
from prn_fast.kernels.tiles import SHARED_MEMORY, Capability, listed_capability, tile_for, trying

# A new tile has to save this share of the time, or the table stays as it is: timings repeat to about a percent.
MIN_GAIN = 0.02


def candidates(kernel: str, current: Tile) -> list[Tile]:
    """The table's tile, then all others of the kernel's space."""
    space = SPACES[kernel]
    tiles = (
        Tile(dict(zip(space.blocks, sizes, strict=True)), warps, stages)
        for warps, stages, *sizes in product(space.warps, space.stages, *space.blocks.values())
    )
    return [current, *(tile for tile in tiles if tile != current)]


@dataclass(frozen=True)
class Tried:
    """What became of one tile.

    Attributes:
        milliseconds: median time by shape, of the whole operation; empty if refused.
        refused: why it cannot be used, or empty.
    """

    tile: Tile
    milliseconds: Mapping[str, float]
    refused: str = ""


def search(
    kernel: str,
    tiles: Iterable[Tile],
    trials: Sequence[Case],
    dtype: torch.dtype,
    device: torch.device,
    seconds: float,
) -> Iterator[Tried]:
    """Run every tile in every case, all of the kernel's operation; check, then time for this many seconds."""
    expected = [case.published(*widened(case.arguments)) for case in trials]
    for tile in tiles:
        times: dict[str, float] = {}
        try:
            with trying(kernel, tile):
                for case, right in zip(trials, expected, strict=True):
                    checked = verdict(case, dtype, error_steps(case.run(), right))
                    if not checked["right"]:
                        raise RuntimeError(f"wrong at {case.shape}: {checked['error_steps']:.1f} rounding steps")
                    times[case.shape] = statistics.median(
                        cold_milliseconds(recorded(case.run, device), device, seconds)
                    )
        # Triton's and its assembler's errors have no common class.
        except Exception as error:
            yield Tried(tile, {}, one_line(error) or type(error).__name__)
        else:
            yield Tried(tile, times)


def relative_time(tried: Tried, current: Tried) -> float:
    """Geometric mean over shapes of a tile's time over the current tile's."""
    ratios = [tried.milliseconds[shape] / taken for shape, taken in current.milliseconds.items()]
    return math.exp(statistics.fmean(map(math.log, ratios)))


def ranking(tried: Sequence[Tried]) -> list[tuple[float, Tile]]:
    """Relative times and tiles that are worth a change of the table, fastest first; the first one tried is the table's.

    Raises:
        RuntimeError: the table's own tile was refused.
    """
    current = tried[0]
    if current.refused:
        raise RuntimeError(f"the table's own tile was refused: {current.refused}")
    faster = [(relative_time(one, current), one.tile) for one in tried[1:] if not one.refused]
    return sorted((pair for pair in faster if pair[0] <= 1 - MIN_GAIN), key=lambda pair: pair[0])


def fits(kernel: str, tile: Tile, batch: int, dtype: torch.dtype, capability: Capability) -> bool:
    """Whether the kernel compiles with this tile at all shapes without spilling, within the device's limits."""
    with trying(kernel, tile):
        found = [launch for _, _, name, launch in all_launches(batch, dtype, capability) if name == kernel]
    compiled = [compile_launch(launch, capability) for launch in found]
    return all(
        one.spills == 0 and one.registers <= MAX_REGISTERS and one.shared_memory <= SHARED_MEMORY[capability]
        for one in compiled
    )


def trials_of(
    kernel: str, batches: Sequence[int], dtype: torch.dtype, device: torch.device, shapes: Shapes
) -> list[Case]:
    """The cases that time the kernel's operation, at each batch and shape: those that show it, if there are any."""
    op = next(op for op, kernels in KERNELS_OF_OP.items() if kernel in kernels)
    found = [
        replace(case, shape=f"{batch} x {case.shape}")
        for batch in batches
        for case in cases(batch, dtype, device, shapes)
        if case.op == op and case.traffic is not None
    ]
    return [case for case in found if case.kernel == kernel] or found


def written(kernel: str, tile: Tile) -> str:
    """The tile as a line of the table."""
    options = [f"{name}={value}" for name, value in (("warps", tile.warps), ("stages", tile.stages))]
    return f'"{kernel}": Tile({dict(tile.blocks)}, {", ".join(options)}),'.replace("'", '"')


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was tried and the proposed table; 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m prn_fast.bench.gpu.tune", description=__doc__.splitlines()[0])
    parser.add_argument("--kernel", nargs="+", choices=SPACES, default=list(SPACES))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["float16", "float32"])
    parser.add_argument("--batch", nargs="+", type=whole(1), default=[1, 32], metavar="N")
    parser.add_argument(
        "--seconds", type=positive, default=0.2, help="of timing, for each tile and shape (default: %(default)g)"
    )
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("error: no CUDA device; tiles can only be searched for on a GPU", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    capability = listed_capability(torch.cuda.get_device_capability(device))
    found = 0
    # Float32 is checked as such, which PyTorch's convolutions are not by default.
    with torch.no_grad(), float32_arithmetic():
        for dtype_name, kernel in product(options.dtype, options.kernel):
            dtype = DTYPES[dtype_name]
            current = tile_for(kernel, capability, dtype)
            trials = trials_of(kernel, options.batch, dtype, device, Shapes())
            tried = []
            for one in search(kernel, candidates(kernel, current), trials, dtype, device, options.seconds):
                tried.append(one)
                times = "  ".join(f"{shape}: {taken:.4f} ms" for shape, taken in one.milliseconds.items())
                print(f"{dtype_name} {written(kernel, one.tile)}  {one.refused or times}", flush=True)
            try:
                faster = ranking(tried)
            except RuntimeError as error:
                print(f"{dtype_name} {kernel}: no proposal, {error}", flush=True)
                continue
            for relative, tile in faster:
                if fits(kernel, tile, max(options.batch), dtype, capability):
                    print(f"proposed, {dtype_name}: {written(kernel, tile)}  # {relative:.3f} of the time", flush=True)
                    found += 1
                    break
    name = torch.cuda.get_device_name(device)
    told = f"{found} lines, marked proposed; all others stay" if found else "nothing is faster than the table"
    print(f"\n{name}, compute capability {capability[0]}.{capability[1]}: {told}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
