"""Table of every kernel: resources as the compiler reports them, bytes moved against the published formulation.

    python -m prn_fast.kernels [--capability 9.0 ...] [--dtype float16 ...] [--side 64 ...] [--batch 32] [--training]
        [--json]
    python -m prn_fast.kernels --pass [--batch 1] [--dtype float16] [--json]

Compiles for each compute capability without a GPU. Exits with 1 if a kernel does not fit a device. `--pass` counts the
work of one run of the real network in the fused engine on a GPU: kernels, and the bytes of passes that only add, clamp,
copy or resample.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from prn_fast.arguments import whole
from prn_fast.environment import commit
from prn_fast.kernels import FUSED, OPERATIONS, OPTIMIZED, Ops
from prn_fast.kernels.catalogue import all_cases
from prn_fast.kernels.convolution_relu import choice
from prn_fast.kernels.launch import noted
from prn_fast.kernels.multi_scale_fusion import project_upsample_add, with_raise_to
from prn_fast.kernels.operation import SCALES, Draw, PyramidLevel, Shapes
from prn_fast.kernels.resources import DTYPES, resource_rows
from prn_fast.kernels.tiles import CAPABILITIES, has_dtype
from prn_fast.kernels.traffic import FLOAT_BYTES, BytesMoved
from prn_fast.kernels.uncomputed import CONVOLUTIONS, Uncomputed
from prn_fast.model.config import PRNConfig
from prn_fast.model.engine_graph import EngineGraph
from prn_fast.model.prn import PRN


def traffic_rows(
    batch: int, dtype: torch.dtype, scales: Sequence[PyramidLevel] = SCALES
) -> Iterator[tuple[str, str, BytesMoved, BytesMoved]]:
    """Operation, shape, bytes moved here (in the grids of compute capability 9.0), and bytes moved as published."""
    # Shapes are enough.
    for case in all_cases(batch, Draw(dtype, torch.device("meta")), Shapes(tuple(scales))):
        if case.traffic is not None:
            yield case.op, case.shape, *case.traffic()


class Counted(Uncomputed):
    """Counts PyTorch's kernels.

    Attributes:
        kernels: by name.
        moved: all bytes that passes other than convolutions and products read and write.
    """

    def __init__(self) -> None:
        super().__init__(one for each in OPERATIONS for one in each.registered)
        self.kernels: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()

    def note(self, function: Any, arguments: Any, outputs: Any) -> None:
        """See `Uncomputed`; cuDNN's convolution leaves its bias to a pass over the result."""
        name = function.overloadpacket._qualified_op_name.removeprefix("aten::")
        if function.overloadpacket in CONVOLUTIONS:
            self.kernels[name] += 1
            biased = name in ("convolution", "conv2d") and len(arguments) > 2 and arguments[2] is not None
            if not biased:
                return
            name, arguments = "bias of a convolution", outputs
        elif "empty" in name:
            return
        self.kernels[name] += 1
        self.moved[name] += sum(one.nbytes for one in tree_leaves((arguments, outputs)) if isinstance(one, Tensor))


# What follows a convolution, and what is added at a scale, by what computes it.
FORMULATIONS: dict[str, tuple[Ops, str]] = {
    "PyTorch, one by one": (
        replace(
            FUSED,
            convolution_relu=OPTIMIZED.convolution_relu,
            logit_head=OPTIMIZED.logit_head,
            multi_scale_fusion=partial(with_raise_to, raise_to=project_upsample_add),
        ),
        choice.AFTER,
    ),
    **{name: (FUSED, name) for name in (choice.AFTER, choice.TRITON, choice.CUDNN)},
}


def network_pass(batch: int, dtype: torch.dtype, ops: Ops, way: str) -> tuple[Counter[str], Counter[str]]:
    """Kernels by name, and bytes of element-wise passes by name, of one run of the real network (r18, 256 pixels).

    Args:
        way: by which formulation all convolutions run that ReLU follows (see `choice`).
    """
    model = PRN(PRNConfig(), ops).eval()
    graph = EngineGraph(model, ops, dtype, torch.channels_last)
    images = torch.empty(batch, 256, 256, 3, dtype=torch.uint8)
    with (
        choice.only(way),
        torch.inference_mode(),
        noted() as launches,
        Counted() as counted,
    ):
        graph(images)
    kernels, moved = counted.kernels, counted.moved
    for launch in launches:
        kernels[name := launch.kernel.__name__] += 1
        if name == "bias_add_relu_kernel":
            values = launch.constants["SIZE"] * batch * (3 if launch.constants["HAS_RESIDUAL"] else 2)
            moved[name] += values * dtype.itemsize
        elif name == "sum_taps_kernel":
            pixels = launch.constants["H"] * launch.constants["W"] * batch
            moved[name] += pixels * (launch.constants["TAPS"] * FLOAT_BYTES + dtype.itemsize)
    return kernels, moved


def pass_report(batch: int, dtype: str) -> dict[str, Any]:
    """Kernels and bytes of a run, as JSON has them and `print_pass` prints them."""
    rows = []
    for name, (ops, way) in FORMULATIONS.items():
        kernels, moved = network_pass(batch, DTYPES[dtype], ops, way)
        megabytes = {kernel: values / batch / 1e6 for kernel, values in sorted(moved.items())}
        rows.append({"name": name, "kernels": dict(sorted(kernels.items())), "megabytes_an_image": megabytes})
    command = f"python -m prn_fast.kernels --pass --json --batch {batch} --dtype {dtype}"
    versions = {"torch": version("torch"), "triton": version("triton"), "commit": commit()}
    return {"command": command, **versions, "batch": batch, "dtype": dtype, "rows": rows}


def print_pass(report: dict[str, Any]) -> None:
    """Print launches and element-wise bytes of the network, for each way to do what follows a convolution."""
    rows = report["rows"]
    print(f"one run of the fused network (r18, 256 pixels), batch {report['batch']}, {report['dtype']}")
    print(f"{'what follows a convolution:':40}" + "".join(f"{row['name']:>22}" for row in rows))
    print(f"{'kernels':40}" + "".join(f"{sum(row['kernels'].values()):22}" for row in rows))
    moved = [sum(row["megabytes_an_image"].values()) for row in rows]
    print(f"{'element-wise passes, MB per image':40}" + "".join(f"{value:22.1f}" for value in moved))
    for name in sorted({name for row in rows for name in row["kernels"]}):
        cells = (f"{row['kernels'].get(name, 0)} {_megabytes(row, name)}" for row in rows)
        print(f"  {name:38}" + "".join(f"{cell:>22}" for cell in cells))


def _megabytes(row: dict[str, Any], name: str) -> str:
    return f"({row['megabytes_an_image'][name]:.1f} MB)" if name in row["megabytes_an_image"] else ""


def main() -> int:
    """Print the tables."""
    known = {f"{major}.{minor}": (major, minor) for major, minor in CAPABILITIES}
    sides = [scale.side for scale in SCALES]
    parser = argparse.ArgumentParser(prog="python -m prn_fast.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--capability", nargs="+", choices=known, default=list(known))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--side", nargs="+", type=int, choices=sides, default=sides, help="of the feature maps")
    parser.add_argument("--batch", type=whole(1), default=32, metavar="N", help="images (default: %(default)s)")
    parser.add_argument(
        "--processes",
        type=whole(1, 1024),
        default=os.cpu_count() or 1,
        metavar="N",
        help="that compile at the same time (default: %(default)s)",
    )
    parser.add_argument("--training", action="store_true", help="the kernels that only training runs instead")
    parser.add_argument("--pass", dest="network", action="store_true", help="count the kernels of a network's run")
    parser.add_argument("--json", action="store_true", help="version of Triton, and resources as a list of objects")
    options = parser.parse_args()
    if options.network:
        report = pass_report(options.batch, options.dtype[0])
        print(json.dumps(report, indent=1)) if options.json else print_pass(report)
        return 0
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
                    f"{op:20} {shape:32} {ours.total / 1e6:10.1f} / {theirs.total / 1e6:10.1f}"
                    f"   {theirs.total / ours.total:6.1f} times less"
                )
    for row in misfits:
        print(f"error: {row} does not fit the device", file=sys.stderr)
    return 1 if misfits else 0


if __name__ == "__main__":
    raise SystemExit(main())
