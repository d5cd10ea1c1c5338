"""What some tests need beside the package, as marks: a test is skipped before anything has started.

    @needs.chromium
    def test_the_page(...): ...

Each reason says how to install what is missing. `.ci/run` has it all, and fails on a skip that it did not expect.
"""

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROKER = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
# The last three of the development packages are what pkg-config asks for before it tells anything of Aravis.
_CAMERA_PACKAGES = "gcc pkg-config libaravis-dev libusb-1.0-0-dev libxml2-dev zlib1g-dev gir1.2-aravis-0.8 python3-gi"


def program(name: str, package: str = "") -> pytest.MarkDecorator:
    """A program on the PATH, and the Debian package that brings it."""
    return _needs(shutil.which(name) is not None, f"{name} is not installed: apt-get install {package or name}")


def library(name: str, extra: str) -> pytest.MarkDecorator:
    """A Python library, and the extra of prn-fast that brings it."""
    found = importlib.util.find_spec(name) is not None
    return _needs(found, f"{name} is not installed: pip install 'prn-fast[{extra}]'")


def _needs(found: bool, reason: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not found, reason=reason)


def _has_aravis() -> bool:
    """Whether a camera can be compiled against Aravis, and Python finds its bindings."""
    if shutil.which("gcc") is None or shutil.which("pkg-config") is None:
        return False
    found = subprocess.run(["pkg-config", "--exists", "aravis-0.8"], check=False, capture_output=True).returncode == 0
    return found and _has_python_bindings()


def _has_python_bindings() -> bool:
    from prn_fast.errors import LinescanError

    try:
        # Without the compiled part, which a machine for measuring lacks, the import itself fails.
        from prn_fast.linescan.sources.aravis import import_aravis

        import_aravis()
    except LinescanError:
        return False
    return True


def _has_tritonserver() -> bool:
    """Whether NVIDIA's inference server, and what asks it, are installed."""
    from prn_fast.errors import ConfigError

    try:
        # It reads packages, which a machine for measuring may not be able to.
        from prn_fast.serving.tritonserver import find_program

        find_program()
    except (ConfigError, ImportError):
        return False
    return importlib.util.find_spec("tritonclient") is not None


def _has_embeddable_python() -> bool:
    folder, name = sysconfig.get_config_vars("LIBDIR", "LDLIBRARY")
    return bool(folder and name) and (Path(folder) / name).exists()


gpu = _needs(torch.cuda.is_available(), "there is no CUDA device")
no_gpu = _needs(not torch.cuda.is_available(), "a CUDA device is there")
chromium = _needs(BROWSER is not None, "Chromium is not installed: apt-get install chromium")
mosquitto = _needs(BROKER is not None, "mosquitto is not installed: apt-get install mosquitto")
aravis = _needs(_has_aravis(), f"Aravis is not installed: apt-get install --no-install-recommends {_CAMERA_PACKAGES}")
tritonserver = _needs(
    _has_tritonserver(), "tritonserver is not installed: make .build/tritonserver; pip install 'prn-fast[serve]'"
)
c_compiler = program("gcc")
cpp_compiler = program("g++")
cmake = program("cmake")
embeddable_python = _needs(
    _has_embeddable_python(), "Python is not installed as a library: apt-get install python3-dev"
)
