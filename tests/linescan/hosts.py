"""Compiles a program in C or C++ that has an engine or an inspection inside, against this tree's native sources."""

import subprocess
import sysconfig
from pathlib import Path

NATIVE = Path(__file__).parents[2] / "prn_fast" / "linescan" / "native"
SOURCES = Path(__file__).parent / "native"
_CORE = ("line_ring", "linescan_c", "pixel_format", "tiler")


def compiled_host(source: str, compiler: str, parts: tuple[str, ...], folder: Path) -> Path:
    """Compile a program of tests/linescan/native.

    Args:
        source: its file.
        compiler: gcc or g++.
        parts: of the native library beside the core: engine, inspector.
        folder: to build in; it is made.
    """
    folder.mkdir()
    options = sysconfig.get_config_vars("INCLUDEPY", "LIBDIR", "LDVERSION")
    headers = (f"-I{NATIVE}/include", f"-I{NATIVE}", f"-isystem{options[0]}")
    strict = ("-O0", "-Wall", "-Wextra", "-Werror")
    run([compiler, "-c", *strict, *headers, str(SOURCES / source), "-o", str(folder / "host.o")])
    run(
        ["g++", "-std=c++17", *strict, *headers, str(folder / "host.o")]
        + [str(NATIVE / f"{name}.cpp") for name in (*parts, *_CORE)]
        + [f"-L{options[1]}", f"-Wl,-rpath,{options[1]}", f"-lpython{options[2]}", "-lpthread", "-o"]
        + [str(folder / "host")]
    )
    return folder / "host"


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, which must be a good one."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done
