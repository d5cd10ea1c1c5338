"""Ring and tiler from C++ and C: under ThreadSanitizer and AddressSanitizer, without allocations on the grab path."""

import shutil
import subprocess
from pathlib import Path

import pytest

from prn_fast.linescan.cmake_dir import cmake_dir
from tests import needs

NATIVE = cmake_dir().parent
CORE = [NATIVE / name for name in ("line_ring.cpp", "linescan_c.cpp", "pixel_format.cpp", "tiler.cpp")]
PROGRAMS = Path(__file__).parent / "native"


def fixed_addresses() -> list[str]:
    """Prefix that runs a program without randomised addresses, where that is allowed.

    Where addresses are widely randomised, ThreadSanitizer finds no room for its shadow memory.
    """
    prefix = ["setarch", "-R"]
    allowed = shutil.which("setarch") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    return prefix if allowed else []


@pytest.mark.long
@needs.cpp_compiler
@pytest.mark.parametrize("sanitizers", ["thread", "address,undefined"])
@pytest.mark.parametrize(("source", "answer"), [("stress.cpp", "balanced\n"), ("c_interface.cpp", "refused\n")])
def test_a_sanitizer_finds_nothing(source, answer, sanitizers, tmp_path):
    program = tmp_path / "program"
    # As a Debug build: a header's functions are not inlined, so that one the core defines too would show.
    command = ["g++", "-std=c++17", "-O0", "-g1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    command += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", f"-I{NATIVE}", f"-I{NATIVE / 'include'}"]
    subprocess.run([*command, PROGRAMS / source, *CORE, "-o", program], check=True)
    run = subprocess.run([*fixed_addresses(), program], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, answer, "")


@needs.c_compiler
def test_the_c_header_is_plain_c():
    header = NATIVE / "include" / "prn_fast" / "linescan.h"
    subprocess.run(["gcc", "-std=c99", "-pedantic", "-Wall", "-Werror", "-fsyntax-only", "-x", "c", header], check=True)
