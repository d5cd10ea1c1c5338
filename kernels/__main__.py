"""Table of every kernel: resources as the compiler reports them, bytes moved against the published formulation.

    python -m prn_fast.kernels [--capability 9.0 ...] [--dtype float16 ...] [--side 64 ...] [--batch 32] [--training]
        [--json]

Compiles for each compute capability without a GPU. Ends with 1 if a kernel does not fit a device.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version

import torch

from prn_fast.kernels.anomaly_score import traffic as score_traffic
from prn_fast.kernels.catalogue import GRIDS, IMAGE_SIDE, SCALES, STRIP, Scale, all_launches, coarser, launches
from prn_fast.kernels.multi_scale_fusion import traffic as fusion_traffic
from prn_fast.kernels.multi_size_attention import traffic as attention_traffic
from prn_fast.kernels.prototype_residual import traffic as residual_traffic
from prn_fast.kernels.resources import DTYPES, resource_rows
from prn_fast.kernels.tile_normalize import traffic as normalize_traffic
from prn_fast.kernels.tiles import CAPABILITIES, has_dtype
from prn_fast.kernels.traffic import Traffic

# Of the grids of programs that the byte counts depend on.
TRAFFIC_CAPABILITY = (9, 0)


def traffic_rows(
    batch: int, dtype: torch.dtype, scales: Sequence[Scale] = SCALES
) -> Iterator[tuple[str, str, Traffic, Traffic]]:
    """Operation, shape, bytes moved here, and bytes moved as published."""
    for scale in scales:
        for op, ours, theirs in scale_traffic(scale, batch, dtype):
            yield op, f"{scale.side}x{scale.side}", ours, theirs
    value_bytes = dtype.itemsize
    pixels = IMAGE_SIDE**2
    images, strip = f"{IMAGE_SIDE}x{IMAGE_SIDE}", f"{STRIP.lines}x{STRIP.width}"
    for shape, strip_pixels, tiles, channels in (
        (images, batch * pixels, batch, 3),
        (strip, STRIP.lines * STRIP.width, STRIP.tiles, STRIP.channels),
    ):
        yield (
            "tile_normalize",
            shape,
            normalize_traffic.bytes_moved(strip_pixels * channels, tiles * pixels, value_bytes),
            normalize_traffic.published_bytes_moved(strip_pixels * channels, tiles * pixels, channels, value_bytes),
        )
    plans = {name: launch for _, name, launch in all_launches(batch, dtype, TRAFFIC_CAPABILITY, ())}
    yield (
        "anomaly_score",
        images,
        score_traffic.bytes_moved(batch, pixels, plans["top_pixels"].grid[0], value_bytes),
        score_traffic.published_bytes_moved(batch, pixels, value_bytes),
    )
    tile_pixels, strip_pixels = STRIP.tiles * STRIP.side**2, STRIP.lines * STRIP.width
    yield (
        "stitch_tiles",
        strip,
        score_traffic.stitch_bytes_moved(tile_pixels, strip_pixels, value_bytes),
        score_traffic.published_stitch_bytes_moved(tile_pixels, strip_pixels, value_bytes),
    )


def scale_traffic(scale: Scale, batch: int, dtype: torch.dtype) -> Iterator[tuple[str, Traffic, Traffic]]:
    """As `traffic_rows`, of the operations on one scale's maps."""
    value_bytes, side, channels = dtype.itemsize, scale.side, 2 * scale.channels
    plans = dict(launches(scale, batch, dtype, TRAFFIC_CAPABILITY))
    yield (
        "prototype_residual",
        residual_traffic.bytes_moved(batch, scale.prototypes, scale.size, plans["distance"].grid[0], value_bytes),
        residual_traffic.published_bytes_moved(batch, scale.prototypes, scale.size, value_bytes),
    )
    if scale == SCALES[0]:
        coarse = [(channels, height * width) for channels, height, width in coarser(scale)]
        yield (
            "multi_scale_fusion",
            fusion_traffic.bytes_moved(batch, scale.channels, side**2, 1, coarse, value_bytes),
            fusion_traffic.published_bytes_moved(
                batch, scale.channels, side**2, [channels for channels, _ in coarse], value_bytes
            ),
        )
    yield (
        "multi_size_attention",
        attention_traffic.bytes_moved(batch, channels, side, side, GRIDS, plans["logits"].grid[0], value_bytes),
        attention_traffic.published_bytes_moved(batch, channels, side, side, GRIDS, value_bytes),
    )


def main() -> int:
    """Print the tables."""
    known = {f"{major}.{minor}": (major, minor) for major, minor in CAPABILITIES}
    sides = [scale.side for scale in SCALES]
    parser = argparse.ArgumentParser(prog="python -m prn_fast.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--capability", nargs="+", choices=known, default=list(known))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--side", nargs="+", type=int, choices=sides, default=sides, help="of the feature maps")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that compile at the same time")
    parser.add_argument("--training", action="store_true", help="the kernels that only training runs instead")
    parser.add_argument("--json", action="store_true", help="version of Triton, and resources as a list of objects")
    options = parser.parse_args()
    configurations = [
        (known[capability], dtype)
        for capability in options.capability
        for dtype in options.dtype
        if has_dtype(known[capability], DTYPES[dtype])
    ]
    if not configurations:
        parser.error(f"compute capability {', '.join(options.capability)} has no {', '.join(options.dtype)}")
    scales = [scale for scale in SCALES if scale.side in options.side]
    rows = resource_rows(configurations, scales, options.batch, options.processes, options.training)
    misfits = [row for row in rows if not row.fits]
    if options.json:
        print(json.dumps({"triton": version("triton"), "rows": [asdict(row) for row in rows]}))
    else:
        print(f"compiled by Triton {version('triton')} for batch {options.batch}")
        print(f"{'op':29} {'kernel':20} {'shape':9} {'dtype':8} capability registers spills shared memory      of")
        for row in rows:
            print(
                f"{row.op:29} {row.kernel:20} {row.shape:9} {row.dtype:8} {row.capability:>10} {row.registers:9} "
                f"{row.spills:6} {row.shared_memory:13} {row.shared_memory_limit:7}"
            )
        for dtype in [] if options.training else options.dtype:
            print(f"\nbytes moved at batch {options.batch}, {dtype}, MB: fused / published")
            for op, shape, ours, theirs in traffic_rows(options.batch, DTYPES[dtype], scales):
                print(
                    f"{op:20} {shape:9} {ours.total / 1e6:10.1f} / {theirs.total / 1e6:10.1f}"
                    f"   {theirs.total / ours.total:6.1f} times less"
                )
    for row in misfits:
        print(f"error: {row} does not fit the device", file=sys.stderr)
    return 1 if misfits else 0


if __name__ == "__main__":
    raise SystemExit(main())
