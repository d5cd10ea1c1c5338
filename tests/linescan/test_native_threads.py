"""Ring and tiler from C++ and C: under ThreadSanitizer and AddressSanitizer, without allocations on the grab path."""

import shutil
import subprocess
from pathlib import Path

import pytest

from prn_fast.linescan.cmake_dir import cmake_dir

NATIVE = cmake_dir().parent
CORE = [NATIVE / name for name in ("line_ring.cpp", "linescan_c.cpp", "pixel_format.cpp", "tiler.cpp")]
STRESS = Path(__file__).parent / "native" / "stress.cpp"


def fixed_addresses() -> list[str]:
    """Prefix that runs a program without randomised addresses, where that is allowed.

    Where addresses are widely randomised, ThreadSanitizer finds no room for its shadow memory.
    """
    prefix = ["setarch", "-R"]
    allowed = shutil.which("setarch") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    return prefix if allowed else []


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ (Debian: apt-get install g++)")
@pytest.mark.parametrize("sanitizers", ["thread", "address,undefined"])
def test_a_sanitizer_finds_nothing(sanitizers, tmp_path):
    program = tmp_path / "stress"
    command = ["g++", "-std=c++17", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    command += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", f"-I{NATIVE}", f"-I{NATIVE / 'include'}"]
    subprocess.run([*command, STRESS, *CORE, "-o", program], check=True)
    run = subprocess.run([*fixed_addresses(), program], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, "balanced\n", "")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc (Debian: apt-get install gcc)")
def test_the_c_header_is_plain_c():
    header = NATIVE / "include" / "prn_fast" / "linescan.h"
    subprocess.run(["gcc", "-std=c99", "-pedantic", "-Wall", "-Werror", "-fsyntax-only", "-x", "c", header], check=True)
