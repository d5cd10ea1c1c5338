"""A GigE Vision line camera that runs without hardware; see camera.c."""

import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
NAME = "Aravis-Fake-LINE1"


def build_camera(folder: Path) -> Path:
    """Compile the camera against Aravis; see `tests.needs.aravis`."""
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "aravis-0.8"], capture_output=True, text=True, check=True
    )
    program = folder / "camera"
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-rdynamic", str(HERE / "camera.c"), "-o", str(program)]
    subprocess.run([*command, *flags.stdout.split(), "-ldl"], check=True)
    return program


class FakeCamera:
    """A running camera.

    Args:
        program: from `build_camera`.
        strip: uint8 (lines, bytes of a line), played round and round.
        folder: for the strip's file.
        first_line: number of the first line.
        lines: to send before it falls silent; 0 never.
        lost: share of packets that it loses.
        short: (every how many blocks, lines): such a block ends after so many lines; 0 none does.
    """

    def __init__(
        self,
        program: Path,
        strip: NDArray[np.uint8],
        folder: Path,
        first_line: int = 0,
        lines: int = 0,
        lost: float = 0.0,
        short: tuple[int, int] = (0, 0),
    ) -> None:
        file = folder / "strip.raw"
        strip.tofile(file)
        numbers = (len(strip), first_line, lines, lost, *short)
        self._process = subprocess.Popen(
            [str(program), str(HERE / "camera.xml"), str(file), *map(str, numbers)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout
        assert self._output.readline() == "ready\n"

    def wait_until_sent(self) -> int:
        """How many lines it sent, when it has sent all."""
        word, count = self._output.readline().split()
        assert word == "sent"
        return int(count)

    def kill(self) -> None:
        """As if its power went."""
        self._process.kill()
        self._process.wait()
