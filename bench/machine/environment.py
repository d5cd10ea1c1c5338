"""Where a measurement was taken: machine, system, library versions, commit. Names no host, user or path."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from prn_fast.environment import commit, cpu_name
from prn_fast.errors import ConfigError

# What decides which instructions a library picks for these networks.
CPU_FLAGS = (
    "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni",
    "amx_tile", "amx_bf16", "amx_int8", "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
LIBRARIES = (
    "prn-fast", "numpy", "torch", "openvino", "nncf", "onnx", "onnxruntime", "tensorrt-rtx-cu13", "triton",
    "opencv-python",
)  # fmt: skip
# Settings of thread pools and arithmetic that change speed.
VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "KMP_BLOCKTIME", "KMP_AFFINITY",
             "MKL_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES")  # fmt: skip


def describe_environment() -> dict[str, Any]:
    """Machine, system, versions and commit as JSON-ready values; what the system does not say is "unknown" or None."""
    return {
        "machine": _machine(),
        "gpus": _gpus(),
        "system": f"{_os_name()}, kernel {platform.release()}",
        "python": platform.python_version(),
        "libraries": {name: version for name in LIBRARIES if (version := _version(name))},
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "commit": commit(),
    }


def is_clean(commit_name: str) -> bool:
    """Whether a checkout is as a commit has it, by what `commit` says."""
    return commit_name != "unknown" and not commit_name.endswith("-dirty")


def require_clean(commit_name: str, allow_dirty: bool) -> None:
    """Refuse to record with code that is in no commit, where nobody could find it again.

    Args:
        commit_name: what `commit` says.
        allow_dirty: record all the same; the record's commit says so, and `make figures` refuses it.
    Raises:
        ConfigError: the checkout is changed, or there is none.
    """
    if not allow_dirty and not is_clean(commit_name):
        raise ConfigError(
            f"the checkout has changes that are in no commit (it says {commit_name!r}): commit them, or give "
            "--allow-dirty, which marks what is recorded"
        )


def _machine() -> dict[str, Any]:
    flags = _cpu_flags()
    return {
        "cpu": cpu_name(),
        "architecture": platform.machine(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count(),
        "torch_threads": _torch_threads(),
        "flags": [flag for flag in CPU_FLAGS if flag in flags],
        "memory_bytes": psutil.virtual_memory().total,
    }


def _cpu_flags() -> set[str]:
    source = Path("/proc/cpuinfo")
    flags = set[str]()
    if source.exists():
        for line in source.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                flags |= set(value.split())
    return flags


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _gpus() -> list[dict[str, Any]]:
    import torch

    if not torch.cuda.is_available():
        return []
    found = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in found]


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return f"{platform.system()} {platform.version()}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
