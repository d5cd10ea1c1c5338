"""Table of every kernel: resources as the compiler reports them, bytes moved against the published formulation.

    python -m prn_fast.kernels [--capability 9.0 ...] [--dtype float16 ...] [--batch 32] [--json]

Compiles for each compute capability without a GPU.
"""

import argparse
import json
from dataclasses import asdict, dataclass

import torch

from prn_fast.kernels.aot import compile_launch
from prn_fast.kernels.catalogue import GRIDS, SCALES, Scale, coarser, launches
from prn_fast.kernels.multi_scale_fusion import traffic as fusion_traffic
from prn_fast.kernels.multi_size_attention import traffic as attention_traffic
from prn_fast.kernels.prototype_residual import traffic as residual_traffic
from prn_fast.kernels.tiles import CAPABILITIES, SHARED_MEMORY

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Row:
    """Resources of one kernel on one capability."""

    kernel: str
    side: int
    dtype: str
    capability: str
    registers: int
    spills: int
    shared_memory: int
    shared_memory_limit: int
    global_scratch: int


def resource_rows(capabilities: list[tuple[int, int]], dtypes: list[str], scales: list[Scale], batch: int) -> list[Row]:
    """Compile everything asked for; combinations that a device cannot run are left out."""
    rows = []
    for capability in capabilities:
        for dtype in dtypes:
            if dtype == "bfloat16" and capability < (8, 0):
                continue
            for scale in scales:
                for kernel, launch in launches(scale, batch, DTYPES[dtype], capability):
                    compiled = compile_launch(launch, capability)
                    rows.append(
                        Row(
                            kernel,
                            scale.side,
                            dtype,
                            f"{capability[0]}.{capability[1]}",
                            compiled.registers,
                            compiled.spills,
                            compiled.shared_memory,
                            SHARED_MEMORY[capability],
                            compiled.global_scratch,
                        )
                    )
    return rows


def traffic_table(batch: int, dtype: torch.dtype, scales: list[Scale]) -> list[str]:
    """Megabytes that each operation moves at each scale, here and as published."""
    lines = [f"bytes moved at batch {batch}, {dtype}, MB: fused / published"]
    value_bytes = dtype.itemsize
    for scale in scales:
        plans = dict(launches(scale, batch, dtype, (9, 0)))
        rows = {
            "prototype_residual": (
                residual_traffic.bytes_moved(
                    batch, scale.prototypes, scale.size, plans["distance"].grid[0], value_bytes
                ),
                residual_traffic.published_bytes_moved(batch, scale.prototypes, scale.size, value_bytes),
            ),
            "multi_size_attention": (
                attention_traffic.bytes_moved(
                    batch,
                    2 * scale.channels,
                    scale.side,
                    scale.side,
                    GRIDS,
                    plans["logits"].grid[0],
                    value_bytes,
                ),
                attention_traffic.published_bytes_moved(
                    batch, 2 * scale.channels, scale.side, scale.side, GRIDS, value_bytes
                ),
            ),
        }
        if scale == SCALES[0]:
            sizes = [scale.channels * height * width for height, width in coarser(scale)]
            rows["multi_scale_fusion"] = (
                fusion_traffic.bytes_moved(batch, scale.size, 1, sizes, value_bytes),
                # Twice and four times the channels of this scale.
                fusion_traffic.published_bytes_moved(batch, scale.size, (2, 4), value_bytes),
            )
        for op, (ours, theirs) in rows.items():
            lines.append(
                f"{op:22} {scale.side:3}x{scale.side:<3} {ours.total / 1e6:10.1f} / {theirs.total / 1e6:10.1f}"
                f"   {theirs.total / ours.total:6.1f} times less"
            )
    return lines


def main() -> int:
    """Print the table."""
    known = {f"{major}.{minor}": (major, minor) for major, minor in CAPABILITIES}
    parser = argparse.ArgumentParser(prog="python -m prn_fast.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--capability", nargs="+", choices=known, default=list(known))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["float16"])
    parser.add_argument("--side", nargs="+", type=int, choices=[s.side for s in SCALES], default=[SCALES[0].side])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--json", action="store_true", help="resources only, as a list of objects")
    options = parser.parse_args()
    scales = [scale for scale in SCALES if scale.side in options.side]
    rows = resource_rows([known[one] for one in options.capability], options.dtype, scales, options.batch)
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
        return 0
    print(f"{'kernel':12} {'side':>4} {'dtype':9} {'capability':10} registers spills  shared memory  of")
    for row in rows:
        print(
            f"{row.kernel:12} {row.side:4} {row.dtype:9} {row.capability:10} {row.registers:9} {row.spills:6} "
            f"{row.shared_memory:14} {row.shared_memory_limit}"
        )
    print("\n".join(["", *traffic_table(options.batch, DTYPES[options.dtype[0]], list(SCALES))]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
