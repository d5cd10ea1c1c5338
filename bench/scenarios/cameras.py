"""Line-scan cameras that a line may have, and what they ask of an engine. The one table of them."""

from dataclasses import dataclass

from prn_fast.kernels.tile_normalize.reference import tile_starts


@dataclass(frozen=True)
class Camera:
    """A camera at its full rate, 8 bits a pixel and channel.

    Attributes:
        name: as its makers would say it.
        width: pixels of a line.
        rate: lines a second, Hz.
        link: what carries its data.
    """

    name: str
    width: int
    rate: float
    link: str


CAMERAS = (
    Camera("4k at 24 kHz", 4096, 24e3, "GigE"),
    Camera("8k at 12 kHz", 8192, 12e3, "GigE"),
    Camera("4k at 80 kHz", 4096, 80e3, "Camera Link"),
    Camera("8k at 80 kHz", 8192, 80e3, "Camera Link"),
    Camera("16k at 50 kHz", 16384, 50e3, "Camera Link"),
    Camera("8k at 280 kHz", 8192, 280e3, "two fibres"),
)


@dataclass(frozen=True)
class Tiling:
    """How lines of `width` pixels are cut into square tiles of `side`, `overlap` pixels shared by neighbours."""

    width: int
    side: int
    overlap: int

    @property
    def stride(self) -> int:
        """Pixels, and lines, from one tile to the next."""
        return self.side - self.overlap

    @property
    def columns(self) -> list[int]:
        """First pixel of each tile of a row; the last tile ends with the line, and may overlap more."""
        return tile_starts(self.width, self.side, self.overlap)

    def tiles_per_second(self, rate: float) -> float:
        """Tiles a second at `rate` lines a second: (ceil((W - side) / stride) + 1) x rate / stride."""
        return len(self.columns) * rate / self.stride
