"""PTX of a launch in the form that a TensorRT plugin takes.

TensorRT passes a kernel its inputs, int32 numbers and outputs, and nothing else. Triton appends pointers to scratch
memory, which these kernels do not use: they are removed from the list of parameters, so that both lists agree.
"""

import re
from dataclasses import dataclass

from prn_fast.errors import EngineError
from prn_fast.kernels.aot import compile_launch
from prn_fast.kernels.launch import Launch
from prn_fast.kernels.tiles import Capability

# The lowest version that supports every listed capability (it introduced 12.0); drivers from CUDA 12.8 on read it.
PTX_VERSION = 87
# A kernel gets more than this only if its host asks the driver for it, which TensorRT does not promise.
SHARED_MEMORY = 48 << 10
WARP = 32

_ENTRY = re.compile(r"(?P<head>\.visible \.entry (?P<name>\w+)\(\s*)(?P<parameters>.*?)(?P<tail>\s*\))", re.DOTALL)
_PARAMETER = re.compile(r"\.param\s+\.(?P<type>[ubsf]\d+)\s.*?(?P<name>\w+)$", re.DOTALL)
_TYPES = {"*": "u64", "i32": "u32"}


@dataclass(frozen=True)
class PluginKernel:
    """A compiled kernel.

    Attributes:
        name: of the entry.
        ptx: text.
        threads: of a block.
        shared_memory: bytes of a block, dynamic.
    """

    name: str
    ptx: str
    threads: int
    shared_memory: int


def compile_for_plugin(launch: Launch, capability: Capability) -> PluginKernel:
    """Compile a launch for a capability; needs triton, but no GPU.

    Raises:
        EngineError: a kernel that no plugin can launch; says why.
    """
    import triton

    with triton.knobs.compilation.scope():
        # Engines should not contain the paths of their kernels' source files.
        triton.knobs.compilation.disable_line_info = True
        compiled = compile_launch(launch, capability, ptx_version=PTX_VERSION)
    if compiled.global_scratch:
        raise EngineError(f"{compiled.name} needs {compiled.global_scratch} bytes of scratch memory; plugins have none")
    if compiled.shared_memory > SHARED_MEMORY:
        raise EngineError(
            f"{compiled.name} needs {compiled.shared_memory} bytes of shared memory, more than {SHARED_MEMORY}; "
            "use a smaller tile"
        )
    ptx = with_parameters(compiled.ptx, parameter_types(launch))
    return PluginKernel(compiled.name, ptx, launch.tile.warps * WARP, compiled.shared_memory)


def parameter_types(launch: Launch) -> list[str]:
    """PTX type of each run-time argument, in order, tuples unrolled."""
    kinds: list[str] = []
    for kind in launch.signature.values():
        kinds += [kind] if isinstance(kind, str) else kind
    return [_TYPES["*" if kind.startswith("*") else kind] for kind in kinds]


def parameters_of(ptx: str) -> list[tuple[str, str]]:
    """Name and type of every parameter of the one entry in a PTX text."""
    entries = list(_ENTRY.finditer(ptx))
    if len(entries) != 1:
        raise EngineError(f"PTX has {len(entries)} entries instead of one")
    found = []
    for text in filter(None, (part.strip() for part in entries[0]["parameters"].split(","))):
        match = _PARAMETER.match(text)
        if match is None:
            raise EngineError(f"PTX of {entries[0]['name']}: cannot read the parameter {text!r}")
        found.append((match["name"], match["type"]))
    return found


def with_parameters(ptx: str, types: list[str]) -> str:
    """The PTX with parameters of exactly these types: those after them, which nothing may use, are taken off.

    Raises:
        EngineError: other types, or a further parameter that the kernel reads.
    """
    found = parameters_of(ptx)
    kept, hidden = found[: len(types)], found[len(types) :]
    if [kind for _, kind in kept] != types:
        raise EngineError(f"PTX has parameters {[kind for _, kind in found]}, wanted {types}")
    entry = _ENTRY.search(ptx)
    assert entry is not None
    for name, _ in hidden:
        if re.search(rf"\b{name}\b", ptx[entry.end() :]):
            raise EngineError(f"{entry['name']} reads {name}, which TensorRT does not supply")
    parameters = entry["parameters"].split(",")[: len(types)]
    return ptx[: entry.start()] + entry["head"] + ",".join(parameters) + entry["tail"] + ptx[entry.end() :]
