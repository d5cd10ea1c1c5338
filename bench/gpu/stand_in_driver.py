"""Triton's real path from a call to a launch, for a GPU that is not there.

`install` puts a driver in the place of NVIDIA's: kernels are specialised on their arguments (CPU tensors), compiled for
the given compute capability and kept in Triton's cache as they would be on the GPU; the launch itself is noted and left
out. Nothing is computed, so that results are whatever memory held.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from prn_fast.kernels.tiles import SHARED_MEMORY, Capability


@dataclass
class Record:
    """What happened since `install`.

    Attributes:
        launches: names of the launched kernels, in order.
        compiled: names of kernels that were compiled, since the cache did not hold them.
        cached: names of kernels that the cache held; each is looked up once in a process.
        folders: of the cache, in which those kernels lie.
    """

    launches: list[str] = field(default_factory=list)
    compiled: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    folders: set[Path] = field(default_factory=set)


def install(capability: Capability) -> Record:
    """Put the stand-in in the place of the driver, for this process; the record fills up from then on.

    Raises:
        RuntimeError: Triton's interpreter is on.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import GPUDriver
    from triton.backends.nvidia import driver as nvidia

    if triton.knobs.runtime.interpret:
        raise RuntimeError("kernels run in Triton's interpreter; unset TRITON_INTERPRET")
    record = Record()

    class Device:
        """What Triton asks of a device and its code."""

        def get_device_properties(self, device: int) -> dict[str, int]:
            # Enough for kernels that fit the real one; its other properties decide nothing here.
            return {"max_shared_mem": SHARED_MEMORY[capability], "multiprocessor_count": 132, "warpSize": 32}

        def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[int, ...]:
            # Module, function, registers, spills and most threads of a block.
            return 1, 2, 0, 0, 1024

        def unload_module(self, module: int) -> None:
            """Nothing was loaded."""

    class Launcher:
        """Notes a launch."""

        def __init__(self, source: Any, metadata: Any) -> None:
            self.name = metadata.name

        def __call__(self, *arguments: Any) -> None:
            record.launches.append(self.name)

    class Driver(GPUDriver):
        """NVIDIA's, as far as it needs no GPU."""

        def __init__(self) -> None:
            self.utils = Device()
            self.launcher_cls = Launcher

        @staticmethod
        def is_active() -> bool:
            return True

        def get_current_device(self) -> int:
            return 0

        def set_current_device(self, device: int) -> None:
            """There is one."""

        def get_current_stream(self, device: int | None = None) -> int:
            return 0

        def get_device_capability(self, device: int = 0) -> Capability:
            return capability

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", capability[0] * 10 + capability[1], 32)

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

        def get_device_interface(self) -> Any:
            return torch.cuda

        def map_python_to_cpp_type(self, kind: str) -> str:
            return nvidia.ty_to_cpp(kind)

        def get_benchmarker(self) -> Any:
            raise NotImplementedError("nothing runs here, so that nothing can be timed")

        def get_empty_cache_for_benchmark(self) -> Any:
            raise NotImplementedError("nothing runs here, so that nothing can be timed")

        def clear_cache(self, cache: Any) -> None:
            """There is none."""

    def note(*, metadata: dict[str, Any], metadata_group: dict[str, str], cache_hit: bool, **_: Any) -> None:
        record.folders.update(Path(path).parent for path in metadata_group.values())
        (record.cached if cache_hit else record.compiled).append(metadata["name"])

    triton.runtime.driver.set_active(Driver())
    triton.knobs.compilation.listener = note
    return record
