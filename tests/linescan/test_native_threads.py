"""Ring and tiler under ThreadSanitizer and AddressSanitizer."""

import shutil
import subprocess
from pathlib import Path

import pytest

from prn_fast.linescan.cmake_dir import cmake_dir

NATIVE = cmake_dir().parent
CORE = [NATIVE / name for name in ("line_ring.cpp", "linescan_c.cpp", "pixel_format.cpp", "tiler.cpp")]
STRESS = Path(__file__).parent / "native" / "stress.cpp"


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ (Debian: apt-get install g++)")
@pytest.mark.parametrize("sanitizers", ["thread", "address,undefined"])
def test_a_sanitizer_finds_nothing(sanitizers, tmp_path):
    program = tmp_path / "stress"
    command = ["g++", "-std=c++17", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    command += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", f"-I{NATIVE}", f"-I{NATIVE / 'include'}"]
    subprocess.run([*command, STRESS, *CORE, "-o", program], check=True)
    # Without randomised addresses: ThreadSanitizer cannot place its shadow memory on every kernel otherwise.
    run = subprocess.run(["setarch", "-R", program], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, "balanced\n", "")
