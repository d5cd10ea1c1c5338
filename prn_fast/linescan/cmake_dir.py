"""Folder of the CMake package: `cmake -Dprn_fast_DIR=$(python -m prn_fast.linescan.cmake_dir) ...`."""

from pathlib import Path


def cmake_dir() -> Path:
    """The folder that holds prn_fastConfig.cmake."""
    return Path(__file__).resolve().parent / "native" / "cmake"


if __name__ == "__main__":
    print(cmake_dir())
