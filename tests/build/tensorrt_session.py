"""What TensorRT asks of the plugins while it builds an engine, asked here through TensorRT's own Python bindings.

    python -m tests.build.tensorrt_session < nodes.json > answers.json

Run in a process of its own by `ask`. The bindings are those of the full TensorRT, whose library is not to be had from
PyPI. The loader gets TensorRT-RTX's libraries in its place, which have the same entry points: their plugin registry is
used, nothing else of them. Symbolic dimensions are evaluated by `Number`; the calls, their order and their checks are
those of the bindings' own plugin class.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

OPERATIONS = {
    "SUM": lambda a, b: a + b,
    "SUB": lambda a, b: a - b,
    "PROD": lambda a, b: a * b,
    "FLOOR_DIV": lambda a, b: a // b,
    "CEIL_DIV": lambda a, b: -(-a // b),
}


def ask(nodes: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Hand nodes to the session; see `answer` for both sides.

    Args:
        nodes: plugin nodes of a graph.
        folder: for what stands in for TensorRT's library.
    """
    major = importlib.metadata.version("tensorrt-cu13-bindings").split(".")[0]
    libraries = Path(str(importlib.metadata.distribution("tensorrt-rtx-cu13-libs").locate_file("tensorrt_rtx_libs")))
    (core,) = libraries.glob("libtensorrt_rtx.so*")
    (parser,) = libraries.glob("libtensorrt_onnxparser_rtx.so*")
    (folder / f"libnvinfer.so.{major}").symlink_to(core)
    (folder / f"libnvonnxparser.so.{major}").symlink_to(parser)
    # The one entry point that TensorRT-RTX lacks: it loads plugins that come with TensorRT, which nothing here does.
    source = "int initLibNvInferPlugins(void* logger, const char* space) { return 0; }"
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(folder / f"libnvinfer_plugin.so.{major}")]
    subprocess.run(command, input=source, text=True, check=True)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["LD_LIBRARY_PATH"] = f"{folder}:{libraries}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.build.tensorrt_session"],
        input=json.dumps(nodes),
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def import_bindings() -> tuple[Any, Any]:
    """The bindings under the names by which TensorRT's own package makes them known."""
    import tensorrt_bindings

    sys.modules["tensorrt"] = tensorrt_bindings
    import tensorrt_bindings.plugin

    sys.modules["tensorrt.plugin"] = tensorrt_bindings.plugin
    return tensorrt_bindings, tensorrt_bindings.plugin


class Session:
    """One TensorRT with the project's plugins registered."""

    def __init__(self) -> None:
        from prn_fast.build.tensorrt_plugins import register_plugins

        trt, _ = import_bindings()
        register_plugins()
        register_plugins()  # a second call changes nothing

        class Number(trt.IDimensionExpr):
            """A symbolic dimension: a function of the batch."""

            @classmethod
            def of(cls, value: Any, constant: bool) -> Any:
                number = cls.__new__(cls)  # TensorRT's class has no constructor
                number.value, number.constant = value, constant
                return number

            def is_constant(self) -> bool:
                return self.constant

            def get_constant_value(self) -> int:
                assert self.constant
                return self.value(0)

        class Builder:
            """TensorRT's maker of expressions."""

            def constant(self, value: int) -> Any:
                return Number.of(lambda batch: value, True)

            def operation(self, operation: Any, first: Any, second: Any) -> Any:
                apply = OPERATIONS[operation.name]
                return Number.of(
                    lambda batch: apply(first.value(batch), second.value(batch)), first.constant and second.constant
                )

        self.trt, self.builder = trt, Builder()
        self.batch = Number.of(lambda batch: batch, False)

    def tensor(self, dims: list[int], batch: int, most: int, kind: Any, layout: Any) -> Any:
        """A tensor of a profile from batch 1 to `most`, best at `batch`; -1 is the batch."""
        found = self.trt.DynamicPluginTensorDesc()
        inner = found.desc
        inner.dims, inner.type, inner.format = dims, kind, layout
        found.desc = inner
        found.min, found.opt, found.max = ([size if one == -1 else one for one in dims] for size in (1, batch, most))
        return found

    def answer(self, node: dict[str, Any]) -> dict[str, Any]:
        """Take a plugin through an engine build.

        Args:
            node: "name", "attributes", "inputs" (type and dimensions, -1 for the batch), "batch" (the profile's
                optimum), "most" (its largest batch).
        Returns:
            "types" and, by batch, "shapes" of the outputs; "combinations" (types and layouts); "kernels": for each
            layout and tactic its PTX, name, threads, shared memory, and by batch the grid and the numbers.
        """
        trt, batches = self.trt, range(1, node["most"] + 1)
        creator = trt.get_plugin_registry().get_creator(node["name"], "1", "prn_fast")
        # As the ONNX parser hands them over: in the order of the creator's fields, each an array of int32.
        fields = [
            trt.PluginField(
                one.name, np.atleast_1d(node["attributes"][one.name]).astype(np.int32), trt.PluginFieldType.INT32
            )
            for one in creator.field_names
        ]
        plugin = creator.create_plugin(
            node["name"],
            "prn_fast",
            trt.PluginFieldCollection(fields),
            trt.TensorRTPhase.BUILD,
            trt.QuickPluginCreationRequest.STRICT_AOT,
        )
        kinds = [getattr(trt.DataType, one["type"]) for one in node["inputs"]]
        dims = [one["dims"] for one in node["inputs"]]
        types = plugin.get_output_data_types(kinds, [len(one) for one in dims])
        symbols = [[self.batch if one == -1 else self.builder.constant(one) for one in dimension] for dimension in dims]
        plugin.get_output_shapes(symbols, [], self.builder)
        shapes = {
            batch: [[one._expr.value(batch) for one in output.shape_expr] for output in plugin.output_descs]
            for batch in batches
        }
        outputs = [
            [-1 if first != second else first for first, second in zip(*both, strict=True)]
            for both in zip(shapes[1], shapes[2], strict=True)
        ]
        linear, inputs = trt.TensorFormat.LINEAR, len(dims)

        def tensors(layouts: list[Any]) -> list[Any]:
            return [
                self.tensor(dimension, node["batch"], node["most"], kind, layout)
                for dimension, kind, layout in zip([*dims, *outputs], [*kinds, *types], layouts, strict=True)
            ]

        everything = tensors([linear] * (inputs + len(outputs)))
        flat = plugin.get_supported_format_combinations(everything, inputs)
        combinations = [flat[start : start + len(everything)] for start in range(0, len(flat), len(everything))]
        kernels = []
        for combination in combinations:
            assert [one.type for one in combination] == [*kinds, *types]
            chosen = tensors([one.format for one in combination])
            plugin.configure_plugin(chosen[:inputs], chosen[inputs:])
            for tactic in sorted(plugin.get_valid_tactics()):
                kernels.append(self.kernel(plugin, chosen, inputs, tactic, batches))
        return {
            "types": [one.name for one in types],
            "shapes": shapes,
            "combinations": [[[one.type.name, one.format.name] for one in combination] for combination in combinations],
            "kernels": kernels,
        }

    def kernel(self, plugin: Any, tensors: list[Any], inputs: int, tactic: int, batches: range) -> dict[str, Any]:
        """One tactic, compiled."""
        seen = []
        given = plugin.aot_impl_function

        def watched(*arguments: Any) -> Any:
            seen.append(given(*arguments))
            return seen[-1]

        plugin.aot_impl_function = watched
        plugin.set_tactic(tactic)
        launch, numbers = SimpleNamespace(), Numbers()
        plugin.get_launch_params([], tensors, inputs, launch, numbers, self.builder)
        plugin.aot_impl_function = given
        name, ptx = plugin.get_kernel([one.desc for one in tensors[:inputs]], [one.desc for one in tensors[inputs:]])
        ((seen_name, _, parameters, extra),) = seen
        assert name == seen_name
        assert numbers.nbSymExprs == len(extra)
        assert isinstance(ptx, bytes)
        assert parameters.block_y._expr.value(1) == parameters.block_z._expr.value(1) == 1

        def grid(batch: int) -> list[int]:
            return [getattr(parameters, f"grid_{axis}")._expr.value(batch) for axis in "xyz"]

        return {
            "layouts": [one.desc.format.name for one in tensors],
            "tactic": tactic,
            "name": name,
            "ptx": ptx.decode(),
            "threads": parameters.block_x._expr.value(1),
            "shared_memory": parameters.shared_mem._expr.value(1),
            "grids": {batch: grid(batch) for batch in batches},
            "numbers": {batch: [one._expr.value(batch) for one in extra] for batch in batches},
        }


class Numbers(dict):
    """TensorRT's list of a kernel's numbers, as the bindings fill it."""

    nbSymExprs = 0


if __name__ == "__main__":
    session = Session()
    print(json.dumps([session.answer(node) for node in json.load(sys.stdin)]))
